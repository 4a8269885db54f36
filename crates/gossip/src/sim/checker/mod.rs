//! The checker of a run's history: it compares, at every step, what nodes published with what others delivered, and what nodes
//! believe of themselves and each other.
//!
//! The checker sees only this history, not the network, so that its tests can show it wrong histories. Each function returns a
//! description of what is violated.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::{
    digest::Digest, event_queue::VirtualTime, histogram::LatencyHistogram, network::HostId, range_set::RangeSet,
};
use crate::{dissemination::MessageId, membership::MemberState, node::Size};

/// What nodes guarantee, besides that no message is delivered twice, altered or invented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guarantees {
    /// Every node that stays gets every message, or is told that it missed it.
    pub(crate) complete: bool,
    /// Each origin's messages are delivered in the order of publication, without gaps.
    pub(crate) ordered: bool,
}

/// The error describes the violation.
pub(super) type CheckResult = Result<(), String>;

/// How long nodes keep a message for a member that lacks it, less the time that it takes to ask for it.
const RETAINED_FOR: VirtualTime = 100_000_000_000;

#[derive(Clone, Debug)]
struct PublishedMessage {
    digest: u64,
    at: VirtualTime,
    /// When it was last delivered.
    last: VirtualTime,
    hops: u8,
    /// How many lives have delivered it, or were told that they missed it.
    settled: u32,
}

/// The messages of one life of a host.
#[derive(Clone, Debug)]
struct PublishedStream {
    origin: HostId,
    epoch: u64,
    messages: Vec<PublishedMessage>,
    ended: bool,
}

/// What one life of a host has received of a stream.
#[derive(Clone, Debug, Default)]
struct StreamProgress {
    /// Earlier messages are not owed.
    owed_from: u64,
    /// The origin did not know that earlier messages are owed: they may be reported as missed.
    kept_from: u64,
    /// The origin has known this life, or this life a former one of the origin: all later messages are owed, even if the origin
    /// forgets it.
    known: bool,
    /// Messages that were delivered, or reported as missed.
    settled: RangeSet,
    missed: RangeSet,
    highest: Option<u64>,
}

/// One life of a host.
#[derive(Clone, Debug, Default)]
struct Life {
    /// When messages began to be owed to it.
    owed_since: Option<VirtualTime>,
    progress: Vec<StreamProgress>,
    incarnation: u32,
    /// The address and incarnation of each member, as it last knew them.
    view: BTreeMap<HostId, (SocketAddr, u32)>,
    /// All hosts whose nodes it has ever known.
    met: BTreeSet<HostId>,
    /// The hosts that began another life after it had known one.
    met_before: BTreeSet<HostId>,
    /// The stream that it publishes.
    own_stream: Option<usize>,
}

/// The delivery of a message to an application.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliveryEvent<'a> {
    pub(super) origin: HostId,
    pub(super) id: Option<MessageId>,
    pub(super) key: &'a str,
    pub(super) value: &'a str,
    pub(super) hops: u8,
}

/// How many of the owed messages have been delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Completeness {
    pub(super) expected: u64,
    pub(super) delivered: u64,
    /// Describes the first message that was neither delivered nor reported as missed.
    pub(super) first_missing: Option<String>,
}

/// Counters of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) deliveries: u64,
    pub(super) duplicates: u64,
    pub(super) disorder: u64,
    pub(super) missed: u64,
    pub(super) latency: LatencyHistogram,
    /// The largest size of everything that can grow.
    pub(super) sizes: Vec<Size>,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Checker {
    guarantees: Guarantees,
    /// Whether members that stay may miss messages, if they are told.
    missing_allowed: bool,
    streams: Vec<PublishedStream>,
    by_origin: BTreeMap<(HostId, u64), usize>,
    lives: Vec<Option<Life>>,
    pub(super) counts: Counts,
}

impl Checker {
    pub(super) fn new(hosts: usize, guarantees: Guarantees, missing_allowed: bool) -> Self {
        let lives = (0..hosts).map(|_| None).collect();
        let (streams, by_origin) = (Vec::new(), BTreeMap::new());
        Self { guarantees, missing_allowed, streams, by_origin, lives, counts: Counts::default() }
    }

