//! The settings of one node.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use broadcast::{
    Config, ConfigError, Faults, Profile, Seed, SerfConfig, Tags, Tuning,
    config::{self, DEFAULT_PORT},
};
use clap::{
    Args, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

use super::{
    access::AccessArgs,
    envelope::EnvelopeArgs,
    etcd::EtcdArgs,
    http::HttpArgs,
    log::LogArgs,
    retention::RetentionArgs,
    values::{address, boolean, duration, name_of, path, problem},
};
use crate::{
    failure::Failure,
    roles::{self, Role, Roles},
    visible::quote,
};

/// All settings of `broadcast node`.
#[derive(Debug, Args)]
pub(crate) struct NodeSettings {
    /// Name of this node, unique in the cluster [default: the host name; in a container its readable
    /// name, like sender-3]
    #[arg(long, env = "BROADCAST_NAME", value_parser = node_name)]
    pub(crate) name: Option<String>,

    /// What the node does: one role, or several, separated by commas
    #[arg(long, env = "BROADCAST_ROLE", value_name = "ROLES", default_value = "receiver", value_parser = roles::parser())]
    pub(crate) role: Roles,

    /// Directory in which the node keeps its identity from one start to the next: made if it is not there, and for
    /// this node alone [default: none; a new identity at each start]
    #[arg(long, env = "BROADCAST_DATA", value_name = "DIRECTORY", value_parser = path())]
    pub(crate) data: Option<PathBuf>,

    /// Names of the nodes that found the replicated store together, the same on each of them, separated by commas; with
    /// the role voter this node must be one of them [default: none]
    #[arg(long, env = "BROADCAST_VOTERS", value_name = "NAMES", value_parser = voters)]
    pub(crate) voters: Option<Voters>,

    /// Whether nodes of different hosts call each other even if the cluster has no key; then whoever reaches a node can
    /// read and change the store
    #[arg(long, env = "BROADCAST_INSECURE_SESSIONS", value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) insecure_sessions: bool,

    #[command(flatten)]
    pub(crate) bind: BindArgs,

    /// Address others reach this node at, HOST or HOST:PORT, where HOST may be a name [default: found by itself]
    #[arg(long, env = "BROADCAST_ADVERTISE", value_name = "ADDRESS", value_parser = advertise)]
    pub(crate) advertise: Option<Seed>,

    /// Nodes to join the cluster through, each HOST or HOST:PORT, separated by commas, in any order; the node tries
    /// them until one answers [default: none]
    #[arg(long, env = "BROADCAST_JOIN", value_name = "SEEDS", value_parser = seeds)]
    pub(crate) join: Option<Seeds>,

    #[command(flatten)]
    pub(crate) interval: IntervalArgs,

    /// Kind of network; it determines the pace of the gossip
    #[arg(long, env = "BROADCAST_PROFILE", value_parser = profile(), default_value = Profile::default().name())]
    pub(crate) profile: Profile,

    /// Be a member of a cluster of serf agents; set it on all nodes of a cluster, or on none
    #[arg(long, env = "BROADCAST_SERF", value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) serf: bool,

    /// Tags that serf agents list next to the node's name, like role=web,zone=a; needs --serf [default: nothing]
    #[arg(long, env = "BROADCAST_TAGS", value_name = "TAGS", value_parser = tags)]
    pub(crate) tags: Option<Tags>,

    #[command(flatten)]
    pub(crate) envelope: EnvelopeArgs,

    #[arg(
        long,
        env = "BROADCAST_UDP_BUFFER_SIZE",
        value_name = "BYTES",
        default_value_t = Profile::default().tuning().udp_buffer_size,
        value_parser = udp_buffer_size,
        help = format!(
            "Size of the largest UDP packets that this node sends, in bytes, {} to {}; if the path to a member only \
             carries smaller ones, the node finds out",
            Tuning::UDP_BUFFER_SIZE.start(),
            Tuning::UDP_BUFFER_SIZE.end()
        )
    )]
    pub(crate) udp_buffer_size: usize,

    /// Whether this node compresses the streams that it sends; it always reads both kinds
    #[arg(long, env = "BROADCAST_COMPRESSION", value_name = "BOOL", default_value_t = Profile::default().tuning().compression, action = clap::ArgAction::Set)]
    pub(crate) compression: bool,

    #[command(flatten)]
    pub(crate) retention: RetentionArgs,

    #[command(flatten)]
    pub(crate) access: AccessArgs,

    #[command(flatten)]
    pub(crate) http: HttpArgs,

    #[command(flatten)]
    pub(crate) etcd: EtcdArgs,

    /// Which earlier messages a node gets when it joins
    #[arg(long, env = "BROADCAST_REPLAY", value_enum, default_value = "none")]
    pub(crate) replay: Replay,

    /// For tests: faults in the datagrams that this node sends, like loss=0.3,duplicate=0.05,delay=5ms..50ms;
    /// seed=N repeats the same choices. `ready` starts without faults, and lets `broadcast faults` change them
    /// [default: none]
    #[arg(long, env = "BROADCAST_FAULTS", value_name = "FAULTS", value_parser = faults)]
    pub(crate) faults: Option<Faults>,

    #[command(flatten)]
    pub(crate) log: LogArgs,
}

