//! What this node publishes: who has it, who is reminded of it, and who is told who has it.
//!
//! An origin tells those that have not acknowledged what it said how far it goes, until they ask for it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    context::{Context, Timer},
    control::{Control, Question, Start},
    draft::{Draft, Published},
    error::Unusable,
    lane::{Lane, Lanes},
    limits::SWEEP,
    outbound::{AckError, Began},
    output::Output,
    own_stream::OwnStream,
    questions::Teller,
    quota::Quota,
    revision::{is_named, is_ours},
    supply::{Demand, Supply},
    watch::Watchers,
};
use crate::{
    config::Retention,
    membership::{Membership, NodeName, Record, Target},
};

/// How much later than a former life one begins at most that a clock set back would have begin earlier, in
/// microseconds.
const RENEWAL_SPREAD: u64 = 1 << 20;

/// What a peer acknowledges, or asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    /// The life of this node that is meant.
    pub(super) epoch: u64,
    /// The life of the peer.
    pub(super) life: u64,
    /// It has everything below; without, it asks where it begins.
    pub(super) next: Option<u64>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) lanes: Lanes<OwnStream>,
    pub(super) watchers: Watchers,
    /// How often each was answered that has not proved who it is.
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

    /// Takes a message, for which there is room.
    pub(super) fn append(
        &mut self,
        cx: &mut Context,
        now: Instant,
        lane: Lane,
        draft: Draft,
        membership: &Membership,
    ) -> Published {
        self.lanes[lane].append(now, draft, &cx.me, &mut cx.rng, membership)
    }

    /// A member is there, for the first time, again, or at another address.
    pub(super) fn member_up(&mut self, cx: &mut Context, now: Instant, record: &Record, membership: &Membership) {
        for lane in Lane::ALL {
            if self.lanes[lane].add_peer(record, &mut cx.rng) {
                self.remind_later(cx, now, lane);
            }
        }
        self.watchers.tell_later(cx, now);
        self.watchers.ask(cx, record, membership);
    }

    /// A live member has answered this node for the first time, or at a new address.
    pub(super) fn member_proven(&mut self, cx: &mut Context, now: Instant, record: &Record, membership: &Membership) {
        for lane in Lane::ALL {
            if self.lanes[lane].is_active() {
                self.lanes[lane].outbound.prove_peer(record.name.as_bytes());
                self.remind_later(cx, now, lane);
            }
        }
        self.watchers.tell_later(cx, now);
        self.watchers.ask(cx, record, membership);
    }

    /// A member has failed, or has left.
    pub(super) fn member_down(&mut self, cx: &mut Context, now: Instant, name: &NodeName, left: bool) {
        for lane in Lane::ALL {
            self.lanes[lane].lose_peer(now, name, left, cx.rounds());
            if self.lanes[lane].outbound.len() > 0 {
                self.remind_later(cx, now, lane);
            }
        }
        self.answers.forget(name);
    }

    /// Takes what who is reached at an address acknowledges, or asks.
    pub(super) fn take_ack(
        &mut self,
        cx: &mut Context,
        now: Instant,
        from: SocketAddr,
        ack: Ack,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        // One for a former life of this node is late, and no matter.
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
            if membership.get(name.as_bytes()).is_some_and(|record| is_named(record.versions)) {
                // It does not know yet that it is to say who it is.
                cx.counters.strangers += u64::from(ack.next.is_some());
                if self.may_answer(cx, now, &name) {
                    self.tell_start(cx, lane, name.as_bytes(), None);
                }
                return Ok(());
            }
            outbound.forget_cookie(name.as_bytes());
        }
        let began = outbound.began_by_clock(ack.life);
        self.count_ack(cx, now, lane, &name, (ack, began), None)
    }

    /// Takes what a member acknowledges by name, or asks.
    pub(super) fn take_receipt(
        &mut self,
        cx: &mut Context,
        now: Instant,
        (record, teller): (&Record, Teller),
        ack: Ack,
        cookie: Option<u64>,
        question: Option<Question>,
    ) -> Result<(), Unusable> {
        let (name, lane) = (&record.name, Lane::of(ack.epoch));
        let outbound = &self.lanes[lane].outbound;
        let known = outbound.is_acknowledged_in(ack.epoch, ack.next);
        let proven = match outbound.cookie_of(name.as_bytes()) {
            Some(given) => cookie == Some(given),
            // It was taken for one of an older revision.
            None => teller.certain,
        };
        // Who is taken for older than it is, is only told of more. Its age leaves out for how long its host slept.
        let by_age = question.map_or(Began::MAX, |question| outbound.began(now, question.age));
        let began = by_age.min(outbound.began_by_clock(ack.life));
        // An answer tells how old who answers is, so that nobody takes numbers for lost that were heard in a former life.
        let age = if outbound.goes_on() { u64::MAX } else { cx.me.age(now) };
        let echo = question.map(|question| Question { age, ..question });
        if known && proven {
            return self.count_ack(cx, now, lane, name, (ack, began), echo);
        }
        if !known {
            cx.counters.past_epochs += 1;
        } else if cookie.is_some() {
            cx.counters.strangers += 1;
        }
        if (known || question.is_some()) && self.may_answer(cx, now, name) {
            // In which life this node is, and where that member begins in it.
            let own = &mut self.lanes[lane];
            let start = own.outbound.offer(name.as_bytes(), ack.life, began);
            let have = Control::Have(vec![own.have(&cx.me, start)]).encode_by(cx.me.by(echo));
            cx.send(record.addr(), vec![have]);
        }
        Ok(())
    }

    /// A peer acknowledges something, or asks where to begin. `began` is when that life of it did.
    fn count_ack(
        &mut self,
        cx: &mut Context,
        now: Instant,
        lane: Lane,
        name: &NodeName,
        (Ack { life, next, .. }, began): (Ack, Began),
        echo: Option<Question>,
    ) -> Result<(), Unusable> {
        match self.lanes[lane].count_ack(name, (life, next, began), cx.rounds()) {
            Err(AckError::Stranger) => {
                cx.counters.strangers += 1;
                return Ok(());
            }
            counted => counted?,
        }
        if lane == Lane::Own {
            self.watchers.tell_later(cx, now);
        }
        if next.is_none() {
            self.tell_start(cx, lane, name.as_bytes(), echo);
        }
        self.remind_later(cx, now, lane);
        Ok(())
    }

    /// Whether a member that has not proved who it is may be answered: not too often.
    pub(super) fn may_answer(&mut self, cx: &Context, now: Instant, name: &NodeName) -> bool {
        self.answers.take(now, name, cx.patience() / 2, Duration::ZERO)
    }

    /// Tells a peer where it begins in what this node says, and how far that goes by now.
    fn tell_start(&self, cx: &mut Context, lane: Lane, peer: &[u8], echo: Option<Question>) {
        if let Some((to, message)) = self.lanes[lane].start_message(&cx.me, peer, echo) {
            cx.send(to, vec![message]);
        }
    }

    /// Who is reached there gets something from here: whoever has not acknowledged anything yet, is told where it begins.
    pub(super) fn greet(&self, cx: &mut Context, to: SocketAddr) {
        for lane in Lane::ALL {
            let outbound = &self.lanes[lane].outbound;
            if let Some(name) = outbound.name_at(to).filter(|_| outbound.is_new(to)) {
                self.tell_start(cx, lane, name.as_bytes(), None);
            }
        }
    }

    /// Somebody speaks of another life of this node: a former one, which is later than this one by a clock that
    /// has been set back. Who asks hears that it is over; where nothing has been said yet, or somebody is there
    /// who cannot ask, a later one still begins.
    pub(super) fn hear_of_own_life(&mut self, cx: &mut Context, now: Instant, epoch: u64, membership: &Membership) {
        let lane = Lane::of(epoch);
        let outbound = &mut self.lanes[lane].outbound;
        let later = epoch > outbound.epoch && epoch <= cx.me.latest(now);
        if !later || (outbound.sent() > 0 && !membership.others().any(cannot_ask)) {
            return;
        }
        // Later by chance: others may know of yet another life that began like this one.
        let spread = 2 * cx.rng.random_range(1..=RENEWAL_SPREAD);
        outbound.renew(epoch.saturating_add(spread), &cx.me.name);
        // Those who have had something begin after it, as what others lack is said again.
        let outbound = &self.lanes[lane].outbound;
        let ahead = |start: Start| start.at > outbound.sent();
        for peer in outbound.names() {
            if outbound.start_of(peer.as_bytes()).and_then(|(_, start)| start).is_some_and(ahead) {
                self.tell_start(cx, lane, peer.as_bytes(), None);
            }
        }
        self.watchers.tell_anew(cx, now);
    }

    /// Gives a member the messages it asks for, as far as they are here; who asks in vain learns what there is.
    pub(super) fn give(
        &mut self,
        cx: &mut Context,
        now: Instant,
        supply: &mut Supply,
        record: &Record,
        (epoch, ranges): (u64, &[(u64, u64)]),
    ) {
        // Of its former lives a node knows nothing.
        let Some(own) = self.lanes.iter_mut().find(|own| own.outbound.epoch == epoch) else { return };
        let outbound = &mut own.outbound;
        outbound.lost(ranges.iter().map(|(first, count)| first.saturating_add(*count)).max());
        let demand = Demand { epoch, ranges, lacked_from: outbound.acked(record.name.as_bytes()) };
        let find = |seq| outbound.get(seq).map(|message| (0, message.clone()));
        let supplied = supply.meet(cx, now, record, demand, find);
        if supplied.lacking {
            let peer = outbound.name_at(record.addr()).and_then(|name| outbound.start_of(name.as_bytes()));
            let have = own.have(&cx.me, peer.and_then(|(_, start)| start));
            let have = cx.me.encode_for(record.versions, &Control::Have(vec![have]));
            cx.send(record.addr(), vec![have]);
        }
        supplied.send(cx, Target::from(record));
    }

    /// Something was sent: it is told for a while, and whoever does not acknowledge it is reminded.
    pub(super) fn note_sent(&mut self, cx: &mut Context, now: Instant, lane: Lane) {
        self.lanes[lane].rounds = cx.rounds();
        self.remind_later(cx, now, lane);
    }

    /// Sees to it that peers who do not acknowledge are reminded.
    fn remind_later(&mut self, cx: &mut Context, now: Instant, lane: Lane) {
        let timer = Timer::Remind(lane);
        let Some(due) = self.next_reminder(cx, now, lane) else { return };
        if cx.timers.get(&timer).is_none_or(|set| set > due) {
            self.lanes[lane].outbound.begin_period();
            cx.timers.set(timer, due);
        }
    }

    /// Reminds those who have not acknowledged.
    pub(super) fn remind(&mut self, cx: &mut Context, now: Instant, lane: Lane) {
        let (peers, loose) = self.lanes[lane].remind(now, cx.rounds());
        cx.outputs.extend(loose.into_iter().map(Output::CutLoose));
        for peer in peers {
            cx.outputs.extend(self.lanes[lane].outbound.silent(&peer).map(Output::Silent));
            self.tell_start(cx, lane, peer.as_bytes(), None);
        }
        if let Some(due) = self.next_reminder(cx, now, lane) {
            cx.timers.set(Timer::Remind(lane), due);
        }
    }

    /// When to look next who is behind: later where there is nobody but those that are only kept for.
    fn next_reminder(&self, cx: &Context, now: Instant, lane: Lane) -> Option<Instant> {
        let outbound = &self.lanes[lane].outbound;
        if outbound.waits_for_acks() {
            return Some(now + cx.patience() + 2 * cx.ack_spread().unwrap_or_default());
        }
        outbound.keeps().then_some(now + SWEEP)
    }

    /// Tells who watches what has changed of what is acknowledged.
    pub(super) fn tell_acks(&mut self, cx: &mut Context, now: Instant, membership: &Membership) {
        self.watchers.tell(cx, now, &self.lanes[Lane::Own].outbound, membership);
    }
}

/// Whether a member of ours takes the clock's word for which life is the latest.
fn cannot_ask(record: &Record) -> bool {
    record.is_live() && record.is_proven() && is_ours(record.versions) && !is_named(record.versions)
}
