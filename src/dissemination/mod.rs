//! What is said: every message reaches every live node, once, in its origin's order, and the origin
//! knows when.
//!
//! # On the wire
//!
//! A message is a memberlist user message, a JSON object with `key` and `value` at its top level, as any
//! Go program in the cluster would read and write it, and with its identity in a field that others
//! ignore ([`payload`]). What only nodes of this crate understand ([`control`]) goes only to nodes that
//! say so in the largest delegate version of their "alive" messages ([`DELEGATE_MAX`]), which plain
//! memberlist nodes take part in agreeing on but do not use.
//!
//! # How a message spreads
//!
//! At once, along a tree over the members that is laid out anew for each origin ([`ring`]): up to
//! [`FANOUT`] members get it straight from the origin. Plain nodes get it straight as well, and through a
//! [`TransmitLimitedQueue`], as they would from a memberlist node. A message that does not fit in a
//! packet goes the same way, over TCP.
//!
//! # How it becomes reliable
//!
//! | message | from, to | says |
//! |---|---|---|
//! | `Ack` | receiver to origin | all below this number is here |
//! | `Have` | origin to who has not acknowledged; anybody in gossip and exchanges of views | what there is, and what nobody needs any more |
//! | `Want` | who finds a gap, to who told of it, then the origin, then anybody | these are missing |
//! | `Relay` | in front of messages that are passed on | how far they came, and who is next |
//! | `Plain` | who hears a plain node, to its voice ([`plain`]) | publish this for it |
//!
//! Each origin numbers its messages; a gap in the numbers, or a `Have` that goes further than what is
//! here, is asked for ([`inbound`]). The origin keeps what members have not acknowledged and reminds them
//! ([`outbound`]); should it fail, the others tell each other what they have.
//!
//! A node may speak in two streams: its own, and one as the voice of plain nodes. The lowest bit of an
//! epoch tells them apart ([`same_lane`]).
//!
//! # What can go wrong
//!
//! - *Loss, duplication, reordering, a pause, a partition*: repaired, as long as anybody has what is
//!   missing. What nobody has any more is told, as [`Output::Missed`].
//! - *A member that does not keep up* holds back the others for the lag limit and no longer.
//! - *A node restarts with its clock set back*: it hears of its former life, and begins a later one.
//! - *Forgeries* (acknowledgements from strangers or of messages never sent, numbers far ahead, former or
//!   future lives): dropped and told. Gossip without encryption trusts its network for the rest.
//! - *A plain node that sends from another address than it announces*, having several, is named by the
//!   address it sends from. Where it has one for some of ours and another for others, they take what it
//!   says for the words of two nodes, and each delivers both.

mod control;
mod inbound;
mod message;
mod outbound;
mod payload;
mod plain;
mod ring;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

pub use self::message::{Message, MessageId, PublishError};
pub(crate) use self::{control::Route, payload::Draft};
use self::{
    control::{Control, ControlError, Have, MAGIC, Start},
    inbound::{Inbound, StreamError, Taken},
    outbound::{AckError, FAILED_GRACE, Outbound},
    plain::{Flooded, Heard, Voice},
    ring::{FANOUT, Ring},
};
use crate::{
    config::{Limits, Tuning},
    membership::{MemberState, Membership, NodeName, Record, Target, TransmitLimitedQueue, digits},
    timers::Timers,
    wire::{self, Versions, packet},
};

/// What a node that understands our messages announces as the largest delegate version it understands.
pub(crate) const DELEGATE_MAX: u8 = 0xB1;
/// The largest delegate versions that only our nodes announce: this, and later revisions.
const OUR_DELEGATE_MAX: std::ops::RangeInclusive<u8> = 0xB0..=0xBF;
/// The largest message, as JSON with its identity, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// How many messages wait to be repeated to plain nodes at most.
const QUEUE_CAPACITY: usize = 4096;
/// In a cluster too large for all to acknowledge at once, an origin gets so many acknowledgements a second.
const ACKS_PER_SECOND: f64 = 2000.0;
/// The first answer to a request is waited for this part of the time a probe may take.
const PATIENCE: u32 = 20;
/// Each further one twice as long, up to this.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);
/// What is given at once to who asks for messages, in bytes.
const GIVEN_AT_ONCE: usize = 64 << 10;
/// How long a large message may take to get to somebody before it is sent again.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);
/// How many others are asked for what the origin has no more.
const OTHERS_ASKED: u32 = 4;
/// How often an origin is asked where to begin, before this node begins with the very first message, if
/// others retain that.
const STARTS_ASKED: u32 = 6;
/// … and before it takes what others retain: often enough for an answer to come where every other datagram
/// is lost. That guess may leave out, in silence, what the origin owes this node.
const STARTS_ASKED_IN_VAIN: u32 = 20;
/// How long an origin that is gone may take to turn up and say where this node begins; and how long others
/// are asked for what one that has left can give no more.
const DEPARTED_GRACE: Duration = Duration::from_secs(10);
/// How often streams that are over are looked through.
const SWEEP: Duration = Duration::from_secs(1);
/// How far a node's clock may be ahead of this one's, in microseconds: a day.
const CLOCK_TOLERANCE: u64 = 24 * 60 * 60 * 1_000_000;

/// Whether a node with these versions understands our messages.
pub(crate) fn is_ours(versions: Versions) -> bool {
    OUR_DELEGATE_MAX.contains(&versions[4])
}

/// Whether two lives are of the same stream of a node: its own, or the one in which it passes on what
/// plain nodes say.
fn same_lane(one: u64, other: u64) -> bool {
    (one ^ other) & 1 == 0
}

/// What the dissemination wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send these messages, in as few packets as possible, to each of these nodes; `route` goes in front
    /// of each packet.
    Packets { to: Vec<Target>, route: Option<Bytes>, messages: Vec<Bytes> },
    /// Send this message over a stream.
    Stream { to: SocketAddr, message: Bytes },
    /// Tell the application what another node published.
    Deliver(Message),
    /// Tell the application that messages of an origin cannot be had any more.
    Missed { origin: NodeName, epoch: u64, seqs: Range<u64> },
    /// Tell the application that a member is not waited for any longer.
    CutLoose(NodeName),
}

