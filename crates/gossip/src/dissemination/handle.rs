//! Taking what comes: messages and reports, from who may say them.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Dissemination,
    control::{Control, Have, MAGIC, Route},
    error::Unusable,
    id::MessageId,
    output::Output,
    payload,
    plain::{self, PlainPayload},
    publisher::Ack,
    questions::Teller,
    receiver::{Arrival, is_at_member},
    revision::is_ours,
    stream::Taken,
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
        self.cx.counters.unusable += u64::from(handled.is_err());
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
                return self.publisher.take_ack(&mut self.cx, now, from, Ack { epoch, life, next }, membership);
            }
            Control::By { by, control } => {
                let record = membership.get(by.sender).filter(is_ours).filter(|record| record.name != self.cx.me.name);
                let speaker = record.map(|record| (record, self.receiver.teller(&mut self.cx, now, from, by, record)));
                (speaker, Control::decode(control)?)
            }
            control => {
                let record = membership.find_addr(from).filter(is_ours);
                let teller = Teller { addr: from, certain: true, answers: None };
                (record.map(|record| (record, teller)), control)
            }
        };
        self.take_control(now, (from, speaker), control, membership)
    }

    /// Takes a control message, from a member of ours if it is one.
    fn take_control(
        &mut self,
        now: Instant,
        (from, speaker): (SocketAddr, Option<(&Record, Teller)>),
        control: Control<'_>,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        match (speaker, control) {
            // Large ones come over streams, from any port of a member.
            (speaker, Control::Plain { source, message }) if speaker.is_some() || is_at_member(from, membership) => {
                let (source, said) = (NodeName::from(source), PlainPayload::read(message));
                self.plain.adopt(&mut self.cx, &mut self.publisher, now, &source, &said, membership)?;
            }
            (Some((_, teller)), Control::Have(haves)) => {
                for have in &haves {
                    self.take_have(now, Some(teller), have, membership);
                }
            }
            (Some((record, teller)), Control::Want { origin, epoch, ranges }) => {
                // A forged request is not to be worth much to whoever wants that member flooded.
                if teller.certain || self.publisher.may_answer(&self.cx, now, &record.name) {
                    self.give(now, record, origin, (epoch, &ranges));
                }
            }
            (Some((record, teller)), Control::Receipt { epoch, life, next, cookie, question }) => {
                let ack = Ack { epoch, life, next };
                self.publisher.take_receipt(&mut self.cx, now, (record, teller), ack, cookie, question)?;
            }
            (Some((record, _)), Control::Acked { epoch, members }) => {
                self.publisher.watchers.hear(&mut self.cx, &record.name, epoch, &members);
            }
            (Some((record, _)), Control::Watch) => {
                self.publisher.watchers.add(&mut self.cx, now, Some(record.name.clone()));
            }
            // One of these says nothing of who says it, or stands in front of another.
            (_, Control::Relay { .. } | Control::By { .. } | Control::Ack { .. }) => self.cx.counters.unusable += 1,
            // Who is not known yet as a member says it again.
            (None, _) | (_, Control::Plain { .. }) => self.cx.counters.strangers += 1,
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
        self.cx.counters.copies += 1;
        let origin = identity.origin.as_bytes();
        if self.cx.me.name.as_bytes() == origin {
            return Ok(());
        }
        let id = MessageId { epoch: identity.epoch, seq: identity.seq };
        let arrival = Arrival { from, origin, id, payload, parsed: &parsed, route };
        let Some(taken) = self.receiver.take(&mut self.cx, now, arrival, membership)? else { return Ok(()) };
        self.cx.counters.duplicates += u64::from(taken == Taken::Known);
        if let (Taken::New, Some(until)) = (taken, route.until) {
            let message = packet::encode_message(&wire::Message::User(payload.clone()));
            self.tree.relay(until, route.hops.saturating_add(1), message);
        }
        self.deliver(now);
        Ok(())
    }

    fn hear_plain(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        said: &PlainPayload<'_>,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        self.plain.hear(&mut self.cx, &mut self.publisher, now, from, (payload, said), membership)
    }

    /// Takes in what somebody has of a stream.
    pub(super) fn take_have(&mut self, now: Instant, teller: Option<Teller>, have: &Have<'_>, membership: &Membership) {
        if self.cx.me.name.as_bytes() == have.origin {
            self.publisher.hear_of_own_life(&mut self.cx, now, have.epoch, membership);
        } else if self.receiver.take_have(&mut self.cx, now, teller, have, membership) {
            self.deliver(now);
        }
    }

    /// Gives a member the messages it asks for, as far as they are here.
    fn give(&mut self, now: Instant, record: &Record, origin: &[u8], (epoch, ranges): (u64, &[(u64, u64)])) {
        let Self { cx, publisher, receiver, supply, .. } = self;
        if cx.me.name.as_bytes() == origin {
            publisher.give(cx, now, supply, record, (epoch, ranges));
        } else {
            receiver.give(cx, now, supply, record, (origin, epoch, ranges));
        }
    }

    /// Hands out what is delivered. What comes in the streams of two voices is told apart here.
    pub(super) fn deliver(&mut self, now: Instant) {
        let Self { cx, receiver, plain, .. } = self;
        receiver.inbound.make_room();
        for (origin, epoch, seqs) in receiver.inbound.take_lost() {
            cx.counters.missed = cx.counters.missed.saturating_add(seqs.end - seqs.start);
            cx.outputs.push_back(Output::Missed { origin, epoch, seqs });
        }
        while let Some(message) = receiver.inbound.poll_delivered() {
            if plain.is_new(now, &message) {
                cx.counters.delivered += 1;
                cx.outputs.push_back(Output::Deliver(message));
            }
        }
    }
}
