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
//! [`FANOUT`](ring::FANOUT) members get it straight from the origin. Plain nodes get it straight as well, and through a
//! [`TransmitLimitedQueue`](crate::membership::TransmitLimitedQueue), as they would from a memberlist node. A message that does not fit in a
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
//! | `By` | in front of any of these | who says it, wherever it comes from ([`questions`]) |
//! | `Receipt` | as `Ack` | the same, with what proves it; or a question |
//!
//! Each origin numbers its messages; a gap in the numbers, or a `Have` that goes further than what is
//! here, is asked for ([`repair`]). The origin keeps what members have not acknowledged and reminds them
//! ([`publisher`]); should it fail, the others tell each other what they have.
//!
//! A node may speak in two streams: its own, and one as the voice of plain nodes. The lowest bit of an
//! epoch tells them apart ([`lane`]).
//!
//! # What can go wrong
//!
//! - *Loss, duplication, reordering, a pause, a partition*: repaired, as long as anybody has what is
//!   missing. What nobody has any more is told, as [`Output::Missed`].
//! - *A member that does not keep up* holds back the others for the lag limit and no longer.
//! - *Clocks that are days wrong, jump, or are set back before a restart*: a life that does not fit what is known
//!   is asked for, and its origin's answer decides ([`questions`]). A node that hears of a later life of its own
//!   before it has said anything begins a later one still.
//! - *Packets that leave from another address than their node announces*: what they say counts all the same.
//! - *Forgeries* (acknowledgements from strangers or of messages never sent, numbers far ahead, former or
//!   future lives): dropped and told. Gossip without encryption trusts its network for the rest.
//! - *A plain node that sends from another address than it announces*, having several, is named by the
//!   address it sends from. Where it has one for some of ours and another for others, they take what it
//!   says for the words of two nodes, and each delivers both.
//!
//! # Who owns what
//!
//! | part | owns |
//! |---|---|
//! | [`publisher`] | what this node says ([`own_stream`], [`outbound`]), who has acknowledged it, and who watches that |
//! | [`receiver`] | what others say ([`inbound`], [`stream`]), and who they are ([`questions`], [`acquaintances`]) |
//! | [`plain`] | what plain nodes say and are told, and what tells their messages apart ([`dedup`]) |
//! | [`tree`] | the [`ring`], and what is to be passed on along it |
//! | [`supply`] | what is given to who asks for it |
//! | [`context`] | what all of them share: this node, its counters, what is due when, and what is wanted done |
//!
//! [`Dissemination`] hands what comes to the part that it is for.

mod acquaintances;
mod context;
mod control;
mod counters;
mod dedup;
mod draft;
mod error;
mod figures;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gossip;
mod handle;
mod hash;
mod id;
mod inbound;
mod lane;
mod limits;
mod me;
mod message;
mod outbound;
mod output;
mod own_stream;
mod payload;
mod plain;
mod publisher;
mod questions;
mod quota;
mod receiver;
mod repair;
mod revision;
mod ring;
mod spread;
mod stream;
mod supply;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use self::{
    context::{Context, Timer},
    lane::Lane,
    me::Me,
    plain::PlainNodes,
    publisher::Publisher,
    receiver::Receiver,
    supply::Supply,
    tree::Tree,
};
pub(crate) use self::{
    control::{MAGIC, PATH_KINDS, Route, Talk},
    counters::Progress,
    draft::{Draft, Published},
    output::Output,
    revision::{DELEGATE_MAX, is_ours, probes_paths, tells_info},
};
pub use self::{
    counters::{MessageCounts, StreamPosition},
    draft::PublishError,
    id::MessageId,
    message::Message,
    output::Acks,
};
use crate::{
    config::{Retention, Tuning},
    membership::{Cohort, Membership, NodeName, Record},
    timers::Timers,
};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Dissemination {
    cx: Context,
    limits: Retention,
    publisher: Publisher,
    receiver: Receiver,
    plain: PlainNodes,
    tree: Tree,
    supply: Supply,
}

