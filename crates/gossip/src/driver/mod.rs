//! The node on real sockets, and the application's hold on it.
//!
//! [`start`] binds a UDP socket and a TCP listener on one port, finds out the address to advertise,
//! and hands a [`Node`] to one task, the event loop, which owns it and the sockets until the end:
//! no lock, no shared state. Everything else talks to that task through bounded channels: the
//! [`Handle`] by commands, each TCP connection (a task of its own) and each DNS lookup by reports.
//!
//! A node runs, leaves, and has stopped. It leaves when [`Handle::leave`] is called or the last
//! [`Handle`] is dropped, and stops once the others were told, 1.8 s later at most; then its ports
//! are free again, every [`Subscription`] ends, and every verb of the [`Handle`] says so.
//!
//! What can go wrong afterwards, on a socket or in a lookup, ends a connection or an attempt, never
//! the loop. A subscriber that is too slow misses what it was too slow for, and is told how much.

mod advertise;
mod arrivals;
mod change_faults;
mod event_loop;
mod exchange;
mod faults;
mod foreign;
pub(crate) mod health;
mod info;
mod joined;
mod keys;
mod lookup;
mod outbox;
mod receipt;
mod segments;
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

pub use self::{
    arrivals::host,
    change_faults::FaultsError,
    exchange::AskError,
    foreign::ForeignStreams,
    joined::JoinError,
    keys::KeysError,
    receipt::{Delivery, Departed, Receipt, Undelivered},
    subscription::{Lagged, Subscription},
    view::ViewError,
};
use self::{
    event_loop::{Application, Commands, EventLoop},
    faults::Faulty,
    outbox::Outbox,
    sockets::Sockets,
    subscription::{Bounds, Feed, Subscribers},
    zones::{Zones, without_zone},
};
use crate::{
    Acks, Config, ConfigError, Event, Member, Message, Metrics, NodeId, NodeInfo, NodeName, Overview, PublishError,
    Seed, Serf, Tags,
    config::{DEFAULT_PORT, check_meta},
    dissemination::{Draft, Progress},
    node::{Advertised, Health, Node, NodeConfig},
    wire::{Address, Nonce, limits},
};

/// What is kept for a subscriber that is behind, of messages and of events. It lasts some 100 ms in the
/// fastest flood, so that the system may well let a subscriber wait.
const KEPT_MESSAGES: Bounds = Bounds { count: 16_384, bytes: 16 << 20 };
const KEPT_EVENTS: Bounds = Bounds { count: 1024, bytes: usize::MAX };
/// … and of acknowledgements: the next ones make up for what is missed.
const KEPT_ACKS: Bounds = Bounds { count: 1024, bytes: 4 << 20 };

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr}: {source}; stop what uses it{}, or set another `bind`, port 0 for any free one",
        who_else(addr.port(), source)
    )]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Encryption needs numbers that are used once, and the system gives none.
    #[error("the system has no source of randomness, which encryption needs")]
    Randomness,
    /// The advertise address cannot be used.
    #[error("{0}")]
    Advertise(String),
}

/// Who may well be there already, as it follows other words.
fn who_else(port: u16, error: &io::Error) -> String {
    let swarms = error.kind() == io::ErrorKind::AddrInUse && port == DEFAULT_PORT;
    if swarms { format!(" (port {DEFAULT_PORT} is also Docker Swarm's)") } else { String::new() }
}

/// Why a node does not tell something else about itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// It cannot be told.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// In a serf cluster a node tells tags, elsewhere metadata.
    #[error(
        "in a serf cluster nodes have tags (update_tags), in other clusters metadata (update_meta); this cluster is of the other kind"
    )]
    Kind,
    /// The node has left.
    #[error("this node has left its cluster and can no longer tell others; start another")]
    Stopped,
}

/// A running node. Cheap to clone; when the last clone is dropped, the node leaves and stops.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

/// What the clones of a handle share.
#[derive(Debug)]
struct Shared {
    name: String,
    label: String,
    id: NodeId,
    /// Whether it is in a serf cluster.
    serf: bool,
    addr: watch::Receiver<SocketAddr>,
    commands: Commands,
    outbox: Arc<Outbox>,
    progress: watch::Receiver<Progress>,
    joined: watch::Receiver<bool>,
    member_changes: watch::Receiver<u64>,
    key_changes: watch::Receiver<u64>,
    messages: Subscribers<Message>,
    everything: Subscribers<Message>,
    events: Subscribers<Event>,
    acks: Subscribers<Acks>,
    /// Hears the events from the very start, until the first subscriber takes it.
    first: Mutex<Option<Subscription<Event>>>,
}

