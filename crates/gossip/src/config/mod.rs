//! How a node is configured: [`Config`], and what it is made of.
//!
//! Each field tells its unit, its default, what it may be, and what you trade: what gets better and what gets worse when
//! it grows. [`Config::validate`] checks all of it, and so does [`start`](crate::start).
//!
//! | type | sets |
//! |---|---|
//! | [`Tuning`], by [`Profile`] | the pace of the gossip, with memberlist's names and defaults |
//! | [`Retention`] | how long messages are kept for members that lack them |
//! | [`ResourceLimits`] | what others can make the node hold |
//! | [`Envelope`] | the cluster's label and its keys |
//! | [`Admission`] | who may become a member |
//! | [`NodeInfo`] | what the node tells about itself: identity, roles, endpoints |
//! | [`SerfConfig`] | whether the node is in a cluster of serf agents |
//! | [`Faults`] | for tests: loss, duplicates and delays on purpose |

mod admission;
mod byte_size;
mod error;
mod faults;
pub(crate) mod info;
mod quote;
mod range;
mod resource_limits;
mod retention;
mod seed;
mod serf;
mod tuning;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use ipnet::IpNet;

pub use self::{
    admission::{Admission, AdmissionFilter, Candidate, Claim, check_networks, parse_network},
    byte_size::ByteSize,
    error::ConfigError,
    faults::{Faults, MAX_DELAY},
    info::{NodeId, NodeInfo},
    quote::quote,
    resource_limits::ResourceLimits,
    retention::Retention,
    seed::Seed,
    serf::{SerfConfig, Tags, parse_tags},
    tuning::{Profile, Tuning},
};
use crate::wire::{envelope::Envelope, limits};

/// The port that memberlist and `broadcast` listen on, unless told otherwise.
pub const DEFAULT_PORT: u16 = 7946;

/// How many networks can be [allowed](super::Config::allow).
pub const MAX_NETWORKS: usize = 256;
/// How many seeds a node can be given.
pub const MAX_SEEDS: usize = 256;

/// The longest that any duration may be.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a node needs to know to start: a name, and whatever shall differ from the defaults.
///
/// ```
/// use broadcast::{Config, Profile, Seed};
///
/// let config = Config::new("node1")
///     .bind("127.0.0.1:0".parse()?)
///     .join(["127.0.0.1:7946".parse::<Seed>()?])
///     .profile(Profile::Local);
/// assert_eq!(config.validate(), Ok(()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
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
    pub(crate) serf: Option<SerfConfig>,
    pub(crate) retention: Retention,
    pub(crate) resource_limits: ResourceLimits,
    pub(crate) admission: Admission,
    pub(crate) replay: bool,
    pub(crate) report_probes: bool,
    pub(crate) faults: Option<Faults>,
    pub(crate) envelope: Envelope,
}