    pub(super) fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    /// A host's node has started.
    pub(super) fn node_started(&mut self, host: HostId) {
        for life in self.lives.iter_mut().flatten().filter(|life| life.met.contains(&host)) {
            life.met_before.insert(host);
        }
        self.lives[host] = Some(Life::default());
    }

    /// Notes which members the node of `origin` knew when it published its last message. The message is not owed to members that
    /// it did not know yet: it cannot tell them from nodes that come later. A member that it has known once is owed all later
    /// messages, or to be told what it missed, however long it is away, and even if the origin forgets it.
    pub(super) fn members_known(&mut self, origin: HostId, known: impl Fn(HostId) -> bool) {
        let Some(index) = self.lives[origin].as_ref().and_then(|life| life.own_stream) else { return };
        let next = self.streams[index].messages.len() as u64;
        for (host, life) in self.lives.iter_mut().enumerate() {
            let Some(life) = life else { continue };
            let met_before = life.met_before.contains(&origin);
            let progress = progress(life, index);
            let known = known(host);
            if !known && !progress.known && progress.highest.is_none() {
                progress.kept_from = next;
            }
            progress.known |= known || progress.highest.is_some();
            if !progress.known && !met_before {
                progress.owed_from = next;
            }
        }
    }

    /// From now on, messages are owed to a host's node.
    pub(super) fn oblige(&mut self, now: VirtualTime, host: HostId) {
        if let Some(life) = &mut self.lives[host] {
            life.owed_since.get_or_insert(now);
        }
    }

    /// A host's node has ended, in whatever way.
    pub(super) fn node_ended(&mut self, host: HostId) {
        if let Some(stream) = self.lives[host].take().and_then(|life| life.own_stream) {
            self.streams[stream].ended = true;
        }
    }

    pub(super) fn published(
        &mut self,
        now: VirtualTime,
        host: HostId,
        id: MessageId,
        key: &str,
        value: &str,
    ) -> CheckResult {
        let Some(life) = &mut self.lives[host] else { return Err("a node that does not run has published".into()) };
        let index = *life.own_stream.get_or_insert_with(|| {
            self.streams.push(PublishedStream { origin: host, epoch: id.epoch, messages: Vec::new(), ended: false });
            self.by_origin.insert((host, id.epoch), self.streams.len() - 1);
            self.streams.len() - 1
        });
        let stream = &mut self.streams[index];
        if (id.epoch, id.seq) != (stream.epoch, stream.messages.len() as u64) {
            let (epoch, seq) = (stream.epoch, stream.messages.len());
            return Err(format!("published as {}/{}, after {seq} messages of epoch {epoch}", id.epoch, id.seq));
        }
        let digest = Digest::of(&[key.as_bytes(), value.as_bytes()]);
        stream.messages.push(PublishedMessage { digest, at: now, last: now, hops: 0, settled: 0 });
        self.counts.published += 1;
        Ok(())
    }

    /// Sets the epoch of a host's node. A node whose clock was set back learns that its former epoch was later, and takes one
    /// that is later still. Its stream goes on with its numbers.
    pub(super) fn set_epoch(&mut self, host: HostId, epoch: u64) {
        let Some(index) = self.lives[host].as_ref().and_then(|life| life.own_stream) else { return };
        if std::mem::replace(&mut self.streams[index].epoch, epoch) != epoch {
            self.by_origin.insert((host, epoch), index);
        }
    }

