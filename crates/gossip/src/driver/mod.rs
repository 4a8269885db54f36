//! A node on real sockets, and the [`Handle`] by which the application controls it.
//!
//! [`start`] binds a UDP socket and a TCP listener on one port, determines the address to advertise, and hands the
//! [`Node`] to one task, the event loop. That task owns the node and the sockets until the end, so there are no locks
//! around them (an actor). Everything else talks to it through bounded channels: the [`Handle`] sends commands, and each TCP
//! connection and each DNS lookup, a task of its own, sends reports.
//!
//! A node is first running, then leaving, then stopped. It leaves when [`Handle::leave`] is called or the last [`Handle`] is
//! dropped. It stops when the others know, 1.8 s later at most. Then its ports are free again, every [`Subscription`] ends,
//! and every method of the [`Handle`] reports that the node has stopped.
//!
//! An error on a socket or in a lookup ends that connection or attempt, never the event loop. A subscriber that is too
//! slow misses messages, and learns how many ([`Lagged`]).

mod advertise;
mod event_loop;
mod exchange;
mod fault_injector;
mod foreign;
pub(crate) mod health;
mod info;
mod join;
mod keys;
mod lookup;
mod outbox;
mod pending;
mod receipt;
mod segments;
mod set_faults;
mod sockets;
mod streams;
mod subscription;
#[cfg(test)]
mod tests;
mod view;
pub mod zones;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use rand::{TryRng, rngs::SysRng};
use serde::Serialize;
use tokio::sync::watch;

use self::{
    event_loop::{ApplicationChannels, Commands, EventLoop},
    fault_injector::FaultInjector,
    outbox::Outbox,
    sockets::Sockets,
    subscription::{Feed, FeedHandle, SubscriptionLimits},
    zones::{Zones, without_zone},
};
pub use self::{
    exchange::RequestError,
    foreign::ForeignStreams,
    join::JoinError,
    keys::KeysError,
    pending::host_network,
    receipt::{Delivery, DeliveryError, DepartedMembers, Receipt},
    set_faults::FaultsError,
    subscription::{Lagged, Subscription},
    view::ViewError,
};
use crate::{
    Acks, Config, ConfigError, Event, Member, Message, Metrics, NodeId, NodeInfo, NodeName, Overview, PublishError,
    Seed, SerfConfig, Tags,
    config::{DEFAULT_PORT, check_meta},
    dissemination::{Draft, Progress},
    node::{AdvertisedHost, Health, Node, NodeConfig},
    wire::{Address, Nonce, limits},
};

/// How many messages and events wait for a slow subscriber. In the fastest flood they last some 100 ms, which is longer
/// than the system usually keeps a task waiting.
const MESSAGE_BUFFER: SubscriptionLimits = SubscriptionLimits { count: 16_384, bytes: 16 << 20 };
const EVENT_BUFFER: SubscriptionLimits = SubscriptionLimits { count: 1024, bytes: usize::MAX };
/// How many acknowledgements wait. A missed one does no harm, as the next one says more.
const ACK_BUFFER: SubscriptionLimits = SubscriptionLimits { count: 1024, bytes: 4 << 20 };

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node cannot listen on the address.
    #[error(
        "cannot listen on {addr}: {source}; stop what uses it{}, or set another `bind`, port 0 for any free one",
        likely_occupant(addr.port(), source)
    )]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system has no source of randomness, and encryption needs nonces.
    #[error("the system has no source of randomness, which encryption needs")]
    Randomness,
    /// The advertise address cannot be used.
    #[error("{0}")]
    Advertise(String),
}

/// A hint at the program that probably uses the port already, to follow other words.
fn likely_occupant(port: u16, error: &io::Error) -> String {
    let swarms = error.kind() == io::ErrorKind::AddrInUse && port == DEFAULT_PORT;
    if swarms { format!(" (port {DEFAULT_PORT} is also Docker Swarm's)") } else { String::new() }
}

/// Why a node could not change what it tells the others about itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The new value is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nodes of a serf cluster have tags, nodes of other clusters metadata.
    #[error(
        "in a serf cluster nodes have tags (update_tags), in other clusters metadata (update_meta); this cluster is of the other kind"
    )]
    Kind,
    /// The node has left.
    #[error("this node has left its cluster and can no longer tell others; start another")]
    Stopped,
}

