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
    payload::{self, Parsed},
    plain::{self, Said},
    repair::Teller,
    ring::FANOUT,
};
use crate::{
    membership::{Membership, NodeName, Record},
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
        let data = match payload.split_first() {
            // A plain node's application may well begin with this byte.
            Some((&MAGIC, data)) if !plain::is_from_one(from, membership) => data,
            _ => return self.take_message(now, from, payload, *route, membership),
        };
        let is_ours = |record: &&Record| record.is_live() && is_ours(record.versions);
        let (speaker, control) = match Control::decode(data)? {
            Control::Relay { message: [], route: given } => {
                *route = given;
                return Ok(());
            }
            Control::Relay { route, message } => {
                return self.take_message(now, from, &payload.slice_ref(message), route, membership);
            }
            Control::Ack { epoch, life, next } => {
                return self.take_ack(now, from, (epoch, life, next), membership);
            }
            Control::By { by, control } => {
                let record = membership.get(by.sender).filter(is_ours).filter(|record| record.name != self.me);
                let speaker = record.map(|record| (record, self.teller(now, from, by, record)));
                (speaker, Control::decode(control)?)
            }
            control => {
                let record = membership.find_addr(from).filter(is_ours);
                let teller = Teller { addr: from, certain: true, answers: None };
                (record.map(|record| (record, teller)), control)
            }
        };
        self.take_control(now, (from, speaker), control, payload, membership)
    }

    /// Takes a control message, from a member of ours if it is one.
    fn take_control(
        &mut self,
        now: Instant,
        (from, speaker): (SocketAddr, Option<(&Record, Teller)>),
        control: Control<'_>,
        payload: &Bytes,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        match (speaker, control) {
            // Large ones come over streams, from any port of a member.
            (speaker, Control::Plain { source, message }) if speaker.is_some() || is_at_member(from, membership) => {
                self.adopt(now, &NodeName::from(source), &payload.slice_ref(message), membership)?;
            }
            (Some((_, teller)), Control::Have(haves)) => {
                for have in &haves {
                    self.take_have(now, Some(teller), have, membership);
                }
            }
            (Some((record, teller)), Control::Want { origin, epoch, ranges }) => {
                // A forged request is not to be worth much to whoever wants that member flooded.
                if teller.certain || self.may_answer(now, &record.name) {
                    self.give(now, record, origin, epoch, &ranges);
                }
            }
            (Some((record, teller)), Control::Receipt { epoch, life, next, cookie, question }) => {
                self.take_receipt(now, (record, teller), (epoch, life, next), cookie, question)?;
            }
            (Some((record, _)), Control::Acked { epoch, members }) => self.take_acked(&record.name, epoch, &members),
            (Some((record, _)), Control::Watch) => self.add_watcher(now, Some(record.name.clone())),
            // One of these says nothing of who says it, or stands in front of another.
            (_, Control::Relay { .. } | Control::By { .. } | Control::Ack { .. }) => self.counters.unusable += 1,
            // Who is not known yet as a member says it again.
            (None, _) | (_, Control::Plain { .. }) => self.counters.strangers += 1,
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
        let known = self.inbound.get(origin, identity.epoch).is_some();
        if !known && !is_credible(origin, from, route, membership) {
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
                self.doubt(now, origin, epoch, true, membership);
                return Ok(());
            }
            Err(StreamError::FutureLife(epoch))
                if membership.get(origin).is_some_and(|record| self.question(now, record, epoch, membership)) =>
            {
                // It comes again, once the origin has said that it is its own.
                self.counters.unusable += 1;
                return Ok(());
            }
            Err(error) => return Err(Unusable::Stream { origin: NodeName::from(origin), error }),
        };
        if !known {
            self.sweep_later(now);
            if self.inbound.is_doubtful(origin, identity.epoch) {
                self.doubt(now, origin, identity.epoch, false, membership);
            }
        }
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
            self.counters.missed = self.counters.missed.saturating_add(seqs.end - seqs.start);
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

/// Whether a first message of an origin's life may be one: its origin is a member, or it was passed on by
/// another member.
fn is_credible(origin: &[u8], from: SocketAddr, route: Route, membership: &Membership) -> bool {
    membership.get(origin).is_some_and(Record::is_live) || (route.hops > 0 && is_at_member(from, membership))
}

/// Whether some member of ours is at this address, whatever its port.
fn is_at_member(from: SocketAddr, membership: &Membership) -> bool {
    membership.others().any(|record| record.is_live() && is_ours(record.versions) && record.addr().ip() == from.ip())
}