    pub(super) fn delivered(&mut self, now: VirtualTime, host: HostId, delivery: &DeliveryEvent<'_>) -> CheckResult {
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
        if life.own_stream == Some(index) {
            return Err(format!("{what} was delivered to its origin"));
        }
        if message.digest != Digest::of(&[delivery.key.as_bytes(), delivery.value.as_bytes()]) {
            return Err(format!("{what} was altered: key {:?}, value {:?}", delivery.key, delivery.value));
        }
        let progress = progress(life, index);
        if progress.settled.contains(id.seq) {
            if progress.missed.contains(id.seq) {
                return Err(format!("{what} was delivered after it had been reported as missed"));
            }
            self.counts.duplicates += 1;
            return Err(format!("{what} was delivered twice"));
        }
        progress.settled.insert(id.seq, id.seq);
        let took = Duration::from_nanos(now.saturating_sub(message.at));
        message.last = message.last.max(now);
        message.settled += 1;
        message.hops = message.hops.max(delivery.hops);
        self.counts.latency.add(took);
        self.counts.deliveries += 1;
        let highest = progress.highest;
        progress.highest = highest.max(Some(id.seq));
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

    fn ordered(&self, violation: impl FnOnce() -> String) -> CheckResult {
        if self.guarantees.ordered { Err(violation()) } else { Ok(()) }
    }

    /// A node was told that it has missed messages; both ends are included.
    pub(super) fn missed(
        &mut self,
        now: VirtualTime,
        host: HostId,
        origin: HostId,
        epoch: u64,
        (from, to): (u64, u64),
    ) -> CheckResult {
        let what = format_args!("{epoch}/{from} to {to} of host {origin}");
        let Some(life) = &mut self.lives[host] else { return Err("a node that does not run was told".into()) };
        let index = self.by_origin.get(&(origin, epoch)).copied();
        let Some(index) = index.filter(|index| from <= to && to < self.streams[*index].messages.len() as u64) else {
            return Err(format!("{what} were reported as missed, but never published"));
        };
        let owed_since = life.owed_since;
        let progress = progress(life, index);
        if progress.settled.count(from, to) > 0 {
            return Err(format!("{what} were reported as missed, but some of them were delivered or reported before"));
        }
        progress.settled.insert(from, to);
        progress.missed.insert(from, to);
        progress.highest = progress.highest.max(Some(to));
        let may_miss = to < progress.kept_from;
        self.counts.missed += to - from + 1;
        let stream = &mut self.streams[index];
        stream.messages[from as usize..=to as usize].iter_mut().for_each(|message| message.settled += 1);
        let last_at = stream.messages[to as usize].at;
        let obliged = owed_since.is_some_and(|since| last_at >= since) && stream.origin != host;
        if !self.guarantees.complete || !obliged || self.missing_allowed || may_miss {
            return Ok(());
        }
        if !self.streams[index].ended {
            return Err(format!("{what} were missed; this scenario allows for no loss"));
        }
        match self.retained_by(now, index, from, to) {
            Some(other) => Err(format!("{what} were reported as missed, but host {other} had them lately")),
            None => Ok(()),
        }
    }

    /// A host whose node runs and has delivered one of these messages so lately that it still retains it.
    fn retained_by(&self, now: VirtualTime, index: usize, from: u64, to: u64) -> Option<HostId> {
        let lately = |seq: u64| now.saturating_sub(self.streams[index].messages[seq as usize].last) < RETAINED_FOR;
        let has =
            |progress: &StreamProgress, seq: u64| progress.settled.contains(seq) && !progress.missed.contains(seq);
        self.lives.iter().position(|life| {
            let progress = life.as_ref().and_then(|life| life.progress.get(index));
            progress.is_some_and(|progress| (from..=to).any(|seq| lately(seq) && has(progress, seq)))
        })
    }

    /// Checks a receipt: no more nodes than it counts have the message, or were told that they missed it.
    pub(super) fn check_receipt(&self, origin: HostId, seq: u64, count: usize) -> CheckResult {
        let Some(stream) = self.lives[origin].as_ref().and_then(|life| life.own_stream) else { return Ok(()) };
        let Some(message) = self.streams[stream].messages.get(seq as usize) else { return Ok(()) };
        if count > message.settled as usize {
            let settled = message.settled;
            return Err(format!("its receipt says that {count} nodes have message {seq}, but {settled} have"));
        }
        Ok(())
    }

    /// How many hosts that were owed a message of a host's node have it.
    pub(super) fn delivered_count(&self, origin: HostId, seq: u64) -> usize {
        let Some(stream) = self.lives[origin].as_ref().and_then(|life| life.own_stream) else { return 0 };
        let lives = self.lives.iter().flatten().filter(|life| life.owed_since.is_some());
        let progress = lives.filter_map(|life| life.progress.get(stream));
        progress
            .filter(|progress| {
                progress.known && progress.owed_from.max(progress.kept_from) <= seq && progress.settled.contains(seq)
            })
            .count()
    }

    /// Checks what a node believes of itself after a step.
    pub(super) fn check_own_state(
        &mut self,
        host: HostId,
        state: MemberState,
        incarnation: u32,
        leaves: bool,
    ) -> CheckResult {
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

    /// Checks all that a node knows of members after a step. A member that was forgotten, or has a new address, may have a lower
    /// incarnation.
    pub(super) fn check_view(
        &mut self,
        host: HostId,
        view: impl Iterator<Item = (HostId, SocketAddr, u32)>,
    ) -> CheckResult {
        let Some(life) = &mut self.lives[host] else { return Ok(()) };
        let before = std::mem::take(&mut life.view);
        for (member, addr, incarnation) in view {
            if let Some((old_addr, old)) = before.get(&member)
                && *old_addr == addr
                && incarnation < *old
            {
                return Err(format!("in its view the incarnation of host {member} falls from {old} to {incarnation}"));
            }
            life.view.insert(member, (addr, incarnation));
            life.met.insert(member);
        }
        Ok(())
    }

    /// Checks the size of everything that can grow in a node.
    pub(super) fn check_sizes(&mut self, sizes: impl IntoIterator<Item = Size>) -> CheckResult {
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

    /// How many of the owed messages have been delivered.
    ///
    /// Of an origin that has ended, only messages that a running node has are owed: the others may be lost with it.
    pub(super) fn completeness(&self) -> Completeness {
        let mut completeness = Completeness::default();
        let none = StreamProgress::default();
        for (index, stream) in self.streams.iter().enumerate() {
            let Some(last) = (stream.messages.len() as u64).checked_sub(1) else { continue };
            let owed = if stream.ended { self.known(index) } else { all(last) };
            for (host, life) in self.lives.iter().enumerate() {
                let Some((life, since)) = life.as_ref().and_then(|life| Some((life, life.owed_since?))) else {
                    continue;
                };
                if host == stream.origin {
                    continue;
                }
                let first = stream.messages.partition_point(|message| message.at < since) as u64;
                let progress = life.progress.get(index).unwrap_or(&none);
                for (from, to) in owed.iter() {
                    let from = from.max(first).max(progress.owed_from);
                    if from > to {
                        continue;
                    }
                    completeness.expected += to - from + 1;
                    completeness.delivered += progress.settled.count(from, to) - progress.missed.count(from, to);
                    if completeness.first_missing.is_none()
                        && let Some(seq) = progress.settled.first_missing(from, to)
                    {
                        let (origin, epoch) = (stream.origin, stream.epoch);
                        completeness.first_missing = Some(format!(
                            "host {host} lacks {epoch}/{seq} of host {origin}, published at {:.3} s",
                            Duration::from_nanos(stream.messages[seq as usize].at).as_secs_f64()
                        ));
                    }
                }
            }
        }
        completeness
    }

    /// The messages of a stream that any running node has.
    fn known(&self, index: usize) -> RangeSet {
        let mut known = RangeSet::default();
        for progress in self.lives.iter().flatten().filter_map(|life| life.progress.get(index)) {
            for (from, to) in progress.settled.iter() {
                for seq in from..=to {
                    if !progress.missed.contains(seq) {
                        known.insert(seq, seq);
                    }
                }
            }
        }
        known
    }

    /// How long each message took to its last receiver, and the largest number of hops.
    pub(super) fn last_deliveries(&self) -> (LatencyHistogram, u8) {
        let (mut histogram, mut hops) = (LatencyHistogram::default(), 0);
        for message in self.streams.iter().flat_map(|stream| &stream.messages) {
            if message.last > message.at {
                histogram.add(Duration::from_nanos(message.last - message.at));
            }
            hops = hops.max(message.hops);
        }
        (histogram, hops)
    }
}

fn all(last: u64) -> RangeSet {
    let mut all = RangeSet::default();
    all.insert(0, last);
    all
}

fn progress(life: &mut Life, index: usize) -> &mut StreamProgress {
    if life.progress.len() <= index {
        life.progress.resize_with(index + 1, StreamProgress::default);
    }
    &mut life.progress[index]
}

#[cfg(test)]
mod tests;
