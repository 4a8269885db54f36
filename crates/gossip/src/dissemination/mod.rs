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
//! | `Watch` | who wants to see acknowledgements, to each origin | tell me who acknowledges what ([`watch`]) |
//! | `Acked` | origin to who watches | these members have all below these numbers |
//! | `Plain` | who hears a plain node, to its voice ([`plain`]) | publish this for it |
//! | `By` | in front of any of these | who says it, wherever it comes from ([`contacts`]) |
//! | `Receipt` | as `Ack` | the same, with what proves it; or a question |
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
//! - *Clocks that are days wrong, jump, or are set back before a restart*: a life that does not fit what is known
//!   is asked for, and its origin's answer decides ([`contacts`]). A node that hears of a later life of its own
//!   before it has said anything begins a later one still.
//! - *Packets that leave from another address than their node announces*: what they say counts all the same.
//! - *Forgeries* (acknowledgements from strangers or of messages never sent, numbers far ahead, former or
//!   future lives): dropped and told. Gossip without encryption trusts its network for the rest.
//! - *A plain node that sends from another address than it announces*, having several, is named by the
//!   address it sends from. Where it has one for some of ours and another for others, they take what it
//!   says for the words of two nodes, and each delivers both.

mod contacts;
mod control;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gossip;
mod hearing;
mod inbound;
mod message;
mod outbound;
mod payload;
mod plain;
mod reminders;
mod repair;
mod ring;
mod spread;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::Instant,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use self::{
    contacts::{Contacts, is_named},
    control::{ControlError, Have},
    inbound::{Inbound, StreamError},
    outbound::{AckError, FAILED_GRACE, LEFT_GRACE, Outbound},
    plain::{Flooded, Heard},
    ring::Ring,
    watch::Watching,
};
pub(crate) use self::{
    control::{MAGIC, PATH_KINDS, Route, Talk},
    payload::Draft,
};
pub use self::{
    message::{Message, MessageId, PublishError},
    watch::Acks,
};
use crate::{
    config::{Limits, Tuning},
    membership::{MemberState, Membership, NodeName, Record, Target, TransmitLimitedQueue, digits},
    timers::Timers,
    wire::Versions,
};

/// What a node that understands our messages announces as the largest delegate version it understands.
pub(crate) const DELEGATE_MAX: u8 = 0xB3;
/// The largest delegate versions that only our nodes announce: this, and later revisions.
const OUR_DELEGATE_MAX: std::ops::RangeInclusive<u8> = 0xB0..=0xBF;
/// The largest message, as JSON with its identity, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// How many messages wait to be repeated to plain nodes at most.
const QUEUE_CAPACITY: usize = 4096;
/// How many of the members that have not answered yet get what is new straight from its origin, and are waited for
/// until they lag.
const NEWCOMERS: usize = 64;
/// In a cluster too large for all to acknowledge at once, an origin gets so many acknowledgements a second.
const ACKS_PER_SECOND: f64 = 2000.0;
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
    /// A member of ours has been reminded again and again, and acknowledges nothing: maybe packets do not
    /// reach it, or its own do not arrive here.
    Silent(SocketAddr),
    /// Tell the application who has acknowledged what.
    Acks(Acks),
    /// Tell the application that a member is heard from another address than it announces.
    Elsewhere { name: NodeName, announced: SocketAddr, from: SocketAddr },
}

/// How far the cluster is with what this node publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every live member, those apart that were cut loose, has everything below this number.
    pub(crate) stable: u64,
    /// Those included.
    pub(crate) everywhere: u64,
    /// How many plain memberlist members there are, who cannot acknowledge.
    pub(crate) plain: usize,
}

/// How far a node is with what an origin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The origin.
    pub origin: NodeName,
    /// Which life of it; odd for what it passes on for plain memberlist nodes.
    pub epoch: u64,
    /// All below this number was delivered here; of a node's own messages, was published.
    pub next: u64,
    /// The number after the last message there is, as far as this node has heard.
    pub end: u64,
    /// Every member has all below this number, as the origin says.
    pub floor: u64,
    /// How many messages are kept for others.
    pub retained: usize,
}

