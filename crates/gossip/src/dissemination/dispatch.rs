//! Entry point for what arrives: messages and control messages, from whoever may send them.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    Dissemination,
    challenges::Attribution,
    control::{Control, MAGIC, Route, StreamDigest},
    error::DisseminationError,
    id::MessageId,
    origin_stream::ReceiveOutcome,
    output::Output,
    payload,
    plain::{self, PlainPayload},
    publisher::Ack,
    receiver::{Arrival, is_member_ip},
    revision::is_ours,
};
use crate::{
    membership::{Membership, NodeName, Record},
    wire::{self, packet},
};

impl Dissemination {
    /// Handles a user message that came from `from`. `route` is what the packet said about the messages that follow.
    ///
    /// # Errors
    ///
    /// See [`DisseminationError`].
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        route: &mut Route,
        membership: &Membership,
    ) -> Result<(), DisseminationError> {
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
    ) -> Result<(), DisseminationError> {
        let data = match payload.split_first() {
            // A plain node's application may use this byte, too.
            Some((&MAGIC, data)) if !plain::is_plain_addr(from, membership) => data,
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
            Control::Ack { epoch, receiver_epoch, next } => {
                return self.publisher.handle_ack(
                    &mut self.cx,
                    now,
                    from,
                    Ack { epoch, receiver_epoch, next },
                    membership,
                );
            }
            Control::Sender { header, control } => {
                let record =
                    membership.get(header.name).filter(is_ours).filter(|record| record.name != self.cx.local.name);
                let speaker =
                    record.map(|record| (record, self.receiver.identify(&mut self.cx, now, from, header, record)));
                (speaker, Control::decode(control)?)
            }
            control => {
                let record = membership.find_addr(from).filter(is_ours);
                let sender = Attribution { addr: from, is_verified: true, response_age: None };
                (record.map(|record| (record, sender)), control)
            }
        };
        self.take_control(now, (from, speaker), control, membership)
    }

    /// Handles a control message. `speaker` is the live member of ours that sent it, if there is one.
    fn take_control(
        &mut self,
        now: Instant,
        (from, speaker): (SocketAddr, Option<(&Record, Attribution)>),
        control: Control<'_>,
        membership: &Membership,
    ) -> Result<(), DisseminationError> {
        match (speaker, control) {
            // A large one comes over a stream, from any port of a member.
            (speaker, Control::ProxyPublish { source, message })
                if speaker.is_some() || is_member_ip(from, membership) =>
            {
                let (source, payload_read) = (NodeName::from(source), PlainPayload::read(message));
                self.plain.publish_as_proxy(
                    &mut self.cx,
                    &mut self.publisher,
                    now,
                    &source,
                    &payload_read,
                    membership,
                )?;
            }
            (Some((_, sender)), Control::Digest(digests)) => {
                for digest in &digests {
                    self.handle_digest(now, Some(sender), digest, membership);
                }
            }
            (Some((record, sender)), Control::RepairRequest { origin, epoch, ranges }) => {
                // A forged request must not get the named member flooded.
                if sender.is_verified || self.publisher.may_answer(&self.cx, now, &record.name) {
                    self.retransmit(now, record, origin, (epoch, &ranges));
                }
            }
            (Some((record, sender)), Control::CookieAck { epoch, receiver_epoch, next, cookie, challenge }) => {
                let ack = Ack { epoch, receiver_epoch, next };
                self.publisher.handle_cookie_ack(&mut self.cx, now, (record, sender), ack, cookie, challenge)?;
            }
            (Some((record, _)), Control::AckReport { epoch, members }) => {
                self.publisher.watchers.handle_report(&mut self.cx, &record.name, epoch, &members);
            }
            (Some((record, _)), Control::WatchAcks) => {
                self.publisher.watchers.add(&mut self.cx, now, Some(record.name.clone()));
            }
            // None of these can stand behind a sender's header.
            (_, Control::Relay { .. } | Control::Sender { .. } | Control::Ack { .. }) => self.cx.counters.unusable += 1,
            // A sender that is not known yet as a member repeats it.
            (None, _) | (_, Control::ProxyPublish { .. }) => self.cx.counters.strangers += 1,
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
    ) -> Result<(), DisseminationError> {
        let (text, parsed) = match payload::read(payload) {
            Ok(read) => read,
            Err(_) if plain::member_at(from, membership).is_some_and(|record| !is_ours(record.versions)) => {
                return self.receive_plain(now, from, payload, &PlainPayload::raw(payload), membership);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(identity) = &parsed.identity else {
            return self.receive_plain(now, from, payload, &PlainPayload::parsed(text, parsed), membership);
        };
        self.cx.counters.copies += 1;
        let origin = identity.origin.as_bytes();
        if self.cx.local.name.as_bytes() == origin {
            return Ok(());
        }
        let id = MessageId { epoch: identity.epoch, seq: identity.seq };
        let arrival = Arrival { from, origin, id, payload, parsed: &parsed, route };
        let Some(outcome) = self.receiver.receive(&mut self.cx, now, arrival, membership)? else { return Ok(()) };
        self.cx.counters.duplicates += u64::from(outcome == ReceiveOutcome::Duplicate);
        if let (ReceiveOutcome::New, Some(until)) = (outcome, route.until) {
            let message = packet::encode_message(&wire::Message::User(payload.clone()));
            self.tree.queue_relay(until, route.hops.saturating_add(1), message);
        }
        self.deliver(now);
        Ok(())
    }

    fn receive_plain(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        payload_read: &PlainPayload<'_>,
        membership: &Membership,
    ) -> Result<(), DisseminationError> {
        self.plain.receive(&mut self.cx, &mut self.publisher, now, from, (payload, payload_read), membership)
    }

    /// Handles one entry of a digest.
    pub(super) fn handle_digest(
        &mut self,
        now: Instant,
        sender: Option<Attribution>,
        digest: &StreamDigest<'_>,
        membership: &Membership,
    ) {
        if self.cx.local.name.as_bytes() == digest.origin {
            self.publisher.handle_own_digest(&mut self.cx, now, digest.epoch, membership);
        } else if self.receiver.handle_digest(&mut self.cx, now, sender, digest, membership) {
            self.deliver(now);
        }
    }

    /// Retransmits what a member requests, as far as it is kept here.
    fn retransmit(&mut self, now: Instant, record: &Record, origin: &[u8], (epoch, ranges): (u64, &[(u64, u64)])) {
        let Self { cx, publisher, receiver, retransmitter, .. } = self;
        if cx.local.name.as_bytes() == origin {
            publisher.retransmit(cx, now, retransmitter, record, (epoch, ranges));
        } else {
            receiver.retransmit(cx, now, retransmitter, record, (origin, epoch, ranges));
        }
    }

    /// Hands out what can be delivered. Messages of plain nodes that came through two proxies are delivered once.
    pub(super) fn deliver(&mut self, now: Instant) {
        let Self { cx, receiver, plain, .. } = self;
        receiver.inbound.make_room();
        for (origin, epoch, seqs) in receiver.inbound.take_missed() {
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
