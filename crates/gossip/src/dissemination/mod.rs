//! Reliable broadcast: every message reaches every live node, once, in its origin's order, and the origin knows when.
//!
//! The [algorithm](#the-algorithm) is told in whole at the end of this page: its states and messages, why it keeps its promise,
//! and where the promise ends.
//!
//! # On the wire
//!
//! A message is a memberlist user message: a JSON object with `key` and `value` at its top level, as any Go program in the
//! cluster reads and writes it. Its identity is in a field that other programs ignore ([`payload`]). Control messages
//! ([`control`]), which only nodes of this crate understand, go only to nodes that announce so: by the largest delegate
//! version in their "alive" messages ([`DELEGATE_MAX`]), which plain memberlist nodes agree on but do not use.
//!
//! # Dissemination
//!
//! A message is sent at once, along a tree over the members that each origin has for itself ([`ring`]): up to
//! [`FANOUT`](ring::FANOUT) members get it straight from the origin. Plain nodes get it straight from the origin, too, and
//! through a [`TransmitLimitedQueue`](crate::membership::TransmitLimitedQueue), as from a memberlist node. A message that
//! does not fit in a packet takes the same way over TCP.
//!
//! # Reliability
//!
//! | control message | from, to | says |
//! |---|---|---|
//! | `Ack` | receiver to an origin that knows no cookies | everything below this number is here; or a request where to start |
//! | `CookieAck` | receiver to origin | the same, with proof of who says it; or a request where to start |
//! | `Digest` | origin to who has not acknowledged; anybody in gossip and in push/pull exchanges | what there is, and what nobody needs any more |
//! | `RepairRequest` | who finds a gap, to who told of it, then the origin, then anybody | retransmit these |
//! | `Relay` | in front of messages that are passed on | how many hops they took, and who is next |
//! | `WatchAcks` | who wants to see acknowledgements, to each origin | report who acknowledges what ([`watch`]) |
//! | `AckReport` | origin to its watchers | these members have everything below these numbers |
//! | `ProxyPublish` | who receives a plain node's message, to that node's proxy ([`plain`]) | publish this for it |
//! | `Sender` | in front of any of these | who sends it, whatever address it comes from ([`challenges`]) |
//!
//! Each origin numbers its messages. A receiver requests what is missing when it finds a gap in the numbers, or hears from
//! a digest that there is more ([`repair`]). The origin keeps what members have not acknowledged, and reminds them
//! ([`publisher`]). If the origin fails, the others tell each other what they have.
//!
//! A node publishes in two lanes: its own messages, and those of plain nodes whose proxy it is. The lowest bit of an epoch
//! tells the two apart ([`lane`]).
//!
//! # What can go wrong
//!
//! - *Loss, duplication, reordering, a pause, a partition*: repaired, as long as anybody keeps what is missing. What nobody
//!   keeps any more is reported as [`Output::Missed`].
//! - *A member that does not keep up* holds the others back for the lag limit, and no longer.
//! - *Clocks that are days wrong, jump, or are set back before a restart*: if an epoch contradicts what a node knows, the
//!   node challenges the origin, whose response decides ([`challenges`]). A node that hears of a later epoch of its own
//!   before it has published anything begins one that is later still.
//! - *Packets that leave from another address than their node announces* count all the same.
//! - *Forgeries* (acknowledgements from strangers or of messages that were never sent, numbers far ahead, past or future
//!   epochs) are dropped and counted. Beyond that, gossip without encryption trusts its network.
//! - *A plain node that sends from another address than it announces* is named by the address that it sends from. If some of
//!   our nodes see one of its addresses and some another, its messages have two sources, and each of our nodes delivers both.
//!
//! # Modules
//!
//! | module | owns |
//! |---|---|
//! | [`publisher`] | what this node publishes ([`own_stream`], [`outbound`]), who has acknowledged it, and who watches that |
//! | [`receiver`] | what others publish ([`inbound`], [`origin_stream`]), and who they are ([`challenges`], [`member_history`]) |
//! | [`plain`] | what plain nodes publish and are sent, and what tells their messages apart ([`dedup`]) |
//! | [`tree`] | the [`ring`], and what is to be passed on along it |
//! | [`retransmit`] | the answers to repair requests |
//! | [`context`] | what all of them share: this node, its counts and timers, and what is to be done |
//!
//! [`Dissemination`] gives each input to the part that it is for ([`dispatch`]).
#![doc = include_str!("ALGORITHM.md")]

