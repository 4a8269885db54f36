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
mod counters;
mod dedup;
mod draft;
mod error;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gossip;
mod hash;
mod hearing;
mod id;
mod inbound;
mod limits;
mod message;
mod outbound;
mod output;
mod payload;
mod plain;
mod reminders;
mod repair;
mod revision;
mod ring;
mod spread;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use self::{
    contacts::Contacts,
    control::Have,
    dedup::DedupWindow,
    inbound::Inbound,
    limits::{FAILED_GRACE, LEFT_GRACE},
    outbound::Outbound,
    revision::is_named,
    ring::Ring,
    watch::Watching,
};
pub(crate) use self::{
    control::{MAGIC, PATH_KINDS, Route, Talk},
    counters::Progress,
    draft::{Draft, Published},
    output::Output,
    revision::{DELEGATE_MAX, is_ours},
};
pub use self::{
    counters::{Counters, Position},
    draft::PublishError,
    id::MessageId,
    message::Message,
    output::Acks,
};
use crate::{
    config::{Limits, Tuning},
    membership::{MemberState, Membership, NodeName, Record, TransmitLimitedQueue, digits},
    timers::Timers,
};

/// How many messages wait to be repeated to plain nodes at most.
const QUEUE_CAPACITY: usize = 4096;
/// How far a node's clock may be ahead of this one's, in microseconds: a day.
const CLOCK_TOLERANCE: u64 = 24 * 60 * 60 * 1_000_000;

/// Whether two lives are of the same stream of a node: its own, or the one in which it passes on what
/// plain nodes say.
fn same_lane(one: u64, other: u64) -> bool {
    (one ^ other) & 1 == 0
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
    dedup: DedupWindow,
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
            rng: Xoshiro256PlusPlus::seed_from_u64(rng_seed),
            outbound: [Outbound::new(now, epoch, limits), Outbound::new(now, epoch | 1, limits)],
            active: [false; 2],
            rounds: [0; 2],
            told_floor: [0; 2],
            inbound: Inbound::new(limits, replay),
            contacts: Contacts::default(),
            live: 1,
            dedup: DedupWindow::default(),
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
    ) -> Result<Published, PublishError> {
        if !self.has_room() {
            return Err(PublishError::WouldBlock);
        }
        self.counters.published += 1;
        Ok(self.append(now, Lane::Own, draft, membership))
    }

    fn append(&mut self, now: Instant, lane: Lane, draft: Draft, membership: &Membership) -> Published {
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
        let published = draft.publish(self.me.clone(), id);
        outbound.push(published.message.clone());
        published
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
