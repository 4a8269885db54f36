//! One node: membership and dissemination behind a few verbs, without clock, socket or task.
//!
//! # Contract
//!
//! Whoever drives a [`Node`] hands it what happens (`handle_*`, [`publish`](Node::publish),
//! [`leave`](Node::leave)), always with the time, and then drains what came of it:
//! [`poll_transmit`](Node::poll_transmit), [`poll_action`](Node::poll_action) and
//! [`poll_event`](Node::poll_event) until each gives `None`, and [`poll_timeout`](Node::poll_timeout)
//! for when to call [`handle_timeout`](Node::handle_timeout) next. One mutation, then drain.
//!
//! # What can go wrong
//!
//! - *A flood of unusable input*: what was wrong is told for the first few of each second, and counted
//!   for the rest.
//! - *Streams that never end*: each has a deadline, and all together may hold so many bytes.

mod inspect;
mod join;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

pub(crate) use self::inspect::Size;
use self::{join::Seeds, streams::Stream};
use crate::{
    config::{Seed, Tuning},
    dissemination::{self, Dissemination, Heard, Message, MessageId, PublishError},
    membership::{self, Member, Membership, NodeName, Output, Record, Target},
    timers::Timers,
    wire::{self, Address, Versions, packet},
};

/// What a node announces that it speaks.
pub(crate) const VERSIONS: Versions = [1, 5, 2, 0, dissemination::DELEGATE_MAX, 0];
/// How many parts a compound can have.
const MAX_PARTS: usize = u8::MAX as usize;
/// Of how many unusable inputs a second the application is told.
const REJECTIONS_PER_SECOND: u32 = 10;

/// Something the application wants to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A member came, or came back.
    Joined(Member),
    /// A member said good-bye.
    Left(Member),
    /// A member stopped answering.
    Failed(Member),
    /// A member changed its metadata or its address.
    Updated(Member),
    /// Another node published something.
    Message(Message),
    /// Two live nodes claim the same name.
    NameConflict {
        /// The name.
        name: NodeName,
        /// Who has it, as far as this node knows.
        holder: SocketAddr,
        /// Who claims it too.
        claimant: SocketAddr,
    },
    /// This node has joined the cluster: a seed answered, or there are none to ask.
    Ready,
    /// A seed could not be reached; it is tried again.
    SeedUnreachable {
        /// The seed, as configured.
        seed: Seed,
        /// What went wrong.
        reason: String,
    },
    /// Something arrived that cannot be used, and was dropped. Told for the first ten a second.
    Rejected {
        /// Who sent it.
        from: SocketAddr,
        /// What was wrong with it.
        reason: String,
        /// How many more were dropped since the last time this was told, untold.
        untold: u64,
    },
    /// This node has told the others that it leaves, as far as they can be told.
    LeaveComplete,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub(crate) struct Transmit {
    pub(crate) to: SocketAddr,
    pub(crate) payload: Bytes,
}

/// A stream between this node and another, as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// Something to be done outside.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Open a stream. What is written to it meanwhile is sent once it stands.
    Connect { id: StreamId, to: SocketAddr },
    /// Send bytes on a stream.
    Write { id: StreamId, data: Bytes },
    /// Send what was written, then end the stream. Nothing more is wanted from it.
    Close { id: StreamId },
    /// Resolve a seed's name, and report with [`Node::handle_lookup`].
    Lookup { seed: Seed },
}

/// What happened on a stream.
#[derive(Clone, Debug)]
pub(crate) enum StreamInput<'a> {
    /// Bytes arrived.
    Data(&'a [u8]),
    /// The other side will send no more.
    Closed,
    /// The stream could not be opened, or broke.
    Failed(String),
}

/// What a node needs to know, once the outside is settled.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) name: NodeName,
    pub(crate) address: Address,
    pub(crate) meta: Bytes,
    pub(crate) seeds: Vec<Seed>,
    pub(crate) tuning: Tuning,
    /// Which life of this node it is: later starts have larger ones.
    pub(crate) epoch: u64,
    /// Seeds the node's random choices.
    pub(crate) rng_seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Gossip,
    Seed(usize),
    Stream(StreamId),
}

