//! What must hold in every run, checked at every step: who published what, who was given what, and what
//! nodes think of themselves and each other.
//!
//! The checker sees only this history, not the network, so that it can be shown wrong histories itself.
//! Each function returns what is violated, in words.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{agenda::Time, digest::Digest, histogram::Histogram, network::HostId, ranges::Ranges};
use crate::{dissemination::MessageId, membership::MemberState, node::Size};

/// What nodes promise of messages, beyond that none is delivered twice, altered or invented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promises {
    /// Every node that stays gets every message, or is told which it missed.
    pub(crate) complete: bool,
    /// Each origin's messages come in the order they were published, without gaps.
    pub(crate) ordered: bool,
}

/// What is violated.
pub(super) type Check = Result<(), String>;

/// For how long what a member lacks is kept for it, less what it takes to ask for it.
const KEPT_FOR: Time = 100_000_000_000;

#[derive(Clone, Debug)]
struct Published {
    digest: u64,
    at: Time,
    last: Time,
    hops: u8,
    /// How many lives have delivered it, or were told that they missed it.
    settled: u32,
}

/// What one life of a host publishes.
#[derive(Clone, Debug)]
struct Stream {
    origin: HostId,
    epoch: u64,
    messages: Vec<Published>,
    ended: bool,
}

/// What one life of a host has heard of a stream.
#[derive(Clone, Debug, Default)]
struct Heard {
    /// What comes before is not owed.
    owed_from: u64,
    /// What comes before the origin did not know to be owed: it may be missed, if that is told.
    kept_from: u64,
    /// The origin has known of it, or it of a former life of the origin: whatever comes is owed, even if the origin forgets it.
    known: bool,
    /// Delivered, or reported as missed.
    settled: Ranges,
    missed: Ranges,
    highest: Option<u64>,
}

/// One life of a host.
#[derive(Clone, Debug, Default)]
struct Life {
    /// From when on it must get what is published.
    obliged_from: Option<Time>,
    heard: Vec<Heard>,
    incarnation: u32,
    /// What it knew of each member: where it is, and its incarnation.
    seen: BTreeMap<HostId, (SocketAddr, u32)>,
    /// Whom it has ever known.
    met: BTreeSet<HostId>,
    /// Whose former lives it knew, when they began another.
    met_before: BTreeSet<HostId>,
    /// The stream that it publishes.
    publishes: Option<usize>,
}

/// A delivery, as an application sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery<'a> {
    pub(super) origin: HostId,
    pub(super) id: Option<MessageId>,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) hops: u8,
}

/// How far obligations are met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) expected: u64,
    pub(super) delivered: u64,
    /// The first that is neither delivered nor reported as missed, in words.
    pub(super) first_missing: Option<String>,
}

/// What was counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) deliveries: u64,
    pub(super) duplicates: u64,
    pub(super) disorder: u64,
    pub(super) missed: u64,
    pub(super) latency: Histogram,
    /// The most held of everything that could grow.
    pub(super) sizes: Vec<Size>,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Checker {
    promises: Promises,
    /// Whether messages may be lost to members that stay, if they are told.
    missing_allowed: bool,
    streams: Vec<Stream>,
    by_origin: BTreeMap<(HostId, u64), usize>,
    lives: Vec<Option<Life>>,
    pub(super) counts: Counts,
}

impl Checker {
    pub(super) fn new(hosts: usize, promises: Promises, missing_allowed: bool) -> Self {
        let lives = (0..hosts).map(|_| None).collect();
        let (streams, by_origin) = (Vec::new(), BTreeMap::new());
        Self { promises, missing_allowed, streams, by_origin, lives, counts: Counts::default() }
    }

    pub(super) fn promises(&self) -> Promises {
        self.promises
    }

    /// A host's node has started.
    pub(super) fn begin(&mut self, host: HostId) {
        for life in self.lives.iter_mut().flatten().filter(|life| life.met.contains(&host)) {
            life.met_before.insert(host);
        }
        self.lives[host] = Some(Life::default());
    }

