//! One node without clock, socket or task (sans-IO): membership and dissemination behind a few methods.
//!
//! # Contract
//!
//! Whoever drives a [`Node`] gives it what happens (`handle_*`, [`publish`](Node::publish), [`leave`](Node::leave)), always
//! with the time, and then drains what came of it: [`poll_transmit`](Node::poll_transmit),
//! [`poll_action`](Node::poll_action), [`poll_message`](Node::poll_message) and [`poll_event`](Node::poll_event) until each
//! gives `None`, and [`poll_timeout`](Node::poll_timeout) for when to call [`handle_timeout`](Node::handle_timeout) next.
//! One input, then drain.
//!
//! ```
//! use std::{net::SocketAddr, time::Instant};
//!
//! use broadcast::{
//!     Config,
//!     node::{Node, NodeConfig},
//! };
//!
//! let now = Instant::now();
//! let mut node = Node::new(now, NodeConfig::new(Config::new("node1"), SocketAddr::from(([127, 0, 0, 1], 7946))));
//! let id = node.publish(now, "greeting", "\"hello\"")?;
//! assert_eq!(id.seq, 0, "it is the node's first message");
//! while let Some(transmit) = node.poll_transmit() {
//!     println!("send {} bytes to {}", transmit.payload.len(), transmit.to);
//! }
//! while let Some(event) = node.poll_event() {
//!     println!("{event:?}");
//! }
//! assert!(node.poll_timeout().is_some(), "the next round of gossip");
//! # Ok::<_, broadcast::PublishError>(())
//! ```
//!
//! # What can go wrong
//!
//! - *A flood of unusable input*: the first few of each second are reported, and the rest counted.
//! - *Streams that never end*: each has a deadline, and all together may hold only so many bytes.

mod config;
mod identity;
mod info;
#[cfg(any(test, feature = "sim"))]
mod inspect;
mod join;
mod metrics;
mod outputs;
mod overview;
mod packets;
mod paths;
mod rejections;
mod seal;
mod send_queue;
mod sent_bytes;
mod serf;
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
    sent_bytes::SentBytes,
};
use self::{
    info::InfoExchange,
    join::Seeds,
    paths::Paths,
    rejections::{RejectionCause, RejectionLog},
    seal::Sealer,
    send_queue::SendQueues,
    serf::SerfLayer,
    streams::Stream,
};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::{info::fuzzing, paths::parts_of};
pub use crate::event::{Event, Reach};
use crate::{
    config::{Config, ResourceLimits, Seed, Tuning},
    dissemination::{
        self, Acks, Dissemination, Draft, Message, MessageId, Progress, PublishError, PublishedMessage, Route,
    },
    membership::{Member, Membership, NodeName, Record, ViewEntry},
    timers::Timers,
    wire::{self, Versions, envelope::Envelope, limits::StreamLimits, packet},
};

/// The protocol versions that a node announces.
pub(crate) const VERSIONS: Versions = [1, 5, 2, 0, dissemination::DELEGATE_MAX, 0];
/// How many pings in one packet are answered. memberlist sends one. Each is answered by a packet of its own, and a sender
/// that forges its address must not cause more traffic than it sends.
const MAX_PINGS: usize = 3;
/// The most parts of a compound packet.
const MAX_PARTS: usize = u8::MAX as usize;

/// A datagram to send. See the [module's example](self).
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Its destination.
    pub to: SocketAddr,
    /// Its bytes.
    pub payload: Bytes,
}

/// Identifies a stream between this node and another, while it lasts. [`Node::handle_accept`] gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u64);