impl Config {
    /// Where a node [listens](Self::bind) by default: port 7946 at all IPv4 addresses of the host.
    pub const DEFAULT_BIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), DEFAULT_PORT);

    /// A node of this name, which listens on all interfaces, and is alone until others join it.
    ///
    /// The name is unique in the cluster, has 1 to [`limits::NAME`] bytes and no control characters. It travels in most
    /// messages about members: a long one costs bandwidth.
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
            retention: Retention::default(),
            resource_limits: ResourceLimits::default(),
            admission: Admission::default(),
            replay: false,
            report_probes: false,
            faults: None,
            envelope: Envelope::default(),
        }
    }

    /// The UDP and TCP address to listen on; [`DEFAULT_BIND`](Self::DEFAULT_BIND) by default.
    ///
    /// Port 0 lets the system choose: no two nodes of a host get in each other's way, but nobody knows the port in
    /// advance, so such a node is no seed. The address of one interface keeps others out; all of them, `0.0.0.0` or
    /// `::`, let the node move with its host.
    #[must_use]
    pub fn bind(mut self, addr: SocketAddr) -> Self {
        self.bind = addr;
        self
    }

    /// The address at which others reach this node. By default, the node finds it from the interfaces and routes, and
    /// again when a seed first answers and when the host no longer has the address.
    ///
    /// Set it where the node cannot see its own address: behind a NAT, or with a published port of a container. Port 0
    /// stands for the port listened on. A host name is looked up again while the node runs, and the node moves with it;
    /// an address never changes, so it is wrong once the host moves.
    ///
    /// A NAT in between has to forward UDP and TCP to the node, and to send on what the node sends from this address, as
    /// a published port of the same number does in Docker: members are known by their addresses, and what comes from
    /// elsewhere is a stranger's.
    #[must_use]
    pub fn advertise(mut self, host: Seed) -> Self {
        self.advertise = Some(host);
        self
    }

    /// Nodes to join the cluster through, at most [`MAX_SEEDS`]; none by default. Each call adds some.
    ///
    /// The node tries them, and resolves their names, until one of them answers, and again whenever one is missing from
    /// the cluster. More seeds let a node join while some are down, and heal more partitions; each that is missing costs
    /// a lookup and a connection now and then. Three to five are plenty.
    #[must_use]
    pub fn join(mut self, seeds: impl IntoIterator<Item = Seed>) -> Self {
        self.join.extend(seeds);
        self
    }

    /// Memberlist's settings for a kind of network; [`Profile::Lan`] by default. Replaces the whole
    /// [tuning](Self::tuning).
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.tuning = profile.tuning();
        self
    }

    /// Each setting of the gossip by itself. See [`Tuning`] for what each trades.
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// The node's metadata, which every member sees: at most [`limits::META`] (512) bytes, empty by default.
    ///
    /// It travels with each announcement of the node and in each view, so each byte of it is sent and kept by every
    /// node of the cluster.
    #[must_use]
    pub fn meta(mut self, meta: impl Into<Vec<u8>>) -> Self {
        self.meta = meta.into();
        self
    }

    /// What the node tells the other nodes of this crate about itself, apart from its metadata: its identity, its roles
    /// and where its clients reach it. By default, an identity that is new at each start.
    ///
    /// Each other node asks for it once, and again when it has changed. It costs nothing at rest, and plain memberlist
    /// nodes never see it.
    #[must_use]
    pub fn info(mut self, info: NodeInfo) -> Self {
        self.info = Some(info);
        self
    }

    /// Joins a cluster of serf agents; not by default. The node's metadata are then its [tags](SerfConfig::tags),
    /// instead of [`meta`](Self::meta).
    #[must_use]
    pub fn serf(mut self, serf: SerfConfig) -> Self {
        self.serf = Some(serf);
        self
    }

    /// How much of what is published the node keeps, and how long it waits for a slow member.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// What others can make this node hold at most.
    #[must_use]
    pub fn resource_limits(mut self, limits: ResourceLimits) -> Self {
        self.resource_limits = limits;
        self
    }

    /// The networks that members may be in, at most [`MAX_NETWORKS`]; everywhere by default. Each call adds some.
    ///
    /// A node that is elsewhere, or announces an address elsewhere, does not become a member, and what such a node says
    /// about members is ignored. Fewer networks keep more strangers out, but a member that moves to another network is
    /// lost. All nodes of a cluster should allow the same networks.
    #[must_use]
    pub fn allow(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.admission.networks.extend(networks);
        self
    }

    /// Asks the application who may become a member; everybody may by default. `Err` says why not: the candidate is
    /// ignored, and the reason told as [`Event::Rejected`](crate::Event::Rejected).
    ///
    /// The filter runs in the task that does everything else, for each candidate that would be believed otherwise. So it
    /// must come to its answer at once and by itself: no I/O, no waiting, no lock that is held for long, no call of a
    /// [`Handle`](crate::Handle). If it panics, the node stops. Other nodes may let in what this one refuses, so all
    /// should have the same filter.
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

    /// Whether a node that joins first gets what the others still retain; `false` by default, so that it begins with
    /// what is published from then on.
    ///
    /// With `true` a new node knows more. But it gets all that is [retained](Retention) at once, including messages that its
    /// application may have seen before a restart.
    #[must_use]
    pub fn replay(mut self, retained: bool) -> Self {
        self.replay = retained;
        self
    }

    /// Tells the application of every ping that a member answers, with [`Event::Probed`](crate::Event::Probed); not by
    /// default.
    ///
    /// The application gets round-trip times and what acknowledgements carry, for one event in each
    /// [`probe_interval`](Tuning::probe_interval).
    #[must_use]
    pub fn report_probes(mut self) -> Self {
        self.report_probes = true;
        self
    }

    /// For tests: what happens to the datagrams that this node sends. Nothing, for ever, by default; with this,
    /// [`Handle::set_faults`](crate::Handle::set_faults) can change it while the node runs.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// The cluster's label and its keys; neither by default, so that everybody who reaches the node's port can join, and
    /// read and forge what nodes say.
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

    /// The metadata that a node with this announces: its own, or its tags in a serf cluster.
    pub(crate) fn announced_meta(&self) -> Vec<u8> {
        self.serf.as_ref().map_or_else(|| self.meta.clone(), SerfConfig::meta)
    }

    /// Checks whether a node can run with this. [`start`](crate::start) does so first.
    ///
    /// # Errors
    ///
    /// The first setting that is not valid.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_name(&self.name)?;
        check_meta(&self.meta)?;
        self.info.iter().try_for_each(NodeInfo::validate)?;
        self.serf.iter().try_for_each(SerfConfig::validate)?;
        check_seeds(&self.join)?;
        self.advertise.iter().try_for_each(|host| host.check(false))?;
        check_label(&self.envelope.label)?;
        self.tuning.validate(self.envelope.packet_overhead())?;
        self.retention.validate()?;
        self.resource_limits.validate()?;
        self.admission.validate()?;
        self.faults.iter().try_for_each(Faults::validate)
    }
}

