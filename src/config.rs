//! How a node is configured.
//!
//! The defaults of the gossip are memberlist's own, by [`Profile`].

mod faults;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

pub use self::faults::Faults;
use crate::wire::limits;

/// The port memberlist and `broadcast` listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7946;

/// The most seeds a node tries.
pub const MAX_SEEDS: usize = 256;

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
    pub(crate) limits: Limits,
    pub(crate) replay: bool,
    pub(crate) faults: Option<Faults>,
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
            limits: Limits::default(),
            replay: false,
            faults: None,
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

    /// How much is kept of what is published, and for how long a slow member is waited for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether this node first gets what the others still retain of what was sent before it joined.
    /// Otherwise it begins with what is sent from then on.
    #[must_use]
    pub fn replay(mut self, retained: bool) -> Self {
        self.replay = retained;
        self
    }

    /// What is done, for a test, to the datagrams this node sends. Nothing unless this is called.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Whether a node can run with this. [`start`](crate::start) asks it first.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name(&self.name)?;
        if self.meta.len() > limits::META {
            return Err(ConfigError::MetaTooLong { size: self.meta.len() });
        }
        check_seeds(&self.join)?;
        self.advertise.iter().try_for_each(|host| host.check(false))?;
        self.tuning.validate()?;
        self.limits.validate()?;
        self.faults.iter().try_for_each(Faults::validate)
    }
}

pub(crate) fn check_seeds(seeds: &[Seed]) -> Result<(), ConfigError> {
    if seeds.len() > MAX_SEEDS {
        return Err(ConfigError::TooManySeeds { count: seeds.len() });
    }
    seeds.iter().try_for_each(|seed| seed.check(true))
}

pub(crate) fn check_name(name: &str) -> Result<(), ConfigError> {
    let problem = if name.is_empty() {
        "it is empty; give one that no other node of the cluster has"
    } else if name.len() > limits::NAME {
        const { assert!(limits::NAME == 255) };
        "it is longer than 255 bytes; shorten it"
    } else if name.chars().any(char::is_control) {
        "it has control characters; leave them out"
    } else {
        return Ok(());
    };
    Err(ConfigError::Name { name: name.chars().take(limits::NAME).collect(), problem })
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `host` or `host:port`.
    #[error("{value:?} is not host[:port]: {problem}")]
    Seed {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// More seeds than a node tries.
    #[error("{count} nodes to join through are too many: name at most {MAX_SEEDS}, any one that runs is enough")]
    TooManySeeds {
        /// How many were given.
        count: usize,
    },
    /// The name cannot be one.
    #[error("{name:?} is no name for a node: {problem}")]
    Name {
        /// What was given.
        name: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// The metadata does not fit in a message.
    #[error("the metadata is {size} bytes long: shorten it to {} bytes", limits::META)]
    MetaTooLong {
        /// Its length.
        size: usize,
    },
    /// A setting of the gossip is out of its range.
    #[error("{setting} = {value} cannot be: it must be {allowed}")]
    Tuning {
        /// The field of [`Tuning`] or [`Limits`].
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Not faults that can be done.
    #[error("{value:?} are no faults: {problem}")]
    Faults {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
}

/// A place to find a node at: `host`, `host:port`, `1.2.3.4`, `[::1]:7946`, `::1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seed {
    /// A DNS name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Seed {
    /// Reads `host[:port]`; without a port, it is `default_port`.
    ///
    /// ```
    /// use broadcast::Seed;
    ///
    /// let seed = Seed::parse("::1", 7946)?;
    /// assert_eq!((seed.host.as_str(), seed.port), ("::1", 7946));
    /// # Ok::<(), broadcast::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::Seed`].
    pub fn parse(text: &str, default_port: u16) -> Result<Self, ConfigError> {
        split_host_port(text, default_port)
            .and_then(|(host, port)| check_host(host).map(|()| Self { host: host.into(), port }))
            .map_err(|problem| ConfigError::Seed { value: text.into(), problem })
    }

    fn check(&self, needs_port: bool) -> Result<(), ConfigError> {
        let problem = match check_host(&self.host) {
            Err(problem) => problem,
            Ok(()) if needs_port && self.port == 0 => "port 0 reaches nobody; give the port the node listens on",
            Ok(()) => return Ok(()),
        };
        Err(ConfigError::Seed { value: self.to_string(), problem })
    }
}

impl FromStr for Seed {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text, DEFAULT_PORT)
    }
}

fn split_host_port(text: &str, default_port: u16) -> Result<(&str, u16), &'static str> {
    const PORT: &str = "the port must be a number from 0 to 65535";
    const BRACKETS: &str = "write an IPv6 address with a port as [::1]:7946";

    if text.parse::<IpAddr>().is_ok() {
        return Ok((text, default_port));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(BRACKETS)?;
        host.parse::<Ipv6Addr>().map_err(|_| BRACKETS)?;
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, port.parse().map_err(|_| PORT)?)),
            None if port.is_empty() => Ok((host, default_port)),
            None => Err(BRACKETS),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(BRACKETS),
        Some((host, port)) => Ok((host, port.parse().map_err(|_| PORT)?)),
        None => Ok((text, default_port)),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return if ip.is_unspecified() {
            Err("it stands for every address and names no node; give one at which others reach it")
        } else {
            Ok(())
        };
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err("the host is missing; write it as node1, node1:7946, 10.0.0.1:7946 or [::1]:7946");
    }
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("a host name is at most 253 characters long, and each part between its dots 1 to 63");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err("a host name is made of the letters a to z, digits, dots, - and _");
    }
    // No top-level domain is a number, so this is an IPv4 address with a slip in it.
    if name.rsplit_once('.').is_some_and(|(_, top)| top.bytes().all(|b| b.is_ascii_digit())) {
        return Err("an IPv4 address is four numbers from 0 to 255 with dots between them");
    }
    Ok(())
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

