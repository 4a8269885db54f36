//! Taking what comes: messages and reports, from who may say them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;

use super::{
    Dissemination, Timer,
    control::{Control, MAGIC, Route},
    dedup::PayloadKey,
    error::Unusable,
    id::MessageId,
    limits::ACKS_PER_SECOND,
    message::Message,
    output::Output,
    payload,
    plain::{self, PlainPayload},
    repair::Teller,
    revision::is_ours,
    ring::FANOUT,
    stream::{StreamError, Taken},
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
        let (text, parsed) = match payload::read(payload) {
            Ok(read) => read,
            Err(_) if plain::at(from, membership).is_some_and(|record| !is_ours(record.versions)) => {
                return self.hear_plain(now, from, payload, &PlainPayload::raw(payload), membership);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(identity) = &parsed.identity else {
            return self.hear_plain(now, from, payload, &PlainPayload::parsed(text, parsed), membership);
        };
        self.counters.copies += 1;
        let origin = identity.origin.as_bytes();
        if self.me.as_bytes() == origin {
            return Ok(());
        }
        let id = MessageId { epoch: identity.epoch, seq: identity.seq };
        let known = self.inbound.get(origin, id.epoch).is_some();
        if !known && !self.open_heard(now, from, (origin, id), route, membership)? {
            return Ok(());
        }
        let begins = self.begins_with(origin, id, route);
        let (hops, pace) = (route.hops.saturating_add(1), self.pace());
        let Some((stream, store)) = self.inbound.stream(origin, id.epoch) else { return Ok(()) };
        let build = |origin: NodeName| Message::new(origin, id, &parsed, payload, hops);
        let taken = stream.receive(id.seq, begins, store, build);
        let taken = taken.map_err(|error| Unusable::Stream { origin: stream.origin.clone(), error })?;
        let news = taken == Taken::New;
        let (acks, lacks) = stream.note_arrival(from, news, pace.rounds);
        let name = (acks || lacks).then(|| stream.origin.clone());
        if !known {
            self.sweep_later(now);
            if self.inbound.is_doubtful(origin, id.epoch) {
                self.doubt(now, origin, id.epoch, false, membership);
            }
        }
        self.counters.duplicates += u64::from(taken == Taken::Known);
        if let Some(until) = route.until.filter(|_| news) {
            let message = packet::encode_message(&wire::Message::User(payload.clone()));
            self.relays.entry((until, hops)).or_default().push(message);
        }
        if let Some(name) = name {
            if lacks {
                // What is out of order may just be late.
                self.ask_by(now + pace.patience / 5, &name, id.epoch);
            }
            if acks {
                self.ack_later(now, name, id.epoch);
            }
        }
        self.deliver(now);
        Ok(())
    }

    /// A message comes of a life that is not known: remembers it, if it may be one.
    fn open_heard(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (origin, id): (&[u8], MessageId),
        route: Route,
        membership: &Membership,
    ) -> Result<bool, Unusable> {
        if !is_credible(origin, from, route, membership) {
            // If it is one, its origin repeats it once they know each other.
            self.counters.strangers += 1;
            return Ok(false);
        }
        let begins = self.begins_with(origin, id, route).then_some(id.seq);
        match self.inbound.open(now, origin, id.epoch, begins, self.latest(now)) {
            Ok(()) => Ok(true),
            Err(StreamError::FormerLife(epoch)) => {
                self.counters.former_lives += 1;
                self.doubt(now, origin, epoch, true, membership);
                Ok(false)
            }
            Err(StreamError::FutureLife(epoch))
                if membership.get(origin).is_some_and(|record| self.question(now, record, epoch, membership)) =>
            {
                // It comes again, once the origin has said that it is its own.
                self.counters.unusable += 1;
                Ok(false)
            }
            Err(error) => Err(Unusable::Stream { origin: NodeName::from(origin), error }),
        }
    }

    /// Whether this node begins with a message, unless its origin says otherwise. Whom the origin itself sends its first
    /// message, is a member to it and begins there; unless it is no first message, but said again in a life that was
    /// renewed.
    fn begins_with(&self, origin: &[u8], id: MessageId, route: Route) -> bool {
        let first = || route.hops == 0 && !self.inbound.has_other_life(origin, id.epoch);
        id.seq == 0 && (self.live > FANOUT + 1 || first())
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
        self.inbound.make_room();
        for (origin, epoch, seqs) in self.inbound.take_lost() {
            self.counters.missed = self.counters.missed.saturating_add(seqs.end - seqs.start);
            self.outputs.push_back(Output::Missed { origin, epoch, seqs });
        }
        while let Some(message) = self.inbound.poll_delivered() {
            if let Some(source) = message.plain_source() {
                let key = PayloadKey::new(source, message.key(), message.value(), message.is_raw());
                // A flood is let through rather than lost.
                if self.dedup.is_new(now, &key, message.publisher()) == Ok(false) {
                    continue;
                }
            }
            self.counters.delivered += 1;
            self.outputs.push_back(Output::Deliver(message));
        }
    }
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
