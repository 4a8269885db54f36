//! Repair of what others publish: what is missing, whom to ask, and when to give up.
//!
//! An origin reminds peers that have not acknowledged what it sent. A receiver that finds a gap in the numbers, or hears
//! that there is more, asks whoever told it, then the origin, then anybody. It waits longer after each request. A stream
//! [says itself](super::origin_stream) what it needs next; this module carries it out. Repair by receivers, from any member
//! that keeps the message, is known from reliable multicast (SRM; Floyd et al., SIGCOMM 1995).

use std::time::{Duration, Instant};

use super::{
    challenges::Attribution,
    context::{Context, Timer},
    control::{Control, StreamDigest},
    hash::hash,
    limits::FAILED_GRACE,
    origin_stream::{DigestSource, OriginStream, OriginStreamError, RepairRequest, RepairSources, RepairStep},
    receiver::Receiver,
    retransmit::{RetransmitRequest, Retransmitter},
    revision::{is_named, is_ours},
};
use crate::{
    membership::{MemberState, Membership, NodeName, Record, Target},
    wire::{self, packet},
};

/// While a member sends something large, and some of it came no longer ago than this, nobody else is asked: what is
/// missing may be under way.
const BULK_TIMEOUT: Duration = Duration::from_secs(2);
/// For how much longer the messages of an ended epoch are kept than anybody requests them.
const RETENTION_MARGIN: Duration = Duration::from_secs(5);

impl Receiver {
    /// Handles a digest of another node's stream. Gives whether something may have become deliverable.
    pub(super) fn handle_digest(
        &mut self,
        cx: &mut Context,
        now: Instant,
        sender: Option<Attribution>,
        digest: &StreamDigest<'_>,
        membership: &Membership,
    ) -> bool {
        let (origin, epoch) = (digest.origin, digest.epoch);
        let record = membership.get(origin).filter(|record| record.is_live());
        let addr = sender.map(|sender| sender.addr);
        let is_origin_addr = addr.is_some() && record.map(Record::addr) == addr;
        let is_origin = is_origin_addr && sender.is_some_and(|sender| sender.is_verified);
        let source = DigestSource { addr, is_origin_addr, is_origin };
        let age = sender.filter(|_| is_origin).and_then(|sender| sender.response_age);
        if let Some(age) = age {
            if self.inbound.confirm(now, origin, epoch).is_err() {
                cx.counters.unusable += 1;
                return false;
            }
            self.handle_origin_age(cx, origin, (epoch, age), membership);
        } else if let Some(record) = record.filter(|_| is_origin_addr)
            && (!is_origin || self.inbound.is_disputed(origin, epoch))
        {
            self.challenges.send(cx, now, record, epoch, membership);
        }
        if self.inbound.get(origin, epoch).is_none() && !self.open_from_digest(cx, now, source, digest, membership) {
            return false;
        }
        let timing = cx.repair_timing();
        let Some((stream, buffers)) = self.inbound.stream(origin, epoch) else { return false };
        let can_answer = record.is_some_and(|record| is_named(record.versions));
        let start = match digest.start {
            Some(start) if start.seq > 0 && stream.needs_start() && can_answer => {
                self.history.start_of(now, origin, start, (self.challenges.since(origin), age))
            }
            start => start,
        };
        let start =
            start.filter(|start| is_origin && (start.receiver_epoch == 0 || start.receiver_epoch == cx.local.epoch));
        let outcome = stream.learn(digest, start, source, timing, buffers);
        if let Some(pause) = outcome.request_in {
            cx.repair_by(now + pause, &stream.origin, epoch);
        }
        if outcome.acknowledge {
            let name = stream.origin.clone();
            self.ack_later(cx, now, name, epoch);
        }
        true
    }