/// How often the application was told of unusable input, in the present second.
#[derive(Debug)]
struct Rejections {
    second: Instant,
    told: u32,
    untold: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Node {
    tuning: Tuning,
    rng: Xoshiro256PlusPlus,
    membership: Membership,
    dissemination: Dissemination,
    seeds: Seeds,
    /// Whether this node has been part of a cluster, or has none to join.
    ready: bool,
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    rejections: Rejections,
    /// Whose turn it is to fill a packet first: the membership's, or the messages'.
    membership_first: bool,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    /// The messages of the packet at hand, kept for its allocation.
    scratch: Vec<wire::Message>,
    /// How many copies of messages have arrived.
    copies: u64,
}

impl Node {
    pub(crate) fn new(now: Instant, config: NodeConfig) -> Self {
        let NodeConfig { name, address, meta, seeds, tuning, epoch, rng_seed } = config;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut timers = Timers::new();
        timers.set(Timer::Gossip, now + tuning.gossip_interval.mul_f64(rng.random()));
        let mut node = Self {
            membership: Membership::new(now, name.clone(), address, meta, VERSIONS, tuning.clone(), rng.random()),
            dissemination: Dissemination::new(name, epoch, &tuning),
            seeds: Seeds::new(seeds),
            tuning,
            rng,
            ready: false,
            streams: BTreeMap::new(),
            next_stream: 0,
            rejections: Rejections { second: now, told: 0, untold: 0 },
            membership_first: true,
            timers,
            transmits: VecDeque::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            scratch: Vec::new(),
            copies: 0,
        };
        node.start_joining(now);
        node
    }

