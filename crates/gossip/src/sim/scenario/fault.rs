//! The faults of a scenario, one `[[fault]]` each, and which of its keys go together.

use std::time::Duration;

use serde::Deserialize;

use super::{share, some_duration, start_time};

/// Why a fault is invalid: the key, and the problem with a remedy.
type KeyProblem = (&'static str, String);

/// The smallest MTU of a fault: the size that every IPv4 host must accept.
const SMALLEST_MTU: usize = 576;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FaultKind {
    /// Some hosts and the others cannot reach each other.
    Partition,
    /// Processes stop, as by SIGSTOP, and go on.
    Pause,
    /// Nodes crash, and stay away.
    Crash,
    /// Nodes crash, and start again.
    Restart,
    /// Nodes leave; with `for`, they start again after that time.
    Leave,
    /// New nodes start.
    Join,
    /// The wall clocks of hosts jump by `step`, and their nodes restart.
    Clock,
    /// A further share of all datagrams is lost.
    Loss,
    /// Hosts get another address while their nodes run.
    Move,
    /// What hosts send comes from another address than they advertise.
    Source,
    /// Datagrams from and to hosts are lost; streams are not.
    NoUdp,
    /// Datagrams from and to hosts are lost if they are larger than `mtu`; streams are not.
    MtuHole,
    /// Everything that a host sends shares `bytes_per_second`, and so does everything that it receives.
    SlowLink,
    /// Forged packets tell everybody that hosts have left, or have `failed`.
    Forge,
}

impl FaultKind {
    /// Its name in a scenario.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Pause => "pause",
            Self::Crash => "crash",
            Self::Restart => "restart",
            Self::Leave => "leave",
            Self::Join => "join",
            Self::Clock => "clock",
            Self::Loss => "loss",
            Self::Move => "move",
            Self::Source => "source",
            Self::NoUdp => "no_udp",
            Self::MtuHole => "mtu_hole",
            Self::SlowLink => "slow_link",
            Self::Forge => "forge",
        }
    }

    /// Whether it impairs paths between hosts.
    fn is_of_paths(self) -> bool {
        matches!(self, Self::NoUdp | Self::MtuHole | Self::SlowLink)
    }
}

/// A fault, which happens once or recurs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    /// When it happens, from the beginning of the workload, and no later than its end.
    #[serde(default, deserialize_with = "start_time")]
    pub(crate) at: Option<Duration>,
    /// Or how often it recurs, on average.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) every: Option<Duration>,
    /// How long it lasts.
    #[serde(default, rename = "for", deserialize_with = "some_duration")]
    pub(crate) lasts: Option<Duration>,
    /// How many hosts it affects. Without this, `share` and `hosts`: half of them for a partition, two for a pair, the whole
    /// network for a loss, else one.
    pub(crate) count: Option<usize>,
    /// Or which share of them.
    #[serde(default, deserialize_with = "share")]
    pub(crate) share: Option<f64>,
    /// Or which, from 0.
    #[serde(default)]
    pub(crate) hosts: Vec<usize>,
    /// For a partition or a path: affects only what these hosts send to the others.
    #[serde(default)]
    pub(crate) one_way: bool,
    /// For a path: affects only the one between two hosts, with `one_way` from the first to the second.
    #[serde(default)]
    pub(crate) pair: bool,
    /// For a restart: at a new address.
    #[serde(default)]
    pub(crate) new_address: bool,
    /// For a move: the node advertises the host's name, and looks it up.
    #[serde(default)]
    pub(crate) named: bool,
    /// For a clock: it jumps while the node runs, and takes effect when the node restarts.
    #[serde(default)]
    pub(crate) running: bool,
    /// For a forgery: it says that the hosts have failed, not that they have left.
    #[serde(default)]
    pub(crate) failed: bool,
    /// How far clocks jump, in seconds.
    pub(crate) step: Option<f64>,
    #[serde(default, deserialize_with = "share")]
    pub(crate) loss: Option<f64>,
    /// The size of the largest packet that gets through, with its headers.
    pub(crate) mtu: Option<usize>,
    pub(crate) bytes_per_second: Option<u64>,
}