impl Dissemination {
    /// `start` is when this node started, in microseconds since 1970.
    pub(crate) fn new(
        now: Instant,
        me: NodeName,
        start: u64,
        tuning: &Tuning,
        limits: Retention,
        replay: bool,
        rng_seed: u64,
    ) -> Self {
        let epoch = start.min(u64::MAX / 4) * 2;
        let cx = Context {
            me: Me { name: me, life: epoch.max(1), started: now },
            tuning: tuning.clone(),
            live: 1,
            rng: Xoshiro256PlusPlus::seed_from_u64(rng_seed),
            counters: MessageCounts::default(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
        };
        Self {
            cx,
            limits,
            publisher: Publisher::new(now, epoch, limits),
            receiver: Receiver::new(limits, replay),
            plain: PlainNodes::new(tuning.retransmit_mult),
            tree: Tree::default(),
            supply: Supply::default(),
        }
    }

    /// The same, where other nodes than ours understand nothing of it.
    pub(crate) fn among_ours(mut self) -> Self {
        self.plain.told = false;
        self
    }

    /// Whether there are live members that are none of ours.
    pub(crate) fn has_plain(&mut self, membership: &Membership) -> bool {
        !self.tree.ring(membership).plain.is_empty()
    }

    /// The identity of the next message of this node.
    pub(crate) fn next_id(&self) -> MessageId {
        self.publisher.own().next_id()
    }

    /// Whether the log takes one more message.
    pub(crate) fn has_room(&self) -> bool {
        self.publisher.own().outbound.has_room()
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
        self.cx.counters.published += 1;
        Ok(self.publisher.append(&mut self.cx, now, Lane::Own, draft, membership))
    }

    /// These members are there from the beginning, whom nobody announced.
    pub(crate) fn acquaint(&mut self, now: Instant, cohort: Arc<Cohort>, membership: &Membership) {
        self.count_members(membership.proven_live());
        self.receiver.acquaintances.acquaint(now, cohort);
    }

    fn count_members(&mut self, live: usize) {
        self.tree.lay_out_anew();
        self.cx.live = live;
    }

    /// A member is there, for the first time, again, or at another address.
    pub(crate) fn member_up(&mut self, now: Instant, record: &Record, membership: &Membership) {
        self.count_members(membership.proven_live());
        self.receiver.member_up(now, record);
        self.publisher.member_up(&mut self.cx, now, record, membership);
    }

    /// A live member has answered this node for the first time, or at a new address. Before that it costs those
    /// that answer nothing: it gets what is new straight from here, as long as there are few of its kind
    /// ([`NEWCOMERS`](limits::NEWCOMERS)), but passes nothing on, is no voice, and is asked for nothing; publishers and
    /// receipts do not wait for it, while what it may turn out to be owed is kept as there is room.
    pub(crate) fn member_proven(&mut self, now: Instant, record: &Record, membership: &Membership) {
        self.count_members(membership.proven_live());
        if is_ours(record.versions) {
            self.receiver.acquaintances.meet(now, record);
        }
        self.publisher.member_proven(&mut self.cx, now, record, membership);
    }

    /// A member has failed, or has left.
    pub(crate) fn member_down(&mut self, now: Instant, name: &NodeName, left: bool, live: usize) {
        self.count_members(live);
        self.publisher.member_down(&mut self.cx, now, name, left);
        self.receiver.member_down(&mut self.cx, now, name, left);
        self.supply.forget(name);
    }

    /// Some of what is large has come from a member over a stream; without one, it has come to its end.
    pub(crate) fn note_bringer(&mut self, bringer: Option<(SocketAddr, Instant)>) {
        self.receiver.bringer = bringer;
    }

    /// Tells the application from now on who has acknowledged what of whose messages, beginning with all that
    /// is known; or does so no longer.
    pub(crate) fn watch_acks(&mut self, now: Instant, wanted: bool, membership: &Membership) {
        self.publisher.watchers.want(&mut self.cx, now, wanted, membership);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.cx.timers.next()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant, membership: &Membership) {
        while let Some(timer) = self.cx.timers.pop(now) {
            let Self { cx, publisher, receiver, plain, .. } = self;
            match timer {
                Timer::Acks => receiver.send_acks(cx, now, membership),
                Timer::Ask(origin, epoch) => {
                    if receiver.ask(cx, now, (&origin, epoch), membership) {
                        self.deliver(now);
                    }
                }
                Timer::Remind(lane) => publisher.remind(cx, now, lane),
                Timer::Plain => plain.remind_voices(cx, publisher, now, membership),
                Timer::Sweep => receiver.sweep(cx, now),
                Timer::Tell => publisher.tell_acks(cx, now, membership),
                Timer::Watch => publisher.watchers.renew(cx, now, membership),
            }
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }
}
