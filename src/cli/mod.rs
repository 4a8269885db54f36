//! The commands of the `broadcast` program.
//!
//! Every setting is a flag and an environment variable; the flag wins, and an empty variable counts as
//! unset. What cannot be is refused in one line before anything starts.

mod access;
mod client;
mod demo;
mod envelope;
mod follow;
mod health;
mod http;
mod log;
mod look;
mod manual;
mod name;
mod node;
mod operate;
mod output;
mod ptr;
mod publish;
mod sim;
mod size;
mod tail;
mod timeline;
mod unknown;
mod usage;
mod visible;

use std::{
    fmt, io,
    net::{SocketAddr, SocketAddrV6},
    ops::RangeInclusive,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use broadcast::{
    ConfigError, Faults, Limits, Profile, Seed, StartError, Tags,
    config::{self, DEFAULT_PORT},
    zones,
};
use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

pub(crate) use self::usage::parse;
use self::{access::AccessArgs, envelope::EnvelopeArgs, http::HttpArgs, size::Size};

/// What the program was told to do.
#[derive(Debug, Parser)]
#[command(
    name = "broadcast",
    version,
    about = "Send data from any node of a cluster to all the others, with no broker",
    long_about = "Send data from any node of a cluster to all the others, with no broker.\n\n\
        Nodes find each other by gossip, in the protocol of hashicorp/memberlist. What one node sends, \
        every other node receives.",
    after_help = "See three nodes talk, in this terminal:\n  \
        broadcast demo\n\n\
        Run two nodes yourself, each in a terminal of its own:\n  \
        broadcast node --name node1 --bind 127.0.0.1:17946\n  \
        broadcast node --name node2 --bind 127.0.0.1:0 --join 127.0.0.1:17946 --role sender\n\n\
        Publish through node1, and follow all messages:\n  \
        broadcast publish greeting hello --ack all\n  \
        broadcast tail\n\n\
        Draw who received what, of the demo or of any cluster's logs:\n  \
        broadcast demo --timeline\n  \
        docker compose logs | broadcast timeline",
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Node(Box<NodeArgs>),
    Demo(DemoArgs),
    Publish(publish::PublishArgs),
    Tail(tail::TailArgs),
    Timeline(timeline::TimelineArgs),
    Members(look::MembersArgs),
    Status(look::StatusArgs),
    Health(health::HealthArgs),
    Log(operate::LogArgs),
    Faults(operate::FaultsArgs),
    Keygen(KeygenArgs),
    Sim(SimArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
}

impl Command {
    /// As it is typed, of those that read settings from the environment.
    fn name(&self) -> Option<&'static str> {
        match self {
            Self::Node(_) => Some("node"),
            Self::Demo(_) => Some("demo"),
            Self::Publish(_) => Some("publish"),
            Self::Tail(_) => Some("tail"),
            Self::Timeline(_) => Some("timeline"),
            Self::Members(_) => Some("members"),
            Self::Status(_) => Some("status"),
            Self::Health(_) => Some("health"),
            Self::Log(_) => Some("log"),
            Self::Faults(_) => Some("faults"),
            Self::Keygen(_) | Self::Sim(_) | Self::Completions(_) | Self::Man(_) => None,
        }
    }
}

/// Run one node until it is told to stop
///
/// A receiver logs every message that it receives. A sender also sends one every interval. SIGINT (Ctrl-C) or
/// SIGTERM makes the node leave the cluster and exit with 0; a second one ends it at once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast node --name node1\n  \
    broadcast node --name node2 --role sender --join node1,node3:7946\n  \
    BROADCAST_ROLE=sender BROADCAST_JOIN=10.0.0.1 broadcast node\n\n\
    If a flag and its variable are both set, the flag wins.")]
struct NodeArgs {
    /// Name of this node, unique in the cluster [default: the host name; in a container its readable
    /// name, like sender-3]
    #[arg(long, env = "BROADCAST_NAME", hide_env_values = true, value_parser = node_name)]
    name: Option<String>,

    /// What the node does
    #[arg(long, env = "BROADCAST_ROLE", hide_env_values = true, value_enum, default_value = "receiver")]
    role: Role,

    #[command(flatten)]
    bind: BindArgs,

    /// Address others reach this node at, HOST or HOST:PORT, where HOST may be a name [default: found by itself]
    #[arg(long, env = "BROADCAST_ADVERTISE", hide_env_values = true, value_name = "ADDRESS", value_parser = advertise)]
    advertise: Option<Seed>,

    /// Nodes to join the cluster through, each HOST or HOST:PORT, separated by commas, in any order; the node tries
    /// them until one answers [default: none]
    #[arg(long, env = "BROADCAST_JOIN", hide_env_values = true, value_name = "SEEDS", value_parser = seeds)]
    join: Option<Seeds>,

