//! Taking what comes: messages and reports, from who may say them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;

use super::{
    ACKS_PER_SECOND, Dissemination, Output, Timer, Unusable,
    control::{Control, MAGIC, Route},
    inbound::{StreamError, Taken},
    is_ours,
    message::Message,
    ours,
    payload::{self, Parsed},
    plain::{self, Said},
    ring::FANOUT,
};
use crate::{
    membership::{Membership, NodeName},
    wire::{self, packet},
};

impl Dissemination {
    /// Takes a user message that came from `from`. `route` is what the packet said of the messages that
    /// follow.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        route: &mut Route,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let handled = self.handle_any(now, from, payload, route, membership);
        self.counters.unusable += u64::from(handled.is_err());
        handled
    }

    fn handle_any(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        route: &mut Route,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let member = || membership.find_addr(from).filter(|record| record.is_live() && is_ours(record.versions));
        let data = match payload.split_first() {
            // A plain node's application may well begin with this byte.
            Some((&MAGIC, data)) if !plain::is_from_one(from, membership) => data,
            _ => return self.take_message(now, from, payload, *route, membership),
        };
        match Control::decode(data)? {
            Control::Relay { route: given, message } => {
                if message.is_empty() {
                    *route = given;
                } else {
                    self.take_message(now, from, &payload.slice_ref(message), given, membership)?;
                }
            }
            Control::Have(haves) if member().is_some() => {
                for have in &haves {
                    self.take_have(now, Some(from), have, membership);
                }
            }
            Control::Ack { epoch, life, next } => self.take_ack(now, from, epoch, life, next)?,
            Control::Want { origin, epoch, ranges } if member().is_some() => {
                self.give(now, ours(from), origin, epoch, &ranges);
            }
            // Large ones come over streams, from any port of a member.
            Control::Plain { source, message } if member().is_some() || is_at_member(from, membership) => {
                self.adopt(now, &NodeName::from(source), &payload.slice_ref(message), membership)?;
            }
            // Who is not known yet as a member says it again.
            Control::Have(_) | Control::Want { .. } | Control::Plain { .. } => self.counters.strangers += 1,
            control @ (Control::Watch | Control::Acked { .. }) => match (member(), control) {
                (Some(record), Control::Acked { epoch, members }) => self.take_acked(&record.name, epoch, &members),
                (Some(record), _) => self.add_watcher(now, Some(record.name.clone())),
                (None, _) => self.counters.strangers += 1,
            },
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        route: Route,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let (text, parsed) = match read(payload) {
            Ok(read) => read,
            Err(_) if plain::at(from, membership).is_some_and(|record| !is_ours(record.versions)) => {
                return self.hear_plain(now, from, payload, &Said::raw(payload), membership);
            }
            Err(error) => return Err(error),
        };
        let Some(identity) = &parsed.identity else {
            return self.hear_plain(now, from, payload, &Said::parsed(text, parsed), membership);
        };
        self.counters.copies += 1;
        let origin = identity.origin.as_bytes();
        if self.me.as_bytes() == origin {
            return Ok(());
        }
        if self.inbound.get(origin, identity.epoch).is_none() && !is_credible(origin, from, route, membership) {
            // If it is one, its origin repeats it once they know each other.
            self.counters.strangers += 1;
            return Ok(());
        }
        let hops = route.hops.saturating_add(1);
        let id = (identity.epoch, identity.seq);
        // Whom the origin itself sends its first message, is a member to it and begins there; unless it is
        // no first message, but said again in a life that was renewed.
        let first = || route.hops == 0 && !self.inbound.has_other_life(origin, id.0);
        let begins = id.1 == 0 && (self.live > FANOUT + 1 || first());
        let build = |origin: NodeName| Message::new(origin, identity, &parsed, payload, hops);
        let taken = match self.inbound.receive(now, origin, id, begins, self.latest(now), build) {
            Ok(taken) => taken,
            Err(StreamError::FormerLife(epoch)) => {
                self.counters.former_lives += 1;
                self.tell_of_later_life(origin, epoch, membership);
                return Ok(());
            }
            Err(error) => return Err(Unusable::Stream { origin: NodeName::from(origin), error }),
        };
        self.counters.duplicates += u64::from(taken == Taken::Known);
        if let (Taken::New, Some(until)) = (taken, route.until) {
            let message = packet::encode_message(&wire::Message::User(payload.clone()));
            self.relays.entry((until, hops)).or_default().push(message);
        }
        self.after_news(now, origin, identity.epoch, from, taken == Taken::New);
        self.deliver(now);
        Ok(())
    }

    /// Something of a stream came: sees to it that it is acknowledged, that others hear of it, and that
    /// what is missing is asked for.
    pub(super) fn after_news(&mut self, now: Instant, origin: &[u8], epoch: u64, from: SocketAddr, news: bool) {
        let rounds = self.telling_rounds();
        let stream = self.inbound.get_mut(origin, epoch).expect("it was opened when the message came");
        if news {
            stream.rounds = rounds;
        }
        let acks = !std::mem::replace(&mut stream.ack_due, true);
        let lacks = stream.lacks();
        if lacks {
            stream.hint.get_or_insert(from);
        }
        if !acks && !lacks {
            return;
        }
        let name = stream.origin.clone();
        if lacks {
            // What is out of order may just be late.
            self.ask_by(now + self.patience() / 5, &name, epoch);
        }
        if acks {
            self.ack_later(now, name, epoch);
        }
    }

    pub(super) fn ack_later(&mut self, now: Instant, origin: NodeName, epoch: u64) {
        self.acks.insert((origin, epoch));
        if self.live > FANOUT + 1 && self.timers.get(&Timer::Acks).is_none() {
            let spread = Duration::from_secs_f64(self.live as f64 / ACKS_PER_SECOND);
            self.timers.set(Timer::Acks, now + spread.mul_f64(self.rng.random()));
        }
    }

    /// Hands out what is delivered. What comes in the streams of two voices is told apart here.
    pub(super) fn deliver(&mut self, now: Instant) {
        for (origin, epoch, seqs) in std::mem::take(&mut self.inbound.lost) {
            self.counters.missed += seqs.end - seqs.start;
            self.outputs.push_back(Output::Missed { origin, epoch, seqs });
        }
        while let Some(message) = self.inbound.delivered.pop_front() {
            if let Some((source, said)) = message.plain() {
                let words = plain::words(source, &said);
                // A flood is let through rather than lost.
                if self.heard.is_new(now, &words, message.stands_at().0) == Ok(false) {
                    continue;
                }
            }
            self.counters.delivered += 1;
            self.outputs.push_back(Output::Deliver(message));
        }
    }
}

/// Reads a message in this crate's form; gives its text, too.
pub(super) fn read(payload: &Bytes) -> Result<(&str, Parsed<'_>), Unusable> {
    let len = payload.len();
    let text = std::str::from_utf8(payload).map_err(|_| Unusable::Text(len))?;
    let parsed = payload::parse(text).map_err(|source| Unusable::Json { len, source })?;
    Ok((text, parsed))
}

/// Whether a first message of an origin's life may be one: it comes from the origin, or was passed on by
/// another member. Over a stream it comes from any port.
fn is_credible(origin: &[u8], from: SocketAddr, route: Route, membership: &Membership) -> bool {
    match membership.find_addr(from) {
        Some(record) => record.is_live() && (*record.name.as_bytes() == *origin || route.hops > 0),
        None if route.hops > 0 => is_at_member(from, membership),
        None => membership.get(origin).is_some_and(|record| record.is_live() && record.addr().ip() == from.ip()),
    }
}

/// Whether some member of ours is at this address, whatever its port.
fn is_at_member(from: SocketAddr, membership: &Membership) -> bool {
    membership.others().any(|record| record.is_live() && is_ours(record.versions) && record.addr().ip() == from.ip())
}
