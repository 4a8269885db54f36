//! Repair: who lacks what, whom to ask for it, and when to give up.
//!
//! An origin reminds those who have not acknowledged what it said; whoever finds a gap, or hears that
//! there is more, asks who told of it, then the origin, then anybody. Each further try waits longer.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;

use super::{
    Dissemination, LANES, Lane, Timer,
    control::{Control, Have, Question, Route, Start},
    error::Unusable,
    hash::hash,
    limits::{FAILED_GRACE, SWEEP},
    outbound::{AckError, Began},
    revision::{is_named, is_ours},
    same_lane,
    stream::{MAX_WANTED, Pace, Peers, Request, Source, Step, StreamError},
    stream_have,
};
use crate::{
    membership::{MemberState, Membership, NodeName, Record, Target},
    wire::{self, packet},
};

/// The first answer to a request is waited for this part of the time a probe may take.
const PATIENCE: u32 = 20;
/// What is given at once to who asks for messages, in bytes.
const GIVEN_AT_ONCE: usize = 64 << 10;
/// How long a large message may take to get to somebody before it is sent again.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);
/// While something large comes from a member, and some of it came no longer ago than this, nobody else is
/// asked: what is missing may be on its way.
const BRINGER_PATIENCE: Duration = Duration::from_secs(2);
/// For how much longer what was said in a life that is over is kept than it is asked for.
const RETENTION_MARGIN: Duration = Duration::from_secs(5);
/// How much later than a former life one begins at most that a clock set back would have begin earlier, in
/// microseconds.
const RENEWAL_SPREAD: u64 = 1 << 20;

/// Who says what there is of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller {
    /// Where it is reached.
    pub(super) addr: SocketAddr,
    /// Whether it is who it says.
    pub(super) certain: bool,
    /// If it answers what it was asked, for how long it has been running, in microseconds.
    pub(super) answers: Option<u64>,
}

impl Dissemination {
    /// The latest lives of an origin that is there go on.
    pub(super) fn revive(&mut self, origin: &NodeName) {
        let mut latest = [0; 2];
        for stream in self.inbound.lives_mut(origin.as_bytes()) {
            latest[(stream.epoch & 1) as usize] = stream.epoch;
        }
        for stream in self.inbound.lives_mut(origin.as_bytes()).filter(|stream| latest.contains(&stream.epoch)) {
            stream.over = None;
        }
    }

    /// A node speaks as in a former life, maybe because its clock has been set back.
    pub(super) fn tell_of_later_life(&mut self, origin: &[u8], epoch: u64, membership: &Membership) {
        let Some(record) = membership.get(origin).filter(|record| record.is_live()) else { return };
        let Some(latest) = self.inbound.latest_life(origin, epoch) else { return };
        let have = self.words(record.versions, &Control::Have(vec![stream_have(origin, latest)]));
        self.send(record.addr(), vec![have]);
    }

    /// Somebody speaks of a life of an origin that does not fit what is known here: asks the origin, or tells it
    /// what is known.
    pub(super) fn doubt(&mut self, now: Instant, origin: &[u8], epoch: u64, tells: bool, membership: &Membership) {
        let record = membership.get(origin).filter(|record| record.is_live());
        let asked = record.is_some_and(|record| self.question(now, record, epoch, membership));
        if !asked && tells {
            self.tell_of_later_life(origin, epoch, membership);
        }
    }

    pub(super) fn ask_by(&mut self, at: Instant, origin: &NodeName, epoch: u64) {
        let timer = Timer::Ask(origin.clone(), epoch);
        if self.timers.get(&timer).is_none_or(|due| due > at) {
            self.timers.set(timer, at);
        }
    }

    /// How long an answer is waited for.
    pub(super) fn patience(&self) -> Duration {
        self.tuning.probe_timeout / PATIENCE
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { patience: self.patience(), rounds: self.telling_rounds() }
    }

