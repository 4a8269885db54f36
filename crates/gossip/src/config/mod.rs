//! How a node is configured.
//!
//! The defaults of the gossip are memberlist's own, by [`Profile`].

mod admission;
mod bounds;
mod faults;
pub(crate) mod info;
mod range;
mod retention;
mod seed;
mod serf;
mod shown;
mod size;
mod tuning;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use ipnet::IpNet;

pub use self::{
    admission::{Admission, Candidate, Claim, Filter, MAX_NETWORKS, check_networks, network},
    bounds::Bounds,
    faults::{Faults, MAX_DELAY},
    info::{NodeId, NodeInfo},
    retention::Limits,
    seed::Seed,
    serf::{Serf, Tags, parse_tags},
    shown::shown,
    size::Size,
    tuning::{Profile, Tuning},
};
use crate::wire::{envelope::Envelope, limits};

/// The port memberlist and `broadcast` listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7946;

/// The most seeds a node tries.
pub const MAX_SEEDS: usize = 256;

/// The longest that anything may take.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    pub(crate) info: Option<NodeInfo>,
    pub(crate) serf: Option<Serf>,
    pub(crate) limits: Limits,
    pub(crate) bounds: Bounds,
    pub(crate) admission: Admission,
    pub(crate) replay: bool,
    pub(crate) report_probes: bool,
    pub(crate) faults: Option<Faults>,
    pub(crate) envelope: Envelope,
}

