//! The origin's side: what this node publishes, who has acknowledged it, and who is reminded.
//!
//! An origin tells peers that have not acknowledged everything how far its stream goes. They then request what they lack.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    challenges::Attribution,
    context::{Context, Timer},
    control::{Challenge, Control, StreamStart},
    draft::{Draft, PublishedMessage},
    error::DisseminationError,
    lane::{Lane, Lanes},
    limits::SWEEP_INTERVAL,
    outbound::{AckError, StartTime},
    output::Output,
    own_stream::OwnStream,
    quota::Quota,
    retransmit::{RetransmitRequest, Retransmitter},
    revision::{is_named, is_ours},
    watch::Watchers,
};
use crate::{
    config::Retention,
    membership::{Membership, NodeName, Record, Target},
};

/// When a clock was set back, the new epoch begins up to so many microseconds after the one that was heard of. It is drawn
/// at random, as others may know of another such epoch.
const RENEWAL_SPREAD: u64 = 1 << 20;

/// What a peer acknowledges, or its request where to start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    /// The epoch of this node that is meant.
    pub(super) epoch: u64,
    /// The epoch of the peer.
    pub(super) receiver_epoch: u64,
    /// It has everything below this number; `None` asks where to start.
    pub(super) next: Option<u64>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) lanes: Lanes<OwnStream>,
    pub(super) watchers: Watchers,
    /// Limits the answers to members that have not proved who they are.
    answers: Quota,
}

impl Publisher {
    pub(super) fn new(now: Instant, epoch: u64, limits: Retention) -> Self {
        let lanes = Lanes::new(OwnStream::new(now, epoch, limits), OwnStream::new(now, epoch | 1, limits));
        Self { lanes, watchers: Watchers::default(), answers: Quota::default() }
    }

    pub(super) fn own(&self) -> &OwnStream {
        &self.lanes[Lane::Own]
    }

    /// Appends a message, for which there is room.
    pub(super) fn append(
        &mut self,
        cx: &mut Context,
        now: Instant,
        lane: Lane,
        draft: Draft,
        membership: &Membership,
    ) -> PublishedMessage {
        self.lanes[lane].append(now, draft, &cx.local, &mut cx.rng, membership)
    }

    /// A member is up: new, back, or at another address.
    pub(super) fn member_up(&mut self, cx: &mut Context, now: Instant, record: &Record, membership: &Membership) {
        for lane in Lane::ALL {
            if self.lanes[lane].add_peer(record, &mut cx.rng) {
                self.remind_later(cx, now, lane);
            }
        }
        self.watchers.report_later(cx, now);
        self.watchers.ask(cx, record, membership);
    }

    /// A live member is proven: it has answered this node for the first time, or at a new address.
    pub(super) fn member_proven(&mut self, cx: &mut Context, now: Instant, record: &Record, membership: &Membership) {
        for lane in Lane::ALL {
            if self.lanes[lane].is_active() {
                self.lanes[lane].outbound.prove_peer(record.name.as_bytes());
                self.remind_later(cx, now, lane);
            }
        }
        self.watchers.report_later(cx, now);
        self.watchers.ask(cx, record, membership);
    }

    /// A member has failed or left.
    pub(super) fn member_down(&mut self, cx: &mut Context, now: Instant, name: &NodeName, left: bool) {
        for lane in Lane::ALL {
            self.lanes[lane].peer_down(now, name, left, cx.gossip_rounds());
            if self.lanes[lane].outbound.len() > 0 {
                self.remind_later(cx, now, lane);
            }
        }
        self.answers.forget(name);
    }

    /// Handles an acknowledgement without a cookie, or a request where to start, from the peer at an address.
    pub(super) fn handle_ack(
        &mut self,
        cx: &mut Context,
        now: Instant,
        from: SocketAddr,
        ack: Ack,
        membership: &Membership,
    ) -> Result<(), DisseminationError> {
        // One for an earlier epoch of this node is late, and harmless.
        let is_meant = |lane: &Lane| self.lanes[*lane].outbound.is_acknowledged_in(ack.epoch, ack.next);
        let Some(lane) = Lane::ALL.into_iter().find(is_meant) else {
            cx.counters.past_epochs += 1;
            return Ok(());
        };
        let outbound = &mut self.lanes[lane].outbound;
        let Some(name) = outbound.name_at(from).cloned() else {
            cx.counters.strangers += 1;
            return Ok(());
        };
        if outbound.cookie_of(name.as_bytes()).is_some() {
            match membership.get(name.as_bytes()) {
                // Of which release the node is that runs there by now, it is about to say.
                Some(record) if !record.is_live() => {
                    cx.counters.strangers += 1;
                    return Ok(());
                }
                // It does not know yet that it has to carry a cookie.
                Some(record) if is_named(record.versions) => {
                    cx.counters.strangers += u64::from(ack.next.is_some());
                    if self.may_answer(cx, now, &name) {
                        self.send_start(cx, lane, name.as_bytes(), None);
                    }
                    return Ok(());
                }
                _ => outbound.forget_cookie(name.as_bytes()),
            }
        }
        let started_at = outbound.start_time_by_clock(ack.receiver_epoch);
        self.record_ack(cx, now, lane, &name, (ack, started_at), None)
    }