    #[command(flatten)]
    interval: IntervalArgs,

    /// Kind of network; it determines the pace of the gossip
    #[arg(long, env = "BROADCAST_PROFILE", hide_env_values = true, value_parser = profile(), default_value = "lan")]
    profile: Profile,

    /// Be a member of a cluster of serf agents; set it on all nodes of a cluster, or on none
    #[arg(long, env = "BROADCAST_SERF", hide_env_values = true, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    serf: bool,

    /// Tags that serf agents list next to the node's name, like role=web,zone=a; needs --serf [default: nothing]
    #[arg(long, env = "BROADCAST_TAGS", hide_env_values = true, value_name = "TAGS", value_parser = tags)]
    tags: Option<Tags>,

    #[command(flatten)]
    envelope: EnvelopeArgs,

    /// Size of the largest UDP packets that this node sends, in bytes, 1024 to 65507; if the path to a member only
    /// carries smaller ones, the node finds out
    #[arg(long, env = "BROADCAST_UDP_BUFFER_SIZE", hide_env_values = true, value_name = "BYTES", default_value_t = broadcast::Profile::default().tuning().udp_buffer_size, value_parser = udp_buffer_size)]
    udp_buffer_size: usize,

    /// Whether this node compresses the streams that it sends; it always reads both kinds
    #[arg(long, env = "BROADCAST_COMPRESSION", hide_env_values = true, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    compression: bool,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    access: AccessArgs,

    #[command(flatten)]
    http: HttpArgs,

    /// Which earlier messages a node gets when it joins
    #[arg(long, env = "BROADCAST_REPLAY", hide_env_values = true, value_enum, default_value = "none")]
    replay: Replay,

    /// For tests: faults in the datagrams that this node sends, like loss=0.3,duplicate=0.05,delay=5ms..50ms;
    /// seed=N repeats the same choices. `ready` starts without faults, and lets `broadcast faults` change them
    /// [default: none]
    #[arg(long, env = "BROADCAST_FAULTS", hide_env_values = true, value_name = "FAULTS", value_parser = faults)]
    faults: Option<Faults>,

    #[command(flatten)]
    log: LogArgs,
}

/// See [`Limits`], whose defaults these are.
#[derive(Debug, Args)]
struct LimitArgs {
    /// How many messages the node keeps for members that lack them: this many of its own, and this many of all others
    #[arg(long, env = "BROADCAST_RETAIN_MESSAGES", hide_env_values = true, value_name = "COUNT", default_value_t = Limits::default().retain_messages, value_parser = retain_messages)]
    retain_messages: usize,

    /// How many bytes of messages the node keeps, half of them for its own: 64MiB, 64MB or a number of bytes
    #[arg(long, env = "BROADCAST_RETAIN_BYTES", hide_env_values = true, value_name = "SIZE", default_value_t = Size(Limits::default().retain_bytes), value_parser = retain_bytes)]
    retain_bytes: Size,

    /// How long publishers wait for a member that acknowledges nothing
    #[arg(long, env = "BROADCAST_LAG_LIMIT", hide_env_values = true, value_name = "DURATION", default_value_t = Limits::default().lag_limit.into(), value_parser = lag_limit)]
    lag_limit: humantime::Duration,
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        let LimitArgs { retain_messages, retain_bytes: Size(retain_bytes), lag_limit } = args;
        Self { retain_messages, retain_bytes, lag_limit: *lag_limit }
    }
}

/// Run the whole demo in this terminal: a receiver and some senders, on loopback
///
/// node1 receives; node2, node3 and so on send in turns; and all of them log what they receive. These are real
/// nodes, each with its own sockets, on ports that the system chooses. node1 serves a page that shows the cluster:
/// http://127.0.0.1:8946/
///
/// With --timeline the demo draws who sent and received what, with a column for each node. Warnings then go to
/// standard error, and --log and --log-format have no effect.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast demo\n  \
    broadcast demo --timeline\n  \
    broadcast demo --senders 5 --interval 500ms --for 15s")]
struct DemoArgs {
    /// Draw who sent and received what, instead of the log
    #[arg(long)]
    timeline: bool,

    /// How many nodes send, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    senders: u8,

    #[command(flatten)]
    interval: IntervalArgs,

    /// Stop after this time [default: run until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// Make a secret key for a cluster, and print it
///
/// Give the key to every node, in BROADCAST_SECRET_KEYS or in a file that BROADCAST_SECRET_KEYS_FILE names. The
/// nodes then encrypt everything that they send each other, and ignore everyone who does not have the key.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  export BROADCAST_SECRET_KEYS=$(broadcast keygen)\n  broadcast node --name node1")]
struct KeygenArgs {
    /// Length of the key
    #[arg(long, value_enum, default_value = "256")]
    bits: Bits,
}

/// A key's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bits {
    #[value(name = "128")]
    Aes128,
    #[value(name = "192")]
    Aes192,
    #[value(name = "256")]
    Aes256,
}