    /// Whom the node of `origin` knew when it published its last message. It is not owed to those of whom
    /// it knew nothing yet, and whom it could not tell from nodes that come later. Who was known once is
    /// owed all that follows, or to be told, however long it is away and whether it is forgotten or not.
    pub(super) fn knew(&mut self, origin: HostId, known: impl Fn(HostId) -> bool) {
        let Some(index) = self.lives[origin].as_ref().and_then(|life| life.publishes) else { return };
        let next = self.streams[index].messages.len() as u64;
        for (host, life) in self.lives.iter_mut().enumerate() {
            let Some(life) = life else { continue };
            let met_before = life.met_before.contains(&origin);
            let heard = heard(life, index);
            let known = known(host);
            if !known && !heard.known && heard.highest.is_none() {
                heard.kept_from = next;
            }
            heard.known |= known || heard.highest.is_some();
            if !heard.known && !met_before {
                heard.owed_from = next;
            }
        }
    }

    /// From now on it must get what is published.
    pub(super) fn oblige(&mut self, now: Time, host: HostId) {
        if let Some(life) = &mut self.lives[host] {
            life.obliged_from.get_or_insert(now);
        }
    }

    /// A host's node has ended, in whatever way.
    pub(super) fn end(&mut self, host: HostId) {
        if let Some(stream) = self.lives[host].take().and_then(|life| life.publishes) {
            self.streams[stream].ended = true;
        }
    }

    pub(super) fn published(&mut self, now: Time, host: HostId, id: MessageId, key: &str, value: &str) -> Check {
        let Some(life) = &mut self.lives[host] else { return Err("a node that does not run has published".into()) };
        let index = *life.publishes.get_or_insert_with(|| {
            self.streams.push(Stream { origin: host, epoch: id.epoch, messages: Vec::new(), ended: false });
            self.by_origin.insert((host, id.epoch), self.streams.len() - 1);
            self.streams.len() - 1
        });
        let stream = &mut self.streams[index];
        if (id.epoch, id.seq) != (stream.epoch, stream.messages.len() as u64) {
            let (epoch, seq) = (stream.epoch, stream.messages.len());
            return Err(format!("published as {}/{}, after {seq} messages of epoch {epoch}", id.epoch, id.seq));
        }
        let digest = Digest::of(&[key.as_bytes(), value.as_bytes()]);
        stream.messages.push(Published { digest, at: now, last: now, hops: 0, settled: 0 });
        self.counts.published += 1;
        Ok(())
    }

    /// The life in which a host's node speaks. When it learns that a former one was later, by a clock that
    /// has been set back, it begins one that is later still: the stream goes on in it, with its numbers.
    pub(super) fn speaks_in(&mut self, host: HostId, epoch: u64) {
        let Some(index) = self.lives[host].as_ref().and_then(|life| life.publishes) else { return };
        if std::mem::replace(&mut self.streams[index].epoch, epoch) != epoch {
            self.by_origin.insert((host, epoch), index);
        }
    }

    pub(super) fn delivered(&mut self, now: Time, host: HostId, delivery: &Delivery<'_>) -> Check {
        let Some(id) = delivery.id else { return Err("a message without an identity was delivered".into()) };
        let what = format_args!("{}/{} of host {}", id.epoch, id.seq, delivery.origin);
        let Some(life) = &mut self.lives[host] else {
            return Err("a node that does not run was given a message".into());
        };
        let index = self.by_origin.get(&(delivery.origin, id.epoch)).copied();
        let message = index.and_then(|index| self.streams[index].messages.get_mut(usize::try_from(id.seq).ok()?));
        let Some((index, message)) = index.zip(message) else {
            return Err(format!("{what} was delivered, but never published"));
        };
        if life.publishes == Some(index) {
            return Err(format!("{what} was delivered to its origin"));
        }
        if message.digest != Digest::of(&[delivery.key.as_bytes(), delivery.value.as_bytes()]) {
            return Err(format!("{what} was altered: key {:?}, value {:?}", delivery.key, delivery.value));
        }
        let heard = heard(life, index);
        if heard.settled.contains(id.seq) {
            if heard.missed.contains(id.seq) {
                return Err(format!("{what} was delivered after it had been reported as missed"));
            }
            self.counts.duplicates += 1;
            return Err(format!("{what} was delivered twice"));
        }
        heard.settled.insert(id.seq, id.seq);
        let took = Duration::from_nanos(now.saturating_sub(message.at));
        message.last = message.last.max(now);
        message.settled += 1;
        message.hops = message.hops.max(delivery.hops);
        self.counts.latency.add(took);
        self.counts.deliveries += 1;
        let highest = heard.highest;
        heard.highest = highest.max(Some(id.seq));
        match highest {
            Some(highest) if id.seq < highest => {
                self.counts.disorder += 1;
                self.ordered(|| format!("{what} was delivered after {}/{highest}", id.epoch))
            }
            Some(highest) if id.seq > highest + 1 => {
                let skipped = highest + 1;
                self.ordered(|| format!("{what} was delivered right after {highest}: {skipped} was skipped in silence"))
            }
            _ => Ok(()),
        }
    }