    /// Opens a stream of which a digest tells for the first time, unless it cannot exist or is empty. Gives whether it did.
    fn open_from_digest(
        &mut self,
        cx: &mut Context,
        now: Instant,
        source: DigestSource,
        digest: &StreamDigest<'_>,
        membership: &Membership,
    ) -> bool {
        let StreamDigest { origin, epoch, next, floor, start, .. } = *digest;
        if next == 0 && start.is_none_or(|start| start.seq == 0) {
            return false;
        }
        // A live origin says itself where this node starts, and so does one that is about to come back. An origin that this node
        // has never met will say it when they meet.
        let Some(state) =
            membership.get(origin).map(|record| record.state()).or(self.inbound.replays().then_some(MemberState::Dead))
        else {
            cx.counters.strangers += 1;
            return false;
        };
        let latest = cx.local.max_epoch(now);
        let past_epoch = self.inbound.latest_epoch(origin, epoch).is_some_and(|latest| latest.epoch > epoch);
        let start = past_epoch.then_some(floor.min(next));
        match self.inbound.open(now, origin, epoch, start, latest) {
            Ok(()) if state.is_live() => {
                if self.inbound.is_disputed(origin, epoch) {
                    self.verify_epoch(cx, now, origin, epoch, false, membership);
                }
            }
            Ok(()) => {
                let stream = self.inbound.stream(origin, epoch);
                stream.into_iter().for_each(|(stream, _)| stream.end_epoch(now, state == MemberState::Left));
            }
            Err(OriginStreamError::PastEpoch(_) | OriginStreamError::FutureEpoch(_))
                if self.open_between(now, digest, source.is_origin) => {}
            Err(OriginStreamError::PastEpoch(_)) => {
                cx.counters.past_epochs += 1;
                // The messages of which the digest tells may be lost: they cannot tell the origin.
                self.verify_epoch(cx, now, origin, epoch, source.is_origin, membership);
                source.addr.into_iter().for_each(|sender| self.challenges.note_past_epoch(origin, epoch, sender));
                return false;
            }
            Err(error) => {
                cx.counters.unusable += 1;
                if matches!(error, OriginStreamError::FutureEpoch(_)) {
                    self.verify_epoch(cx, now, origin, epoch, false, membership);
                    source.addr.into_iter().for_each(|sender| self.challenges.note_past_epoch(origin, epoch, sender));
                }
                return false;
            }
        }
        // This may have ended an earlier epoch.
        cx.sweep_later(now);
        true
    }

    /// Opens a stream that somebody still keeps, if its epoch lies between a known one and the present one of its origin,
    /// whatever its number is. It ended no longer ago than messages are kept, and this node has known the origin for longer.
    /// Gives whether it did.
    fn open_between(&mut self, now: Instant, digest: &StreamDigest<'_>, is_origin: bool) -> bool {
        let is_kept = digest.base < digest.next && !is_origin;
        is_kept
            && self.history.has_met_for(now, digest.origin, FAILED_GRACE + 2 * RETENTION_MARGIN)
            && self.inbound.open_between(now, digest.origin, digest.epoch) == Ok(true)
    }

    /// Takes the next step of repair: asks somebody for what is missing, or gives it up. Gives whether something may have
    /// become deliverable. An origin that missed news of members may not know this node, so requests to it come with an
    /// introduction.
    pub(super) fn run_repair(
        &mut self,
        cx: &mut Context,
        now: Instant,
        (origin, epoch): (&NodeName, u64),
        membership: &Membership,
    ) -> bool {
        let Some((stream, buffers)) = self.inbound.stream(origin.as_bytes(), epoch) else { return false };
        let record = membership.get(origin.as_bytes()).filter(|record| record.is_live());
        let met_origin = stream.next.is_none() && self.history.has_met(origin);
        let sources = RepairSources { origin_is_live: record.is_some(), met_origin, live: cx.live };
        let again = match (stream.next_step(now, sources, cx.response_timeout(), buffers), record) {
            (RepairStep::Idle, _) => return false,
            (RepairStep::RequestStart(response_timeout), Some(record)) => {
                let acked = (stream.acknowledged(), stream.cookie);
                let ack = self.acknowledgement(cx, now, record, epoch, acked);
                cx.send(record.addr(), membership.introduction().into_iter().chain([ack]).collect());
                response_timeout
            }
            (RepairStep::RequestStart(pause) | RepairStep::Wait(pause), _) => pause,
            (RepairStep::Started, _) => {
                cx.repair_by(now, origin, epoch);
                return true;
            }
            (RepairStep::GaveUp, _) => {
                self.ack_later(cx, now, origin.clone(), epoch);
                cx.repair_by(now, origin, epoch);
                return true;
            }
            (RepairStep::Request(request), record) => {
                self.request(cx, now, (origin, epoch), record, request, membership)
            }
        };
        cx.timers.set(Timer::Repair(origin.clone(), epoch), now + again);
        false
    }