impl Config {
    /// Where a node [listens](Self::bind) unless told otherwise: at all addresses of the host.
    pub const DEFAULT_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT);

    /// A node of that name, listening on all interfaces, alone until others join it.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bind: Self::DEFAULT_BIND,
            advertise: None,
            join: Vec::new(),
            tuning: Profile::default().tuning(),
            meta: Vec::new(),
            info: None,
            serf: None,
            limits: Limits::default(),
            bounds: Bounds::default(),
            admission: Admission::default(),
            replay: false,
            report_probes: false,
            faults: None,
            envelope: Envelope::default(),
        }
    }

    /// The UDP and TCP address to listen on. Port 0 lets the system choose.
    #[must_use]
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.bind = addr;
        self
    }

    /// The address others reach this node at. When it is not set, it is found from the interfaces and routes, and
    /// again when a seed first answers and when the host no longer has the address. Port 0 stands for the port
    /// listened on. A host name is looked up again while the node runs, and the node moves with it.
    ///
    /// A NAT in between has to forward UDP and TCP to the node, and to send on what the node sends from this
    /// address, as a published port of the same number does in Docker: members are known by their addresses,
    /// and what comes from elsewhere is a stranger's.
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

    /// What the node tells the others about itself, at most [`limits::META`] bytes.
    #[must_use]
    pub fn meta(mut self, meta: impl Into<Vec<u8>>) -> Self {
        self.meta = meta.into();
        self
    }

    /// What the node tells the other nodes of this crate about itself, apart from its metadata: its identity, its roles
    /// and where its clients reach it. Unless this is called, an identity that is new at each start.
    #[must_use]
    pub fn info(mut self, info: NodeInfo) -> Self {
        self.info = Some(info);
        self
    }

    /// Joins a cluster of serf agents. Its tags are the node's metadata then, instead of [`meta`](Self::meta).
    #[must_use]
    pub fn serf(mut self, serf: Serf) -> Self {
        self.serf = Some(serf);
        self
    }

    /// How much is kept of what is published, and for how long a slow member is waited for.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What others can make this node hold at most.
    #[must_use]
    pub fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    /// The networks that members may be in. Who is elsewhere, or announces an address elsewhere, is not let in,
    /// and what comes from elsewhere about members is not listened to. Everywhere, unless this is called.
    #[must_use]
    pub fn allow(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.admission.networks.extend(networks);
        self
    }

    /// Asks the application who may become a member. `Err` says why not: the candidate is ignored, and the
    /// reason told as [`Event::Rejected`](crate::Event::Rejected).
    ///
    /// It is called from the task that does everything else, for each candidate that would be believed
    /// otherwise. So it must come to its answer at once and by itself: no I/O, no waiting, no lock that
    /// is held for long, no call of a [`Handle`](crate::Handle). Should it panic, the node stops. What it
    /// refuses here, other nodes may let in: all should have the same.
    ///
    /// ```
    /// use broadcast::{Candidate, Config};
    ///
    /// let config = Config::new("node1").admit(|candidate| match candidate {
    ///     Candidate::Member(claim) if claim.meta != b"blue" => Err("it is not of the blue team".into()),
    ///     _ => Ok(()),
    /// });
    /// ```
    #[must_use]
    pub fn admit(mut self, filter: impl Fn(Candidate<'_>) -> Result<(), String> + Send + Sync + 'static) -> Self {
        self.admission.filter = Some(Arc::new(filter));
        self
    }

    /// Whether this node first gets what the others still retain of what was sent before it joined.
    /// Otherwise it begins with what is sent from then on.
    #[must_use]
    pub fn replay(mut self, retained: bool) -> Self {
        self.replay = retained;
        self
    }

    /// Tells the application of every ping that is answered, with
    /// [`Event::Probed`](crate::Event::Probed). Not unless this is called.
    #[must_use]
    pub fn report_probes(mut self) -> Self {
        self.report_probes = true;
        self
    }

    /// What is done, for a test, to the datagrams this node sends, which
    /// [`Handle::set_faults`](crate::Handle::set_faults) may change while it runs. Nothing, for ever, unless this is
    /// called.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// The cluster's label and its keys. Neither unless this is called.
    ///
    /// ```
    /// use broadcast::{Config, Envelope, wire::Keyring};
    ///
    /// let keys = ["MDEyMzQ1Njc4OWFiY2RlZg==".parse()?];
    /// let config = Config::new("node1").envelope(Envelope {
    ///     label: "staging".into(),
    ///     keyring: Keyring::new(keys)?,
    ///     ..Envelope::default()
    /// });
    /// # Ok::<(), broadcast::wire::KeyError>(())
    /// ```
    #[must_use]
    pub fn envelope(mut self, envelope: Envelope) -> Self {
        self.envelope = envelope;
        self
    }

    /// What a node with this tells the others about itself: its metadata, or its tags in a serf cluster.
    pub(crate) fn told_meta(&self) -> Vec<u8> {
        self.serf.as_ref().map_or_else(|| self.meta.clone(), Serf::meta)
    }

    /// Whether a node can run with this. [`start`](crate::start) asks it first.
    ///
    /// # Errors
    ///
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name(&self.name)?;
        check_meta(&self.meta)?;
        self.info.iter().try_for_each(NodeInfo::validate)?;
        self.serf.iter().try_for_each(Serf::validate)?;
        check_seeds(&self.join)?;
        self.advertise.iter().try_for_each(|host| host.check(false))?;
        check_label(&self.envelope.label)?;
        self.tuning.validate(self.envelope.packet_overhead())?;
        self.limits.validate()?;
        self.bounds.validate()?;
        self.admission.validate()?;
        self.faults.iter().try_for_each(Faults::validate)
    }
}

/// Whether a node may tell this about itself.
///
/// # Errors
///
/// When it is longer than [`limits::META`] bytes.
pub fn check_meta(meta: &[u8]) -> Result<(), ConfigError> {
    if meta.len() > limits::META {
        return Err(ConfigError::MetaTooLong { size: meta.len() });
    }
    Ok(())
}

/// Whether a node may have these seeds.
///
/// # Errors
///
/// When there are more than [`MAX_SEEDS`], or one cannot be dialled.
pub fn check_seeds(seeds: &[Seed]) -> Result<(), ConfigError> {
    if seeds.len() > MAX_SEEDS {
        return Err(ConfigError::TooManySeeds { count: seeds.len() });
    }
    seeds.iter().try_for_each(|seed| seed.check(true))
}

