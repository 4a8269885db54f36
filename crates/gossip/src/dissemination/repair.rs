//! Repair: who lacks what, whom to ask for it, and when to give up.
//!
//! An origin reminds those who have not acknowledged what it said; whoever finds a gap, or hears that
//! there is more, asks who told of it, then the origin, then anybody. Each further try waits longer. What a stream needs
//! next [it says itself](super::stream); here that is carried out.

use std::time::{Duration, Instant};

use super::{
    context::{Context, Timer},
    control::{Control, Have},
    hash::hash,
    limits::FAILED_GRACE,
    questions::Teller,
    receiver::Receiver,
    revision::{is_named, is_ours},
    stream::{Peers, Request, Source, Step, Stream, StreamError},
    supply::{Demand, Supply},
};
use crate::{
    membership::{MemberState, Membership, NodeName, Record, Target},
    wire::{self, packet},
};

/// While something large comes from a member, and some of it came no longer ago than this, nobody else is
/// asked: what is missing may be on its way.
const BRINGER_PATIENCE: Duration = Duration::from_secs(2);
/// For how much longer what was said in a life that is over is kept than it is asked for.
const RETENTION_MARGIN: Duration = Duration::from_secs(5);

impl Receiver {
    /// Takes in what somebody has of a stream of another node; gives whether something may be delivered.
    pub(super) fn take_have(
        &mut self,
        cx: &mut Context,
        now: Instant,
        teller: Option<Teller>,
        have: &Have<'_>,
        membership: &Membership,
    ) -> bool {
        let (origin, epoch) = (have.origin, have.epoch);
        let record = membership.get(origin).filter(|record| record.is_live());
        let addr = teller.map(|teller| teller.addr);
        let named = addr.is_some() && record.map(Record::addr) == addr;
        let by_origin = named && teller.is_some_and(|teller| teller.certain);
        let source = Source { addr, named, by_origin };
        let age = teller.filter(|_| by_origin).and_then(|teller| teller.answers);
        if let Some(age) = age {
            if self.inbound.confirm(now, origin, epoch).is_err() {
                cx.counters.unusable += 1;
                return false;
            }
            self.hear_age(cx, origin, (epoch, age), membership);
        } else if let Some(record) = record.filter(|_| named)
            && (!by_origin || self.inbound.is_doubtful(origin, epoch))
        {
            self.questions.ask(cx, now, record, epoch, membership);
        }
        if self.inbound.get(origin, epoch).is_none() && !self.open_told(cx, now, source, have, membership) {
            return false;
        }
        let pace = cx.pace();
        let Some((stream, store)) = self.inbound.stream(origin, epoch) else { return false };
        let can_answer = record.is_some_and(|record| is_named(record.versions));
        let begins = match have.start {
            Some(start) if start.at > 0 && stream.asks_for_start() && can_answer => {
                self.acquaintances.begins(now, origin, start, (self.questions.since(origin), age))
            }
            start => start,
        };
        let begins = begins.filter(|start| by_origin && (start.life == 0 || start.life == cx.me.life));
        let learned = stream.learn(have, begins, source, pace, store);
        if let Some(pause) = learned.ask_in {
            cx.ask_by(now + pause, &stream.origin, epoch);
        }
        if learned.acknowledge {
            let name = stream.origin.clone();
            self.ack_later(cx, now, name, epoch);
        }
        true
    }