impl Tuning {
    fn validate(&self) -> Result<(), ConfigError> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);

        let check = |setting, value: &dyn fmt::Debug, ok, allowed| {
            if ok { Ok(()) } else { Err(ConfigError::Tuning { setting, value: format!("{value:?}"), allowed }) }
        };
        for (setting, value) in [
            ("tcp_timeout", self.tcp_timeout),
            ("push_pull_interval", self.push_pull_interval),
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
            ("gossip_interval", self.gossip_interval),
            ("gossip_to_the_dead", self.gossip_to_the_dead),
        ] {
            let ok = (Duration::from_millis(1)..=DAY).contains(&value);
            check(setting, &value, ok, "between 1 millisecond and 1 day")?;
        }
        for (setting, value) in [
            ("retransmit_mult", self.retransmit_mult),
            ("suspicion_mult", self.suspicion_mult),
            ("suspicion_max_timeout_mult", self.suspicion_max_timeout_mult),
            ("awareness_max_multiplier", self.awareness_max_multiplier),
        ] {
            check(setting, &value, (1..=1000).contains(&value), "between 1 and 1000")?;
        }
        let timeout = self.probe_timeout;
        check("probe_timeout", &timeout, timeout < self.probe_interval, "less than probe_interval")?;
        let nodes = self.gossip_nodes;
        check("gossip_nodes", &nodes, (1..=1000).contains(&nodes), "between 1 and 1000")?;
        let checks = self.indirect_checks;
        check("indirect_checks", &checks, checks <= 1000, "between 0 and 1000")?;
        // A message about a node with the longest name and metadata has to fit in a packet; no UDP
        // packet over IPv4 is larger than 65507 bytes.
        let size = self.udp_buffer_size;
        check("udp_buffer_size", &size, (1024..=65507).contains(&size), "between 1024 and 65507 bytes")
    }
}

/// How much a node keeps of what is published, and for how long a slow member is waited for.
///
/// A node keeps its own messages until every live member has them, and those of others until their
/// origins say that nobody needs them any more. Half of `retain_bytes` is for its own, half for others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that are kept at most: so many of its own, and so many of all others together.
    pub retain_messages: usize,
    /// Bytes of messages that are kept at most, as they travel.
    pub retain_bytes: usize,
    /// A member that acknowledges nothing for so long is not waited for any more.
    pub lag_limit: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { retain_messages: 65_536, retain_bytes: 64 << 20, lag_limit: Duration::from_secs(10) }
    }
}