    /// Handles an acknowledgement, or a request where to start, that names its sender.
    pub(super) fn handle_cookie_ack(
        &mut self,
        cx: &mut Context,
        now: Instant,
        (record, sender): (&Record, Attribution),
        ack: Ack,
        cookie: Option<u64>,
        challenge: Option<Challenge>,
    ) -> Result<(), DisseminationError> {
        let (name, lane) = (&record.name, Lane::of(ack.epoch));
        let outbound = &self.lanes[lane].outbound;
        let known = outbound.is_acknowledged_in(ack.epoch, ack.next);
        let proven = match outbound.cookie_of(name.as_bytes()) {
            Some(given) => cookie == Some(given),
            // It was taken for one of an older release.
            None => sender.is_verified,
        };
        // A peer that seems older than it is, is only told of more. Its age leaves out the time its host was suspended.
        let by_age = challenge.map_or(StartTime::MAX, |challenge| outbound.start_time_by_age(now, challenge.age));
        let started_at = by_age.min(outbound.start_time_by_clock(ack.receiver_epoch));
        // The answer tells this node's age, so that nobody takes numbers for missed that it heard in an earlier epoch.
        let age = if outbound.continues_previous() { u64::MAX } else { cx.local.age(now) };
        let echo = challenge.map(|challenge| Challenge { age, ..challenge });
        if known && proven {
            return self.record_ack(cx, now, lane, name, (ack, started_at), echo);
        }
        if !known {
            cx.counters.past_epochs += 1;
        } else if cookie.is_some() {
            cx.counters.strangers += 1;
        }
        if (known || challenge.is_some()) && self.may_answer(cx, now, name) {
            // Answer in which epoch this node is, and where the member starts in it.
            let own = &mut self.lanes[lane];
            let start = own.outbound.start_for(name.as_bytes(), ack.receiver_epoch, started_at);
            let digest = Control::Digest(vec![own.digest(&cx.local, start)]).encode_from(cx.local.header(echo));
            cx.send(record.addr(), vec![digest]);
        }
        Ok(())
    }

    /// Counts an acknowledgement, or answers a request where to start. The peer's epoch began at `started_at`.
    fn record_ack(
        &mut self,
        cx: &mut Context,
        now: Instant,
        lane: Lane,
        name: &NodeName,
        (Ack { receiver_epoch, next, .. }, started_at): (Ack, StartTime),
        echo: Option<Challenge>,
    ) -> Result<(), DisseminationError> {
        match self.lanes[lane].record_ack(name, (receiver_epoch, next, started_at), cx.gossip_rounds()) {
            Err(AckError::Stranger) => {
                cx.counters.strangers += 1;
                return Ok(());
            }
            counted => counted?,
        }
        if lane == Lane::Own {
            self.watchers.report_later(cx, now);
        }
        if next.is_none() {
            self.send_start(cx, lane, name.as_bytes(), echo);
        }
        self.remind_later(cx, now, lane);
        Ok(())
    }

    /// Whether a member that has not proved who it is may be answered now.
    pub(super) fn may_answer(&mut self, cx: &Context, now: Instant, name: &NodeName) -> bool {
        self.answers.take(now, name, cx.response_timeout() / 2, Duration::ZERO)
    }

    /// Tells a peer where it starts in this node's stream, and how far the stream goes by now.
    fn send_start(&self, cx: &mut Context, lane: Lane, peer: &[u8], echo: Option<Challenge>) {
        if let Some((to, message)) = self.lanes[lane].start_message(&cx.local, peer, echo) {
            cx.send(to, vec![message]);
        }
    }

    /// Tells the peer at an address where it starts, if it has not acknowledged anything yet. It is about to get messages.
    pub(super) fn send_start_if_new(&self, cx: &mut Context, to: SocketAddr) {
        for lane in Lane::ALL {
            let outbound = &self.lanes[lane].outbound;
            if let Some(name) = outbound.name_at(to).filter(|_| outbound.is_new(to)) {
                self.send_start(cx, lane, name.as_bytes(), None);
            }
        }
    }