/// Something that the driver has to do. See [`Node::poll_action`].
#[derive(Clone, Debug)]
pub enum Action {
    /// Open a stream. What is written to it meanwhile is sent once it is open.
    Connect {
        /// The stream.
        id: StreamId,
        /// Its destination.
        to: SocketAddr,
    },
    /// Send bytes on a stream.
    Write {
        /// The stream.
        id: StreamId,
        /// The bytes.
        data: Bytes,
    },
    /// Send what was written, then end the stream. Nothing more from it is needed.
    Close {
        /// The stream.
        id: StreamId,
    },
    /// Resolve a name, of a seed or of this node's own address, and report it with [`Node::handle_lookup`].
    Lookup {
        /// The name and the port.
        seed: Seed,
    },
    /// Guess this node's address by the route to a seed that has answered, and report it with [`Node::set_guess`].
    GuessAddress {
        /// The seed's address.
        peer: SocketAddr,
    },
    /// Check whether this node's address is still one of the host's. If not, guess it by the route to one of these peers, and
    /// report it with [`Node::set_guess`].
    CheckAddress {
        /// Addresses of members.
        peers: Vec<SocketAddr>,
    },
}

/// What happened on a stream, for [`Node::handle_stream`].
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
    /// Resolve the name of this node's own address again, or check an address that was guessed.
    Advertise,
}

/// A node. See the [module](self) for how to drive it.
#[derive(Debug)]
pub struct Node {
    /// As configured, but the size of packets is without the envelope.
    tuning: Tuning,
    sealer: Sealer,
    resource_limits: ResourceLimits,
    rng: Xoshiro256PlusPlus,
    membership: Membership,
    dissemination: Dissemination,
    /// Set in a serf cluster.
    serf: Option<SerfLayer>,
    seeds: Seeds,
    advertised: Option<AdvertisedHost>,
    /// `None` if the address was configured.
    guessed_by: Option<AddressGuess>,
    /// Whether this node has been part of a cluster, or has none to join.
    ready: bool,
    /// Whether this node has told others that it is about to leave. They hear that before they hear that it has left.
    announced_leave: bool,
    streams: BTreeMap<StreamId, Stream>,
    /// The streams on which more has arrived than was parsed at once. The first is next.
    backlog: VecDeque<StreamId>,
    next_stream: u64,
    send_queues: SendQueues,
    paths: Paths,
    info_exchange: InfoExchange,
    rejections: RejectionLog,
    /// What the node itself counts; [`Node::metrics`] adds the rest.
    metrics: Metrics,
    gossip_rounds: u64,
    /// When each message was published that not all members are known to have, as far as that was checked.
    in_flight: VecDeque<Instant>,
    /// Whether the membership fills the next packet first, or the dissemination does.
    membership_first: bool,
    /// The time of the latest input.
    now: Instant,
    /// A publisher waits for room in the log.
    publisher_waits: bool,
    timers: Timers<Timer>,
    transmits: VecDeque<Transmit>,
    actions: VecDeque<Action>,
    /// Messages of others, and events that stand for missed messages.
    messages: VecDeque<Result<Message, Event>>,
    events: VecDeque<Event>,
    acks: VecDeque<Acks>,
    /// The messages of the current packet, kept for its allocation.
    scratch: Vec<wire::Message>,
}