impl Limits {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |setting, value: String, allowed| Err(ConfigError::Tuning { setting, value, allowed });
        if !(16..=1 << 24).contains(&self.retain_messages) {
            return refuse("retain_messages", self.retain_messages.to_string(), "between 16 and 16777216");
        }
        // The largest message has to fit in half of a half, beside what is delivered already.
        if !(8 << 20..=1 << 40).contains(&self.retain_bytes) {
            return refuse("retain_bytes", self.retain_bytes.to_string(), "between 8 MiB and 1 TiB, in bytes");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60)).contains(&self.lag_limit) {
            return refuse("lag_limit", format!("{:?}", self.lag_limit), "between 100 milliseconds and 1 day");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(text: &str) -> Result<(String, u16), String> {
        text.parse::<Seed>().map(|seed| (seed.host, seed.port)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_seed_is_a_host_with_or_without_a_port() {
        for (text, host, port) in [
            ("node1", "node1", 7946),
            ("node1:8000", "node1", 8000),
            ("my_project-node-1.net.:1", "my_project-node-1.net.", 1),
            ("123456789012", "123456789012", 7946),
            ("1.2.3.4", "1.2.3.4", 7946),
            ("1.2.3.4:65535", "1.2.3.4", 65535),
            ("::1", "::1", 7946),
            ("[::1]", "::1", 7946),
            ("[fd00::2]:80", "fd00::2", 80),
        ] {
            assert_eq!(seed(text), Ok((host.into(), port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_seed_is_named_with_its_remedy() {
        for (text, remedy) in [
            ("", "the host is missing"),
            (":7946", "the host is missing"),
            ("node1:", "the port must be a number from 0 to 65535"),
            ("node1:65536", "the port must be a number from 0 to 65535"),
            ("node1:-1", "the port must be a number"),
            ("[::1]:x", "the port must be a number"),
            ("::1:7946:x", "write an IPv6 address with a port as [::1]:7946"),
            ("[::1", "[::1]:7946"),
            ("[::1]7946", "[::1]:7946"),
            ("[node1]:7946", "[::1]:7946"),
            ("256.0.0.1", "an IPv4 address is four numbers"),
            ("10.0.1:7946", "an IPv4 address is four numbers"),
            ("0.0.0.0:7946", "names no node"),
            ("::", "names no node"),
            ("node 1", "a host name is made of"),
            ("nöde", "a host name is made of"),
            ("udp://node1", "the port must be a number"),
            ("a..b", "each part between its dots"),
            (&"a".repeat(64), "1 to 63"),
        ] {
            let error = seed(text).expect_err(text);
            assert!(error.contains(&format!("{text:?} is not host[:port]")), "{error}");
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn a_seed_prints_as_it_is_read() {
        for text in ["node1:1", "[::1]:7946", "1.2.3.4:80"] {
            assert_eq!(text.parse::<Seed>().expect("a seed").to_string(), text);
        }
    }

    /// memberlist's `config.go`: `DefaultLANConfig`, `DefaultWANConfig`, `DefaultLocalConfig`.
    #[test]
    fn the_profiles_are_memberlists() {
        let row = |profile: Profile| {
            let t = profile.tuning();
            let ms = |d: Duration| d.as_millis();
            (
                (ms(t.tcp_timeout), t.indirect_checks, t.retransmit_mult),
                (t.suspicion_mult, t.suspicion_max_timeout_mult, ms(t.push_pull_interval)),
                (ms(t.probe_interval), ms(t.probe_timeout), t.awareness_max_multiplier),
                (ms(t.gossip_interval), t.gossip_nodes, ms(t.gossip_to_the_dead)),
                (t.udp_buffer_size, t.compression),
            )
        };
        let all = (1400, true);
        assert_eq!(row(Profile::Lan), ((10_000, 3, 4), (4, 6, 30_000), (1000, 500, 8), (200, 3, 30_000), all));
        assert_eq!(row(Profile::Wan), ((30_000, 3, 4), (6, 6, 60_000), (5000, 3000, 8), (500, 4, 60_000), all));
        assert_eq!(row(Profile::Local), ((1000, 1, 2), (3, 6, 15_000), (1000, 200, 8), (100, 3, 15_000), all));
        assert_eq!(Profile::default(), Profile::Lan);
    }

    fn refused(config: Config) -> String {
        config.validate().expect_err("this cannot be").to_string()
    }

    #[test]
    fn a_config_is_checked_as_a_whole() {
        for profile in [Profile::Local, Profile::Lan, Profile::Wan] {
            let longest = Config::new("n".repeat(255)).meta([0; 512]).profile(profile);
            assert_eq!(longest.validate(), Ok(()));
        }
        let config = || Config::new("node1");
        let at = |host: &str, port| Seed { host: host.into(), port };

        assert_eq!(
            refused(Config::new("")),
            r#""" is no name for a node: it is empty; give one that no other node of the cluster has"#
        );
        assert!(refused(Config::new("n".repeat(256))).ends_with("it is longer than 255 bytes; shorten it"));
        assert!(refused(Config::new("a\nb")).starts_with(r#""a\nb" is no name"#));
        assert_eq!(refused(config().meta([0; 513])), "the metadata is 513 bytes long: shorten it to 512 bytes");
        assert!(refused(config().advertise(at("0.0.0.0", 0))).contains("names no node"));
        assert_eq!(config().advertise(at("node1", 0)).validate(), Ok(()));
        assert!(refused(config().join([at("node1", 0)])).contains("port 0 reaches nobody"));
        assert!(refused(config().join([at("", 1)])).contains("the host is missing"));
        let crowd = (0..257).map(|i| at(&format!("node{i}"), 1));
        assert!(refused(config().join(crowd)).contains("257 nodes to join through are too many"));
    }

    #[test]
    fn limits_and_faults_are_checked() {
        let with = |change: fn(&mut Limits)| {
            let mut limits = Limits::default();
            change(&mut limits);
            Config::new("node1").limits(limits)
        };
        assert_eq!(
            refused(with(|limits| limits.retain_messages = 15)),
            "retain_messages = 15 cannot be: it must be between 16 and 16777216"
        );
        assert!(refused(with(|limits| limits.retain_bytes = 1 << 20)).starts_with("retain_bytes = 1048576 cannot be"));
        assert!(refused(with(|limits| limits.lag_limit = Duration::ZERO)).starts_with("lag_limit = 0ns cannot be"));
        let faults = Faults { loss: 2.0, ..Faults::default() };
        assert!(refused(Config::new("node1").faults(faults)).starts_with(r#""loss=2,"#));
    }

    #[test]
    fn tuning_is_checked() {
        let with = |change: fn(&mut Tuning)| {
            let mut tuning = Profile::Lan.tuning();
            change(&mut tuning);
            Config::new("node1").tuning(tuning)
        };
        assert_eq!(
            refused(with(|t| t.probe_timeout = t.probe_interval)),
            "probe_timeout = 1s cannot be: it must be less than probe_interval"
        );
        type Change = fn(&mut Tuning);
        let changes: [(&str, Change); 7] = [
            ("gossip_interval", |t| t.gossip_interval = Duration::ZERO),
            ("tcp_timeout", |t| t.tcp_timeout = Duration::MAX),
            ("retransmit_mult", |t| t.retransmit_mult = 0),
            ("suspicion_mult", |t| t.suspicion_mult = u32::MAX),
            ("gossip_nodes", |t| t.gossip_nodes = 0),
            ("indirect_checks", |t| t.indirect_checks = usize::MAX),
            ("udp_buffer_size", |t| t.udp_buffer_size = 65_508),
        ];
        for (setting, change) in changes {
            assert!(refused(with(change)).starts_with(setting), "{setting}");
        }
    }
}