    /// Handles a datagram that came from `from`.
    pub(crate) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &Bytes) {
        let mut messages = std::mem::take(&mut self.scratch);
        if let Err(error) = packet::decode(data, &mut messages) {
            self.reject(now, from, &error);
        }
        for message in messages.drain(..) {
            match message {
                wire::Message::User(payload) => self.hear(now, from, &payload),
                message => {
                    if let Err(refusal) = self.membership.handle(now, from, message) {
                        self.reject(now, from, &refusal);
                    }
                }
            }
        }
        self.scratch = messages;
        self.settle(now);
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.membership.handle_timeout(now);
        self.settle(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Gossip => self.gossip(now),
                Timer::Seed(index) => self.check_seed(now, index),
                Timer::Stream(id) => self.time_out_stream(now, id),
            }
        }
        self.settle(now);
    }

    /// Sends `value`, which is JSON, under `key` to every other node. A node that has left is no member
    /// to the others any more, and publishes nothing.
    pub(crate) fn publish(&mut self, key: &str, value: &str) -> Result<MessageId, PublishError> {
        if self.membership.has_left() {
            return Err(PublishError::Stopped);
        }
        let (id, message) = self.dissemination.publish(key, value)?;
        self.spread(&message, |_| true);
        Ok(id)
    }

    /// Sends a message at once to the plain nodes, who pass nothing on, and to some of ours, who do.
    fn spread(&mut self, message: &Bytes, wanted: impl Fn(&Record) -> bool) {
        let live = self.membership.others().filter(|record| record.is_live() && wanted(record));
        let (mut ours, plain): (Vec<Target>, Vec<Target>) =
            live.map(Target::from).partition(|target| dissemination::is_ours(target.versions));
        // Beyond the fan-out, chance decides whom of ours; they tell the others.
        let (chosen, _) = ours.partial_shuffle(&mut self.rng, dissemination::FANOUT);
        let targets: Vec<Target> = plain.iter().chain(&*chosen).copied().collect();
        for target in targets {
            self.transmit(target, std::slice::from_ref(message));
        }
    }

    /// Takes what another node's application said.
    fn hear(&mut self, now: Instant, from: SocketAddr, payload: &Bytes) {
        self.copies += 1;
        let members = &self.membership;
        let sender = || members.others().find(|record| record.addr() == from).map(|record| record.name.clone());
        match self.dissemination.handle(now, from, sender, payload) {
            Ok(Heard::Known) => {}
            Ok(Heard::New { message, relay }) => {
                self.events.push_back(Event::Message(message));
                if let Some(relay) = relay {
                    // Plain nodes hear a plain node by themselves.
                    self.spread(&relay, |record| dissemination::is_ours(record.versions));
                }
            }
            Err(unusable) => self.reject(now, from, &unusable),
        }
    }

    /// Tells the others that this node leaves; [`Event::LeaveComplete`] says when they have been told.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.seeds.stop();
        // A node whose name is another's was never let in; its good-bye would be taken for the other's.
        let silent = self.seeds.name_taken();
        self.membership.leave(now, silent);
        self.settle(now);
    }

    /// Every member that is alive or suspect, this node first.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.membership.members()
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to tell the application.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.membership.poll_timeout().into_iter().chain(self.timers.next()).min()
    }

    fn me(&self) -> &Record {
        self.membership.me()
    }

    fn gossip(&mut self, now: Instant) {
        self.timers.set(Timer::Gossip, now + self.tuning.gossip_interval);
        if self.membership.has_queued() || self.dissemination.has_queued() {
            for target in self.membership.gossip_targets(now) {
                let mut parts = Vec::new();
                self.fill(target, self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD, &mut parts);
                self.transmit(target, &parts);
            }
        }
        self.membership.after_gossip();
    }

    /// Fills a packet with what is queued. The membership and the messages take turns in going first,
    /// and the first leaves a quarter to the second, so that neither starves the other.
    fn fill(&mut self, target: Target, budget: usize, parts: &mut Vec<Bytes>) {
        self.membership_first = !self.membership_first;
        let messages_wanted = dissemination::is_ours(target.versions) && self.dissemination.has_queued();
        let n = self.membership.live();
        if !messages_wanted {
            self.membership.fill(budget, parts);
            return;
        }
        let share = if self.membership.has_queued() { budget - budget / 4 } else { budget };
        if self.membership_first {
            let mut used = self.membership.fill(share, parts);
            if used == 0 {
                used = self.membership.fill(budget, parts);
            }
            self.dissemination.fill(n, budget - used, parts);
        } else {
            let mut used = self.dissemination.fill(n, share, parts);
            if used == 0 {
                used = self.dissemination.fill(n, budget, parts);
            }
            self.membership.fill(budget - used, parts);
        }
    }

    fn transmit(&mut self, target: Target, parts: &[Bytes]) {
        for parts in parts.chunks(MAX_PARTS) {
            let payload = packet::encode(parts, false, target.checksum);
            self.transmits.push_back(Transmit { to: target.addr, payload });
        }
    }

    /// Carries out what the membership wants done.
    fn settle(&mut self, now: Instant) {
        while let Some(output) = self.membership.poll_output() {
            match output {
                Output::Packet { to, messages: mut parts, piggyback } => {
                    if piggyback {
                        let used: usize = parts.iter().map(|part| part.len() + packet::PART_OVERHEAD).sum();
                        let budget = self.tuning.udp_buffer_size.saturating_sub(packet::COMPOUND_OVERHEAD + used);
                        self.fill(to, budget, &mut parts);
                    }
                    self.transmit(to, &parts);
                }
                Output::PushPull { to } => self.push_pull(now, to, None),
                Output::Event(event) => self.tell(now, event),
            }
        }
        if !self.ready && self.membership.live() > 1 && !self.seeds.name_taken() {
            self.set_ready();
        }
    }

    fn tell(&mut self, now: Instant, event: membership::Event) {
        let event = match event {
            membership::Event::Joined(member) => Event::Joined(member),
            membership::Event::Left(member) => Event::Left(member),
            membership::Event::Failed(member) => Event::Failed(member),
            membership::Event::Updated(member) => Event::Updated(member),
            membership::Event::NameConflict { name, holder, claimant } => {
                Event::NameConflict { name, holder, claimant }
            }
            membership::Event::LeaveComplete => Event::LeaveComplete,
        };
        if matches!(event, Event::Left(_) | Event::Failed(_)) {
            self.look_for_seeds(now);
        }
        self.events.push_back(event);
    }

    fn set_ready(&mut self) {
        self.ready = true;
        self.events.push_back(Event::Ready);
    }

    fn reject(&mut self, now: Instant, from: SocketAddr, reason: &dyn std::fmt::Display) {
        let rejections = &mut self.rejections;
        if now.saturating_duration_since(rejections.second) >= Duration::from_secs(1) {
            (rejections.second, rejections.told) = (now, 0);
        }
        if rejections.told == REJECTIONS_PER_SECOND {
            rejections.untold += 1;
            return;
        }
        rejections.told += 1;
        let untold = std::mem::take(&mut rejections.untold);
        self.events.push_back(Event::Rejected { from, reason: reason.to_string(), untold });
    }
}