impl Fault {
    /// Checks that it is possible with so many hosts.
    pub(super) fn check(&self, smallest: usize) -> Result<(), KeyProblem> {
        self.check_hosts(smallest)?;
        self.check_values()?;
        self.check_flags()?;
        let refuse = |key, problem: &str| Err((key, problem.to_owned()));
        if self.at.is_some() == self.every.is_some() {
            return refuse("at, every", "give one of them: when it happens, or how often");
        }
        let lasts = self.lasts.is_some();
        match self.kind {
            FaultKind::Partition | FaultKind::Pause | FaultKind::Loss if !lasts => {
                refuse("for", "say how long it lasts, like for = \"5s\"")
            }
            FaultKind::Crash if lasts => {
                refuse("for", "a crash is for good; write kind = \"restart\" for one that comes back")
            }
            FaultKind::Move | FaultKind::Forge if lasts => {
                refuse("for", "it happens at once, and lasts no time; leave it out")
            }
            FaultKind::Clock if lasts && self.running => refuse("for", "no node starts anew; leave it out"),
            _ => Ok(()),
        }
    }

    fn check_hosts(&self, smallest: usize) -> Result<(), KeyProblem> {
        let given = [self.count.is_some(), self.share.is_some(), !self.hosts.is_empty()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            return Err(("count, share, hosts", "give only one of them, or none".to_owned()));
        }
        if self.count.is_some_and(|count| count == 0 || count > smallest) {
            return Err(("count", format!("give 1 to {smallest}, the smallest size")));
        }
        if self.hosts.iter().any(|host| *host >= smallest) {
            return Err(("hosts", format!("give numbers from 0 to {}, below the smallest size", smallest - 1)));
        }
        if self.pair && (smallest < 2 || self.count.is_some() || self.share.is_some() || self.hosts.len() == 1) {
            return Err(("pair", "give two hosts, like hosts = [3, 4], or none for any two".to_owned()));
        }
        if self.kind == FaultKind::Join && !self.hosts.is_empty() {
            return Err(("hosts", "those that join have no number yet; give a count".to_owned()));
        }
        Ok(())
    }

    fn check_values(&self) -> Result<(), KeyProblem> {
        let of = |kind, given: bool, key: &'static str, which: &str| {
            if given == (self.kind == kind) {
                return Ok(());
            }
            let name = kind.name();
            Err((key, format!("a {name} needs it, {which}, and nothing else has it")))
        };
        of(FaultKind::Clock, self.step.is_some(), "step", "in seconds like -3.5")?;
        of(FaultKind::Loss, self.loss.is_some(), "loss", "a share like 0.3")?;
        of(FaultKind::MtuHole, self.mtu.is_some(), "mtu", "in bytes like 1280")?;
        of(FaultKind::SlowLink, self.bytes_per_second.is_some(), "bytes_per_second", "like 62500")?;
        if self.step.is_some_and(|step| !(-1e8..=1e8).contains(&step)) {
            return Err(("step", "give -100000000 to 100000000 seconds".to_owned()));
        }
        if self.mtu.is_some_and(|mtu| !(SMALLEST_MTU..=65_535).contains(&mtu)) {
            return Err(("mtu", format!("give {SMALLEST_MTU} to 65535 bytes")));
        }
        if self.bytes_per_second.is_some_and(|rate| !(100..=1_000_000_000).contains(&rate)) {
            return Err(("bytes_per_second", "give 100 to 1000000000".to_owned()));
        }
        Ok(())
    }

    fn check_flags(&self) -> Result<(), KeyProblem> {
        let kind = self.kind;
        let flags = [
            (
                "one_way",
                self.one_way,
                kind == FaultKind::Partition || kind.is_of_paths(),
                "only a partition or a path can be one-way",
            ),
            ("pair", self.pair, kind.is_of_paths(), "only a path is between two hosts"),
            (
                "new_address",
                self.new_address,
                matches!(kind, FaultKind::Restart | FaultKind::Clock),
                "only what starts anew can have a new address",
            ),
            ("named", self.named, kind == FaultKind::Move, "only what moves is looked up by its name"),
            ("failed", self.failed, kind == FaultKind::Forge, "only what is forged says so"),
            ("running", self.running, kind == FaultKind::Clock, "only a clock can jump"),
        ];
        match flags.into_iter().find(|(_, given, can, _)| *given && !can) {
            Some((key, _, _, problem)) => Err((key, problem.to_owned())),
            None if self.running && self.new_address => Err(("new_address", "no node starts anew".to_owned())),
            None => Ok(()),
        }
    }
}