    pub(super) fn take_have(&mut self, now: Instant, teller: Option<Teller>, have: &Have<'_>, membership: &Membership) {
        let (origin, epoch) = (have.origin, have.epoch);
        if self.me.as_bytes() == origin {
            return self.hear_of_own_life(now, epoch, membership);
        }
        let record = membership.get(origin).filter(|record| record.is_live());
        let from = teller.map(|teller| teller.addr);
        let named = from.is_some() && record.map(Record::addr) == from;
        let by_origin = named && teller.is_some_and(|teller| teller.certain);
        let answers = teller.filter(|_| by_origin).and_then(|teller| teller.answers);
        if let Some(age) = answers {
            if self.inbound.confirm(now, origin, epoch).is_err() {
                self.counters.unusable += 1;
                return;
            }
            self.hear_age(origin, (epoch, age), membership);
        } else if let Some(record) = record.filter(|_| named)
            && (!by_origin || self.inbound.is_doubtful(origin, epoch))
        {
            self.question(now, record, epoch, membership);
        }
        if self.inbound.get(origin, epoch).is_none() && !self.open_told(now, from, have, by_origin, membership) {
            return;
        }
        let pace = self.pace();
        let Some((stream, store)) = self.inbound.stream(origin, epoch) else { return };
        let can_answer = record.is_some_and(|record| is_named(record.versions));
        let begins = match have.start {
            Some(start) if start.at > 0 && stream.asks_for_start() && can_answer => {
                self.contacts.begins(now, origin, start, answers)
            }
            start => start,
        };
        let begins = begins.filter(|start| by_origin && (start.life == 0 || start.life == self.life));
        let learned = stream.learn(have, begins, Source { addr: from, named, by_origin }, pace, store);
        if learned.ask_in.is_some() || learned.acknowledge {
            let name = stream.origin.clone();
            if let Some(pause) = learned.ask_in {
                self.ask_by(now + pause, &name, epoch);
            }
            if learned.acknowledge {
                self.ack_later(now, name, epoch);
            }
        }
        self.deliver(now);
    }

    /// Remembers a life that is told of for the first time, unless that cannot be one, or there is nothing to it.
    fn open_told(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        have: &Have<'_>,
        by_origin: bool,
        membership: &Membership,
    ) -> bool {
        let Have { origin, epoch, next, floor, start, .. } = *have;
        if next == 0 && start.is_none_or(|start| start.at == 0) {
            return false;
        }
        // A live origin says itself where this node begins; one that seems gone may be about to come back.
        // One that this node has never met is about to be met, and will say it then.
        let Some(record) =
            membership.get(origin).map(|record| record.state()).or(self.inbound.replays().then_some(MemberState::Dead))
        else {
            self.counters.strangers += 1;
            return false;
        };
        let latest = self.latest(now);
        let former = self.inbound.latest_life(origin, epoch).is_some_and(|latest| latest.epoch > epoch);
        let begins = former.then_some(floor.min(next));
        match self.inbound.open(now, origin, epoch, begins, latest) {
            Ok(()) if record.is_live() => {
                if self.inbound.is_doubtful(origin, epoch) {
                    self.doubt(now, origin, epoch, false, membership);
                }
            }
            Ok(()) => {
                let stream = self.inbound.stream(origin, epoch);
                stream.into_iter().for_each(|(stream, _)| stream.end_life(now, record == MemberState::Left));
            }
            Err(StreamError::FormerLife(_) | StreamError::FutureLife(_)) if self.open_between(now, have, by_origin) => {
            }
            Err(StreamError::FormerLife(_)) => {
                self.counters.former_lives += 1;
                // What it reminds of was lost, and cannot have told it.
                self.doubt(now, origin, epoch, by_origin, membership);
                from.into_iter().for_each(|teller| self.note_former(origin, epoch, teller));
                return false;
            }
            Err(error) => {
                self.counters.unusable += 1;
                if matches!(error, StreamError::FutureLife(_)) {
                    self.doubt(now, origin, epoch, false, membership);
                    from.into_iter().for_each(|teller| self.note_former(origin, epoch, teller));
                }
                return false;
            }
        }
        // A former life may be over by this.
        self.sweep_later(now);
        true
    }