    /// Sends a request to the member that is most likely to have the messages; gives how long its answer is awaited. `record` is
    /// the origin's, if that is live.
    fn request(
        &mut self,
        cx: &mut Context,
        now: Instant,
        (origin, epoch): (&NodeName, u64),
        record: Option<&Record>,
        request: RepairRequest,
        membership: &Membership,
    ) -> Duration {
        let RepairRequest {
            ranges,
            attempt,
            preferred_peer,
            origin_is_live,
            origin_may_have,
            attempts_exhausted,
            response_timeout,
        } = request;
        let record = record.filter(|_| origin_is_live);
        if let Some(record) = record.filter(|_| attempts_exhausted) {
            self.challenges.send(cx, now, record, epoch, membership);
        }
        cx.counters.requested += ranges.iter().map(|(_, count)| count).sum::<u64>();
        // First who is sending something large or told of the messages, then the origin, then anybody and the origin by turns.
        let bulk_sender = self.bulk_sender.filter(|(_, at)| now.saturating_duration_since(*at) < BULK_TIMEOUT);
        let first_choice = bulk_sender.map(|(addr, _)| addr).or(preferred_peer);
        let known = first_choice.and_then(|addr| membership.find_addr(addr)).filter(|record| record.is_live());
        let to = match (known, record.filter(|_| origin_may_have)) {
            (Some(known), _) => Some(known),
            (None, Some(origin)) if attempt < 2 || attempt.is_multiple_of(2) => Some(origin),
            (None, may_have) => anybody_but(origin, attempt, &cx.local.name, membership).or(may_have),
        };
        if let Some(to) = to {
            let want =
                cx.local.encode_for(to.versions, &Control::RepairRequest { origin: origin.as_bytes(), epoch, ranges });
            let introduction = membership.introduction().filter(|_| record.map(Record::addr) == Some(to.addr()));
            cx.send(to.addr(), introduction.into_iter().chain([want]).collect());
        }
        response_timeout
    }

    /// Retransmits another origin's messages that a member requests, as far as they are kept. If some are not, the member is
    /// sent a digest.
    pub(super) fn retransmit(
        &self,
        cx: &mut Context,
        now: Instant,
        retransmitter: &mut Retransmitter,
        record: &Record,
        (origin, epoch, ranges): (&[u8], u64, &[(u64, u64)]),
    ) {
        let stream = self.inbound.get(origin, epoch);
        let find = |seq| {
            let message = stream?.get(seq)?;
            let payload = wire::Message::User(message.payload().clone());
            Some((message.hops(), packet::encode_message(&payload)))
        };
        let retransmit =
            retransmitter.collect(cx, now, record, RetransmitRequest { epoch, ranges, missing_from: None }, find);
        if retransmit.incomplete {
            let nothing = StreamDigest { origin, epoch, base: 0, next: 0, floor: 0, start: None };
            let digest = Control::Digest(vec![stream.map_or(nothing, OriginStream::digest)]);
            cx.send(record.addr(), vec![cx.local.encode_for(record.versions, &digest)]);
        }
        retransmit.send(cx, Target::from(record));
    }

    /// Frees what is kept of ended epochs.
    pub(super) fn sweep(&mut self, cx: &mut Context, now: Instant) {
        // A node that lacks something may have noticed the end later than this one, and asks for as long.
        if self.inbound.sweep(now, FAILED_GRACE + RETENTION_MARGIN) {
            cx.sweep_later(now);
        }
    }
}

/// A proven member of ours that is not the origin: another one at each `turn`.
fn anybody_but<'a>(origin: &NodeName, turn: u32, me: &NodeName, membership: &'a Membership) -> Option<&'a Record> {
    let wanted =
        |record: &&Record| record.is_live() && record.is_proven() && is_ours(record.versions) && record.name != *origin;
    let others = membership.others().filter(wanted).count();
    let one = (hash(me.as_bytes()) as usize).wrapping_add(turn as usize).checked_rem(others)?;
    membership.others().filter(wanted).nth(one)
}