/// What came of messages to a node since its start, and what was dropped of it, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that this node published.
    pub published: u64,
    /// Messages of others that were delivered to the application.
    pub delivered: u64,
    /// Messages that were asked for, because they were missing, counted each time.
    pub wanted: u64,
    /// Messages that were given to others who asked for them.
    pub given: u64,
    /// Messages that arrived, whether they were here already or not.
    pub copies: u64,
    /// Messages that were here already.
    pub duplicates: u64,
    /// Messages that could not be had any more, as told by [`Event::Missed`](crate::Event::Missed).
    pub missed: u64,
    /// Messages, and what is said of them, from who is no member (yet), or not the one it says.
    pub strangers: u64,
    /// Messages, acknowledgements and what is said of messages, of a life that is over.
    pub former_lives: u64,
    /// Members that were heard from another address than they announce, as told by
    /// [`Event::HeardElsewhere`](crate::Event::HeardElsewhere).
    pub elsewhere: u64,
    /// Everything else that could not be used.
    pub unusable: u64,
    /// Messages of this node that agents of a serf cluster do not get, as told by
    /// [`Event::NoSerfEvent`](crate::Event::NoSerfEvent).
    pub no_events: u64,
}

/// Why a user message, or a control message, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("a user message of {len} bytes is not a JSON object with a text \"key\" and a \"value\": {source}")]
    Json { len: usize, source: serde_json::Error },
    #[error("a user message of {0} bytes is not text")]
    Text(usize),
    #[error("a message from \"{origin}\" was dropped: {error}")]
    Stream { origin: NodeName, error: StreamError },
    #[error("a message from the plain node \"{0}\" was dropped: {1}")]
    Plain(NodeName, Flooded),
    #[error(
        "a message from the plain node \"{name}\" was dropped: as JSON it takes {size} bytes; at most {MAX_MESSAGE} are allowed"
    )]
    TooLarge { name: NodeName, size: usize },
    #[error("a message from the plain node \"{0}\" was dropped: slow members still need earlier messages")]
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
    Tell,
    Watch,
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
    contacts: Contacts,
    /// How many members are live and have answered this node, itself included.
    live: usize,
    heard: Heard,
    /// Whether plain nodes are told, too.
    tells_plain: bool,
    ring: Option<Ring>,
    /// Streams to acknowledge.
    acks: BTreeSet<(NodeName, u64)>,
    /// Messages to pass on, by the end of the arc that they are for, and over how many hops they came.
    relays: BTreeMap<(u64, u8), Vec<Bytes>>,
    /// What went to whom over a stream of late: who, which life and number, and when.
    streamed: BTreeMap<(SocketAddr, u64, u64), Instant>,
    /// Who is bringing something large over a stream, and when some of it came last.
    bringer: Option<(SocketAddr, Instant)>,
    counters: Counters,
    watching: Watching,
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
            outbound: [Outbound::new(now, epoch, limits), Outbound::new(now, epoch | 1, limits)],
            active: [false; 2],
            rounds: [0; 2],
            told_floor: [0; 2],
            inbound: Inbound::new(limits),
            contacts: Contacts::default(),
            live: 1,
            heard: Heard::default(),
            tells_plain: true,
            ring: None,
            acks: BTreeSet::new(),
            relays: BTreeMap::new(),
            streamed: BTreeMap::new(),
            bringer: None,
            counters: Counters::default(),
            watching: Watching::default(),
            queue: TransmitLimitedQueue::new(tuning.retransmit_mult, QUEUE_CAPACITY),
            timers: Timers::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The same, where other nodes than ours understand nothing of it.
    pub(crate) fn among_ours(mut self) -> Self {
        self.tells_plain = false;
        self
    }

    /// Whether there are live members that are none of ours.
    pub(crate) fn has_plain(&mut self, membership: &Membership) -> bool {
        !self.ring(membership).plain.is_empty()
    }

    /// The latest life that can be: by this node's clock, with some tolerance.
    fn latest(&self, now: Instant) -> u64 {
        self.life.saturating_add(self.age(now).saturating_add(CLOCK_TOLERANCE).saturating_mul(2)) | 1
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
        self.counters.published += 1;
        Ok(self.append(now, Lane::Own, draft, membership).0)
    }

    fn append(&mut self, now: Instant, lane: Lane, draft: Draft, membership: &Membership) -> (MessageId, Bytes) {
        let outbound = &mut self.outbound[lane as usize];
        if !std::mem::replace(&mut self.active[lane as usize], true) {
            for record in membership.others().filter(|record| is_ours(record.versions)) {
                let cookie = is_named(record.versions).then(|| self.rng.random());
                outbound.add_peer(record.addr(), &record.name, cookie, record.is_proven());
                // One that failed may only be cut off, one that is said to have left may be about to refute it.
                match record.state() {
                    MemberState::Alive | MemberState::Suspect => {}
                    MemberState::Dead => outbound.lose_peer(now, &record.name, FAILED_GRACE),
                    MemberState::Left => outbound.lose_peer(now, &record.name, LEFT_GRACE),
                }
            }
        }
        let id = MessageId { epoch: outbound.epoch, seq: outbound.next() };
        let message = draft.finish(id.epoch, id.seq);
        outbound.push(message.clone());
        (id, message)
    }

    /// These members are there, whom nobody announced.
    pub(crate) fn acquaint(&mut self, now: Instant, membership: &Membership) {
        self.live = membership.proven_live();
        self.ring = None;
        membership.others().for_each(|record| self.contacts.meet(now, record));
    }

    /// A member is there, for the first time, again, or at another address.
    pub(crate) fn member_up(&mut self, now: Instant, record: &Record, membership: &Membership) {
        self.ring = None;
        self.live = membership.proven_live();
        for stream in self.inbound.lives_mut(record.name.as_bytes()) {
            stream.ask_afresh();
        }
        self.revive(&record.name);
        if is_ours(record.versions) {
            if self.contacts.has_met(&record.name) {
                self.inbound.iter_mut().for_each(|(_, stream)| stream.forget_teller(record.addr()));
            }
            self.contacts.meet(now, record);
        }
        for lane in LANES {
            if self.active[lane as usize] && is_ours(record.versions) {
                let cookie = is_named(record.versions).then(|| self.rng.random());
                self.outbound[lane as usize].add_peer(record.addr(), &record.name, cookie, record.is_proven());
                self.watch(now, lane);
            }
        }
        self.tell_later(now);
        self.ask_to_tell(record, membership);
    }

    /// A live member has answered this node for the first time, or at a new address. Before that it costs those
    /// that answer nothing: it gets what is new straight from here, as long as there are few of its kind
    /// ([`NEWCOMERS`]), but passes nothing on, is no voice, and is asked for nothing; publishers and receipts do not
    /// wait for it, while what it may turn out to be owed is kept as there is room.
    pub(crate) fn member_proven(&mut self, now: Instant, record: &Record, membership: &Membership) {
        self.ring = None;
        self.live = membership.proven_live();
        if is_ours(record.versions) {
            self.contacts.meet(now, record);
        }
        for lane in LANES {
            if self.active[lane as usize] {
                self.outbound[lane as usize].prove_peer(record.name.as_bytes());
                self.watch(now, lane);
            }
        }
        self.tell_later(now);
        self.ask_to_tell(record, membership);
    }

    /// A member has failed, or has left.
    pub(crate) fn member_down(&mut self, now: Instant, name: &NodeName, left: bool, live: usize) {
        self.ring = None;
        self.live = live;
        for lane in LANES {
            let outbound = &mut self.outbound[lane as usize];
            let before = outbound.floor();
            outbound.note_gone(name, left);
            outbound.lose_peer(now, name, if left { LEFT_GRACE } else { FAILED_GRACE });
            if outbound.floor() > before {
                self.rounds[lane as usize] = self.telling_rounds();
            }
            if self.outbound[lane as usize].len() > 0 {
                self.watch(now, lane);
            }
        }
        self.contacts.forget(name);
        let rounds = self.tuning.retransmit_mult * digits(live);
        for stream in self.inbound.lives_mut(name.as_bytes()) {
            stream.end_life(now, left);
            // Those who have more than others tell them: the origin does not any more.
            stream.rounds = rounds;
        }
        self.sweep_later(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, membership: &Membership) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Acks => self.send_acks(now, membership),
                Timer::Ask(origin, epoch) => self.ask(now, &origin, epoch, membership),
                Timer::Remind(lane) => self.remind(now, lane),
                Timer::Plain => self.remind_voices(now, membership),
                Timer::Sweep => self.sweep(now),
                Timer::Tell => self.tell_acks(now, membership),
                Timer::Watch => self.renew_watch(now, membership),
            }
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

fn stream_have<'a>(origin: &'a [u8], stream: &stream::Stream) -> Have<'a> {
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