    fn ordered(&self, violation: impl FnOnce() -> String) -> Check {
        if self.promises.ordered { Err(violation()) } else { Ok(()) }
    }

    /// A node was told that it missed some, both ends included.
    pub(super) fn missed(
        &mut self,
        now: Time,
        host: HostId,
        origin: HostId,
        epoch: u64,
        (from, to): (u64, u64),
    ) -> Check {
        let what = format_args!("{epoch}/{from} to {to} of host {origin}");
        let Some(life) = &mut self.lives[host] else { return Err("a node that does not run was told".into()) };
        let index = self.by_origin.get(&(origin, epoch)).copied();
        let Some(index) = index.filter(|index| from <= to && to < self.streams[*index].messages.len() as u64) else {
            return Err(format!("{what} were reported as missed, but never published"));
        };
        let obliged_from = life.obliged_from;
        let heard = heard(life, index);
        if heard.settled.count(from, to) > 0 {
            return Err(format!("{what} were reported as missed, but some of them were delivered or reported before"));
        }
        heard.settled.insert(from, to);
        heard.missed.insert(from, to);
        heard.highest = heard.highest.max(Some(to));
        let may_miss = to < heard.kept_from;
        self.counts.missed += to - from + 1;
        let stream = &mut self.streams[index];
        stream.messages[from as usize..=to as usize].iter_mut().for_each(|message| message.settled += 1);
        let last_at = stream.messages[to as usize].at;
        let obliged = obliged_from.is_some_and(|since| last_at >= since) && stream.origin != host;
        if !self.promises.complete || !obliged || self.missing_allowed || may_miss {
            return Ok(());
        }
        if !self.streams[index].ended {
            return Err(format!("{what} were missed; this scenario allows for no loss"));
        }
        match self.kept_by(now, index, from, to) {
            Some(other) => Err(format!("{what} were reported as missed, but host {other} had them lately")),
            None => Ok(()),
        }
    }

    /// Who still runs and delivered one of these so lately that it is kept, if there is somebody.
    fn kept_by(&self, now: Time, index: usize, from: u64, to: u64) -> Option<HostId> {
        let lately = |seq: u64| now.saturating_sub(self.streams[index].messages[seq as usize].last) < KEPT_FOR;
        let has = |heard: &Heard, seq: u64| heard.settled.contains(seq) && !heard.missed.contains(seq);
        self.lives.iter().position(|life| {
            let heard = life.as_ref().and_then(|life| life.heard.get(index));
            heard.is_some_and(|heard| (from..=to).any(|seq| lately(seq) && has(heard, seq)))
        })
    }

    /// Who has a message of a host's node, as its receipt says: as many have it, or were told.
    pub(super) fn receipt(&self, origin: HostId, seq: u64, count: usize) -> Check {
        let Some(stream) = self.lives[origin].as_ref().and_then(|life| life.publishes) else { return Ok(()) };
        let Some(message) = self.streams[stream].messages.get(seq as usize) else { return Ok(()) };
        if count > message.settled as usize {
            let settled = message.settled;
            return Err(format!("its receipt says that {count} nodes have message {seq}, but {settled} have"));
        }
        Ok(())
    }

    /// How many hosts were owed a message of a host's node, and have it.
    pub(super) fn served(&self, origin: HostId, seq: u64) -> usize {
        let Some(stream) = self.lives[origin].as_ref().and_then(|life| life.publishes) else { return 0 };
        let lives = self.lives.iter().flatten().filter(|life| life.obliged_from.is_some());
        let heard = lives.filter_map(|life| life.heard.get(stream));
        heard
            .filter(|heard| heard.known && heard.owed_from.max(heard.kept_from) <= seq && heard.settled.contains(seq))
            .count()
    }

    /// What a node thinks of itself after a step.
    pub(super) fn standing_of(&mut self, host: HostId, state: MemberState, incarnation: u32, leaves: bool) -> Check {
        let Some(life) = &mut self.lives[host] else { return Ok(()) };
        if !state.is_live() && !leaves {
            return Err(format!("it declares itself {state:?}"));
        }
        if incarnation < life.incarnation {
            return Err(format!("its incarnation falls from {} to {incarnation}", life.incarnation));
        }
        life.incarnation = incarnation;
        Ok(())
    }