impl Bits {
    fn bytes(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

/// Simulate clusters with faults, and check that every message arrives
///
/// The simulator runs the same nodes as `broadcast node`, on a virtual clock and network. A minute of a thousand
/// nodes takes seconds, and the same seed always produces the same run.
///
/// Each scenario is a TOML file. It says how many nodes there are, what the network does to packets, who publishes
/// how much, what fails, and which results the run must reach. The simulator checks every step of every run: no
/// message is delivered twice, altered, invented or skipped silently; no receipt counts a node that does not have
/// the message; no queue exceeds its limit; no node believes itself dead. docs/simulator.md describes scenarios.
///
/// Exit codes: 0, all checks passed; 1, a check failed or a result was not reached (the command that repeats the
/// run is printed); 2, a scenario is not valid; 130, Ctrl-C (what ran until then is reported).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast sim\n  \
    broadcast sim scenarios/lossy-50.toml scenarios/churn.toml --seeds 1..20\n  \
    broadcast sim scenarios/partition.toml --size 50 --seed 7 --json\n  \
    broadcast sim --random 3000\n  \
    broadcast sim --lifeguard")]
struct SimArgs {
    /// Scenarios to run [default: a built-in one with loss, pauses, a partition and restarts]
    #[arg(value_name = "SCENARIO.toml")]
    files: Vec<PathBuf>,

    /// Compare plain SWIM with Lifeguard when some members are slow: who is declared dead, and how soon
    #[arg(long, conflicts_with_all = ["files", "until_step"])]
    lifeguard: bool,

    /// Run this many random scenarios, made from the numbers from --seed on [default: 1]: absences of up to 400 s,
    /// moves, wrong clocks, blocked UDP and more. If you run only one, its scenario is printed, too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with_all = ["files", "lifeguard", "seeds", "size"])]
    random: Option<u32>,

    /// Run with each of these seeds, both ends included, instead of the scenario's
    #[arg(long, value_name = "A..B", value_parser = sim_seeds)]
    seeds: Option<SimSeeds>,

    /// Run with this seed only
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,

    /// Run with this many nodes instead of the scenario's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=broadcast::sim::MAX_SIZE as i64))]
    size: Option<u32>,

    /// Stop each run after this many steps, and print the last of them
    #[arg(long, value_name = "STEP")]
    until_step: Option<u64>,

    /// Print the report as JSON, with all figures of every run
    #[arg(long)]
    json: bool,
}

/// Seeds of simulations, which clap is to take for one value.
type SimSeeds = RangeInclusive<u64>;

#[derive(Debug, Args)]
struct BindArgs {
    /// UDP and TCP address to listen on, IP or IP:PORT. With port 0 the system chooses a port. Docker Swarm also
    /// uses port 7946. A link-local IPv6 address includes its interface, like [fe80::1%eth0]:7946
    #[arg(long, env = "BROADCAST_BIND", hide_env_values = true, value_name = "ADDRESS", default_value = "0.0.0.0:7946", value_parser = bind)]
    bind: SocketAddr,
}

#[derive(Debug, Args)]
struct IntervalArgs {
    /// How often a sender sends: 250ms, 3s, 1m
    #[arg(long, env = "BROADCAST_INTERVAL", hide_env_values = true, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    interval: Duration,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// What to log, in tracing's syntax: debug, or warn,broadcast=debug
    #[arg(long = "log", env = "BROADCAST_LOG", hide_env_values = true, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    filter: String,

    /// Format of the log
    #[arg(
        long = "log-format",
        env = "BROADCAST_LOG_FORMAT",
        hide_env_values = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "text"
    )]
    format: log::Format,
}

/// What a node does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Log what it receives
    Receiver,
    /// Send every interval, and log what it receives
    Sender,
}

/// What a node that joins gets of what was sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Replay {
    /// Nothing: it begins with what is sent after that
    None,
    /// What the others still keep
    Retained,
}

fn profile() -> impl TypedValueParser<Value = Profile> {
    let names = Profile::NAMED.map(|(name, profile)| {
        PossibleValue::new(name).help(match profile {
            Profile::Local => "One machine",
            Profile::Lan => "One data centre",
            Profile::Wan => "The internet",
        })
    });
    PossibleValuesParser::new(names).map(|name| Profile::named(&name).expect("clap lets only these pass"))
}

/// A list of seeds, which clap is to take for one value.
type Seeds = Vec<Seed>;

fn node_name(text: &str) -> Result<String, ConfigError> {
    config::check_name(text).map(|()| text.into())
}

