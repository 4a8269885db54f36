//! The receiver's side: taking in what other nodes publish, acknowledging it, and keeping their epochs in order. What is
//! missing is [repaired](super::repair).

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use bytes::Bytes;
use rand::RngExt;

use super::{
    challenges::{Attribution, Challenges},
    context::{Context, Timer},
    control::{Control, Route, SenderHeader},
    error::DisseminationError,
    id::MessageId,
    inbound::InboundStreams,
    member_history::MemberHistory,
    message::Message,
    origin_stream::{OriginStreamError, ReceiveOutcome},
    output::Output,
    payload::Parsed,
    revision::{is_named, is_ours},
    ring::FANOUT,
};
use crate::{
    config::Retention,
    membership::{Membership, NodeName, Record},
};

/// A message with an identity, as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) from: SocketAddr,
    pub(super) origin: &'a [u8],
    pub(super) id: MessageId,
    pub(super) payload: &'a Bytes,
    pub(super) parsed: &'a Parsed<'a>,
    pub(super) route: Route,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) inbound: InboundStreams,
    /// The streams to acknowledge.
    acks: BTreeSet<(NodeName, u64)>,
    pub(super) challenges: Challenges,
    pub(super) history: MemberHistory,
    /// The member that is sending something large over a stream, and when some of it came last.
    pub(super) bulk_sender: Option<(SocketAddr, Instant)>,
}

impl Receiver {
    pub(super) fn new(limits: Retention, replay: bool) -> Self {
        Self {
            inbound: InboundStreams::new(limits, replay),
            acks: BTreeSet::new(),
            challenges: Challenges::default(),
            history: MemberHistory::default(),
            bulk_sender: None,
        }
    }

    /// A member is up: new, back, or at another address.
    pub(super) fn member_up(&mut self, now: Instant, record: &Record) {
        for stream in self.inbound.epochs_mut(record.name.as_bytes()) {
            stream.reset_attempts();
        }
        self.inbound.revive(record.name.as_bytes());
        if is_ours(record.versions) {
            if self.history.has_met(&record.name) {
                self.inbound.iter_mut().for_each(|stream| stream.forget_head_source(record.addr()));
            }
            self.history.record_meeting(now, record);
        }
    }

    /// A member has failed or left.
    pub(super) fn member_down(&mut self, cx: &mut Context, now: Instant, name: &NodeName, left: bool) {
        self.challenges.forget(name);
        self.history.forget(name);
        let rounds = cx.tuning.retransmit_mult * cx.gossip_rounds();
        for stream in self.inbound.epochs_mut(name.as_bytes()) {
            stream.end_epoch(now, left);
            // The origin does not tell what there is any more, so whoever has more than others does.
            stream.rounds = rounds;
        }
        cx.sweep_later(now);
    }

    /// To whom a control message with this header is attributed. `record` is the live member that it names.
    pub(super) fn identify(
        &mut self,
        cx: &mut Context,
        now: Instant,
        from: SocketAddr,
        header: SenderHeader<'_>,
        record: &Record,
    ) -> Attribution {
        let addr = record.addr();
        let response = header.echo.filter(|echo| self.challenges.is_response(now, &record.name, *echo));
        // Over a stream it comes from a port of the system's choice.
        let is_at_home = from.ip() == addr.ip();
        if !is_at_home && self.history.note_elsewhere(&record.name) {
            cx.counters.address_mismatches += 1;
            cx.outputs.push_back(Output::AddressMismatch { name: record.name.clone(), announced: addr, from });
        }
        Attribution { addr, is_verified: is_at_home || response.is_some(), response_age: response.map(|echo| echo.age) }
    }