/// How far the cluster is with what this node publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every live member has everything below this number.
    pub(crate) stable: u64,
    /// How many members of this crate are waited for.
    pub(crate) members: usize,
    /// How many plain memberlist members there are, who cannot acknowledge.
    pub(crate) plain: usize,
}

/// What came, and what was dropped of it, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Messages, whether they were here already or not.
    pub(crate) copies: u64,
    /// Messages that were here already.
    pub(crate) duplicates: u64,
    /// Messages, and what is said of them, from who is no member (yet), or not the one it says.
    pub(crate) strangers: u64,
    /// Messages of an origin's former life.
    pub(crate) former_lives: u64,
    /// Everything else that cannot be used.
    pub(crate) unusable: u64,
}

/// Why a user message, or a control message, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("a user message of {len} bytes is not a JSON object with a text \"key\" and a \"value\": {source}")]
    Json { len: usize, source: serde_json::Error },
    #[error("a user message of {0} bytes is not text")]
    Text(usize),
    #[error("a message of \"{origin}\" was dropped: {error}")]
    Stream { origin: NodeName, error: StreamError },
    #[error("a message of the plain node \"{0}\" was dropped: {1}")]
    Plain(NodeName, Flooded),
    #[error("a message of the plain node \"{0}\" was dropped: members that are slow need what came before it")]
    NoRoom(NodeName),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Ack(#[from] AckError),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Acks,
    Ask(NodeName, u64),
    Remind(Lane),
    Plain,
    Sweep,
}

/// The streams in which a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Own,
    Voice,
}

const LANES: [Lane; 2] = [Lane::Own, Lane::Voice];

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Dissemination {
    me: NodeName,
    /// Which life of this node it is.
    life: u64,
    started: Instant,
    tuning: Tuning,
    limits: Limits,
    replay: bool,
    rng: Xoshiro256PlusPlus,
    outbound: [Outbound; 2],
    /// Whether a lane follows its peers: from its first message on.
    active: [bool; 2],
    /// For how many rounds of gossip to tell what there is of each lane.
    rounds: [u32; 2],
    /// The floor that was told last.
    told_floor: [u64; 2],
    inbound: Inbound,
    /// How many members are live, this node included.
    live: usize,
    heard: Heard,
    ring: Option<Ring>,
    /// Streams to acknowledge.
    acks: BTreeSet<(NodeName, u64)>,
    /// Messages to pass on, by their route.
    relays: BTreeMap<Route, Vec<Bytes>>,
    /// What went to whom over a stream of late: who, which life and number, and when.
    streamed: BTreeMap<(SocketAddr, u64, u64), Instant>,
    counters: Counters,
    /// Messages to repeat to plain nodes.
    queue: TransmitLimitedQueue,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
}

impl Dissemination {
    /// `start` is when this node started, in microseconds since 1970.
    pub(crate) fn new(
        now: Instant,
        me: NodeName,
        start: u64,
        tuning: &Tuning,
        limits: Limits,
        replay: bool,
        rng_seed: u64,
    ) -> Self {
        let epoch = start.min(u64::MAX / 4) * 2;
        Self {
            me,
            life: epoch.max(1),
            started: now,
            tuning: tuning.clone(),
            limits,
            replay,
            rng: Xoshiro256PlusPlus::seed_from_u64(rng_seed),
            outbound: [Outbound::new(epoch, limits), Outbound::new(epoch | 1, limits)],
            active: [false; 2],
            rounds: [0; 2],
            told_floor: [0; 2],
            inbound: Inbound::new(limits),
            live: 1,
            heard: Heard::default(),
            ring: None,
            acks: BTreeSet::new(),
            relays: BTreeMap::new(),
            streamed: BTreeMap::new(),
            counters: Counters::default(),
            queue: TransmitLimitedQueue::new(tuning.retransmit_mult, QUEUE_CAPACITY),
            timers: Timers::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The latest life that can be: by this node's clock, with some tolerance.
    fn latest(&self, now: Instant) -> u64 {
        let running = now.saturating_duration_since(self.started).as_micros();
        let running = u64::try_from(running).unwrap_or(u64::MAX);
        self.life.saturating_add(running.saturating_add(CLOCK_TOLERANCE).saturating_mul(2)) | 1
    }

    /// The identity of the next message of this node.
    pub(crate) fn next_id(&self) -> MessageId {
        let own = &self.outbound[Lane::Own as usize];
        MessageId { epoch: own.epoch, seq: own.next() }
    }

    /// Whether the log takes one more message.
    pub(crate) fn has_room(&self) -> bool {
        self.outbound[Lane::Own as usize].has_room()
    }

    /// Takes a message of this node; [`flush`](Self::flush) sends it.
    ///
    /// # Errors
    ///
    /// The log has no room for it.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        draft: Draft,
        membership: &Membership,
    ) -> Result<MessageId, PublishError> {
        if !self.has_room() {
            return Err(PublishError::WouldBlock);
        }
        Ok(self.append(now, Lane::Own, draft, membership).0)
    }

    fn append(&mut self, now: Instant, lane: Lane, draft: Draft, membership: &Membership) -> (MessageId, Bytes) {
        let outbound = &mut self.outbound[lane as usize];
        if !std::mem::replace(&mut self.active[lane as usize], true) {
            for record in membership.others().filter(|record| is_ours(record.versions)) {
                // One that failed may only be cut off, and is a member to others.
                if record.state() != MemberState::Left {
                    outbound.add_peer(record.addr(), &record.name);
                }
                if record.state() == MemberState::Dead {
                    outbound.lose_peer(now, record.addr(), &record.name);
                }
            }
        }
        let id = MessageId { epoch: outbound.epoch, seq: outbound.next() };
        let message = draft.finish(id.epoch, id.seq);
        outbound.push(message.clone());
        (id, message)
    }

    /// How far the cluster is with what this node publishes.
    pub(crate) fn progress(&mut self, membership: &Membership) -> Progress {
        let ring = self.ring(membership);
        let (ours, plain) = (ring.len(), ring.plain.len());
        let own = &self.outbound[Lane::Own as usize];
        let members = if self.active[Lane::Own as usize] { own.waited_for() } else { ours };
        Progress { stable: own.stable(), members, plain }
    }

    /// How many members have a message of this node, and which do not, of those that are waited for.
    pub(crate) fn reached(&self, seq: u64) -> (usize, Vec<NodeName>) {
        self.outbound[Lane::Own as usize].reached(seq)
    }

    /// Whether every live member has everything this node says.
    pub(crate) fn is_settled(&self) -> bool {
        self.outbound.iter().all(|outbound| outbound.stable() == outbound.next())
    }

    /// What came, and what was dropped of it, since the start.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// This many members are live, whom nobody announced.
    pub(crate) fn set_live(&mut self, live: usize) {
        self.live = live;
        self.ring = None;
    }

    /// How much is kept: what, how much of it, and its bound.
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 5] {
        let Limits { retain_messages, retain_bytes, .. } = self.limits;
        let own = |size: fn(&Outbound) -> usize| self.outbound.iter().map(size).max().unwrap_or_default();
        let (bytes, ahead, messages) = self.inbound.size();
        [
            ("messages in a log of this node", own(Outbound::len), retain_messages),
            // The last one that fits may be a large one.
            ("bytes in a log of this node", own(Outbound::bytes), retain_bytes / 2 + MAX_MESSAGE),
            ("messages of others that are retained", messages, retain_messages),
            ("bytes of others' messages that are retained", bytes, retain_bytes / 2),
            ("bytes of others' messages that wait for their turn", ahead, retain_bytes / 4),
        ]
    }