    /// Handles a digest of another epoch of this node: an earlier run's, later than this one by a clock that has been set
    /// back. A node that has published nothing yet begins a later epoch still. So does one in whose cluster there are
    /// nodes that cannot challenge it; the others hear from the node itself that the other epoch is over.
    pub(super) fn handle_own_digest(&mut self, cx: &mut Context, now: Instant, epoch: u64, membership: &Membership) {
        let lane = Lane::of(epoch);
        let outbound = &mut self.lanes[lane].outbound;
        let later = epoch > outbound.epoch && epoch <= cx.local.max_epoch(now);
        if !later || (outbound.sent() > 0 && !membership.others().any(cannot_ask)) {
            return;
        }
        // By a random amount: others may know of yet another epoch that began like this one.
        let spread = 2 * cx.rng.random_range(1..=RENEWAL_SPREAD);
        outbound.renew(epoch.saturating_add(spread), &cx.local.name);
        // Peers that had something start after it, as what others lack is sent again.
        let outbound = &self.lanes[lane].outbound;
        let ahead = |start: StreamStart| start.seq > outbound.sent();
        for peer in outbound.names() {
            if outbound.start_of(peer.as_bytes()).and_then(|(_, start)| start).is_some_and(ahead) {
                self.send_start(cx, lane, peer.as_bytes(), None);
            }
        }
        self.watchers.report_anew(cx, now);
    }

    /// Retransmits what a member requests, as far as it is kept. If something is not, the member is sent a digest.
    pub(super) fn retransmit(
        &mut self,
        cx: &mut Context,
        now: Instant,
        retransmitter: &mut Retransmitter,
        record: &Record,
        (epoch, ranges): (u64, &[(u64, u64)]),
    ) {
        // A node knows nothing of its earlier epochs.
        let Some(own) = self.lanes.iter_mut().find(|own| own.outbound.epoch == epoch) else { return };
        let outbound = &mut own.outbound;
        outbound.on_loss(ranges.iter().map(|(first, count)| first.saturating_add(*count)).max());
        let request = RetransmitRequest { epoch, ranges, missing_from: outbound.acked(record.name.as_bytes()) };
        let find = |seq| outbound.get(seq).map(|message| (0, message.clone()));
        let retransmit = retransmitter.collect(cx, now, record, request, find);
        if retransmit.incomplete {
            let peer = outbound.name_at(record.addr()).and_then(|name| outbound.start_of(name.as_bytes()));
            let digest = own.digest(&cx.local, peer.and_then(|(_, start)| start));
            let digest = cx.local.encode_for(record.versions, &Control::Digest(vec![digest]));
            cx.send(record.addr(), vec![digest]);
        }
        retransmit.send(cx, Target::from(record));
    }

    /// Something was sent: gossip tells of it for a while, and peers that do not acknowledge it are reminded.
    pub(super) fn note_sent(&mut self, cx: &mut Context, now: Instant, lane: Lane) {
        self.lanes[lane].rounds = cx.gossip_rounds();
        self.remind_later(cx, now, lane);
    }

    /// Sees to it that peers are reminded that do not acknowledge.
    fn remind_later(&mut self, cx: &mut Context, now: Instant, lane: Lane) {
        let timer = Timer::Remind(lane);
        let Some(due) = self.next_reminder(cx, now, lane) else { return };
        if cx.timers.get(&timer).is_none_or(|set| set > due) {
            self.lanes[lane].outbound.begin_period();
            cx.timers.set(timer, due);
        }
    }

    /// Reminds the peers that have not acknowledged.
    pub(super) fn remind(&mut self, cx: &mut Context, now: Instant, lane: Lane) {
        let (peers, loose) = self.lanes[lane].remind(now, cx.gossip_rounds());
        cx.outputs.extend(loose.into_iter().map(Output::CutLoose));
        for peer in peers {
            cx.outputs.extend(self.lanes[lane].outbound.unresponsive(&peer).map(Output::Unresponsive));
            self.send_start(cx, lane, peer.as_bytes(), None);
        }
        if let Some(due) = self.next_reminder(cx, now, lane) {
            cx.timers.set(Timer::Remind(lane), due);
        }
    }

    /// When to look again who is behind: later if messages are only kept for peers that are away.
    fn next_reminder(&self, cx: &Context, now: Instant, lane: Lane) -> Option<Instant> {
        let outbound = &self.lanes[lane].outbound;
        if outbound.waits_for_acks() {
            return Some(now + cx.response_timeout() + 2 * cx.ack_jitter().unwrap_or_default());
        }
        outbound.has_away_peers().then_some(now + SWEEP_INTERVAL)
    }

    /// Reports to the watchers which positions have changed.
    pub(super) fn report_acks(&mut self, cx: &mut Context, now: Instant, membership: &Membership) {
        self.watchers.report(cx, now, &self.lanes[Lane::Own].outbound, membership);
    }
}

/// Whether a member of ours cannot challenge this node, and so believes the later clock.
fn cannot_ask(record: &Record) -> bool {
    record.is_live() && record.is_proven() && is_ours(record.versions) && !is_named(record.versions)
}
