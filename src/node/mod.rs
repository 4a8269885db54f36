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

mod identity;
mod inspect;
mod join;
mod seal;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

pub(crate) use self::{identity::Advertised, inspect::Size, seal::KeyChange};
use self::{join::Seeds, seal::Sealer, streams::Stream};
use crate::{
    config::{Admission, Bounds, Limits, Seed, Tuning},
    dissemination::{self, Dissemination, Draft, Message, MessageId, Progress, PublishError, Route},
    membership::{self, Member, MemberState, Membership, NodeName, Output, Record, Target},
    timers::Timers,
    wire::{self, Address, Nonce, Versions, envelope::Envelope, packet},
};

/// What a node announces that it speaks.
pub(crate) const VERSIONS: Versions = [1, 5, 2, 0, dissemination::DELEGATE_MAX, 0];
/// How many parts a compound can have.
const MAX_PARTS: usize = u8::MAX as usize;
/// How long a leaving node waits for an answer to its view, while it knows of no other node, and for the
/// others to get what it has said.
const LEAVE_WAIT: Duration = Duration::from_millis(500);
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
    /// Messages cannot be had any more: nobody retains them. What their origin said after them follows.
    Missed {
        /// Who published them.
        origin: NodeName,
        /// Which life of it.
        epoch: u64,
        /// The number of the first one.
        from: u64,
        /// The number after the last one.
        to: u64,
    },
    /// A member has not kept up with what this node publishes for so long that it is not waited for any
    /// more. It may miss messages, and is told then.
    CutLoose(NodeName),
    /// This node can publish again, after [`PublishError::WouldBlock`].
    Room,
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
    /// A seed could not be reached, for about a second by now; it is tried again.
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
    /// Resolve a name, of a seed or of this node's own address, and report with [`Node::handle_lookup`].
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
    pub(crate) limits: Limits,
    pub(crate) bounds: Bounds,
    pub(crate) admission: Admission,
    /// Begin with what the others still retain.
    pub(crate) replay: bool,
    /// When this node starts, in microseconds since 1970.
    pub(crate) epoch: u64,
    /// Seeds the node's random choices.
    pub(crate) rng_seed: u64,
    pub(crate) envelope: Envelope,
    /// Where the nonces begin: at a place no other life of a node of this cluster begins at.
    pub(crate) nonce: Nonce,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Gossip,
    Seed(usize),
    Stream(StreamId),
    Leave,
    /// The name of this node's own address is to be resolved again.
    Advertise,
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
    /// As configured, but for the size of packets, which is without the envelope's part.
    tuning: Tuning,
    sealer: Sealer,
    bounds: Bounds,
    rng: Xoshiro256PlusPlus,
    membership: Membership,
    dissemination: Dissemination,
    seeds: Seeds,
    advertised: Option<Advertised>,
    /// Whether this node has been part of a cluster, or has none to join.
    ready: bool,
    streams: BTreeMap<StreamId, Stream>,
    next_stream: u64,
    rejections: Rejections,
    /// Whose turn it is to fill a packet first: the membership's, or the messages'.
    membership_first: bool,
    /// When something happened last.
    now: Instant,
    /// Somebody waits for room in the log.
    held_back: bool,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    /// The messages of the packet at hand, kept for its allocation.
    scratch: Vec<wire::Message>,
}

impl Node {
    pub(crate) fn new(now: Instant, config: NodeConfig) -> Self {
        let NodeConfig {
            name,
            address,
            meta,
            seeds,
            mut tuning,
            limits,
            bounds,
            admission,
            replay,
            epoch,
            rng_seed,
            envelope,
            nonce,
        } = config;
        tuning.udp_buffer_size -= envelope.packet_overhead();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut timers = Timers::new();
        timers.set(Timer::Gossip, now + tuning.gossip_interval.mul_f64(rng.random()));
        let setup = membership::Setup {
            me: name.clone(),
            address,
            meta,
            versions: VERSIONS,
            tuning: tuning.clone(),
            max_members: bounds.max_members,
            admission,
            rng_seed: rng.random(),
        };
        let mut node = Self {
            membership: Membership::new(now, setup),
            dissemination: Dissemination::new(now, name, epoch, &tuning, limits, replay, rng.random()),
            seeds: Seeds::new(seeds),
            advertised: None,
            tuning,
            sealer: Sealer::new(envelope, nonce),
            bounds,
            rng,
            ready: false,
            streams: BTreeMap::new(),
            next_stream: 0,
            rejections: Rejections { second: now, told: 0, untold: 0 },
            membership_first: true,
            now,
            held_back: false,
            timers,
            transmits: VecDeque::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            scratch: Vec::new(),
        };
        node.start_joining(now);
        node
    }