/// A running node. Cheap to clone; when the last clone is dropped, the node leaves and stops.
///
/// ```
/// use broadcast::{Config, Profile, start};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::new("node1").bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
/// let node = start(config).await?;
/// let mut messages = node.subscribe_all();
/// node.publish("greeting", "hello").await?;
/// let message = messages.recv().await.expect("the node runs")?;
/// assert_eq!((message.key(), message.value()), ("greeting", "\"hello\""));
/// node.leave().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

/// What the clones of a handle share.
#[derive(Debug)]
struct Shared {
    name: String,
    label: String,
    id: NodeId,
    /// Whether this node is in a serf cluster.
    serf: bool,
    addr: watch::Receiver<SocketAddr>,
    commands: Commands,
    outbox: Arc<Outbox>,
    progress: watch::Receiver<Progress>,
    joined: watch::Receiver<bool>,
    member_changes: watch::Receiver<u64>,
    key_changes: watch::Receiver<u64>,
    messages: FeedHandle<Message>,
    everything: FeedHandle<Message>,
    events: FeedHandle<Event>,
    acks: FeedHandle<Acks>,
    /// Collects the events since the start, for the first subscriber.
    first_events: Mutex<Option<Subscription<Event>>>,
}

/// Starts a node. Must be called within a tokio runtime. [`Handle`] has an example.
///
/// It returns when the node listens. A node with seeds has not joined its cluster yet then: wait for [`Handle::joined`]
/// before you publish anything that the others are to receive.
///
/// # Errors
///
/// See [`StartError`].
pub async fn start(mut config: Config) -> Result<Handle, StartError> {
    config.validate()?;
    let sockets = Sockets::bind(config.bind).map_err(|source| StartError::Bind { addr: config.bind, source })?;
    let allows = |ip| config.admission.allows(ip);
    let addr = advertise::address(config.advertise.as_ref(), sockets.addr, &config.join, allows)
        .await
        .map_err(StartError::Advertise)?;
    let mut zones = Zones::default();
    [sockets.addr, addr].into_iter().for_each(|configured| zones.learn(configured));
    let addr = without_zone(addr);
    tracing::debug!(listening = %sockets.addr, advertised = %addr, "sockets are open");

    let nonce = nonce();
    if nonce.is_none() && config.envelope.encrypts() {
        return Err(StartError::Randomness);
    }
    let faults = config.faults.clone().map(|faults| {
        // Without a system source of randomness, the same faults every time will do.
        FaultInjector::new(&config.name, faults, SysRng.try_next_u64().unwrap_or_default())
    });
    let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    let epoch = u64::try_from(epoch).unwrap_or(u64::MAX);
    if !config.admission.allows(addr.ip()) {
        return Err(StartError::Advertise(format!(
            "cannot advertise {addr}: it is in none of the networks of `allow`, so that no other node with these would \
             let this one in; add its network, or set `advertise`"
        )));
    }
    let info = config.info.get_or_insert_with(|| NodeInfo::new(NodeId::random().unwrap_or_else(|| epoch.into())));
    let id = info.id;
    let (name, label, serf) = (config.name.clone(), config.envelope.label.clone(), config.serf.is_some());
    let (advertise, streams) =
        (config.advertise.clone(), (config.tuning.tcp_timeout, config.resource_limits.max_streams));
    let node = NodeConfig {
        config,
        address: Address::from(addr),
        epoch,
        // Without a system source of randomness, two nodes still differ by their start.
        rng_seed: SysRng.try_next_u64().unwrap_or(epoch),
        nonce: nonce.unwrap_or_default(),
    };
    let mut node = Node::new(Instant::now(), node);

    match advertise {
        Some(host) if !host.is_address() => {
            let host = Seed { port: addr.port(), ..host };
            node.follow(Instant::now(), AdvertisedHost { host, ipv6: sockets.addr.is_ipv6() });
        }
        Some(_) => {}
        None if sockets.addr.ip().is_unspecified() => node.guess_address(Instant::now()),
        None => {}
    }

    let (commands, received) = Commands::new();
    let outbox = Arc::new(Outbox::new(node.epoch()));
    let (addr_sender, addr) = watch::channel(addr);
    let (progress_sender, progress) = watch::channel(Progress::default());
    let (joined_sender, joined) = watch::channel(node.has_joined());
    let (member_sender, member_changes) = watch::channel(0);
    let (key_sender, key_changes) = watch::channel(0);
    let [messages, everything] = [(); 2].map(|()| Feed::new(MESSAGE_BUFFER, Message::len));
    let events = Feed::new(EVENT_BUFFER, |_| 0);
    let acks = Feed::new(ACK_BUFFER, |acks: &Acks| acks.members.len() * size_of::<(NodeName, u64)>());
    let shared = Shared {
        name,
        label,
        id,
        serf,
        addr,
        commands,
        outbox: Arc::clone(&outbox),
        progress,
        joined,
        member_changes,
        key_changes,
        messages: messages.handle(),
        everything: everything.handle(),
        events: events.handle(),
        acks: acks.handle(),
        first_events: Mutex::new(Some(events.handle().subscribe())),
    };
    let application = ApplicationChannels {
        outbox,
        addr: addr_sender,
        progress: progress_sender,
        joined: joined_sender,
        member_changes: member_sender,
        key_changes: key_sender,
        messages,
        everything,
        events,
        acks,
    };
    EventLoop::new(node, sockets, zones, faults, streams, application).spawn(received);
    Ok(Handle(Arc::new(shared)))
}

