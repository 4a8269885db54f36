//! One node: membership and dissemination behind a few verbs, without clock, socket or task.
//!
//! # Contract
//!
//! Whoever drives a [`Node`] hands it what happens (`handle_*`, [`publish`](Node::publish),
//! [`leave`](Node::leave)), always with the time, and then drains what came of it:
//! [`poll_transmit`](Node::poll_transmit), [`poll_action`](Node::poll_action),
//! [`poll_message`](Node::poll_message) and [`poll_event`](Node::poll_event) until each gives `None`, and [`poll_timeout`](Node::poll_timeout)
//! for when to call [`handle_timeout`](Node::handle_timeout) next. One mutation, then drain.
//!
//! # What can go wrong
//!
//! - *A flood of unusable input*: what was wrong is told for the first few of each second, and counted
//!   for the rest.
//! - *Streams that never end*: each has a deadline, and all together may hold so many bytes.

mod config;
mod identity;
mod info;
#[cfg(any(test, feature = "sim"))]
mod inspect;
mod join;
mod metrics;
mod overview;
mod packets;
mod paths;
mod rejections;
mod seal;
mod send_queue;
mod sent;
mod serf;
mod settle;
mod streams;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

#[cfg(any(test, feature = "sim"))]
pub(crate) use self::inspect::Size;
pub use self::{
    config::NodeConfig,
    identity::{AddressGuess, AdvertisedHost},
    metrics::{Gauges, LimitCounts, Metrics, RejectionCounts, Traffic},
    overview::{Health, MemberOverview, Overview},
    seal::KeyChange,
    sent::Sent,
};
use self::{
    info::Infos,
    join::Seeds,
    paths::Paths,
    rejections::{Cause, Rejections},
    seal::Sealer,
    send_queue::SendQueues,
    serf::Place,
    streams::Stream,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::{info::fuzzing, paths::parts_of};
pub use crate::event::{Event, Reach};
use crate::{
    config::{Config, ResourceLimits, Seed, Tuning},
    dissemination::{self, Acks, Dissemination, Draft, Message, MessageId, Progress, PublishError, Published, Route},
    membership::{Belief, Member, Membership, NodeName, Record},
    timers::Timers,
    wire::{self, Versions, envelope::Envelope, limits::StreamLimits, packet},
};

/// What a node announces that it speaks.
pub(crate) const VERSIONS: Versions = [1, 5, 2, 0, dissemination::DELEGATE_MAX, 0];
/// The pings in one packet that are answered. memberlist sends one; each is answered by a packet of its own,
/// and whoever forges an address is not to have more sent there than it takes to ask for it.
const MAX_PINGS: usize = 3;
/// How many parts a compound can have.
const MAX_PARTS: usize = u8::MAX as usize;

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// To where.
    pub to: SocketAddr,
    /// What.
    pub payload: Bytes,
}

/// A stream between this node and another, as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u64);

/// Something to be done outside.
#[derive(Clone, Debug)]
pub enum Action {
    /// Open a stream. What is written to it meanwhile is sent once it stands.
    Connect {
        /// The stream.
        id: StreamId,
        /// To where.
        to: SocketAddr,
    },
    /// Send bytes on a stream.
    Write {
        /// The stream.
        id: StreamId,
        /// What.
        data: Bytes,
    },
    /// Send what was written, then end the stream. Nothing more is wanted from it.
    Close {
        /// The stream.
        id: StreamId,
    },
    /// Resolve a name, of a seed or of this node's own address, and report with [`Node::handle_lookup`].
    Lookup {
        /// The name and the port.
        seed: Seed,
    },
    /// Guess this node's address by the route to a seed that has answered, and report with [`Node::set_guess`].
    GuessAddress {
        /// The seed's address.
        peer: SocketAddr,
    },
    /// See whether this node's address is still one of the host's. If not, guess it by the route to one of these,
    /// and report with [`Node::set_guess`].
    CheckAddress {
        /// Addresses of members.
        peers: Vec<SocketAddr>,
    },
}