/// Whether a cluster may have this label.
///
/// # Errors
///
/// When it is longer than [`limits::LABEL`] bytes.
pub fn check_label(label: &str) -> Result<(), ConfigError> {
    if label.len() > limits::LABEL {
        return Err(ConfigError::LabelTooLong { size: label.len() });
    }
    Ok(())
}

/// Whether a node may have this name.
///
/// # Errors
///
/// When it is empty, longer than [`limits::NAME`] bytes, or has control characters.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
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
    Err(ConfigError::Name { name: name.into(), problem })
}

/// A setting that cannot be.
///
/// Texts of errors and events name a setting as this crate does: the method of [`Config`], or the field of [`Tuning`],
/// [`Limits`] or [`Bounds`], between backquotes, as in ``is `max_members` too small?``. A program that has other names
/// for them can put those there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not `host` or `host:port`.
    #[error("{} is not host[:port]: {problem}", shown(value))]
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
    #[error("{} is not a valid node name: {problem}", shown(name))]
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
    /// Not the identity of a node.
    #[error("{} is not the id of a node, which has 16 digits in base 16, like 00c0ffee00c0ffee", shown(value))]
    NodeId {
        /// What was given, or the first 64 letters of it.
        value: String,
    },
    /// What a node tells of itself is too much, or cannot be told.
    #[error("what the node tells of itself: {problem}")]
    Info {
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The label does not fit in its header.
    #[error("the label is {size} bytes long: shorten it to {} bytes", limits::LABEL)]
    LabelTooLong {
        /// Its length.
        size: usize,
    },
    /// The tags do not fit in the metadata.
    #[error("the tags take {size} bytes as serf has them: shorten them to {} bytes", limits::META)]
    TagsTooLong {
        /// Their length.
        size: usize,
    },
    /// Not `NAME=VALUE,NAME=VALUE`.
    #[error("{} are not valid tags: {problem}", shown(value))]
    Tags {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// What acknowledgements are to carry is more than they can.
    #[error("{size} bytes are too many for an acknowledgement: give it {} at most", limits::ACK_PAYLOAD)]
    AckPayloadTooLong {
        /// How many were given.
        size: usize,
    },
    /// A number, a size or a duration is out of its range.
    #[error("`{setting}` = {value} is not valid: it must be {allowed}")]
    Range {
        /// The field of [`Tuning`], [`Limits`] or [`Bounds`].
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// More networks than can be allowed.
    #[error("{count} networks are too many: allow at most {MAX_NETWORKS}, and join neighbouring ones into one")]
    TooManyNetworks {
        /// How many were given.
        count: usize,
    },
    /// Not a network.
    #[error("{} is not a network: {problem}", shown(value))]
    Network {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
    /// Not faults that can be done.
    #[error("{} are not valid faults: {problem}", shown(value))]
    Faults {
        /// What was given.
        value: String,
        /// What is wrong with it, and what would be right.
        problem: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

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
            r#""" is not a valid node name: it is empty; give one that no other node of the cluster has"#
        );
        assert!(refused(Config::new("n".repeat(256))).ends_with("it is longer than 255 bytes; shorten it"));
        assert!(refused(Config::new("a\nb")).starts_with(r#""a\nb" is not a valid node name"#));
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
            "`retain_messages` = 15 is not valid: it must be between 16 and 16777216"
        );
        assert_eq!(
            refused(with(|limits| limits.retain_bytes = 1 << 20)),
            "`retain_bytes` = 1MiB is not valid: it must be between 8MiB and 1TiB"
        );
        assert_eq!(
            refused(with(|limits| limits.lag_limit = Duration::ZERO)),
            "`lag_limit` = 0s is not valid: it must be between 100ms and 1day"
        );
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
            "`probe_timeout` = 1s is not valid: it must be less than `probe_interval`"
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
            assert!(refused(with(change)).starts_with(&format!("`{setting}` = ")), "{setting}");
        }
    }
}