fn bind(text: &str) -> Result<SocketAddr, String> {
    const FORM: &str =
        "not an address to listen on; write IP:PORT, like 0.0.0.0:7946 or [::]:7946, with a port from 0 to 65535";
    address(text, DEFAULT_PORT)?.ok_or_else(|| FORM.into())
}

/// An address to listen on, whose zone may be that of an interface; nothing if it is none.
fn address(text: &str, default_port: u16) -> Result<Option<SocketAddr>, String> {
    let text = text.trim();
    let ip_alone = || text.parse().map(|ip| SocketAddr::new(ip, default_port));
    if let Ok(addr) = text.parse().or_else(|_| ip_alone()) {
        return Ok(Some(addr));
    }
    let seed = Seed::parse(text, default_port).ok();
    let Some((ip, zone)) = seed.as_ref().and_then(Seed::zoned) else { return Ok(None) };
    let port = seed.as_ref().map_or(default_port, |seed| seed.port);
    Ok(Some(SocketAddrV6::new(ip, port, 0, zones::number(zone)?).into()))
}

fn advertise(text: &str) -> Result<Seed, ConfigError> {
    // Without a port, the one listened on.
    Seed::parse(text.trim(), 0)
}

fn seeds(text: &str) -> Result<Seeds, ConfigError> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let seeds = items.map(str::parse).collect::<Result<Seeds, _>>()?;
    config::check_seeds(&seeds).map(|()| seeds)
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| "not a duration; write a number with its unit, like 250ms, 3s or 1m")?;
    if (Duration::from_millis(1)..=DAY).contains(&duration) {
        Ok(duration)
    } else {
        Err("out of range; write a duration from 1ms to 1day")
    }
}

fn sim_seeds(text: &str) -> Result<SimSeeds, String> {
    broadcast::sim::parse_seeds(text)
}

fn udp_buffer_size(text: &str) -> Result<usize, String> {
    let size = text.trim().parse().map_err(|_| "not a whole number of bytes")?;
    let tuning = broadcast::Tuning { udp_buffer_size: size, ..broadcast::Profile::default().tuning() };
    broadcast::Config::new("a node").tuning(tuning).validate().map_err(problem).map(|()| size)
}

fn retain_messages(text: &str) -> Result<usize, String> {
    let retain_messages = text.trim().parse().map_err(|_| "not a whole number of messages")?;
    check(Limits { retain_messages, ..Limits::default() }).map(|()| retain_messages)
}

fn retain_bytes(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    check(Limits { retain_bytes: size.0, ..Limits::default() }).map(|()| size)
}

fn lag_limit(text: &str) -> Result<humantime::Duration, String> {
    let lag_limit = duration(text)?;
    check(Limits { lag_limit, ..Limits::default() }).map(|()| lag_limit.into())
}

fn check(limits: Limits) -> Result<(), String> {
    limits.validate().map_err(problem)
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.trim() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("write true or false"),
    }
}

fn tags(text: &str) -> Result<Tags, String> {
    config::parse_tags(text).map_err(problem)
}

fn faults(text: &str) -> Result<Faults, String> {
    text.parse().map_err(problem)
}

/// What is wrong with a setting, when setting and value are named beside it.
fn problem(error: ConfigError) -> String {
    match error {
        ConfigError::Tuning { allowed, .. } => format!("it must be {allowed}"),
        ConfigError::Faults { problem, .. }
        | ConfigError::Network { problem, .. }
        | ConfigError::Tags { problem, .. } => problem.into(),
        error => error.to_string(),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    log::filter(text).map(|_| text.into())
}

impl Cli {
    /// Does it.
    ///
    /// # Errors
    ///
    /// Why it cannot be done.
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let result = match self.command {
            Command::Node(args) => node::run(*args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Tail(args) => tail::run(args).await,
            Command::Timeline(args) => timeline::run(args).await,
            Command::Members(args) => look::members(args).await,
            Command::Status(args) => look::status(args).await,
            Command::Health(args) => health::run(args).await,
            Command::Log(args) => operate::set_log(args).await,
            Command::Faults(args) => operate::set_faults(args).await,
            Command::Keygen(args) => envelope::keygen(&args),
            Command::Sim(args) => sim::run(args).await,
            Command::Completions(args) => manual::completions(&args),
            Command::Man(args) => manual::man(&args),
        };
        log::finish();
        result
    }
}

/// Why the program ends without having done what it was told.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: u8,
}

impl Failure {
    /// A setting cannot be.
    fn usage(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), code: 2 }
    }

    /// The settings are fine, and yet.
    fn other(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), code: 1 }
    }

    /// The system does not give what it takes to run at all.
    #[must_use]
    pub(crate) fn start(error: io::Error) -> Self {
        Self::other(format!("cannot start: {error}"))
    }

    /// The process' exit code: 2 for settings that cannot be, otherwise 1.
    #[must_use]
    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Bind { .. } => Self::other(error),
            _ => Self::usage(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