impl Node {
    /// Creates a node that starts at `now` and looks for its seeds at once.
    #[must_use]
    pub fn new(now: Instant, config: NodeConfig) -> Self {
        let NodeConfig { mut config, address, epoch, rng_seed, nonce } = config;
        config.tuning.udp_buffer_size -= config.envelope.packet_overhead();
        let info = config.info.take();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut timers = Timers::new();
        timers.set(Timer::Gossip, now + config.tuning.gossip_interval.mul_f64(rng.random()));
        let name = NodeName::from(&*config.name);
        let serf = config.serf.clone().map(|serf| SerfLayer::new(name.clone(), serf, &config.tuning, config.replay));
        let versions = if serf.is_some() { SerfLayer::VERSIONS } else { VERSIONS };
        let membership = Membership::new(now, &config, address, versions, rng.random());
        let Config { join, tuning, retention, resource_limits, replay, envelope, .. } = config;
        let dissemination = Dissemination::new(now, name, epoch, &tuning, retention, replay, rng.random());
        let mut node = Self {
            membership,
            dissemination: if serf.is_some() { dissemination.without_plain_nodes() } else { dissemination },
            serf,
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
            backlog: VecDeque::new(),
            next_stream: 0,
            send_queues: SendQueues::default(),
            paths: Paths::default(),
            info_exchange: InfoExchange::default(),
            rejections: RejectionLog::default(),
            metrics: Metrics::default(),
            gossip_rounds: 0,
            in_flight: VecDeque::new(),
            membership_first: true,
            now,
            publisher_waits: false,
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

    /// Handles a datagram from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, data: &Bytes) {
        self.now = now;
        self.metrics.traffic.udp_received += data.len() as u64;
        self.metrics.traffic.packets_received += 1;
        let mut messages = std::mem::take(&mut self.scratch);
        match self.sealer.envelope.open_packet(data) {
            Ok(data) => {
                if let Err(error) = packet::decode(&data, &mut messages) {
                    self.metrics.packet_error(&error);
                    self.reject(now, from, RejectionCause::Packet, &error);
                }
            }
            Err(error) => {
                let reason = format_args!("packet of {} bytes is not read: {error}", data.len());
                self.reject(now, from, RejectionCause::Packet, &reason);
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
                    // A sender that introduces itself first is a member for what follows in its packet.
                    if std::mem::take(&mut changed) {
                        self.process_outputs(now);
                    }
                    if paths::is_path_message(&payload) {
                        // The answers to these are bounded, as those to pings.
                        pings += 1;
                        if pings <= MAX_PINGS {
                            self.handle_path_message(now, from, &payload, false);
                        }
                        continue;
                    }
                    self.handle_user_message(now, from, &payload, &mut route);
                }
                message => {
                    changed = true;
                    pings += usize::from(matches!(message, wire::Message::Ping(_) | wire::Message::IndirectPing(_)));
                    if let Err(refusal) = self.membership.handle(now, from, message) {
                        self.reject(now, from, RejectionCause::Member, &refusal);
                    }
                }
            }
        }
        self.scratch = messages;
        self.process_outputs(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.membership.handle_timeout(now);
        self.dissemination.handle_timeout(now, &self.membership);
        self.send_info_requests(now);
        self.process_outputs(now);
        self.parse_backlog(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Gossip => self.gossip(now),
                Timer::Seed(index) => self.check_seed(now, index),
                Timer::Stream(id) => self.time_out_stream(now, id),
                Timer::Leave => self.complete_leave(now),
                Timer::Paths => self.step_paths(now),
                Timer::Advertise => self.check_own_address(now),
            }
        }
        self.process_outputs(now);
    }

    /// Publishes `value`, which is JSON, under `key` to every other node. It is under way when the node has been drained.
    ///
    /// # Errors
    ///
    /// The message is too large, or `value` is not JSON; the log is full of messages that members still need; or the node
    /// has left, or its name is another's.
    pub fn publish(&mut self, now: Instant, key: &str, value: &str) -> Result<MessageId, PublishError> {
        let draft = self.draft(key, value)?;
        self.publish_draft(now, draft).map(|published| published.id())
    }

    /// Prepares a message of this node.
    ///
    /// # Errors
    ///
    /// It is too large, or `value` is not JSON.
    pub(crate) fn draft(&self, key: &str, value: &str) -> Result<Draft, PublishError> {
        Draft::checked(key, value, &self.me().name.to_string())
    }

    /// Publishes a message to every other node. It is under way when the node has been drained.
    ///
    /// A node that has left is no longer a member to the others and publishes nothing. Nor does one whose name is another's,
    /// since its messages would be taken for the other's.
    ///
    /// # Errors
    ///
    /// The node has left, its name is another's, or the log has no room, which [`Event::PublishReady`] will tell.
    pub(crate) fn publish_draft(&mut self, now: Instant, draft: Draft) -> Result<PublishedMessage, PublishError> {
        self.now = now;
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let (draft, event) = self.plan_event(now, draft);
        let published = self.dissemination.publish(now, draft, &self.membership);
        if published.is_ok() {
            self.in_flight.push_back(now);
            self.record_deliveries(self.dissemination.stable());
            self.emit_event(now, event);
        }
        self.publisher_waits |= matches!(published, Err(PublishError::WouldBlock));
        published
    }