    /// Remembers a life that is told of for the first time, unless that cannot be one, or there is nothing to it.
    fn open_told(
        &mut self,
        cx: &mut Context,
        now: Instant,
        source: Source,
        have: &Have<'_>,
        membership: &Membership,
    ) -> bool {
        let Have { origin, epoch, next, floor, start, .. } = *have;
        if next == 0 && start.is_none_or(|start| start.at == 0) {
            return false;
        }
        // A live origin says itself where this node begins; one that seems gone may be about to come back.
        // One that this node has never met is about to be met, and will say it then.
        let Some(state) =
            membership.get(origin).map(|record| record.state()).or(self.inbound.replays().then_some(MemberState::Dead))
        else {
            cx.counters.strangers += 1;
            return false;
        };
        let latest = cx.me.latest(now);
        let former = self.inbound.latest_life(origin, epoch).is_some_and(|latest| latest.epoch > epoch);
        let begins = former.then_some(floor.min(next));
        match self.inbound.open(now, origin, epoch, begins, latest) {
            Ok(()) if state.is_live() => {
                if self.inbound.is_doubtful(origin, epoch) {
                    self.doubt(cx, now, origin, epoch, false, membership);
                }
            }
            Ok(()) => {
                let stream = self.inbound.stream(origin, epoch);
                stream.into_iter().for_each(|(stream, _)| stream.end_life(now, state == MemberState::Left));
            }
            Err(StreamError::FormerLife(_) | StreamError::FutureLife(_))
                if self.open_between(now, have, source.by_origin) => {}
            Err(StreamError::FormerLife(_)) => {
                cx.counters.past_epochs += 1;
                // What it reminds of was lost, and cannot have told it.
                self.doubt(cx, now, origin, epoch, source.by_origin, membership);
                source.addr.into_iter().for_each(|teller| self.questions.note_former(origin, epoch, teller));
                return false;
            }
            Err(error) => {
                cx.counters.unusable += 1;
                if matches!(error, StreamError::FutureLife(_)) {
                    self.doubt(cx, now, origin, epoch, false, membership);
                    source.addr.into_iter().for_each(|teller| self.questions.note_former(origin, epoch, teller));
                }
                return false;
            }
        }
        // A former life may be over by this.
        cx.sweep_later(now);
        true
    }

    /// Remembers a life that somebody still keeps, if it lies between a known one and the present one of its origin, whatever
    /// its number: it was over no longer ago than anything is kept, and this node has known the origin for longer. Gives
    /// whether it does.
    fn open_between(&mut self, now: Instant, have: &Have<'_>, by_origin: bool) -> bool {
        let is_kept = have.base < have.next && !by_origin;
        is_kept
            && self.acquaintances.has_met_for(now, have.origin, FAILED_GRACE + 2 * RETENTION_MARGIN)
            && self.inbound.open_between(now, have.origin, have.epoch) == Ok(true)
    }