    /// Receives a message; gives what became of it, unless its stream is refused.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context,
        now: Instant,
        arrival: Arrival<'_>,
        membership: &Membership,
    ) -> Result<Option<ReceiveOutcome>, DisseminationError> {
        let Arrival { from, origin, id, payload, parsed, route } = arrival;
        let known = self.inbound.get(origin, id.epoch).is_some();
        if !known && !self.open_from_message(cx, now, arrival, membership)? {
            return Ok(None);
        }
        let starts = self.starts_with(cx, arrival);
        let timing = cx.repair_timing();
        let Some((stream, buffers)) = self.inbound.stream(origin, id.epoch) else { return Ok(None) };
        let build = |origin: NodeName| Message::new(origin, id, parsed, payload, route.hops.saturating_add(1));
        let outcome = stream.receive(id.seq, starts, buffers, build);
        let outcome = outcome.map_err(|error| DisseminationError::Stream { origin: stream.origin.clone(), error })?;
        let (acks, is_missing) = stream.note_arrival(from, outcome == ReceiveOutcome::New, timing.gossip_rounds);
        let name = (acks || is_missing).then(|| stream.origin.clone());
        if !known {
            cx.sweep_later(now);
            if self.inbound.is_disputed(origin, id.epoch) {
                self.verify_epoch(cx, now, origin, id.epoch, false, membership);
            }
        }
        if let Some(name) = name {
            if is_missing {
                // What is out of order may only be late.
                cx.repair_by(now + timing.response_timeout / 5, &name, id.epoch);
            }
            if acks {
                self.ack_later(cx, now, name, id.epoch);
            }
        }
        Ok(Some(outcome))
    }

    /// Opens the stream of a message whose epoch is not known, if it is credible. Gives whether it did.
    fn open_from_message(
        &mut self,
        cx: &mut Context,
        now: Instant,
        arrival: Arrival<'_>,
        membership: &Membership,
    ) -> Result<bool, DisseminationError> {
        let Arrival { from, origin, id, route, .. } = arrival;
        // Its origin is a member, or another member passed it on.
        let is_credible =
            membership.get(origin).is_some_and(Record::is_live) || (route.hops > 0 && is_member_ip(from, membership));
        if !is_credible {
            // If its origin is about to be a member, it will send the message again.
            cx.counters.strangers += 1;
            return Ok(false);
        }
        let start = self.starts_with(cx, arrival).then_some(id.seq);
        match self.inbound.open(now, origin, id.epoch, start, cx.local.max_epoch(now)) {
            Ok(()) => Ok(true),
            Err(OriginStreamError::PastEpoch(epoch)) => {
                cx.counters.past_epochs += 1;
                self.verify_epoch(cx, now, origin, epoch, true, membership);
                Ok(false)
            }
            Err(OriginStreamError::FutureEpoch(epoch))
                if membership
                    .get(origin)
                    .is_some_and(|record| self.challenges.send(cx, now, record, epoch, membership)) =>
            {
                // The message comes again, once the origin has confirmed the epoch.
                cx.counters.unusable += 1;
                Ok(false)
            }
            Err(error) => Err(DisseminationError::Stream { origin: NodeName::from(origin), error }),
        }
    }

    /// Whether this node starts with a message, unless the origin says otherwise. An origin that sends this node its first
    /// message directly has it as a member, so this node starts there. But the message may also be one that the origin sends
    /// again in another epoch.
    fn starts_with(&self, cx: &Context, arrival: Arrival<'_>) -> bool {
        let Arrival { origin, id, route, .. } = arrival;
        let is_first = || route.hops == 0 && !self.inbound.has_other_epoch(origin, id.epoch);
        id.seq == 0 && (cx.live > FANOUT + 1 || is_first())
    }

    /// Sees to it that a stream is acknowledged, or its origin is asked where to start.
    pub(super) fn ack_later(&mut self, cx: &mut Context, now: Instant, origin: NodeName, epoch: u64) {
        self.acks.insert((origin, epoch));
        if let Some(jitter) = cx.ack_jitter()
            && cx.timers.get(&Timer::SendAcks).is_none()
        {
            cx.timers.set(Timer::SendAcks, now + jitter.mul_f64(cx.rng.random()));
        }
    }

    /// Whether acknowledgements are due that are not delayed.
    pub(super) fn acknowledges_now(&self, cx: &Context) -> bool {
        !self.acks.is_empty() && cx.timers.get(&Timer::SendAcks).is_none()
    }

    /// Sends the acknowledgements that are due.
    pub(super) fn send_acks(&mut self, cx: &mut Context, now: Instant, membership: &Membership) {
        for (origin, epoch) in std::mem::take(&mut self.acks) {
            let Some((stream, _)) = self.inbound.stream(origin.as_bytes(), epoch) else { continue };
            stream.ack_due = false;
            let Some(record) = membership.get(origin.as_bytes()).filter(|record| record.is_live()) else { continue };
            let acked = (stream.acknowledged(), stream.cookie);
            let ack = self.acknowledgement(cx, now, record, epoch, acked);
            cx.send(record.addr(), vec![ack]);
        }
    }

    /// The acknowledgement of a stream with this `cookie`, or without `next` a request where to start.
    pub(super) fn acknowledgement(
        &mut self,
        cx: &mut Context,
        now: Instant,
        record: &Record,
        epoch: u64,
        (next, cookie): (Option<u64>, Option<u64>),
    ) -> Bytes {
        let receiver_epoch = cx.local.epoch;
        // A cookie may be of an earlier run, of a later release.
        if !is_named(record.versions) {
            return Control::Ack { epoch, receiver_epoch, next }.encode();
        }
        let challenge = next.is_none().then(|| self.challenges.challenge(cx, now, &record.name, epoch));
        Control::CookieAck { epoch, receiver_epoch, next, cookie, challenge }.encode_from(cx.local.header(None))
    }

    /// Tells an origin its latest epoch known here. It publishes in an earlier one, perhaps as its clock has been set back.
    fn report_latest_epoch(&self, cx: &mut Context, origin: &[u8], epoch: u64, membership: &Membership) {
        let Some(record) = membership.get(origin).filter(|record| record.is_live()) else { return };
        let Some(latest) = self.inbound.latest_epoch(origin, epoch) else { return };
        let digest = cx.local.encode_for(record.versions, &Control::Digest(vec![latest.digest()]));
        cx.send(record.addr(), vec![digest]);
    }

    /// Somebody speaks of an epoch that contradicts what is known here: challenges the origin or, with `tells`, tells it what is
    /// known if it cannot be challenged.
    pub(super) fn verify_epoch(
        &mut self,
        cx: &mut Context,
        now: Instant,
        origin: &[u8],
        epoch: u64,
        tells: bool,
        membership: &Membership,
    ) {
        let record = membership.get(origin).filter(|record| record.is_live());
        let challenged = record.is_some_and(|record| self.challenges.send(cx, now, record, epoch, membership));
        if !challenged && tells {
            self.report_latest_epoch(cx, origin, epoch, membership);
        }
    }

    /// Handles an origin's response that it is in this epoch, and how old that is. If this node met the origin before, it
    /// asks whoever told of the previous epoch for that.
    pub(super) fn handle_origin_age(
        &mut self,
        cx: &mut Context,
        origin: &[u8],
        (epoch, age): (u64, u64),
        membership: &Membership,
    ) {
        if !self.history.met_before(origin, self.challenges.since(origin), age) {
            return;
        }
        self.inbound.note_met_before(origin, epoch);
        let past_epoch = self.challenges.take_past_epoch(origin);
        let known = past_epoch.and_then(|(epoch, sender)| Some((epoch, membership.find_addr(sender)?)));
        if let Some((epoch, sender)) = known.filter(|(epoch, _)| self.inbound.get(origin, *epoch).is_none()) {
            // A request for what it cannot have gets its digest.
            let request = Control::RepairRequest { origin, epoch, ranges: vec![(u64::MAX - 1, 1)] };
            cx.send(sender.addr(), vec![cx.local.encode_for(sender.versions, &request)]);
        }
    }
}

/// Whether a member of ours is at this address, whatever its port.
pub(super) fn is_member_ip(from: SocketAddr, membership: &Membership) -> bool {
    membership.others().any(|record| record.is_live() && is_ours(record.versions) && record.addr().ip() == from.ip())
}
