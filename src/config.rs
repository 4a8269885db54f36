//! How a node is configured.
//!
//! The defaults of the gossip are memberlist's own, by [`Profile`].

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

/// The port memberlist and `broadcast` listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7946;

/// What a node needs to know to start.
///
/// ```
/// use broadcast::{Config, Profile};
///
/// let config = Config::new("node1").bind("127.0.0.1:0".parse().unwrap()).profile(Profile::Local);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) name: String,
    pub(crate) bind: SocketAddr,
    pub(crate) advertise: Option<Seed>,
    pub(crate) join: Vec<Seed>,
    pub(crate) tuning: Tuning,
    pub(crate) meta: Vec<u8>,
}

impl Config {
    /// A node of that name, listening on all interfaces, alone until others join it.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bind: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            advertise: None,
            join: Vec::new(),
            tuning: Profile::default().tuning(),
            meta: Vec::new(),
        }
    }

    /// The UDP and TCP address to listen on. Port 0 lets the system choose.
    #[must_use]
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.bind = addr;
        self
    }

    /// The address others reach this node at. Found from the interfaces when not set. Port 0 stands
    /// for the port listened on.
    #[must_use]
    pub fn advertise(mut self, host: Seed) -> Self {
        self.advertise = Some(host);
        self
    }

    /// Nodes to join the cluster through. They are tried, and their names resolved, until one of them
    /// answers, and again whenever one is missing from the cluster.
    #[must_use]
    pub fn join(mut self, seeds: impl IntoIterator<Item = Seed>) -> Self {
        self.join.extend(seeds);
        self
    }

    /// Memberlist's settings for a kind of network.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.tuning = profile.tuning();
        self
    }

    /// Each setting of the gossip by itself.
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// What the node tells the others about itself, at most 512 bytes.
    #[must_use]
    pub fn meta(mut self, meta: impl Into<Vec<u8>>) -> Self {
        self.meta = meta.into();
        self
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `host` or `host:port`.
    #[error("{0}")]
    Seed(String),
}

/// A place to find a node at: `host`, `host:port`, `1.2.3.4`, `[::1]:7946`, `::1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// A DNS name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for Seed {
    type Err = ConfigError;

    fn from_str(_text: &str) -> Result<Self, ConfigError> {
        todo!()
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A kind of network, and memberlist's settings for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One machine.
    Local,
    /// One data centre.
    #[default]
    Lan,
    /// The internet.
    Wan,
}

impl Profile {
    /// Memberlist's values (`DefaultLocalConfig`, `DefaultLANConfig`, `DefaultWANConfig`).
    #[must_use]
    pub fn tuning(self) -> Tuning {
        let lan = Tuning {
            tcp_timeout: Duration::from_secs(10),
            indirect_checks: 3,
            retransmit_mult: 4,
            suspicion_mult: 4,
            suspicion_max_timeout_mult: 6,
            push_pull_interval: Duration::from_secs(30),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            awareness_max_multiplier: 8,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_the_dead: Duration::from_secs(30),
            udp_buffer_size: 1400,
            compression: true,
        };
        match self {
            Self::Lan => lan,
            Self::Wan => Tuning {
                tcp_timeout: Duration::from_secs(30),
                suspicion_mult: 6,
                push_pull_interval: Duration::from_secs(60),
                probe_interval: Duration::from_secs(5),
                probe_timeout: Duration::from_secs(3),
                gossip_nodes: 4,
                gossip_interval: Duration::from_millis(500),
                gossip_to_the_dead: Duration::from_secs(60),
                ..lan
            },
            Self::Local => Tuning {
                tcp_timeout: Duration::from_secs(1),
                indirect_checks: 1,
                retransmit_mult: 2,
                suspicion_mult: 3,
                push_pull_interval: Duration::from_secs(15),
                probe_timeout: Duration::from_millis(200),
                gossip_interval: Duration::from_millis(100),
                gossip_to_the_dead: Duration::from_secs(15),
                ..lan
            },
        }
    }
}

/// The settings of the gossip, named as memberlist names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a stream may take.
    pub tcp_timeout: Duration,
    /// How many members are asked to ping one that does not answer.
    pub indirect_checks: usize,
    /// A message is sent `retransmit_mult · ceil(log10(n + 1))` times by each node.
    pub retransmit_mult: u32,
    /// A suspect is declared dead no sooner than
    /// `suspicion_mult · max(1, log10(n)) · probe_interval` after the suspicion.
    pub suspicion_mult: u32,
    /// … and, as long as nobody confirms the suspicion, no sooner than this many times that.
    pub suspicion_max_timeout_mult: u32,
    /// How often the whole view is exchanged with a random member.
    pub push_pull_interval: Duration,
    /// How often a member is pinged.
    pub probe_interval: Duration,
    /// How long a ping may take. Less than `probe_interval`.
    pub probe_timeout: Duration,
    /// A node that notices its own slowness multiplies its probe interval by up to this.
    pub awareness_max_multiplier: u32,
    /// How often what is queued is gossiped.
    pub gossip_interval: Duration,
    /// To how many members.
    pub gossip_nodes: usize,
    /// For how long the dead are remembered and gossiped to, so that they can refute.
    pub gossip_to_the_dead: Duration,
    /// The largest packet of gossip, in bytes.
    pub udp_buffer_size: usize,
    /// Whether streams are compressed, as Go does by default. Reading either works always.
    pub compression: bool,
}