/// A random nonce for this node to count up from.
fn nonce() -> Option<Nonce> {
    let mut nonce = Nonce::default();
    SysRng.try_fill_bytes(&mut nonce).ok().map(|()| nonce)
}

impl Handle {
    /// This node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The label of this node's cluster; empty where it has none.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// This node's identity: that of its [`Config::info`], or a new one.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// The address at which others reach this node. It may change while the node runs: a configured name is looked up
    /// again three times in each [`push_pull_interval`](crate::Tuning::push_pull_interval) (every 10 s in a LAN), and a
    /// guessed address is checked. When it changes, the others see this node leave, and join at the new address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        *self.0.addr.borrow()
    }

    /// The same, with notice of changes.
    #[must_use]
    pub fn watch_addr(&self) -> watch::Receiver<SocketAddr> {
        self.0.addr.clone()
    }

    /// Changes this node's metadata, of at most [`limits::META`] bytes. The others are told by [`Event::Updated`]. Returns
    /// when the update is on its way.
    ///
    /// # Errors
    ///
    /// See [`UpdateError`].
    pub async fn update_meta(&self, meta: impl Into<Vec<u8>>) -> Result<(), UpdateError> {
        if self.0.serf {
            return Err(UpdateError::Kind);
        }
        let meta = meta.into();
        check_meta(&meta)?;
        let updated = self.ask(move |event_loop| event_loop.node.update_meta(Instant::now(), &Bytes::from(meta))).await;
        if updated == Some(true) { Ok(()) } else { Err(UpdateError::Stopped) }
    }

    /// Changes this node's tags, in a serf cluster. Returns when the update is on its way.
    ///
    /// # Errors
    ///
    /// See [`UpdateError`].
    pub async fn update_tags(&self, tags: Tags) -> Result<(), UpdateError> {
        if !self.0.serf {
            return Err(UpdateError::Kind);
        }
        let serf = SerfConfig { tags };
        serf.validate()?;
        let updated = self.ask(|event_loop| event_loop.node.update_tags(Instant::now(), serf)).await;
        if updated == Some(true) { Ok(()) } else { Err(UpdateError::Stopped) }
    }

    /// Sends `value`, as JSON, under `key` to every other node. Returns when the message has its number and will be sent;
    /// while members are too slow, this waits (backpressure). The [`Receipt`] tells when everybody has the message. A node
    /// that has not [`joined`](Self::joined) its cluster yet publishes to nobody, and the receipt says so
    /// ([`Receipt::joined`]). [`Handle`] and [`Receipt`] have examples.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub async fn publish<V: Serialize + ?Sized>(&self, key: &str, value: &V) -> Result<Receipt, PublishError> {
        let (published, joined, draft) = (Instant::now(), self.has_joined(), self.draft(key, value)?);
        let id = self.0.outbox.push(draft).await?;
        Ok(Receipt::new(id, (published, joined), self.0.progress.clone(), self.0.commands.clone()))
    }

    /// As [`publish`](Self::publish), but never waits.
    ///
    /// # Errors
    ///
    /// See [`PublishError`]; [`PublishError::WouldBlock`] when it would have to wait.
    pub fn try_publish<V: Serialize + ?Sized>(&self, key: &str, value: &V) -> Result<Receipt, PublishError> {
        let (published, joined, draft) = (Instant::now(), self.has_joined(), self.draft(key, value)?);
        let id = self.0.outbox.try_push(draft).map_err(|(error, _)| error)?;
        Ok(Receipt::new(id, (published, joined), self.0.progress.clone(), self.0.commands.clone()))
    }

    fn draft<V: Serialize + ?Sized>(&self, key: &str, value: &V) -> Result<Draft, PublishError> {
        let value = serde_json::to_string(value).map_err(|error| PublishError::Value(error.to_string()))?;
        Draft::checked(key, &value, &self.0.name)
    }

    /// The messages that other nodes publish from now on. The last 16,384 wait for a slow subscriber, up to 16 MiB.
    /// [`Subscription`] has an example.
    #[must_use]
    pub fn subscribe(&self) -> Subscription<Message> {
        self.0.messages.subscribe()
    }

    /// As [`subscribe`](Self::subscribe), together with the messages that this node itself publishes, as soon as they
    /// are on their way; their [`hops`](Message::hops) are 0. Each node has these messages in an order of its own.
    #[must_use]
    pub fn subscribe_all(&self) -> Subscription<Message> {
        self.0.everything.subscribe()
    }

    /// The events of the cluster: every [`Event`], without the messages. The first call gets all events since the start, so
    /// that nobody misses [`Event::Ready`]; later calls get those from then on. The last 1024 events wait for a slow
    /// subscriber.
    #[must_use]
    pub fn events(&self) -> Subscription<Event> {
        // Nothing can panic under this lock; were it poisoned, the receiver would still be whole.
        let first = self.0.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.0.events.subscribe())
    }

    /// The events from now on. Those since the start are left to the first call of [`events`](Self::events).
    #[must_use]
    pub fn events_from_now(&self) -> Subscription<Event> {
        self.0.events.subscribe()
    }

    /// Which member has acknowledged which messages: this node's own, and those of all other nodes of this crate, which
    /// report to this node while there is such a subscription. It begins with the position of every member, and repeats that
    /// every 5 s. In between come the positions that have advanced, up to 20 times a second for each origin.
    #[must_use]
    pub fn acks(&self) -> Subscription<Acks> {
        self.0.acks.subscribe()
    }

    /// This node's counters since its start, and its gauges. All are zero once it has stopped.
    pub async fn metrics(&self) -> Metrics {
        self.ask(|event_loop| event_loop.node.metrics()).await.unwrap_or_default()
    }

    /// A snapshot of the cluster as this node sees it. Empty once the node has stopped.
    pub async fn overview(&self) -> Overview {
        self.ask(|event_loop| event_loop.node.overview()).await.unwrap_or_default()
    }

    /// Changes whenever a member in the [`overview`](Self::overview) may have changed: who is there, what is known of them,
    /// how far they are behind, and how they are reached. The number itself has no meaning. Ends when the node stops.
    #[must_use]
    pub fn watch_members(&self) -> watch::Receiver<u64> {
        self.0.member_changes.clone()
    }

    /// This node's health; `None` once it has stopped.
    pub async fn health(&self) -> Option<Health> {
        self.ask(|event_loop| event_loop.node.health()).await
    }

    /// From now on this node's acks of pings carry this payload, of at most 512 bytes. Whoever pings it gets it with
    /// [`Event::Probed`].
    ///
    /// # Errors
    ///
    /// The payload is too long.
    pub async fn set_ack_payload(&self, payload: &[u8]) -> Result<(), ConfigError> {
        if payload.len() > limits::ACK_PAYLOAD {
            return Err(ConfigError::AckPayloadTooLong { size: payload.len() });
        }
        let payload = Bytes::copy_from_slice(payload);
        // A node that has stopped answers nobody.
        self.ask(|event_loop| event_loop.node.set_ack_payload(payload)).await;
        Ok(())
    }

    /// Every member that is not dead, this node first. Empty once the node has stopped.
    pub async fn members(&self) -> Vec<Member> {
        self.ask(|event_loop| event_loop.node.members()).await.unwrap_or_default()
    }

    /// Whether the node has stopped.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.commands.is_closed()
    }

    /// Leaves the cluster: tells the others, sends what is queued, and stops the node. Returns when it has stopped, within
    /// 2 s.
    pub async fn leave(&self) {
        self.ask(EventLoop::leave).await;
        self.0.commands.closed().await;
    }

    /// Runs this in the event loop; `None` when the node has stopped.
    async fn ask<T: Send + 'static>(&self, command: impl FnOnce(&mut EventLoop) -> T + Send + 'static) -> Option<T> {
        self.0.commands.ask(command).await
    }
}