    /// Handles a datagram that came from `from`.
    pub(crate) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &Bytes) {
        self.now = now;
        let mut messages = std::mem::take(&mut self.scratch);
        match self.sealer.envelope.open_packet(data) {
            Ok(data) => {
                if let Err(error) = packet::decode(&data, &mut messages) {
                    self.reject(now, from, &error);
                }
            }
            Err(error) => self.reject(now, from, &format_args!("packet of {} bytes is not read: {error}", data.len())),
        }
        let mut route = Route::default();
        let mut changed = false;
        for message in messages.drain(..) {
            match message {
                wire::Message::User(payload) => {
                    // Who introduces itself, and goes on, is to be heard as the member it has become.
                    if std::mem::take(&mut changed) {
                        self.settle(now);
                    }
                    self.hear(now, from, &payload, &mut route);
                }
                message => {
                    changed = true;
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
        self.now = now;
        self.membership.handle_timeout(now);
        self.dissemination.handle_timeout(now, &self.membership);
        self.settle(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Gossip => self.gossip(now),
                Timer::Seed(index) => self.check_seed(now, index),
                Timer::Stream(id) => self.time_out_stream(now, id),
                Timer::Leave => self.say_good_bye(now),
                Timer::Advertise => self.resolve_own(now),
            }
        }
        self.settle(now);
    }

    /// Sends `value`, which is JSON, under `key` to every other node. See
    /// [`publish_draft`](Self::publish_draft).
    pub(crate) fn publish(&mut self, now: Instant, key: &str, value: &str) -> Result<MessageId, PublishError> {
        let draft = self.draft(key, value)?;
        self.publish_draft(now, draft)
    }

    /// A message of this node.
    ///
    /// # Errors
    ///
    /// It is too large, or `value` is not JSON.
    pub(crate) fn draft(&self, key: &str, value: &str) -> Result<Draft, PublishError> {
        Draft::checked(key, value, &self.me().name.to_string())
    }

    /// Sends a message to every other node; it is on its way when the node has been drained.
    ///
    /// A node that has left is no member to the others any more, and publishes nothing; nor does one that
    /// learned that its name is another's, since what it says would be taken for the other's.
    ///
    /// # Errors
    ///
    /// See there; or the log has no room, which [`Event::Room`] will tell.
    pub(crate) fn publish_draft(&mut self, now: Instant, draft: Draft) -> Result<MessageId, PublishError> {
        self.now = now;
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let published = self.dissemination.publish(now, draft, &self.membership);
        self.held_back |= published == Err(PublishError::WouldBlock);
        published
    }

    /// Whether the log has room for one more message.
    pub(crate) fn has_room(&self) -> bool {
        self.dissemination.has_room()
    }

    /// How far the cluster is with what this node publishes.
    pub(crate) fn progress(&mut self) -> Progress {
        self.dissemination.progress(&self.membership)
    }

    /// How many members have a message of this node, and which do not, of those that are waited for.
    pub(crate) fn reached(&self, seq: u64) -> (usize, Vec<NodeName>) {
        self.dissemination.reached(seq)
    }

    /// The identity of the next message of this node.
    pub(crate) fn next_id(&self) -> MessageId {
        self.dissemination.next_id()
    }

    /// This node's life, as its messages have it.
    pub(crate) fn epoch(&self) -> u64 {
        self.next_id().epoch
    }

    /// Why nothing can be published, apart from a lack of room.
    pub(crate) fn refusal(&self) -> Option<PublishError> {
        if self.membership.has_left() || self.timers.get(&Timer::Leave).is_some() {
            Some(PublishError::Stopped)
        } else {
            self.seeds.name_taken().then_some(PublishError::NameTaken)
        }
    }

    /// Takes what another node's application said, or its dissemination.
    fn hear(&mut self, now: Instant, from: SocketAddr, payload: &Bytes, route: &mut Route) {
        if let Err(unusable) = self.dissemination.handle(now, from, payload, route, &self.membership) {
            self.reject(now, from, &unusable);
        }
    }

    /// Tells the others that this node leaves; [`Event::LeaveComplete`] says when they have been told.
    ///
    /// One that has asked to join may have been let in already, and hears with the answer by whom; one that
    /// has said something waits until the others have it. Neither for long.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.seeds.stop();
        if !self.membership.has_left() && self.timers.get(&Timer::Leave).is_none() {
            self.timers.set(Timer::Leave, now + LEAVE_WAIT);
        }
        self.settle(now);
    }

    /// What a leaving node waits for may have come.
    fn leave_if_ready(&mut self, now: Instant) {
        let alone = self.membership.live() == 1 && self.is_joining();
        let unheard = !self.dissemination.is_settled() && !self.seeds.name_taken();
        if self.timers.get(&Timer::Leave).is_some() && !alone && !unheard {
            self.say_good_bye(now);
        }
    }

    fn say_good_bye(&mut self, now: Instant) {
        self.timers.cancel(&Timer::Leave);
        // A node whose name is another's was never let in; its good-bye would be taken for the other's.
        let silent = self.seeds.name_taken();
        self.membership.leave(now, silent);
    }

    /// Every member that is alive or suspect, this node first.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.membership.members()
    }

    /// The next datagram to send. The first call after something has happened puts together what came of
    /// all that has happened, so that much fits in few datagrams.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.transmits.is_empty() {
            self.flush();
        }
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
        let rooms = [self.membership.poll_timeout(), self.dissemination.poll_timeout(), self.timers.next()];
        rooms.into_iter().flatten().min()
    }

    fn me(&self) -> &Record {
        self.membership.me()
    }

    fn gossip(&mut self, now: Instant) {
        self.timers.set(Timer::Gossip, now + self.tuning.gossip_interval);
        if self.membership.has_queued() || self.dissemination.has_gossip() {
            for target in self.membership.gossip_targets(now) {
                let mut parts = Vec::new();
                self.fill(target, self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD, &mut parts);
                self.transmit(target, &parts);
            }
        }
        self.membership.after_gossip();
        self.dissemination.after_gossip();
    }

    /// Brings the next round of gossip forward, so that a newcomer is known everywhere at once.
    fn gossip_soon(&mut self, now: Instant) {
        let soon = now + self.tuning.gossip_interval / 10;
        if self.timers.get(&Timer::Gossip).is_none_or(|at| at > soon) {
            self.timers.set(Timer::Gossip, soon);
        }
    }

    /// Fills a packet with what is queued. The membership and the dissemination take turns in going first,
    /// and the first leaves a quarter to the second, so that neither starves the other.
    fn fill(&mut self, target: Target, budget: usize, parts: &mut Vec<Bytes>) {
        self.membership_first = !self.membership_first;
        // Something said before the name was found to be another's is not said any more.
        if self.seeds.name_taken() || !self.dissemination.has_gossip() {
            self.membership.fill(budget, parts);
            return;
        }
        let share = if self.membership.has_queued() { budget - budget / 4 } else { budget };
        if self.membership_first {
            let mut used = self.membership.fill(share, parts);
            if used == 0 {
                used = self.membership.fill(budget, parts);
            }
            self.dissemination.fill(target, budget - used, parts);
        } else {
            let mut used = self.dissemination.fill(target, share, parts);
            if used == 0 {
                used = self.dissemination.fill(target, budget, parts);
            }
            self.membership.fill(budget - used, parts);
        }
    }

    fn transmit(&mut self, target: Target, parts: &[Bytes]) {
        for parts in parts.chunks(MAX_PARTS) {
            let payload = packet::encode(parts, false, self.has_checksum(target));
            let payload = self.sealer.packet(payload);
            self.transmits.push_back(Transmit { to: target.addr, payload });
        }
    }

    /// A checksum is put in packets for whoever reads it, unless they are encrypted, which does the same.
    fn has_checksum(&self, target: Target) -> bool {
        target.checksum && !self.sealer.envelope.encrypts()
    }

    /// Sends messages in as few packets as possible to each of some nodes, `route` in front of each packet.
    /// A packet is put together once, however many get it.
    fn broadcast(&mut self, to: &[Target], route: Option<Bytes>, messages: Vec<Bytes>) {
        let budget = self.tuning.udp_buffer_size - packet::COMPOUND_OVERHEAD;
        let cost = |part: &Bytes| part.len() + packet::PART_OVERHEAD;
        let head = route.as_ref().map_or(0, cost);
        let (mut packets, mut parts, mut used) = (Vec::new(), Vec::new(), 0);
        for message in messages {
            let message_cost = cost(&message);
            if used + message_cost > budget || parts.len() == MAX_PARTS {
                packets.push(std::mem::take(&mut parts));
            }
            if parts.is_empty() {
                parts.extend(route.clone());
                used = head;
            }
            used += message_cost;
            parts.push(message);
        }
        packets.push(parts);
        for checksum in [true, false] {
            let to: Vec<_> = to.iter().filter(|target| self.has_checksum(**target) == checksum).collect();
            if to.is_empty() {
                continue;
            }
            let close = |parts: &Vec<_>| self.sealer.packet(packet::encode(parts, false, checksum));
            let payloads: Vec<Bytes> = packets.iter().map(close).collect();
            for target in to {
                let datagrams = payloads.iter().map(|payload| Transmit { to: target.addr, payload: payload.clone() });
                self.transmits.extend(datagrams);
            }
        }
    }

    /// Sends what came of all that has happened.
    fn flush(&mut self) {
        if !self.seeds.name_taken() {
            self.dissemination.flush(self.now, &self.membership);
        }
        self.carry_out();
    }

    /// Carries out what the dissemination wants done.
    fn carry_out(&mut self) {
        while let Some(output) = self.dissemination.poll_output() {
            match output {
                dissemination::Output::Packets { to, route, messages } => self.broadcast(&to, route, messages),
                dissemination::Output::Stream { to, message } => self.tell_over_stream(self.now, to, &message),
                dissemination::Output::Deliver(message) => self.events.push_back(Event::Message(message)),
                dissemination::Output::Missed { origin, epoch, seqs } => {
                    self.events.push_back(Event::Missed { origin, epoch, from: seqs.start, to: seqs.end });
                }
                dissemination::Output::CutLoose(name) => self.events.push_back(Event::CutLoose(name)),
            }
        }
        if self.held_back && self.dissemination.has_room() {
            self.held_back = false;
            self.events.push_back(Event::Room);
        }
    }

    /// Carries out what the membership wants done.
    fn settle(&mut self, now: Instant) {
        self.now = now;
        self.leave_if_ready(now);
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
                Output::StreamPing { to, ping } => self.ping_over_stream(now, to, ping),
                Output::Event(event) => self.tell(now, event),
            }
        }
        self.carry_out();
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
        match &event {
            Event::Joined(member) | Event::Updated(member) => {
                if let Some(record) = self.membership.get(member.name.as_bytes()).filter(|record| record.is_live()) {
                    self.dissemination.member_up(now, record, self.membership.live());
                }
                self.gossip_soon(now);
            }
            Event::Left(member) | Event::Failed(member) => {
                let left = member.state == MemberState::Left;
                self.dissemination.member_down(now, &member.name, member.addr, left, self.membership.live());
                self.look_for_seeds(now);
            }
            _ => {}
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