    /// How much is waiting to be repeated to plain nodes, in messages, and how much may.
    pub(crate) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), QUEUE_CAPACITY)
    }

    /// A member is there, for the first time, again, or at another address.
    pub(crate) fn member_up(&mut self, now: Instant, record: &Record, live: usize) {
        self.ring = None;
        self.live = live;
        for stream in self.inbound.lives_mut(record.name.as_bytes()) {
            stream.attempts = 0;
        }
        self.revive(&record.name);
        for lane in LANES {
            if self.active[lane as usize] && is_ours(record.versions) {
                self.outbound[lane as usize].add_peer(record.addr(), &record.name);
                self.watch(now, lane);
            }
        }
    }

    /// The latest lives of an origin that is there go on.
    fn revive(&mut self, origin: &NodeName) {
        let mut latest = [0; 2];
        for stream in self.inbound.lives_mut(origin.as_bytes()) {
            let lane = &mut latest[(stream.epoch & 1) as usize];
            *lane = stream.epoch.max(*lane);
        }
        for stream in self.inbound.lives_mut(origin.as_bytes()).filter(|stream| latest.contains(&stream.epoch)) {
            stream.over_since = None;
        }
    }

    /// A member has failed, or has left.
    pub(crate) fn member_down(&mut self, now: Instant, name: &NodeName, addr: SocketAddr, left: bool, live: usize) {
        self.ring = None;
        self.live = live;
        for outbound in &mut self.outbound {
            if left {
                outbound.forget_peer(addr, name);
            } else {
                outbound.lose_peer(now, addr, name);
            }
        }
        let rounds = self.tuning.retransmit_mult * digits(live);
        for stream in self.inbound.lives_mut(name.as_bytes()) {
            stream.over_since.get_or_insert(now);
            // Those who have more than others tell them: the origin does not any more.
            stream.rounds = rounds;
        }
        self.sweep_later(now);
    }

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
        let member = || membership.find_addr(from).filter(|record| record.is_live() && is_ours(record.versions));
        let Some((&MAGIC, data)) = payload.split_first() else {
            return self.take_message(now, from, payload, *route, membership);
        };
        match Control::decode(data)? {
            Control::Relay { route: given, message } => {
                if message.is_empty() {
                    *route = given;
                } else {
                    self.take_message(now, from, &payload.slice_ref(message), given, membership)?;
                }
            }
            Control::Have(haves) if member().is_some() => {
                for have in &haves {
                    self.take_have(now, Some(from), have, membership);
                }
            }
            Control::Ack { epoch, life, next } => self.take_ack(now, from, epoch, life, next)?,
            Control::Want { origin, epoch, ranges } if member().is_some() => {
                self.give(now, ours(from), origin, epoch, &ranges);
            }
            // Large ones come over streams, from any port of a member.
            Control::Plain { source, message } if member().is_some() || is_at_member(from, membership) => {
                self.adopt(now, &NodeName::from(source), &payload.slice_ref(message), membership)?;
            }
            // Who is not known yet as a member says it again.
            Control::Have(_) | Control::Want { .. } | Control::Plain { .. } => self.counters.strangers += 1,
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
        let len = payload.len();
        let text = std::str::from_utf8(payload).map_err(|_| Unusable::Text(len))?;
        let parsed = payload::parse(text).map_err(|source| Unusable::Json { len, source })?;
        let Some(identity) = &parsed.identity else {
            return self.hear_plain(now, from, payload, &parsed.key, &text[parsed.value.clone()], membership);
        };
        self.counters.copies += 1;
        let origin = identity.origin.as_bytes();
        if self.me.as_bytes() == origin {
            return Ok(());
        }
        if self.inbound.get(origin, identity.epoch).is_none() && !is_credible(origin, from, route, membership) {
            // If it is one, its origin repeats it once they know each other.
            self.counters.strangers += 1;
            return Ok(());
        }
        let hops = route.hops.saturating_add(1);
        let id = (identity.epoch, identity.seq);
        // Whom the origin itself sends its first message, is a member to it and begins there.
        let begins = id.1 == 0 && (route.hops == 0 || self.live > FANOUT + 1);
        let build = |origin: NodeName| Message::new(origin, identity, &parsed, payload, hops);
        let taken = match self.inbound.receive(now, origin, id, begins, self.latest(now), build) {
            Ok(taken) => taken,
            Err(StreamError::FormerLife(epoch)) => {
                self.counters.former_lives += 1;
                self.tell_of_later_life(origin, epoch, membership);
                return Ok(());
            }
            Err(error) => return Err(Unusable::Stream { origin: NodeName::from(origin), error }),
        };
        self.counters.duplicates += u64::from(taken == Taken::Known);
        if let (Taken::New, Some(until)) = (taken, route.until) {
            let message = packet::encode_message(&wire::Message::User(payload.clone()));
            self.relays.entry(Route { hops, until: Some(until) }).or_default().push(message);
        }
        self.after_news(now, origin, identity.epoch, from, taken == Taken::New);
        self.deliver(now);
        Ok(())
    }

    /// A node speaks as in a former life, maybe because its clock has been set back.
    fn tell_of_later_life(&mut self, origin: &[u8], epoch: u64, membership: &Membership) {
        let Some(record) = membership.get(origin).filter(|record| record.is_live()) else { return };
        let lives = self.inbound.lives_mut(origin).filter(|stream| same_lane(stream.epoch, epoch));
        let Some(latest) = lives.max_by_key(|stream| stream.epoch) else { return };
        let have = Control::Have(vec![stream_have(origin, latest)]).encode();
        self.send(record.addr(), vec![have]);
    }

    /// Something of a stream came: sees to it that it is acknowledged, that others hear of it, and that
    /// what is missing is asked for.
    fn after_news(&mut self, now: Instant, origin: &[u8], epoch: u64, from: SocketAddr, news: bool) {
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

    fn ask_by(&mut self, at: Instant, origin: &NodeName, epoch: u64) {
        let timer = Timer::Ask(origin.clone(), epoch);
        if self.timers.get(&timer).is_none_or(|due| due > at) {
            self.timers.set(timer, at);
        }
    }

    /// For how many rounds of gossip news is told: enough for everybody to hear it from somebody.
    fn telling_rounds(&self) -> u32 {
        digits(self.live)
    }

    fn ack_later(&mut self, now: Instant, origin: NodeName, epoch: u64) {
        self.acks.insert((origin, epoch));
        if self.live > FANOUT + 1 && self.timers.get(&Timer::Acks).is_none() {
            let spread = Duration::from_secs_f64(self.live as f64 / ACKS_PER_SECOND);
            self.timers.set(Timer::Acks, now + spread.mul_f64(self.rng.random()));
        }
    }

    /// Hands out what is delivered. What comes in the streams of two voices is told apart here.
    fn deliver(&mut self, now: Instant) {
        while let Some(message) = self.inbound.delivered.pop_front() {
            if let Some(source) = message.plain() {
                let words = plain::words(source, message.key(), message.value());
                // A flood is let through rather than lost.
                if self.heard.is_new(now, &words, message.stands_at().0) == Ok(false) {
                    continue;
                }
            }
            self.outputs.push_back(Output::Deliver(message));
        }
    }

    /// How long an answer is waited for.
    fn patience(&self) -> Duration {
        self.tuning.probe_timeout / PATIENCE
    }

    /// How often those who have not acknowledged are reminded.
    fn reminder_period(&self) -> Duration {
        let acks = if self.live > FANOUT + 1 { 2.0 * self.live as f64 / ACKS_PER_SECOND } else { 0.0 };
        self.patience() + Duration::from_secs_f64(acks)
    }

    fn ring(&mut self, membership: &Membership) -> &Ring {
        self.ring.get_or_insert_with(|| Ring::new(membership))
    }

    // ---- what others say ----

    fn take_have(&mut self, now: Instant, from: Option<SocketAddr>, have: &Have<'_>, membership: &Membership) {
        let Have { origin, epoch, base, next, floor, start } = *have;
        let latest = self.latest(now);
        if self.me.as_bytes() == origin {
            // A former life of this node, later than this one by a clock that has been set back.
            for outbound in &mut self.outbound {
                if same_lane(outbound.epoch, epoch) && epoch > outbound.epoch && epoch <= latest {
                    outbound.renew(epoch + 2, &self.me);
                }
            }
            return;
        }
        let record = membership.get(origin).filter(|record| record.is_live());
        let by_origin = from.is_some() && record.map(Record::addr) == from;
        if self.inbound.get(origin, epoch).is_none() {
            if next == 0 {
                return;
            }
            // A live origin says itself where this node begins; one that seems gone may be about to come back.
            // One that this node has never met is about to be met, and will say it then.
            if membership.get(origin).is_none() && !self.replay {
                return;
            }
            let Ok(stream) = self.inbound.open(now, origin, epoch, None, latest) else { return };
            if record.is_none() {
                stream.over_since = Some(now);
                self.sweep_later(now);
            }
        }
        let rounds = self.telling_rounds();
        let Some(stream) = self.inbound.get_mut(origin, epoch) else { return };
        // Nobody has so much to say; a number like that is made up.
        let next = next.min(stream.next.unwrap_or(next).saturating_add(inbound::MAX_AHEAD));
        stream.learn_head(next, by_origin, from);
        if stream.next.is_none() && !by_origin {
            stream.fallback = Some(stream.fallback.map_or(base, |known| known.min(base)).min(next));
        }
        if by_origin {
            stream.gone_below = stream.gone_below.max(base.min(next));
        }
        if let Some(start) = start.filter(|start| by_origin && (start.life == 0 || start.life == self.life)) {
            self.inbound.start(origin, epoch, start, base, self.replay);
        }
        if self.inbound.free(origin, epoch, floor.min(next))
            && let Some(stream) = self.inbound.get_mut(origin, epoch)
        {
            stream.rounds = rounds;
        }
        let Some(stream) = self.inbound.get(origin, epoch) else { return };
        let (lacks, unknown) = (stream.lacks(), stream.next.is_none());
        let name = NodeName::from(origin);
        if lacks {
            let patience = if start.is_some() { Duration::ZERO } else { self.patience() / 5 };
            self.ask_by(now + patience, &name, epoch);
        }
        if by_origin && (start.is_some() || unknown) {
            self.ack_later(now, name, epoch);
        }
        self.deliver(now);
    }

    fn take_ack(
        &mut self,
        now: Instant,
        from: SocketAddr,
        epoch: u64,
        life: u64,
        next: Option<u64>,
    ) -> Result<(), Unusable> {
        // One for a former life of this node is late, and no matter.
        let Some(lane) = LANES.into_iter().find(|lane| self.outbound[*lane as usize].epoch == epoch) else {
            return Ok(());
        };
        let outbound = &mut self.outbound[lane as usize];
        let before = outbound.floor();
        let asks = match outbound.ack(from, life, next) {
            Err(AckError::Stranger) => {
                self.counters.strangers += 1;
                return Ok(());
            }
            asks => asks?,
        };
        if outbound.floor() > before {
            self.rounds[lane as usize] = self.telling_rounds();
        }
        if asks {
            self.tell_start(lane, from);
            self.watch(now, lane);
        }
        Ok(())
    }

    /// Tells a peer where it begins in what this node says, and how far that goes by now.
    fn tell_start(&mut self, lane: Lane, to: SocketAddr) {
        let start = self.outbound[lane as usize].start_of(to);
        let message = Control::Have(vec![self.own_have(lane, start)]).encode();
        self.send(to, vec![message]);
    }

    fn own_have(&self, lane: Lane, start: Option<Start>) -> Have<'_> {
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

    fn send(&mut self, to: SocketAddr, messages: Vec<Bytes>) {
        self.outputs.push_back(Output::Packets { to: vec![ours(to)], route: None, messages });
    }

    /// Gives a member the messages it asks for, as far as they are here.
    fn give(&mut self, now: Instant, asker: Target, origin: &[u8], epoch: u64, ranges: &[(u64, u64)]) {
        let lane = LANES.into_iter().find(|lane| self.outbound[*lane as usize].epoch == epoch);
        let lane = lane.filter(|_| self.me.as_bytes() == origin);
        let (mut bytes, mut lacking) = (0, false);
        let max = self.max_in_packet();
        if let Some(lane) = lane {
            self.outbound[lane as usize].lost(ranges.iter().map(|(first, count)| first.saturating_add(*count)).max());
        }
        let mut given: BTreeMap<u8, Vec<Bytes>> = BTreeMap::new();
        'all: for &(first, count) in ranges {
            for seq in first..first.saturating_add(count) {
                let found = match lane {
                    Some(lane) => self.outbound[lane as usize].get(seq).map(|message| (0, message.clone())),
                    None => self.inbound.get(origin, epoch).and_then(|stream| stream.get(seq)).map(|message| {
                        let payload = wire::Message::User(message.payload().clone());
                        (message.hops(), packet::encode_message(&payload))
                    }),
                };
                let Some((hops, message)) = found else {
                    lacking = true;
                    break;
                };
                if message.len() > max && !self.may_stream(now, (asker.addr, epoch, seq)) {
                    continue;
                }
                bytes += message.len();
                given.entry(hops).or_default().push(message);
                if bytes >= GIVEN_AT_ONCE {
                    break 'all;
                }
            }
        }
        let stream = self.inbound.get(origin, epoch);
        let have = match (lane, stream) {
            (Some(lane), _) => Some(self.own_have(lane, self.outbound[lane as usize].start_of(asker.addr))),
            (None, Some(stream)) => Some(stream_have(origin, stream)),
            (None, None) => None,
        };
        // Who asks in vain learns what there is.
        let have = have.filter(|_| lacking).map(|have| Control::Have(vec![have]).encode());
        if let Some(have) = have {
            self.send(asker.addr, vec![have]);
        }
        for (hops, messages) in given {
            self.spread(vec![asker], (hops > 0).then_some(Route { hops, until: None }), messages);
        }
    }

    /// Whether a message may be sent to somebody over a stream, again: it takes a while to get there.
    fn may_stream(&mut self, now: Instant, what: (SocketAddr, u64, u64)) -> bool {
        let recent = |at: &mut Instant| now.saturating_duration_since(*at) < STREAM_PATIENCE;
        self.streamed.retain(|_, at| recent(at));
        if self.streamed.contains_key(&what) {
            return false;
        }
        self.streamed.insert(what, now);
        true
    }

    /// Sends messages on a route to some nodes: those that are small in packets, the others each over a
    /// stream.
    fn spread(&mut self, to: Vec<Target>, route: Option<Route>, messages: Vec<Bytes>) {
        let max = self.max_in_packet();
        let (small, large): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| message.len() <= max);
        for message in large {
            for target in &to {
                let message = match route {
                    Some(route) => Control::Relay { route, message: &message[1..] }.encode(),
                    None => message.clone(),
                };
                self.outputs.push_back(Output::Stream { to: target.addr, message });
            }
        }
        if !small.is_empty() {
            let route = route.map(|route| Control::Relay { route, message: &[] }.encode());
            self.outputs.push_back(Output::Packets { to, route, messages: small });
        }
    }

    /// The largest message that fits in a packet, with what may go in front of it.
    fn max_in_packet(&self) -> usize {
        const ROUTE: usize = 16 + packet::PART_OVERHEAD;
        self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD - packet::PART_OVERHEAD - ROUTE
    }

    // ---- plain nodes ----

    fn hear_plain(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        key: &str,
        value: &str,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        // A stream comes from a port of the system's choice.
        let by_ip = || {
            let mut plain = membership.others().filter(|record| !is_ours(record.versions));
            plain.find(|record| record.addr().ip() == from.ip() && record.is_live())
        };
        let record = membership.find_addr(from).or_else(by_ip);
        let source = record.map_or_else(|| from.to_string().as_str().into(), |record| record.name.clone());
        let words = plain::words(&source, key, value);
        if self.heard.knows(now, &words) {
            return Ok(());
        }
        match plain::voice_of(&source, membership) {
            Voice::Me => self.adopt(now, &source, payload, membership),
            Voice::At(addr) => {
                self.heard.wait(now, words, payload.clone()).map_err(|error| Unusable::Plain(source.clone(), error))?;
                self.hand_over(addr, &source, payload);
                self.timers.set(Timer::Plain, self.heard.next_due().unwrap_or(now));
                Ok(())
            }
        }
    }

    fn hand_over(&mut self, voice: SocketAddr, source: &NodeName, message: &Bytes) {
        let message = Control::Plain { source: source.as_bytes(), message }.encode();
        self.spread(vec![ours(voice)], None, vec![message]);
    }

    /// Publishes what a plain node said, as its voice.
    fn adopt(
        &mut self,
        now: Instant,
        source: &NodeName,
        payload: &Bytes,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let len = payload.len();
        let text = std::str::from_utf8(payload).map_err(|_| Unusable::Text(len))?;
        let parsed = payload::parse(text).map_err(|source| Unusable::Json { len, source })?;
        let value = &text[parsed.value.clone()];
        let words = plain::words(source, &parsed.key, value);
        let waited = self.heard.waiting.remove(&words).is_some();
        if !waited && self.heard.knows(now, &words) {
            return Ok(());
        }
        if !self.outbound[Lane::Voice as usize].has_room() {
            return Err(Unusable::NoRoom(source.clone()));
        }
        let me = self.me.clone();
        self.heard.is_new(now, &words, &me).map_err(|error| Unusable::Plain(source.clone(), error))?;
        let draft = Draft::new(&parsed.key, value, &me.to_string()).on_behalf_of(&source.to_string());
        let (_, message) = self.append(now, Lane::Voice, draft, membership);
        let payload = message.slice(1..);
        let text = std::str::from_utf8(&payload).expect("a draft is made of text");
        let parsed = payload::parse(text).expect("a draft is JSON");
        let identity = parsed.identity.as_ref().expect("a finished draft has an identity");
        self.outputs.push_back(Output::Deliver(Message::new(me, identity, &parsed, &payload, 0)));
        Ok(())
    }

    fn remind_voices(&mut self, now: Instant, membership: &Membership) {
        for (words, message, enough) in self.heard.due(now) {
            let source = words.0;
            match plain::voice_of(&source, membership) {
                Voice::At(addr) if !enough => self.hand_over(addr, &source, &message),
                // It cannot be used by anybody if it cannot be used here; and there is nobody to tell.
                _ => drop(self.adopt(now, &source, &message, membership)),
            }
        }
        if let Some(at) = self.heard.next_due() {
            self.timers.set(Timer::Plain, at);
        }
    }

    // ---- time ----

    /// Sends what is to be sent: new messages, messages to pass on, acknowledgements. To be called when
    /// everything that has happened has been handled.
    pub(crate) fn flush(&mut self, now: Instant, membership: &Membership) {
        for lane in LANES {
            if self.outbound[lane as usize].has_unsent() {
                self.send_unsent(now, lane, membership);
            }
        }
        let me = ring::place(self.me.as_bytes());
        for (route, messages) in std::mem::take(&mut self.relays) {
            if let Some(until) = route.until {
                self.send_along(me, until, route.hops, &messages, membership);
            }
        }
        if !self.acks.is_empty() && self.timers.get(&Timer::Acks).is_none() {
            self.send_acks(membership);
        }
    }

    fn send_unsent(&mut self, now: Instant, lane: Lane, membership: &Membership) {
        let at = lane as usize;
        let (epoch, first) = (self.outbound[at].epoch, self.outbound[at].sent());
        let messages = self.outbound[at].take_unsent();
        if messages.is_empty() {
            return;
        }
        let max = self.max_in_packet();
        for (seq, _) in (first..).zip(&messages).filter(|(_, message)| message.len() > max) {
            self.streamed.extend(self.outbound[at].addrs().map(|addr| ((addr, epoch, seq), now)));
        }
        self.ring(membership);
        let mut for_ours = messages.clone();
        let floor = self.outbound[at].floor();
        if floor > std::mem::replace(&mut self.told_floor[at], floor) {
            for_ours.insert(0, Control::Have(vec![self.own_have(lane, None)]).encode());
        }
        let me = ring::place(self.me.as_bytes());
        self.send_along(me, me, 0, &for_ours, membership);
        if let (Lane::Own, Some(ring)) = (lane, &self.ring)
            && !ring.plain.is_empty()
        {
            let plain = ring.plain.clone();
            for message in messages.iter().filter(|message| message.len() <= max) {
                self.queue.push(message.clone());
            }
            self.spread(plain, None, messages);
        }
        self.rounds[at] = self.telling_rounds();
        self.watch(now, lane);
    }

    /// Sends messages to those on an arc of the ring who are next.
    fn send_along(&mut self, from: u64, until: u64, hops: u8, messages: &[Bytes], membership: &Membership) {
        let branches = self.ring(membership).branches(from, until);
        let mut leaves = Vec::new();
        for branch in branches {
            if hops == 0 {
                for lane in LANES {
                    if self.outbound[lane as usize].is_new(branch.to) {
                        self.tell_start(lane, branch.to);
                    }
                }
            }
            match branch.until {
                None => leaves.push(ours(branch.to)),
                until => self.spread(vec![ours(branch.to)], Some(Route { hops, until }), messages.to_vec()),
            }
        }
        if !leaves.is_empty() {
            self.spread(leaves, (hops > 0).then_some(Route { hops, until: None }), messages.to_vec());
        }
    }

    fn send_acks(&mut self, membership: &Membership) {
        for (origin, epoch) in std::mem::take(&mut self.acks) {
            let Some(stream) = self.inbound.get_mut(origin.as_bytes(), epoch) else { continue };
            stream.ack_due = false;
            let Some(record) = membership.get(origin.as_bytes()).filter(|record| record.is_live()) else { continue };
            let ack = Control::Ack { epoch, life: self.life, next: stream.next }.encode();
            self.send(record.addr(), vec![ack]);
        }
    }

    /// Sees to it that peers who do not acknowledge are reminded.
    fn watch(&mut self, now: Instant, lane: Lane) {
        let timer = Timer::Remind(lane);
        if self.timers.get(&timer).is_none() && self.outbound[lane as usize].wants_reminders() {
            self.outbound[lane as usize].begin_period();
            self.timers.set(timer, now + self.reminder_period());
        }
    }

    fn sweep_later(&mut self, now: Instant) {
        if self.timers.get(&Timer::Sweep).is_none() {
            self.timers.set(Timer::Sweep, now + SWEEP);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, membership: &Membership) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Acks => self.send_acks(membership),
                Timer::Ask(origin, epoch) => self.ask(now, &origin, epoch, membership),
                Timer::Remind(lane) => self.remind(now, lane),
                Timer::Plain => self.remind_voices(now, membership),
                Timer::Sweep => self.sweep(now, membership),
            }
        }
    }

    fn remind(&mut self, now: Instant, lane: Lane) {
        let (peers, loose) = self.outbound[lane as usize].remind(now);
        for name in loose {
            self.outputs.push_back(Output::CutLoose(name));
        }
        for peer in peers {
            self.tell_start(lane, peer);
        }
        if self.outbound[lane as usize].wants_reminders() {
            self.timers.set(Timer::Remind(lane), now + self.reminder_period());
        }
    }

    /// Asks somebody for what is missing of a stream, or gives it up. An origin may not know this node yet,
    /// where news of members gets lost; what is asked of it comes with an introduction.
    fn ask(&mut self, now: Instant, origin: &NodeName, epoch: u64, membership: &Membership) {
        let Some(stream) = self.inbound.get_mut(origin.as_bytes(), epoch) else { return };
        if !stream.lacks() {
            return;
        }
        let record = membership.get(origin.as_bytes());
        let live = record.filter(|record| record.is_live() && stream.over_since.is_none()).map(Record::addr);
        let Some(next) = stream.next else {
            let asked = if stream.guessed_start() == 0 { STARTS_ASKED } else { STARTS_ASKED_IN_VAIN };
            match live.filter(|_| stream.attempts < asked) {
                Some(addr) => {
                    let ack = Control::Ack { epoch, life: self.life, next: None }.encode();
                    stream.attempts += 1;
                    let again = now + self.backed_off(origin, epoch);
                    self.send(addr, membership.introduction().into_iter().chain([ack]).collect());
                    self.timers.set(Timer::Ask(origin.clone(), epoch), again);
                }
                None if stream.over_since.is_some_and(|since| since + DEPARTED_GRACE > now) => {
                    self.timers.set(Timer::Ask(origin.clone(), epoch), now + LONGEST_PATIENCE);
                }
                // Nobody says where this node begins. What was said by one that has left is not for it, unless
                // it came here, or is wanted all the same.
                None => {
                    let failed = record.is_some_and(|record| record.state() == MemberState::Dead);
                    let wanted = live.is_some() || failed || self.replay || stream.first_ahead().is_some();
                    let begin = if wanted { stream.guessed_start() } else { stream.end() };
                    self.inbound.skip_to(origin.as_bytes(), epoch, begin);
                    self.deliver(now);
                    self.ask_by(now, origin, epoch);
                }
            }
            return;
        };
        let gone = live.is_some() && stream.gone_below > next && stream.attempts >= OTHERS_ASKED;
        let grace = match record.map(Record::state) {
            Some(MemberState::Left) | None => DEPARTED_GRACE,
            // It may come back, or has, in a new life: others have the last words of the former one.
            Some(_) => FAILED_GRACE,
        };
        let over = stream.attempts >= OTHERS_ASKED
            && stream.over_since.is_some_and(|since| now.saturating_duration_since(since) >= grace);
        if gone || over {
            let end = if gone { Some(stream.gone_below) } else { stream.first_ahead() };
            let Some(end) = end.map(|end| stream.first_ahead().map_or(end, |first| first.min(end))) else {
                return stream.forget_head();
            };
            self.outputs.push_back(Output::Missed { origin: origin.clone(), epoch, seqs: next..end });
            self.inbound.skip_to(origin.as_bytes(), epoch, end);
            self.deliver(now);
            self.ack_later(now, origin.clone(), epoch);
            return self.ask_by(now, origin, epoch);
        }
        let ranges = stream.missing(control::MAX_RANGES);
        if stream.attempts > 0 {
            stream.hint = None;
        }
        let hint = stream.hint;
        let origin_has = live.filter(|_| stream.gone_below <= next);
        let attempt = stream.attempts;
        stream.attempts += 1;
        // Who told of it first, then the origin, then by turns anybody and the origin.
        let mut anybody = || {
            let wanted = |record: &Record| {
                record.is_live() && is_ours(record.versions) && record.name != *origin && record.name != self.me
            };
            membership.pick(&mut self.rng, wanted).map(Record::addr)
        };
        let known = hint.filter(|hint| membership.find_addr(*hint).is_some_and(Record::is_live));
        let to = match (known, origin_has) {
            (Some(hint), _) => Some(hint),
            (None, Some(origin)) if attempt < 2 || attempt.is_multiple_of(2) => Some(origin),
            (None, origin_has) => anybody().or(origin_has),
        };
        if let Some(to) = to {
            let want = Control::Want { origin: origin.as_bytes(), epoch, ranges }.encode();
            let introduction = membership.introduction().filter(|_| live == Some(to));
            self.send(to, introduction.into_iter().chain([want]).collect());
        }
        let again = now + self.backed_off(origin, epoch);
        self.timers.set(Timer::Ask(origin.clone(), epoch), again);
    }

    fn backed_off(&self, origin: &NodeName, epoch: u64) -> Duration {
        let attempts = self.inbound.get(origin.as_bytes(), epoch).map_or(0, |stream| stream.attempts);
        let doublings = attempts.saturating_sub(1).min(8);
        (self.patience() * (1 << doublings)).min(LONGEST_PATIENCE)
    }

    /// Frees what is kept of streams that are over. How far they came stays known, so that nothing of them
    /// is delivered again.
    fn sweep(&mut self, now: Instant, membership: &Membership) {
        let over = |(origin, stream): (&NodeName, &inbound::Stream)| {
            let since = now.saturating_duration_since(stream.over_since?);
            // A dead origin may come back as it was; one that is not even remembered will not.
            let grace = if membership.get(origin.as_bytes()).is_some() { FAILED_GRACE } else { DEPARTED_GRACE };
            (since >= grace).then(|| (origin.clone(), stream.epoch))
        };
        let over: Vec<_> = self.inbound.iter().filter_map(over).collect();
        for (origin, epoch) in over {
            self.inbound.release(origin.as_bytes(), epoch);
        }
        if self.inbound.iter().any(|(_, stream)| stream.over_since.is_some() && stream.retains()) {
            self.sweep_later(now);
        }
    }

    // ---- gossip ----

    /// Whether there is something to tell in the next round of gossip.
    pub(crate) fn has_gossip(&self) -> bool {
        !self.queue.is_empty()
            || self.rounds.iter().any(|rounds| *rounds > 0)
            || self.inbound.iter().any(|(_, stream)| stream.rounds > 0)
    }

    /// Takes what is to be told in one packet of gossip with `budget` bytes left; gives the bytes used.
    pub(crate) fn fill(&mut self, target: Target, budget: usize, out: &mut Vec<Bytes>) -> usize {
        if !is_ours(target.versions) {
            let plain = self.ring.as_ref().map_or(0, |ring| ring.plain.len());
            return self.queue.take(plain + 1, packet::PART_OVERHEAD, budget, out);
        }
        let mut haves = Vec::new();
        let mut left = budget.saturating_sub(packet::PART_OVERHEAD + 3);
        let own =
            LANES.into_iter().filter(|lane| self.rounds[*lane as usize] > 0).map(|lane| self.own_have(lane, None));
        let others = self.inbound.iter().filter(|(_, stream)| stream.rounds > 0 && stream.next.is_some());
        for have in own.chain(others.map(|(origin, stream)| stream_have(origin.as_bytes(), stream))) {
            let Some(rest) = left.checked_sub(have.max_len()).filter(|_| haves.len() < control::MAX_HAVES) else {
                break;
            };
            left = rest;
            haves.push(have);
        }
        if haves.is_empty() {
            return 0;
        }
        let message = Control::Have(haves).encode();
        let used = message.len() + packet::PART_OVERHEAD;
        out.push(message);
        used
    }

    /// To be called after each round of gossip.
    pub(crate) fn after_gossip(&mut self) {
        let own = self.rounds.iter_mut();
        for rounds in own.chain(self.inbound.iter_mut().map(|(_, stream)| &mut stream.rounds)) {
            *rounds = rounds.saturating_sub(1);
        }
    }

    /// What this node has, to exchange with another of ours.
    pub(crate) fn state(&self) -> Bytes {
        let own = LANES.into_iter().filter(|lane| self.active[*lane as usize]).map(|lane| self.own_have(lane, None));
        let others = self.inbound.iter().filter(|(_, stream)| stream.next.is_some());
        let haves = own.chain(others.map(|(origin, stream)| stream_have(origin.as_bytes(), stream)));
        let message = Control::Have(haves.take(control::MAX_HAVES).collect()).encode();
        message.slice(1..)
    }

    /// Whether another node's state is one of ours.
    pub(crate) fn is_state(state: &[u8]) -> bool {
        state.first() == Some(&MAGIC)
    }

    /// Takes another node's state. `from` is where it can be asked, if that is known.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub(crate) fn merge(
        &mut self,
        now: Instant,
        from: Option<SocketAddr>,
        state: &[u8],
        membership: &Membership,
    ) -> Result<(), Unusable> {
        if let Some((&MAGIC, data)) = state.split_first()
            && let Control::Have(haves) = Control::decode(data)?
        {
            for have in &haves {
                self.take_have(now, from, have, membership);
            }
        }
        Ok(())
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

/// Whether a first message of an origin's life may be one: it comes from the origin, or was passed on by
/// another member. Over a stream it comes from any port.
fn is_credible(origin: &[u8], from: SocketAddr, route: Route, membership: &Membership) -> bool {
    match membership.find_addr(from) {
        Some(record) => record.is_live() && (*record.name.as_bytes() == *origin || route.hops > 0),
        None if route.hops > 0 => is_at_member(from, membership),
        None => membership.get(origin).is_some_and(|record| record.is_live() && record.addr().ip() == from.ip()),
    }
}

/// Whether some member of ours is at this address, whatever its port.
fn is_at_member(from: SocketAddr, membership: &Membership) -> bool {
    membership.others().any(|record| record.is_live() && is_ours(record.versions) && record.addr().ip() == from.ip())
}

fn stream_have<'a>(origin: &'a [u8], stream: &inbound::Stream) -> Have<'a> {
    let (base, next) = (stream.base(), stream.next.unwrap_or_default());
    Have { origin, epoch: stream.epoch, base, next, floor: stream.floor, start: None }
}

/// One of our nodes, which all understand a checksum.
fn ours(addr: SocketAddr) -> Target {
    Target { addr, checksum: true, versions: [1, 5, 2, 0, DELEGATE_MAX, 0] }
}

/// A hash that is the same on every node: 64-bit FNV-1a (Fowler, Noll, Vo; RFC 9923), finished by
/// MurmurHash3's last step so that names that differ in their last letter are far apart.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