    /// Whether the log has room for one more message.
    pub fn has_room(&self) -> bool {
        self.dissemination.has_room()
    }

    /// How far the cluster is with what this node publishes.
    pub(crate) fn progress(&mut self) -> Progress {
        let progress = self.dissemination.progress(&self.membership);
        self.record_deliveries(progress.stable);
        progress
    }

    /// How many members have a message of this node, and which do not, of those for which receipts wait.
    pub(crate) fn acked_by(&self, seq: u64) -> (usize, Vec<NodeName>) {
        self.dissemination.acked_by(seq)
    }

    /// Who has failed, and who has left, without a message of this node.
    pub(crate) fn departed_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        self.dissemination.departed_without(seq)
    }

    /// The identity of the next message of this node.
    pub fn next_id(&self) -> MessageId {
        self.dissemination.next_id()
    }

    /// This node's epoch, as its messages carry it.
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

    /// Handles a user message: of another node's application, or of its dissemination.
    fn handle_user_message(&mut self, now: Instant, from: SocketAddr, payload: &Bytes, route: &mut Route) {
        if info::is_info_message(payload) {
            return self.handle_info_message(now, from, payload);
        }
        if self.handle_serf_message(now, from, payload) {
            return;
        }
        if let Err(error) = self.dissemination.handle(now, from, payload, route, &self.membership) {
            self.reject(now, from, RejectionCause::Message, &error);
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

    /// What this node believes about everybody that it remembers, by name, itself included.
    pub fn view(&self) -> Vec<ViewEntry> {
        self.membership.view_entries()
    }

    /// The envelope in which this node sends at present, and the limits of an answer to a push/pull request of its own. Such
    /// an answer does not count as one of the streams that others have opened.
    pub(crate) fn exchange_context(&self) -> (Envelope, StreamLimits) {
        let ResourceLimits { max_members, max_stream_bytes, stream, .. } = self.resource_limits;
        (self.sealer.envelope.clone(), stream.at_most(max_members, max_stream_bytes / 2))
    }

    /// Counts a push/pull request to another node on a connection that is not the node's own.
    pub(crate) fn count_exchange(&mut self, sent: u64, received: u64) {
        let Metrics { traffic, sent: by_kind, .. } = &mut self.metrics;
        traffic.tcp_connect += 1;
        traffic.tcp_sent += sent;
        traffic.tcp_received += received;
        by_kind.views += sent;
    }

    /// Sets what this node's acks to pings carry from now on.
    pub fn set_ack_payload(&mut self, payload: Bytes) {
        self.membership.set_ack_payload(payload);
    }

    /// The next datagram to send. The first call after an input puts together all that came of the inputs so far, so that much
    /// fits in few datagrams.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if self.transmits.is_empty() {
            self.flush();
        }
        let transmit = self.transmits.pop_front()?;
        self.metrics.traffic.udp_sent += transmit.payload.len() as u64;
        self.metrics.traffic.packets_sent += 1;
        Some(transmit)
    }

    /// The next action for the driver.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next message of another node, in the order in which the application gets them. `Err` with [`Event::Missed`] stands
    /// in the place of messages that cannot be had any more.
    pub fn poll_message(&mut self) -> Option<Result<Message, Event>> {
        self.messages.pop_front()
    }

    /// The next event for the application, besides messages.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Reports from now on who has acknowledged which messages, first all that is known; or stops that.
    pub fn watch(&mut self, now: Instant, wanted: bool) {
        self.dissemination.watch_acks(now, wanted, &self.membership);
        self.process_outputs(now);
    }

    /// The next report of acknowledgements for the application.
    pub fn poll_acks(&mut self) -> Option<Acks> {
        self.acks.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // What has arrived and is not parsed yet is due at once.
        let busy = self.backlog.front().map(|_| self.now);
        let (membership, dissemination) = (self.membership.poll_timeout(), self.dissemination.poll_timeout());
        let rooms = [membership, dissemination, self.info_exchange.poll_timeout(), self.timers.next(), busy];
        rooms.into_iter().flatten().min()
    }

    fn me(&self) -> &Record {
        self.membership.me()
    }
}