/// Starts a node. Must be called within a tokio runtime.
///
/// It returns when the node listens, and has not joined its cluster yet, unless it has no seeds to join through:
/// wait for [`Handle::joined`] before you publish what others are to hear.
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
        Faulty::new(&config.name, faults, SysRng.try_next_u64().unwrap_or_default())
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
    let (advertise, streams) = (config.advertise.clone(), (config.tuning.tcp_timeout, config.bounds.max_streams));
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
            node.follow(Instant::now(), Advertised { host, ipv6: sockets.addr.is_ipv6() });
        }
        Some(_) => {}
        None if sockets.addr.ip().is_unspecified() => node.guess_address(Instant::now()),
        None => {}
    }

    let (commands, received) = Commands::new();
    let outbox = Arc::new(Outbox::new(node.epoch()));
    let (reached_at, known_addr) = watch::channel(addr);
    let (progress, known) = watch::channel(Progress::default());
    let (has_joined, joined) = watch::channel(node.has_joined());
    let (changed_members, member_changes) = watch::channel(0);
    let (changed_keys, key_changes) = watch::channel(0);
    let [messages, everything] = [(); 2].map(|()| Feed::new(KEPT_MESSAGES, Message::len));
    let events = Feed::new(KEPT_EVENTS, |_| 0);
    let acks = Feed::new(KEPT_ACKS, |acks: &Acks| acks.members.len() * size_of::<(NodeName, u64)>());
    let shared = Shared {
        name,
        label,
        id,
        serf,
        addr: known_addr,
        commands,
        outbox: Arc::clone(&outbox),
        progress: known,
        joined,
        member_changes,
        key_changes,
        messages: messages.subscribers(),
        everything: everything.subscribers(),
        events: events.subscribers(),
        acks: acks.subscribers(),
        first: Mutex::new(Some(events.subscribers().subscribe())),
    };
    let application = Application {
        outbox,
        reached_at,
        progress,
        has_joined,
        changed_members,
        changed_keys,
        messages,
        everything,
        events,
        acks,
    };
    EventLoop::new(node, sockets, zones, faults, streams, application).begin(received);
    Ok(Handle(Arc::new(shared)))
}