impl NodeSettings {
    /// Fails if settings contradict each other.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.tags.is_some() && !self.serf {
            return Err(Failure::usage(format!(
                "{} is for a serf cluster: set {} to true, too",
                name_of("tags"),
                name_of("serf")
            )));
        }
        if self.role.has(Role::Voter) && self.voters.is_none() {
            return Err(Failure::usage(format!(
                "{} has voter, so {} is needed, too: the names of all nodes that found the store together",
                name_of("role"),
                name_of("voters")
            )));
        }
        Ok(())
    }

    /// The voters that found the store, if the node of this name is one of them; otherwise none.
    pub(crate) fn voters_with(&self, name: &str) -> Result<Vec<String>, Failure> {
        let voters = self.voters.as_deref().filter(|_| self.role.has(Role::Voter)).unwrap_or_default();
        if !voters.is_empty() && !voters.iter().any(|voter| voter == name) {
            return Err(Failure::usage(format!(
                "{} = {}: this node has the role voter, and its name, {}, is not among them; add it on all voters, or \
                 correct {}",
                name_of("voters"),
                quote(&voters.join(",")),
                quote(name),
                name_of("name")
            )));
        }
        Ok(voters.to_vec())
    }

    /// The configuration of a node of that name.
    pub(crate) fn config(self, name: String) -> Result<Config, Failure> {
        let mut config = Config::new(name)
            .bind(self.bind.bind)
            .join(self.join.unwrap_or_default())
            .tuning(Tuning {
                compression: self.compression,
                udp_buffer_size: self.udp_buffer_size,
                ..self.profile.tuning()
            })
            .envelope(self.envelope.envelope()?)
            .retention(self.retention.into())
            .replay(self.replay == Replay::Retained);
        config = self.access.apply(config);
        if self.serf {
            config = config.serf(SerfConfig { tags: self.tags.unwrap_or_default() });
        }
        if let Some(faults) = self.faults {
            config = config.faults(faults);
        }
        if let Some(host) = self.advertise {
            config = config.advertise(host);
        }
        Ok(config)
    }
}

#[derive(Debug, Args)]
pub(crate) struct BindArgs {
    #[arg(
        long,
        env = "BROADCAST_BIND",
        value_name = "ADDRESS",
        default_value_t = Config::DEFAULT_BIND,
        value_parser = bind,
        help = format!(
            "UDP and TCP address to listen on, IP or IP:PORT. With port 0 the system chooses a port. Docker Swarm also \
             uses port {DEFAULT_PORT}. A link-local IPv6 address includes its interface, like [fe80::1%eth0]:{DEFAULT_PORT}"
        )
    )]
    pub(crate) bind: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct IntervalArgs {
    /// How often a sender sends: 250ms, 3s, 1m
    #[arg(long, env = "BROADCAST_INTERVAL", value_name = "DURATION", default_value = "3s", value_parser = duration)]
    pub(crate) interval: Duration,
}

/// Which earlier messages a joining node gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Replay {
    /// Nothing: it begins with what is sent after that
    None,
    /// What the others still keep
    Retained,
}

fn profile() -> impl TypedValueParser<Value = Profile> {
    let names = Profile::ALL.map(|profile| {
        PossibleValue::new(profile.name()).help(match profile {
            Profile::Local => "One machine",
            Profile::Lan => "One data centre",
            Profile::Wan => "The internet",
        })
    });
    PossibleValuesParser::new(names).map(|name| Profile::named(&name).expect("clap lets only these pass"))
}

/// A list of names. The alias has clap take it for one value.
type Voters = Vec<String>;

/// The most voters. More would make each agreement slower, and nine bear the loss of four.
const MAX_VOTERS: usize = 9;

fn voters(text: &str) -> Result<Voters, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    let mut voters = Voters::new();
    for name in names {
        config::check_name(name).map_err(|error| format!("{}: {error}", quote(name)))?;
        if voters.iter().any(|other| other == name) {
            return Err(format!("{} is named twice; name each voter once", quote(name)));
        }
        voters.push(name.into());
    }
    match voters.len() {
        0 => Err("it names no node; write the names of all voters, like node1,node2,node3".into()),
        1..=MAX_VOTERS => Ok(voters),
        many => Err(format!("{many} voters are too many; name at most {MAX_VOTERS}, and best three or five")),
    }
}

/// A list of seeds. The alias has clap take it for one value.
type Seeds = Vec<Seed>;

pub(crate) fn node_name(text: &str) -> Result<String, ConfigError> {
    config::check_name(text).map(|()| text.into())
}

fn bind(text: &str) -> Result<SocketAddr, String> {
    address(text, DEFAULT_PORT)?.ok_or_else(|| {
        format!(
            "not an address to listen on; write IP:PORT, like {} or [::]:{DEFAULT_PORT}, with a port from 0 to 65535",
            Config::DEFAULT_BIND
        )
    })
}

fn advertise(text: &str) -> Result<Seed, ConfigError> {
    // Port 0 stands for the port that the node listens on.
    Seed::parse(text.trim(), 0)
}

fn seeds(text: &str) -> Result<Seeds, ConfigError> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let seeds = items.map(str::parse).collect::<Result<Seeds, _>>()?;
    config::check_seeds(&seeds).map(|()| seeds)
}

fn udp_buffer_size(text: &str) -> Result<usize, String> {
    let size = text.trim().parse().map_err(|_| "not a whole number of bytes")?;
    let tuning = Tuning { udp_buffer_size: size, ..Profile::default().tuning() };
    Config::new("a node").tuning(tuning).validate().map_err(problem).map(|()| size)
}

fn tags(text: &str) -> Result<Tags, String> {
    config::parse_tags(text).map_err(problem)
}

pub(crate) fn faults(text: &str) -> Result<Faults, String> {
    text.parse().map_err(problem)
}
