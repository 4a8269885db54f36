//! `broadcast lock` on real nodes while everything fails: three voters and a node that does not vote, each on a host of its own,
//! and commands that hold locks beside the latter. Whatever fails, a command is over by its deadline, unless a node has confirmed
//! that it still holds its lock. The test measures that from outside.
//!
//! It runs three commands for each kind of fault. `BROADCAST_TESTS_LOCK_FAULTS` sets another number, and prints the figures.

mod holders;

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    support::{
        Process,
        netns::{self, Host, Net},
        require::{self, Case},
        wait_every,
    },
    voters,
};

/// Set in the processes that hold locks: how many.
const HOLDERS: &str = "BROADCAST_TESTS_LOCK_HOLDERS";
const COUNT: &str = "BROADCAST_TESTS_LOCK_FAULTS";
/// The most locks that are held at once.
const AT_ONCE: usize = 25;

pub fn cases() -> Vec<Case> {
    let all: [require::Test; 1] =
        [("lock_faults/what_runs_is_over_by_its_deadline", what_runs_is_over_by_its_deadline)];
    require::cases(netns::missing().as_ref(), &all)
}

/// Whether this process is one that holds locks; then it has done so.
pub fn was_holder() -> bool {
    let Ok(count) = std::env::var(HOLDERS) else { return false };
    holders::run(count.parse().expect("a number"));
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    CommandKilled,
    CommandStopped,
    NodeKilled,
    NodeStopped,
    NodeCutOff,
    LeaderKilled,
    AllVotersRestarted,
    AllVotersKilled,
}

const FAULTS: [Fault; 8] = [
    Fault::CommandKilled,
    Fault::CommandStopped,
    Fault::NodeKilled,
    Fault::NodeStopped,
    Fault::NodeCutOff,
    Fault::LeaderKilled,
    Fault::AllVotersRestarted,
    Fault::AllVotersKilled,
];

struct Node {
    host: Host,
    process: Process,
    /// Where a voter keeps what it knows.
    data: Option<TempDir>,
}

impl Node {
    fn new(host: Host, data: Option<TempDir>) -> Self {
        let process = start(&host, data.as_ref());
        Self { host, process, data }
    }
}

fn start(host: &Host, data: Option<&TempDir>) -> Process {
    voters::start(host, data.map(|data| data.path().to_str().expect("text")), &[])
}

struct Cluster {
    voters: Vec<Node>,
    other: Node,
    _net: Net,
}

impl Cluster {
    fn start() -> Self {
        let net = Net::new();
        let other = Node::new(net.host(4), None);
        let folder = || TempDir::new().expect("a folder for temporary files");
        let voters = [1, 2, 3].map(|n| Node::new(net.host(n), Some(folder()))).into();
        Self { voters, other, _net: net }
    }

    /// Waits until all vote, and one leads; gives its place.
    fn wait_well(&self) -> usize {
        let attempt = || voters::leader_of_all(&self.other.host);
        wait_every(Duration::from_millis(100), "all vote, and one leads", attempt)
    }

    fn kill_voters(&mut self) {
        self.voters.iter_mut().for_each(|voter| voter.process.kill());
    }

    fn start_voters(&mut self) {
        self.voters.iter_mut().for_each(|voter| voter.process = start(&voter.host, voter.data.as_ref()));
    }

    fn cut_off(&self, change: &str) {
        for packets in ["INPUT -i eth0", "OUTPUT -o eth0"] {
            self.other.host.iptables(&format!("{change} {packets} -j DROP"));
        }
    }

    /// Runs so many commands, applies the fault, and gives a line about each command.
    fn suffer(&mut self, fault: Fault, count: usize) -> Vec<Value> {
        let leader = self.wait_well();
        let me = std::env::current_exe().expect("this program has a path");
        let mut command = self.other.host.run("env");
        command.arg(format!("{HOLDERS}={count}")).arg(me).stdin(Stdio::piped());
        let mut holders = Process::spawn(&mut command);
        holders.log.wait_line(0, &json!({"ready": true}));
        holders.send_line(match fault {
            Fault::CommandKilled => "kill",
            Fault::CommandStopped => "stop",
            _ => "look",
        });
        match fault {
            Fault::CommandKilled | Fault::CommandStopped => {}
            Fault::NodeKilled => self.other.process.kill(),
            Fault::NodeStopped => self.other.process.signal("STOP"),
            Fault::NodeCutOff => self.cut_off("-A"),
            Fault::LeaderKilled => self.voters[leader].process.kill(),
            Fault::AllVotersRestarted => {
                self.kill_voters();
                self.start_voters();
            }
            Fault::AllVotersKilled => self.kill_voters(),
        }
        assert!(holders.wait().success(), "{:?}", holders.log.lines());
        holders.log.wait_end();
        match fault {
            Fault::NodeKilled => self.other.process = start(&self.other.host, None),
            Fault::NodeStopped => self.other.process.signal("CONT"),
            Fault::NodeCutOff => self.cut_off("-D"),
            Fault::LeaderKilled => {
                let voter = &mut self.voters[leader];
                voter.process = start(&voter.host, voter.data.as_ref());
            }
            Fault::AllVotersKilled => self.start_voters(),
            _ => {}
        }
        holders.log.lines().into_iter().filter(|line| line.get("late").is_some()).collect()
    }
}

fn what_runs_is_over_by_its_deadline() {
    let wanted = std::env::var(COUNT).ok().map(|text| text.parse::<usize>().expect("a number"));
    let mut cluster = Cluster::start();
    for fault in FAULTS {
        let (mut all, count) = (Vec::new(), wanted.unwrap_or(3));
        while all.len() < count {
            all.extend(cluster.suffer(fault, AT_ONCE.min(count - all.len())));
        }
        // A machine that gives nobody a processor in time is late itself.
        let is_late = |line: &&Value| line["late"].as_f64() > line["allowed"].as_f64();
        let late: Vec<_> = all.iter().filter(is_late).collect();
        assert!(late.is_empty(), "{fault:?}: over only after the deadline, ms: {late:?}");
        let numbers = |field: &str| {
            let mut numbers: Vec<f64> = all.iter().filter_map(|line| line[field].as_f64()).collect();
            numbers.sort_unstable_by(f64::total_cmp);
            numbers
        };
        let (ended, left) = (numbers("ended"), numbers("left"));
        // Whoever asks a node whose voters come back in time keeps the lock.
        let may_keep = matches!(fault, Fault::LeaderKilled | Fault::AllVotersRestarted);
        assert!(may_keep || ended.len() == count, "{fault:?}: {} of {count} ended", ended.len());
        if wanted.is_some() {
            let at = |numbers: &[f64], place: usize| numbers.get(place).map_or("-".into(), |ms| format!("{ms:.0} ms"));
            eprintln!(
                "{fault:?}: {count} commands, {} ended; after the fault: median {}, longest {}; before the deadline: least {}",
                ended.len(),
                at(&ended, ended.len() / 2),
                at(&ended, ended.len().saturating_sub(1)),
                at(&left, 0)
            );
        }
    }
}