/// What happened on a stream.
#[derive(Clone, Debug)]
pub enum StreamInput<'a> {
    /// Bytes arrived.
    Data(&'a [u8]),
    /// The other side will send no more.
    Closed,
    /// The stream could not be opened, or broke.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Gossip,
    Seed(usize),
    Stream(StreamId),
    Leave,
    Paths,
    /// The name of this node's own address is to be resolved again, or the address looked after that was guessed.
    Advertise,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Node {
    /// As configured, but for the size of packets, which is without the envelope's part.
    tuning: Tuning,
    sealer: Sealer,
    resource_limits: ResourceLimits,
    rng: Xoshiro256PlusPlus,
    membership: Membership,
    dissemination: Dissemination,
    /// In a serf cluster.
    place: Option<Place>,
    seeds: Seeds,
    advertised: Option<AdvertisedHost>,
    /// Nothing where the address was configured.
    guessed_by: Option<AddressGuess>,
    /// Whether this node has been part of a cluster, or has none to join.
    ready: bool,
    /// Whether this node has told that it is about to leave, which the others are to hear first.
    announced_leave: bool,
    streams: BTreeMap<StreamId, Stream>,
    /// Those of which more has arrived than was parsed at once, whose turn is next first.
    busy: VecDeque<StreamId>,
    next_stream: u64,
    send_queues: SendQueues,
    paths: Paths,
    infos: Infos,
    rejections: Rejections,
    /// What this room counts itself; [`Node::metrics`] adds the rest.
    metrics: Metrics,
    gossip_rounds: u64,
    /// When each message was published that not all members are known to have, as far as that was looked at.
    in_flight: VecDeque<Instant>,
    /// Whose turn it is to fill a packet first: the membership's, or the messages'.
    membership_first: bool,
    /// When something happened last.
    now: Instant,
    /// Somebody waits for room in the log.
    held_back: bool,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    actions: VecDeque<Action>,
    /// What others have published, and what stands for messages that cannot be had.
    messages: VecDeque<Result<Message, Event>>,
    events: VecDeque<Event>,
    acks: VecDeque<Acks>,
    /// The messages of the packet at hand, kept for its allocation.
    scratch: Vec<wire::Message>,
}

impl Node {
    /// A node that begins at `now`, and looks for its seeds at once.
    #[must_use]
    pub fn new(now: Instant, config: NodeConfig) -> Self {
        let NodeConfig { mut config, address, epoch, rng_seed, nonce } = config;
        config.tuning.udp_buffer_size -= config.envelope.packet_overhead();
        let info = config.info.take();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut timers = Timers::new();
        timers.set(Timer::Gossip, now + config.tuning.gossip_interval.mul_f64(rng.random()));
        let name = NodeName::from(&*config.name);
        let place = config.serf.clone().map(|serf| Place::new(name.clone(), serf, &config.tuning, config.replay));
        let versions = if place.is_some() { Place::VERSIONS } else { VERSIONS };
        let membership = Membership::new(now, &config, address, versions, rng.random());
        let Config { join, tuning, retention, resource_limits, replay, envelope, .. } = config;
        let dissemination = Dissemination::new(now, name, epoch, &tuning, retention, replay, rng.random());
        let mut node = Self {
            membership,
            dissemination: if place.is_some() { dissemination.among_ours() } else { dissemination },
            place,
            seeds: Seeds::new(join),
            advertised: None,
            guessed_by: None,
            tuning,
            sealer: Sealer::new(envelope, nonce),
            resource_limits,
            rng,
            ready: false,
            announced_leave: false,
            streams: BTreeMap::new(),
            busy: VecDeque::new(),
            next_stream: 0,
            send_queues: SendQueues::default(),
            paths: Paths::default(),
            infos: Infos::default(),
            rejections: Rejections::default(),
            metrics: Metrics::default(),
            gossip_rounds: 0,
            in_flight: VecDeque::new(),
            membership_first: true,
            now,
            held_back: false,
            timers,
            transmits: VecDeque::new(),
            actions: VecDeque::new(),
            messages: VecDeque::new(),
            events: VecDeque::new(),
            acks: VecDeque::new(),
            scratch: Vec::new(),
        };
        if let Some(info) = info {
            node.update_info(now, info);
        }
        node.start_joining(now);
        node
    }

    /// Handles a datagram that came from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &Bytes) {
        self.now = now;
        self.metrics.traffic.udp_received += data.len() as u64;
        self.metrics.traffic.packets_received += 1;
        let mut messages = std::mem::take(&mut self.scratch);
        match self.sealer.envelope.open_packet(data) {
            Ok(data) => {
                if let Err(error) = packet::decode(&data, &mut messages) {
                    self.metrics.packet_error(&error);
                    self.reject(now, from, Cause::Packet, &error);
                }
            }
            Err(error) => {
                let reason = format_args!("packet of {} bytes is not read: {error}", data.len());
                self.reject(now, from, Cause::Packet, &reason);
            }
        }
        let mut route = Route::default();
        let mut changed = false;
        let mut pings = 0;
        for message in messages.drain(..) {
            match message {
                wire::Message::Ping(_) | wire::Message::IndirectPing(_) if pings == MAX_PINGS => {
                    self.metrics.over_limit.pings += 1;
                }
                wire::Message::User(payload) => {
                    // Who introduces itself, and goes on, is to be heard as the member it has become.
                    if std::mem::take(&mut changed) {
                        self.settle(now);
                    }
                    if paths::is_one(&payload) {
                        // As those of pings, the answers are bounded.
                        pings += 1;
                        if pings <= MAX_PINGS {
                            self.hear_of_path(now, from, &payload, false);
                        }
                        continue;
                    }
                    self.hear(now, from, &payload, &mut route);
                }
                message => {
                    changed = true;
                    pings += usize::from(matches!(message, wire::Message::Ping(_) | wire::Message::IndirectPing(_)));
                    if let Err(refusal) = self.membership.handle(now, from, message) {
                        self.reject(now, from, Cause::Member, &refusal);
                    }
                }
            }
        }
        self.scratch = messages;
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.membership.handle_timeout(now);
        self.dissemination.handle_timeout(now, &self.membership);
        self.ask_for_infos(now);
        self.settle(now);
        self.work_on_streams(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Gossip => self.gossip(now),
                Timer::Seed(index) => self.check_seed(now, index),
                Timer::Stream(id) => self.time_out_stream(now, id),
                Timer::Leave => self.say_good_bye(now),
                Timer::Paths => self.step_paths(now),
                Timer::Advertise => self.resolve_own(now),
            }
        }
        self.settle(now);
    }

    /// Sends `value`, which is JSON, under `key` to every other node; it is on its way when the node has been drained.
    ///
    /// # Errors
    ///
    /// It is too large, or `value` is not JSON; this node keeps as much as it may for members that lack it; or it has left,
    /// or has learned that its name is another's.
    pub fn publish(&mut self, now: Instant, key: &str, value: &str) -> Result<MessageId, PublishError> {
        let draft = self.draft(key, value)?;
        self.publish_draft(now, draft).map(|published| published.id())
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
    /// See there; or the log has no room, which [`Event::PublishReady`] will tell.
    pub(crate) fn publish_draft(&mut self, now: Instant, draft: Draft) -> Result<Published, PublishError> {
        self.now = now;
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let (draft, event) = self.plan_event(now, draft);
        let published = self.dissemination.publish(now, draft, &self.membership);
        if published.is_ok() {
            self.in_flight.push_back(now);
            self.land(self.dissemination.stable());
            self.emit_event(now, event);
        }
        self.held_back |= matches!(published, Err(PublishError::WouldBlock));
        published
    }

    /// Whether the log has room for one more message.
    pub fn has_room(&self) -> bool {
        self.dissemination.has_room()
    }

    /// How far the cluster is with what this node publishes.
    pub(crate) fn progress(&mut self) -> Progress {
        let progress = self.dissemination.progress(&self.membership);
        self.land(progress.stable);
        progress
    }

    /// How many members have a message of this node, and which do not, of those that are waited for.
    pub(crate) fn acked_by(&self, seq: u64) -> (usize, Vec<NodeName>) {
        self.dissemination.acked_by(seq)
    }

    /// Who has failed, and who has left, while a message was on its way to it.
    pub(crate) fn departed_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        self.dissemination.departed_without(seq)
    }

    /// The identity of the next message of this node.
    pub fn next_id(&self) -> MessageId {
        self.dissemination.next_id()
    }

    /// This node's life, as its messages have it.
    pub fn epoch(&self) -> u64 {
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
        if info::is_one(payload) {
            return self.hear_of_info(now, from, payload);
        }
        if self.hear_serf(now, from, payload) {
            return;
        }
        if let Err(unusable) = self.dissemination.handle(now, from, payload, route, &self.membership) {
            self.reject(now, from, Cause::Message, &unusable);
        }
    }

    /// Every member that is alive or suspect, this node first.
    pub fn members(&self) -> Vec<Member> {
        self.membership.members()
    }

    /// A member that is alive or suspect, or this node.
    pub fn find(&self, name: &NodeName) -> Option<Member> {
        self.membership.get(name.as_bytes()).filter(|record| record.is_live()).map(|record| self.member(record))
    }

    /// What this node believes of everybody it remembers, itself included, by name.
    pub fn view(&self) -> Vec<Belief> {
        self.membership.beliefs()
    }

    /// How this node closes what it sends at present, and what it takes at most as an answer, which is not among the
    /// streams that others have open to it.
    pub(crate) fn exchange_context(&self) -> (Envelope, StreamLimits) {
        let Bounds { max_members, max_stream_bytes, stream, .. } = self.bounds;
        (self.sealer.envelope.clone(), stream.at_most(max_members, max_stream_bytes / 2))
    }

    /// Another node was asked for its view, on a connection that is not the node's own.
    pub(crate) fn count_exchange(&mut self, sent: u64, received: u64) {
        let Metrics { traffic, sent: by_kind, .. } = &mut self.metrics;
        traffic.tcp_connect += 1;
        traffic.tcp_sent += sent;
        traffic.tcp_received += received;
        by_kind.views += sent;
    }

    /// What this node's acknowledgements carry from now on.
    pub fn set_ack_payload(&mut self, payload: Bytes) {
        self.membership.set_ack_payload(payload);
    }

    /// The next datagram to send. The first call after something has happened puts together what came of
    /// all that has happened, so that much fits in few datagrams.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.transmits.is_empty() {
            self.flush();
        }
        let transmit = self.transmits.pop_front()?;
        self.metrics.traffic.udp_sent += transmit.payload.len() as u64;
        self.metrics.traffic.packets_sent += 1;
        Some(transmit)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next message of another node, in the order in which its application gets them. `Err` with
    /// [`Event::Missed`] stands in the place of messages that cannot be had any more.
    pub fn poll_message(&mut self) -> Option<Result<Message, Event>> {
        self.messages.pop_front()
    }

    /// The next thing to tell the application, besides messages.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Tells from now on who has acknowledged what of whose messages, beginning with all that is known; or does
    /// so no longer.
    pub fn watch(&mut self, now: Instant, wanted: bool) {
        self.dissemination.watch_acks(now, wanted, &self.membership);
        self.settle(now);
    }

    /// The next thing to tell the application of acknowledgements.
    pub fn poll_acks(&mut self) -> Option<Acks> {
        self.acks.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // What has arrived and is not parsed yet does not wait for anything.
        let busy = self.busy.front().map(|_| self.now);
        let (membership, dissemination) = (self.membership.poll_timeout(), self.dissemination.poll_timeout());
        let rooms = [membership, dissemination, self.infos.poll_timeout(), self.timers.next(), busy];
        rooms.into_iter().flatten().min()
    }

    fn me(&self) -> &Record {
        self.membership.me()
    }
}