/// Checks whether a node may have this [metadata](Config::meta).
///
/// ```
/// use broadcast::config::check_meta;
///
/// assert!(check_meta(&[0; 512]).is_ok());
/// assert!(check_meta(&[0; 513]).is_err());
/// ```
///
/// # Errors
///
/// It is longer than [`limits::META`] bytes.
pub fn check_meta(meta: &[u8]) -> Result<(), ConfigError> {
    if meta.len() > limits::META {
        return Err(ConfigError::MetaTooLong { size: meta.len() });
    }
    Ok(())
}

/// Checks whether a node may [join](Config::join) through these seeds.
///
/// ```
/// use broadcast::config::check_seeds;
///
/// assert!(check_seeds(&["node1:7946".parse()?]).is_ok());
/// assert!(check_seeds(&["node1:0".parse()?]).is_err());
/// # Ok::<(), broadcast::ConfigError>(())
/// ```
///
/// # Errors
///
/// There are more than [`MAX_SEEDS`], or one of them cannot be dialled.
pub fn check_seeds(seeds: &[Seed]) -> Result<(), ConfigError> {
    if seeds.len() > MAX_SEEDS {
        return Err(ConfigError::TooManySeeds { count: seeds.len() });
    }
    seeds.iter().try_for_each(|seed| seed.check(true))
}

/// Checks whether a cluster may have this [label](Envelope::label).
///
/// ```
/// use broadcast::config::check_label;
///
/// assert!(check_label("staging").is_ok());
/// assert!(check_label(&"x".repeat(256)).is_err());
/// ```
///
/// # Errors
///
/// It is longer than [`limits::LABEL`] bytes.
pub fn check_label(label: &str) -> Result<(), ConfigError> {
    if label.len() > limits::LABEL {
        return Err(ConfigError::LabelTooLong { size: label.len() });
    }
    Ok(())
}

/// Checks whether a node may have this [name](Config::new).
///
/// ```
/// use broadcast::config::check_name;
///
/// assert!(check_name("node1").is_ok());
/// assert!(check_name("").is_err());
/// ```
///
/// # Errors
///
/// It is empty, longer than [`limits::NAME`] bytes, or has control characters.
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
    fn retention_and_faults_are_checked() {
        let with = |change: fn(&mut Retention)| {
            let mut retention = Retention::default();
            change(&mut retention);
            Config::new("node1").retention(retention)
        };
        assert_eq!(
            refused(with(|retention| retention.retain_messages = 15)),
            "`retain_messages` = 15 is not valid: it must be between 16 and 16777216"
        );
        assert_eq!(
            refused(with(|retention| retention.retain_bytes = 1 << 20)),
            "`retain_bytes` = 1MiB is not valid: it must be between 8MiB and 1TiB"
        );
        assert_eq!(
            refused(with(|retention| retention.lag_limit = Duration::ZERO)),
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