mod challenges;
mod context;
mod control;
mod counters;
mod dedup;
mod dispatch;
mod draft;
mod error;
mod flush;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gossip;
mod hash;
mod id;
mod inbound;
mod lane;
mod limits;
mod local_node;
mod member_history;
mod message;
mod origin_stream;
mod outbound;
mod output;
mod own_stream;
mod payload;
mod plain;
mod publisher;
mod quota;
mod receiver;
mod repair;
mod retransmit;
mod revision;
mod ring;
mod stats;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use self::{
    context::{Context, Timer},
    gossip::Cursors,
    lane::Lane,
    local_node::LocalNode,
    plain::PlainNodes,
    publisher::Publisher,
    receiver::Receiver,
    retransmit::Retransmitter,
    tree::Tree,
};
pub(crate) use self::{
    control::{MAGIC, PATH_KINDS, Route, TrafficClass},
    counters::Progress,
    draft::{Draft, PublishedMessage},
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

/// The dissemination's state machine: it takes messages, news of members and timeouts, and gives [`Output`]s. See the
/// [module](self).
#[derive(Debug)]
pub(crate) struct Dissemination {
    cx: Context,
    limits: Retention,
    publisher: Publisher,
    receiver: Receiver,
    plain: PlainNodes,
    tree: Tree,
    retransmitter: Retransmitter,
    cursors: Cursors,
}

impl Dissemination {
    /// `start` is when this node was started, in microseconds since 1970.
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
            local: LocalNode { name: me, epoch: epoch.max(1), started: now },
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
            retransmitter: Retransmitter::default(),
            cursors: Cursors::default(),
        }
    }

    /// For a cluster in which other nodes than ours do not understand these messages.
    pub(crate) fn without_plain_nodes(mut self) -> Self {
        self.plain.enabled = false;
        self
    }

    /// Whether there are live members that are not ours.
    pub(crate) fn has_plain(&mut self, membership: &Membership) -> bool {
        !self.tree.ring(membership).plain.is_empty()
    }

    /// The identity of the next message of this node.
    pub(crate) fn next_id(&self) -> MessageId {
        self.publisher.own().next_id()
    }

    /// Whether the log has room for one more message.
    pub(crate) fn has_room(&self) -> bool {
        self.publisher.own().outbound.has_room()
    }

    /// Appends a message of this node to the log; [`flush`](Self::flush) sends it.
    ///
    /// # Errors
    ///
    /// The log has no room for it.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
        draft: Draft,
        membership: &Membership,
    ) -> Result<PublishedMessage, PublishError> {
        if !self.has_room() {
            return Err(PublishError::WouldBlock);
        }
        self.cx.counters.published += 1;
        Ok(self.publisher.append(&mut self.cx, now, Lane::Own, draft, membership))
    }

    /// Makes this node know members from the beginning that nobody announced.
    pub(crate) fn acquaint(&mut self, now: Instant, cohort: Arc<Cohort>, membership: &Membership) {
        self.count_members(membership.proven_live());
        self.receiver.history.acquaint(now, cohort);
    }

    fn count_members(&mut self, live: usize) {
        self.tree.invalidate();
        self.cx.live = live;
    }

    /// A member is up: new, back, or at another address.
    pub(crate) fn member_up(&mut self, now: Instant, record: &Record, membership: &Membership) {
        self.count_members(membership.proven_live());
        self.receiver.member_up(now, record);
        self.publisher.member_up(&mut self.cx, now, record, membership);
    }

    /// A live member is proven: it has answered this node for the first time, or at a new address.
    ///
    /// A member that never answers must cost those that do as little as possible. Until it is proven, it is sent new
    /// messages by the origin itself as long as there are few like it ([`MAX_UNPROVEN`](limits::MAX_UNPROVEN)); publishers
    /// and receipts wait for it only until it lags; it passes nothing on, is nobody's proxy, and is sent no requests. What it
    /// may be owed is kept while there is room.
    pub(crate) fn member_proven(&mut self, now: Instant, record: &Record, membership: &Membership) {
        self.count_members(membership.proven_live());
        if is_ours(record.versions) {
            self.receiver.history.record_meeting(now, record);
        }
        self.publisher.member_proven(&mut self.cx, now, record, membership);
    }

    /// A member has failed or left.
    pub(crate) fn member_down(&mut self, now: Instant, name: &NodeName, left: bool, live: usize) {
        self.count_members(live);
        self.publisher.member_down(&mut self.cx, now, name, left);
        self.receiver.member_down(&mut self.cx, now, name, left);
        self.retransmitter.forget(name);
    }

    /// A member is sending something large over a stream, of which some came at that time; `None` when it has ended.
    pub(crate) fn note_bulk_sender(&mut self, bulk_sender: Option<(SocketAddr, Instant)>) {
        self.receiver.bulk_sender = bulk_sender;
    }

    /// Reports to the application from now on who has acknowledged which messages, first all that is known; or stops that.
    pub(crate) fn watch_acks(&mut self, now: Instant, wanted: bool, membership: &Membership) {
        self.publisher.watchers.set_wanted(&mut self.cx, now, wanted, membership);
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
                Timer::SendAcks => receiver.send_acks(cx, now, membership),
                Timer::Repair(origin, epoch) => {
                    if receiver.run_repair(cx, now, (&origin, epoch), membership) {
                        self.deliver(now);
                    }
                }
                Timer::Remind(lane) => publisher.remind(cx, now, lane),
                Timer::RetryProxies => plain.retry_proxies(cx, publisher, now, membership),
                Timer::Sweep => receiver.sweep(cx, now),
                Timer::ReportAcks => publisher.report_acks(cx, now, membership),
                Timer::RenewWatch => publisher.watchers.renew(cx, now, membership),
            }
        }
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }
}