    /// Asks somebody for what is missing of a stream, or gives it up. An origin may not know this node yet,
    /// where news of members gets lost; what is asked of it comes with an introduction. Gives whether something may be
    /// delivered.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context,
        now: Instant,
        (origin, epoch): (&NodeName, u64),
        membership: &Membership,
    ) -> bool {
        let Some((stream, store)) = self.inbound.stream(origin.as_bytes(), epoch) else { return false };
        let record = membership.get(origin.as_bytes()).filter(|record| record.is_live());
        let met_origin = stream.next.is_none() && self.acquaintances.has_met(origin);
        let peers = Peers { has_origin: record.is_some(), met_origin, live: cx.live };
        let again = match (stream.next_step(now, peers, cx.patience(), store), record) {
            (Step::Rest, _) => return false,
            (Step::AskStart(patience), Some(record)) => {
                let acked = (stream.acknowledged(), stream.cookie);
                let ack = self.acknowledgement(cx, now, record, epoch, acked);
                cx.send(record.addr(), membership.introduction().into_iter().chain([ack]).collect());
                patience
            }
            (Step::AskStart(pause) | Step::Wait(pause), _) => pause,
            (Step::Begun, _) => {
                cx.ask_by(now, origin, epoch);
                return true;
            }
            (Step::GaveUp, _) => {
                self.ack_later(cx, now, origin.clone(), epoch);
                cx.ask_by(now, origin, epoch);
                return true;
            }
            (Step::Ask(request), record) => self.request(cx, now, (origin, epoch), record, request, membership),
        };
        cx.timers.set(Timer::Ask(origin.clone(), epoch), now + again);
        false
    }

    /// Asks who is most likely to have it; gives how long the answer is waited for. `record` is the origin's, if that is
    /// live.
    fn request(
        &mut self,
        cx: &mut Context,
        now: Instant,
        (origin, epoch): (&NodeName, u64),
        record: Option<&Record>,
        request: Request,
        membership: &Membership,
    ) -> Duration {
        let Request { ranges, attempt, hint, has_origin, origin_may_have, asked_enough, patience } = request;
        let record = record.filter(|_| has_origin);
        if let Some(record) = record.filter(|_| asked_enough) {
            self.questions.ask(cx, now, record, epoch, membership);
        }
        cx.counters.wanted += ranges.iter().map(|(_, count)| count).sum::<u64>();
        // Who brings something large, or who told of it first, then the origin, then by turns anybody and the
        // origin.
        let bringer = self.bringer.filter(|(_, at)| now.saturating_duration_since(*at) < BRINGER_PATIENCE);
        let hint = bringer.map(|(addr, _)| addr).or(hint);
        let known = hint.and_then(|hint| membership.find_addr(hint)).filter(|hint| hint.is_live());
        let to = match (known, record.filter(|_| origin_may_have)) {
            (Some(hint), _) => Some(hint),
            (None, Some(origin)) if attempt < 2 || attempt.is_multiple_of(2) => Some(origin),
            (None, may_have) => anybody_but(origin, attempt, &cx.me.name, membership).or(may_have),
        };
        if let Some(to) = to {
            let want = cx.me.encode_for(to.versions, &Control::Want { origin: origin.as_bytes(), epoch, ranges });
            let introduction = membership.introduction().filter(|_| record.map(Record::addr) == Some(to.addr()));
            cx.send(to.addr(), introduction.into_iter().chain([want]).collect());
        }
        patience
    }

    /// Gives a member the messages of another that it asks for, as far as they are here; who asks in vain learns what
    /// there is.
    pub(super) fn give(
        &self,
        cx: &mut Context,
        now: Instant,
        supply: &mut Supply,
        record: &Record,
        (origin, epoch, ranges): (&[u8], u64, &[(u64, u64)]),
    ) {
        let stream = self.inbound.get(origin, epoch);
        let find = |seq| {
            let message = stream?.get(seq)?;
            let payload = wire::Message::User(message.payload().clone());
            Some((message.hops(), packet::encode_message(&payload)))
        };
        let supplied = supply.meet(cx, now, record, Demand { epoch, ranges, lacked_from: None }, find);
        if supplied.lacking {
            let nothing = Have { origin, epoch, base: 0, next: 0, floor: 0, start: None };
            let have = Control::Have(vec![stream.map_or(nothing, Stream::have)]);
            cx.send(record.addr(), vec![cx.me.encode_for(record.versions, &have)]);
        }
        supplied.send(cx, Target::from(record));
    }

    /// Frees what is kept of streams that are over.
    pub(super) fn sweep(&mut self, cx: &mut Context, now: Instant) {
        // Who lacks something may have noticed it later than this node, and asks for as long.
        if self.inbound.sweep(now, FAILED_GRACE + RETENTION_MARGIN) {
            cx.sweep_later(now);
        }
    }
}

/// One of ours that has answered, and is not the origin; each of them at its turn.
fn anybody_but<'a>(origin: &NodeName, turn: u32, me: &NodeName, membership: &'a Membership) -> Option<&'a Record> {
    let wanted =
        |record: &&Record| record.is_live() && record.is_proven() && is_ours(record.versions) && record.name != *origin;
    let others = membership.others().filter(wanted).count();
    let one = (hash(me.as_bytes()) as usize).wrapping_add(turn as usize).checked_rem(others)?;
    membership.others().filter(wanted).nth(one)
}