    /// Remembers a life that somebody still keeps, if it lies between a known one and the present one of its origin, whatever
    /// its number: it was over no longer ago than anything is kept, and this node has known the origin for longer. Gives
    /// whether it does.
    fn open_between(&mut self, now: Instant, have: &Have<'_>, by_origin: bool) -> bool {
        let is_kept = have.base < have.next && !by_origin;
        is_kept
            && self.contacts.has_met_for(now, have.origin, FAILED_GRACE + 2 * RETENTION_MARGIN)
            && self.inbound.open_between(now, have.origin, have.epoch) == Ok(true)
    }

    /// Somebody speaks of another life of this node: a former one, which is later than this one by a clock that
    /// has been set back. Who asks hears that it is over; where nothing has been said yet, or somebody is there
    /// who cannot ask, a later one still begins.
    fn hear_of_own_life(&mut self, now: Instant, epoch: u64, membership: &Membership) {
        let latest = self.latest(now);
        for lane in LANES {
            let outbound = &mut self.outbound[lane as usize];
            let later = same_lane(outbound.epoch, epoch) && epoch > outbound.epoch && epoch <= latest;
            if later && (outbound.sent() == 0 || membership.others().any(cannot_ask)) {
                // Later by chance: others may know of yet another life that began like this one.
                let spread = 2 * self.rng.random_range(1..=RENEWAL_SPREAD);
                outbound.renew(epoch.saturating_add(spread), &self.me);
                self.tell_starts(lane);
                self.tell_anew(now);
            }
        }
    }

    /// Takes what who is reached at an address acknowledges, or asks.
    pub(super) fn take_ack(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (epoch, life, next): (u64, u64, Option<u64>),
        membership: &Membership,
    ) -> Result<(), Unusable> {
        // One for a former life of this node is late, and no matter.
        let Some(lane) = LANES.into_iter().find(|lane| self.outbound[*lane as usize].is_acknowledged_in(epoch, next))
        else {
            self.counters.former_lives += 1;
            return Ok(());
        };
        let outbound = &self.outbound[lane as usize];
        let Some(name) = outbound.name_at(from).cloned() else {
            self.counters.strangers += 1;
            return Ok(());
        };
        if outbound.cookie_of(name.as_bytes()).is_some() {
            if membership.get(name.as_bytes()).is_some_and(|record| is_named(record.versions)) {
                // It does not know yet that it is to say who it is.
                self.counters.strangers += u64::from(next.is_some());
                if self.may_answer(now, &name) {
                    self.tell_start(lane, name.as_bytes(), None);
                }
                return Ok(());
            }
            self.outbound[lane as usize].forget_cookie(name.as_bytes());
        }
        let began = self.outbound[lane as usize].began_by_clock(life);
        self.count_ack(now, lane, &name, (life, next, began), None)
    }

    /// A peer acknowledges something, or asks where to begin. `began` is when that life of it did.
    pub(super) fn count_ack(
        &mut self,
        now: Instant,
        lane: Lane,
        name: &NodeName,
        (life, next, began): (u64, Option<u64>, Began),
        echo: Option<Question>,
    ) -> Result<(), Unusable> {
        let outbound = &mut self.outbound[lane as usize];
        let before = outbound.floor();
        let counted = match next {
            Some(next) => outbound.ack(name.as_bytes(), life, next),
            None => outbound.ask(name.as_bytes(), life, began),
        };
        match counted {
            Err(AckError::Stranger) => {
                self.counters.strangers += 1;
                return Ok(());
            }
            counted => counted?,
        }
        if outbound.floor() > before {
            self.rounds[lane as usize] = self.telling_rounds();
        }
        if lane == Lane::Own {
            self.tell_later(now);
        }
        if next.is_none() {
            self.tell_start(lane, name.as_bytes(), echo);
        }
        self.watch(now, lane);
        Ok(())
    }