    /// All that a node knows of members after a step. One that has been forgotten may come back with a
    /// lower incarnation, and so may one at a new address.
    pub(super) fn view(&mut self, host: HostId, view: impl Iterator<Item = (HostId, SocketAddr, u32)>) -> Check {
        let Some(life) = &mut self.lives[host] else { return Ok(()) };
        let before = std::mem::take(&mut life.seen);
        for (member, addr, incarnation) in view {
            if let Some((old_addr, old)) = before.get(&member)
                && *old_addr == addr
                && incarnation < *old
            {
                return Err(format!("in its view the incarnation of host {member} falls from {old} to {incarnation}"));
            }
            life.seen.insert(member, (addr, incarnation));
            life.met.insert(member);
        }
        Ok(())
    }

    /// How much a node holds of what could grow.
    pub(super) fn sizes(&mut self, sizes: impl IntoIterator<Item = Size>) -> Check {
        for size in sizes {
            match self.counts.sizes.iter_mut().find(|known| known.what == size.what) {
                Some(known) => known.held = known.held.max(size.held),
                None => self.counts.sizes.push(size),
            }
            if size.held > size.bound {
                return Err(format!("it holds {} {}, more than its bound of {}", size.held, size.what, size.bound));
            }
        }
        Ok(())
    }

    /// How far what must be delivered has been.
    ///
    /// What an origin published that has ended since is owed only as far as somebody who still runs has
    /// it: the rest may have ended with it.
    pub(super) fn standing(&self) -> Standing {
        let mut standing = Standing::default();
        let none = Heard::default();
        for (index, stream) in self.streams.iter().enumerate() {
            let Some(last) = (stream.messages.len() as u64).checked_sub(1) else { continue };
            let owed = if stream.ended { self.known(index) } else { all(last) };
            for (host, life) in self.lives.iter().enumerate() {
                let Some((life, since)) = life.as_ref().and_then(|life| Some((life, life.obliged_from?))) else {
                    continue;
                };
                if host == stream.origin {
                    continue;
                }
                let first = stream.messages.partition_point(|message| message.at < since) as u64;
                let heard = life.heard.get(index).unwrap_or(&none);
                for (from, to) in owed.iter() {
                    let from = from.max(first).max(heard.owed_from);
                    if from > to {
                        continue;
                    }
                    standing.expected += to - from + 1;
                    standing.delivered += heard.settled.count(from, to) - heard.missed.count(from, to);
                    if standing.first_missing.is_none()
                        && let Some(seq) = heard.settled.first_missing(from, to)
                    {
                        let (origin, epoch) = (stream.origin, stream.epoch);
                        standing.first_missing = Some(format!(
                            "host {host} lacks {epoch}/{seq} of host {origin}, published at {:.3} s",
                            Duration::from_nanos(stream.messages[seq as usize].at).as_secs_f64()
                        ));
                    }
                }
            }
        }
        standing
    }

    /// What anybody who still runs has of a stream.
    fn known(&self, index: usize) -> Ranges {
        let mut known = Ranges::default();
        for heard in self.lives.iter().flatten().filter_map(|life| life.heard.get(index)) {
            for (from, to) in heard.settled.iter() {
                for seq in from..=to {
                    if !heard.missed.contains(seq) {
                        known.insert(seq, seq);
                    }
                }
            }
        }
        known
    }

    /// How long each message took to its last receiver, and over how many hops the longest way went.
    pub(super) fn spread(&self) -> (Histogram, u8) {
        let (mut histogram, mut hops) = (Histogram::default(), 0);
        for message in self.streams.iter().flat_map(|stream| &stream.messages) {
            if message.last > message.at {
                histogram.add(Duration::from_nanos(message.last - message.at));
            }
            hops = hops.max(message.hops);
        }
        (histogram, hops)
    }
}

fn all(last: u64) -> Ranges {
    let mut all = Ranges::default();
    all.insert(0, last);
    all
}

fn heard(life: &mut Life, index: usize) -> &mut Heard {
    if life.heard.len() <= index {
        life.heard.resize_with(index + 1, Heard::default);
    }
    &mut life.heard[index]
}

#[cfg(test)]
mod tests;