/// A nonce that nobody else begins with.
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

    /// The address others reach this node at. One that was configured as a name is looked up again three
    /// times in each [`push_pull_interval`](crate::Tuning::push_pull_interval), every 10 s in a LAN, and this node
    /// moves with it: to the others it leaves, and joins at the new address. So it does when an address that was
    /// not configured turns out to be another.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        *self.0.addr.borrow()
    }

    /// The same, for who wants to know when it changes.
    #[must_use]
    pub fn watch_addr(&self) -> watch::Receiver<SocketAddr> {
        self.0.addr.clone()
    }

    /// Tells the others something else about this node, at most [`limits::META`] bytes, which they hear of as
    /// [`Event::Updated`]. Ends when it is on its way.
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
        let told = self.ask(move |event_loop| event_loop.node.update_meta(Instant::now(), &Bytes::from(meta))).await;
        if told == Some(true) { Ok(()) } else { Err(UpdateError::Stopped) }
    }

    /// In a serf cluster, gives this node other tags. Ends when they are on their way.
    ///
    /// # Errors
    ///
    /// See [`UpdateError`].
    pub async fn update_tags(&self, tags: Tags) -> Result<(), UpdateError> {
        if !self.0.serf {
            return Err(UpdateError::Kind);
        }
        let serf = Serf { tags };
        serf.validate()?;
        let told = self.ask(|event_loop| event_loop.node.update_tags(Instant::now(), serf)).await;
        if told == Some(true) { Ok(()) } else { Err(UpdateError::Stopped) }
    }

    /// Sends `value`, as JSON, under `key` to every other node. Ends when the message is numbered and will
    /// be sent; it waits as long as members that are too slow hold the publisher back. What becomes of the
    /// message, the [`Receipt`] knows. A node that has not [`joined`](Self::joined) its cluster yet publishes, too, to
    /// nobody, and the receipt says so ([`Receipt::joined`]).
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub async fn publish<V: Serialize + ?Sized>(&self, key: &str, value: &V) -> Result<Receipt, PublishError> {
        let (published, joined, draft) = (Instant::now(), self.has_joined(), self.draft(key, value)?);
        let id = self.0.outbox.push(draft).await?;
        Ok(Receipt::new(id, (published, joined), self.0.progress.clone(), self.0.commands.clone()))
    }

    /// As [`publish`](Self::publish), without waiting.
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

    /// The messages other nodes publish, from now on. For a subscriber that is behind the last 16,384 are
    /// kept, up to 16 MiB.
    #[must_use]
    pub fn subscribe(&self) -> Subscription<Message> {
        self.0.messages.subscribe()
    }

    /// As [`subscribe`](Self::subscribe), with the messages that this node itself publishes, as soon as they
    /// are on their way; their [`hops`](Message::hops) are 0. All messages of the cluster, in an order of this
    /// node's own.
    #[must_use]
    pub fn subscribe_all(&self) -> Subscription<Message> {
        self.0.everything.subscribe()
    }

    /// What happens in the cluster: every [`Event`] but the messages. The first call hears of
    /// everything since the start, so that [`Event::Ready`] cannot be missed; later ones hear what
    /// happens from then on. The last 1024 events are kept for a subscriber that is behind.
    #[must_use]
    pub fn events(&self) -> Subscription<Event> {
        // Nothing can panic under this lock; were it poisoned, the receiver would still be whole.
        let first = self.0.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.0.events.subscribe())
    }

    /// The same from now on, for who leaves those since the start to others.
    #[must_use]
    pub fn events_from_now(&self) -> Subscription<Event> {
        self.0.events.subscribe()
    }

    /// Who acknowledges what, of this node's messages and of those of all others of this crate, whom it asks
    /// while there is such a subscription. It begins with how far each member is, which is told again every 5 s;
    /// in between, up to 20 times a second for each origin, those that have gone on.
    #[must_use]
    pub fn acks(&self) -> Subscription<Acks> {
        self.0.acks.subscribe()
    }

    /// What this node has counted since its start, and how much it holds. All zero once it has stopped.
    pub async fn metrics(&self) -> Metrics {
        self.ask(|event_loop| event_loop.node.metrics()).await.unwrap_or_default()
    }

    /// How this node sees its cluster, at one time. Of nobody once it has stopped.
    pub async fn overview(&self) -> Overview {
        self.ask(|event_loop| event_loop.node.overview()).await.unwrap_or_default()
    }

    /// Changes when the members of the [`overview`](Self::overview) may have: who is there, what is known of them,
    /// how far they are behind, and how they are reached. The number itself says nothing. Ends when the node stops.
    #[must_use]
    pub fn watch_members(&self) -> watch::Receiver<u64> {
        self.0.member_changes.clone()
    }

    /// How this node is; nothing once it has stopped.
    pub async fn health(&self) -> Option<Health> {
        self.ask(|event_loop| event_loop.node.health()).await
    }

    /// What this node's answers to pings carry from now on, at most 512 bytes: whoever pings it hears of it
    /// with [`Event::Probed`].
    ///
    /// # Errors
    ///
    /// It is too long.
    pub async fn set_ack_payload(&self, payload: &[u8]) -> Result<(), ConfigError> {
        if payload.len() > limits::ACK_PAYLOAD {
            return Err(ConfigError::AckPayloadTooLong { size: payload.len() });
        }
        let payload = Bytes::copy_from_slice(payload);
        // A node that has stopped answers nobody.
        self.ask(|event_loop| event_loop.node.set_ack_payload(payload)).await;
        Ok(())
    }

    /// Every member that is not dead, this node first. Nobody once the node has stopped.
    pub async fn members(&self) -> Vec<Member> {
        self.ask(|event_loop| event_loop.node.members()).await.unwrap_or_default()
    }

    /// Whether the node has stopped.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.commands.is_closed()
    }

    /// Leaves the cluster: the others are told, what is queued is sent, and the node stops. Returns
    /// when it has, within 2 s.
    pub async fn leave(&self) {
        self.ask(EventLoop::leave).await;
        self.0.commands.closed().await;
    }

    /// Has the event loop do this; `None` when the node has stopped.
    async fn ask<T: Send + 'static>(&self, what: impl FnOnce(&mut EventLoop) -> T + Send + 'static) -> Option<T> {
        self.0.commands.ask(what).await
    }
}