    pub(super) fn own_have(&self, lane: Lane, start: Option<Start>) -> Have<'_> {
        let outbound = &self.outbound[lane as usize];
        Have {
            origin: self.me.as_bytes(),
            epoch: outbound.epoch,
            base: outbound.base(),
            next: outbound.sent(),
            floor: outbound.floor(),
            start,
        }
    }

    /// Gives a member the messages it asks for, as far as they are here. Of what it is not known to lack it gets so
    /// much in a second and no more: who asks in its name is not to have it flooded.
    pub(super) fn give(&mut self, now: Instant, record: &Record, origin: &[u8], epoch: u64, ranges: &[(u64, u64)]) {
        let asker = Target::from(record);
        let lane = LANES.into_iter().find(|lane| self.outbound[*lane as usize].epoch == epoch);
        let lane = lane.filter(|_| self.me.as_bytes() == origin);
        let (mut bytes, mut lacking) = (0, false);
        let max = self.max_in_packet();
        if let Some(lane) = lane {
            self.outbound[lane as usize].lost(ranges.iter().map(|(first, count)| first.saturating_add(*count)).max());
        }
        let lacked_from = lane.and_then(|lane| self.outbound[lane as usize].acked(record.name.as_bytes()));
        let mut given: BTreeMap<u8, Vec<Bytes>> = BTreeMap::new();
        'all: for &(first, count) in ranges {
            for seq in first..first.saturating_add(count.min(MAX_WANTED)) {
                let found = match lane {
                    Some(lane) => self.outbound[lane as usize].get(seq).map(|message| (0, message.clone())),
                    None => self.inbound.get(origin, epoch).and_then(|stream| stream.get(seq)).map(|message| {
                        let payload = wire::Message::User(message.payload().clone());
                        (message.hops(), packet::encode_message(&payload))
                    }),
                };
                let Some((hops, message)) = found else {
                    // What comes after it may wait here for its turn.
                    lacking = true;
                    continue;
                };
                if message.len() > max && !self.may_stream(now, (asker.addr, epoch, seq)) {
                    continue;
                }
                let is_lacked = lacked_from.is_some_and(|from| from <= seq);
                if !is_lacked && !self.contacts.may_repeat(now, &record.name, message.len()) {
                    break 'all;
                }
                bytes += message.len();
                self.counters.given += 1;
                given.entry(hops).or_default().push(message);
                if bytes >= GIVEN_AT_ONCE {
                    break 'all;
                }
            }
        }
        let stream = self.inbound.get(origin, epoch);
        let have = match (lane, stream) {
            (Some(lane), _) => {
                let outbound = &self.outbound[lane as usize];
                let peer = outbound.name_at(asker.addr).and_then(|name| outbound.start_of(name.as_bytes()));
                Some(self.own_have(lane, peer.and_then(|(_, start)| start)))
            }
            (None, Some(stream)) => Some(stream_have(origin, stream)),
            // Of its own former lives a node knows nothing; of another's, that it has nothing.
            (None, None) if self.me.as_bytes() == origin => None,
            (None, None) => Some(Have { origin, epoch, base: 0, next: 0, floor: 0, start: None }),
        };
        // Who asks in vain learns what there is.
        let have = have.filter(|_| lacking).map(|have| self.words(asker.versions, &Control::Have(vec![have])));
        if let Some(have) = have {
            self.send(asker.addr, vec![have]);
        }
        for (hops, messages) in given {
            self.spread(vec![asker], (hops > 0).then_some(Route { hops, until: None }), messages);
        }
    }

    /// Whether a message may be sent to somebody over a stream, again: it takes a while to get there.
    pub(super) fn may_stream(&mut self, now: Instant, what: (SocketAddr, u64, u64)) -> bool {
        self.forget_streamed(now);
        if self.streamed.contains_key(&what) {
            return false;
        }
        self.streamed.insert(what, now);
        true
    }

    /// Forgets what was sent over streams so long ago that it may be sent again.
    pub(super) fn forget_streamed(&mut self, now: Instant) {
        self.streamed.retain(|_, at| now.saturating_duration_since(*at) < STREAM_PATIENCE);
    }

    pub(super) fn sweep_later(&mut self, now: Instant) {
        if self.timers.get(&Timer::Sweep).is_none() {
            self.timers.set(Timer::Sweep, now + SWEEP);
        }
    }

    /// Some of what is large has come from a member over a stream; without one, it has come to its end.
    pub(crate) fn note_bringer(&mut self, bringer: Option<(SocketAddr, Instant)>) {
        self.bringer = bringer;
    }

    /// Asks somebody for what is missing of a stream, or gives it up. An origin may not know this node yet,
    /// where news of members gets lost; what is asked of it comes with an introduction.
    pub(super) fn ask(&mut self, now: Instant, origin: &NodeName, epoch: u64, membership: &Membership) {
        let pace = self.pace();
        let Some((stream, store)) = self.inbound.stream(origin.as_bytes(), epoch) else { return };
        let record = membership.get(origin.as_bytes()).filter(|record| record.is_live());
        let met_origin = stream.next.is_none() && self.contacts.has_met(origin);
        let peers = Peers { has_origin: record.is_some(), met_origin, live: self.live };
        let again = match (stream.next_step(now, peers, pace.patience, store), record) {
            (Step::Rest, _) => return,
            (Step::AskStart(patience), Some(record)) => {
                let ack = self.acknowledgement(now, record, epoch);
                self.send(record.addr(), membership.introduction().into_iter().chain(ack).collect());
                patience
            }
            (Step::AskStart(pause) | Step::Wait(pause), _) => pause,
            (Step::Begun, _) => {
                self.deliver(now);
                return self.ask_by(now, origin, epoch);
            }
            (Step::GaveUp, _) => {
                self.deliver(now);
                self.ack_later(now, origin.clone(), epoch);
                return self.ask_by(now, origin, epoch);
            }
            (Step::Ask(request), record) => self.request(now, (origin, epoch), record, request, membership),
        };
        self.timers.set(Timer::Ask(origin.clone(), epoch), now + again);
    }

    /// Asks who is most likely to have it; gives how long the answer is waited for. `record` is the origin's, if that is
    /// live.
    fn request(
        &mut self,
        now: Instant,
        (origin, epoch): (&NodeName, u64),
        record: Option<&Record>,
        request: Request,
        membership: &Membership,
    ) -> Duration {
        let Request { ranges, attempt, hint, has_origin, origin_may_have, asked_enough, patience } = request;
        let record = record.filter(|_| has_origin);
        if let Some(record) = record.filter(|_| asked_enough) {
            self.question(now, record, epoch, membership);
        }
        self.counters.wanted += ranges.iter().map(|(_, count)| count).sum::<u64>();
        // Who brings something large, or who told of it first, then the origin, then by turns anybody and the
        // origin.
        let bringer = self.bringer.filter(|(_, at)| now.saturating_duration_since(*at) < BRINGER_PATIENCE);
        let hint = bringer.map(|(addr, _)| addr).or(hint);
        let known = hint.and_then(|hint| membership.find_addr(hint)).filter(|hint| hint.is_live());
        let to = match (known, record.filter(|_| origin_may_have)) {
            (Some(hint), _) => Some(hint),
            (None, Some(origin)) if attempt < 2 || attempt.is_multiple_of(2) => Some(origin),
            (None, record) => self.anybody_but(origin, attempt, membership).or(record),
        };
        if let Some(to) = to {
            let want = self.words(to.versions, &Control::Want { origin: origin.as_bytes(), epoch, ranges });
            let introduction = membership.introduction().filter(|_| record.map(Record::addr) == Some(to.addr()));
            self.send(to.addr(), introduction.into_iter().chain([want]).collect());
        }
        patience
    }

    /// Another of ours, each of them at its turn.
    fn anybody_but<'a>(&self, origin: &NodeName, turn: u32, membership: &'a Membership) -> Option<&'a Record> {
        let wanted = |record: &&Record| {
            record.is_live() && record.is_proven() && is_ours(record.versions) && record.name != *origin
        };
        let others = membership.others().filter(wanted).count();
        let one = (hash(self.me.as_bytes()) as usize).wrapping_add(turn as usize).checked_rem(others)?;
        membership.others().filter(wanted).nth(one)
    }

    /// Frees what is kept of streams that are over.
    pub(super) fn sweep(&mut self, now: Instant) {
        // Who lacks something may have noticed it later than this node, and asks for as long.
        if self.inbound.sweep(now, FAILED_GRACE + RETENTION_MARGIN) {
            self.sweep_later(now);
        }
    }
}

/// Whether a member of ours takes the clock's word for which life is the latest.
fn cannot_ask(record: &Record) -> bool {
    record.is_live() && record.is_proven() && is_ours(record.versions) && !is_named(record.versions)
}
