//! The store under faults, with real processes, networks, disks and clocks: three voters and a node that does not vote, each on
//! a host of its own; [clients](client) that use them; and a nemesis that breaks things. Afterwards all answers and events are
//! checked as in the simulation: by revision, and by real time.
//!
//! It takes a minute; `BROADCAST_TESTS_NEMESIS` says how many seconds instead.

pub(crate) mod client;
mod etcd;
mod faults;
#[allow(dead_code, reason = "the simulation uses the rest")]
#[path = "../../../crates/store/tests/simulation/history.rs"]
mod history;
mod locks;
mod run;

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::faults::Faults;
use crate::{
    support::{
        LIMIT, Process,
        netns::{self, Host, Net, addr},
        require::{self, Case},
        wait,
    },
    voters,
};

/// How the names of clients begin that want locks.
const LOCKS: &str = "locks";
/// The size of a voter's disk.
const DISK: &str = "400m";
/// On a voter's disk: while there is such a file, that takes 2 s to sync.
const SLOW: &str = "slow";

pub fn cases() -> Vec<Case> {
    let all: [require::Test; 2] = [
        ("nemesis/what_was_answered_is_true", what_was_answered_is_true),
        ("nemesis/nobody_holds_what_another_one_holds", locks::nobody_holds_what_another_one_holds),
    ];
    require::cases(netns::missing().as_ref(), &all)
}

/// Whether this process is one that uses the store; then it has done so.
pub fn was_client() -> bool {
    let Ok(name) = std::env::var(client::NAME) else { return false };
    if name.starts_with(LOCKS) {
        locks::run(&name)
    } else {
        let work: Vec<_> = client::WORK.into_iter().chain(etcd::WORK).collect();
        client::run(&name, &[client::WATCH, etcd::watch], &work);
    }
    true
}

/// A node in a network and, if it votes, with a disk of its own.
struct Node {
    host: Host,
    process: Process,
    client: Process,
    disk: Option<TempDir>,
    slow_syncs: String,
}

/// A voter's disk, as its network's files have it.
fn mount(host: &Host) -> TempDir {
    let disk = TempDir::new().expect("a folder for temporary files");
    host.sh(&format!("mount -t tmpfs -o size={DISK} none '{}'", disk.path().display()));
    disk
}

/// What makes a voter's disk slow to sync, while there is the file [`SLOW`] on it.
fn slow_syncs(folder: &TempDir) -> String {
    let (source, library) = (folder.path().join("slow_sync.c"), folder.path().join("slow_sync.so"));
    fs::write(&source, include_str!("slow_sync.c")).expect("there is room");
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(cc.expect("who links Rust has a C compiler").success(), "{} is compiled", source.display());
    library.display().to_string()
}

fn start(host: &Host, disk: Option<&TempDir>, slow_syncs: &str) -> Process {
    let Some(disk) = disk else { return voters::start(host, None, &[]) };
    let path = disk.path().display();
    let env = [format!("LD_PRELOAD={slow_syncs}"), format!("SLOW_SYNC={path}/{SLOW}")];
    voters::start(host, Some(&format!("{path}/data")), &env)
}

impl Node {
    /// With a client of that kind, which has these variables.
    fn new(host: Host, votes: bool, client: &str, env: &[(&str, &str)], slow_syncs: &str) -> Self {
        let disk = votes.then(|| mount(&host));
        let process = start(&host, disk.as_ref(), slow_syncs);
        let me = std::env::current_exe().expect("this program has a path");
        let mut command = host.run("env");
        command.arg(format!("{}={client}{}", client::NAME, host.name));
        command.args(env.iter().map(|(name, value)| format!("{name}={value}"))).arg(me).stdin(Stdio::piped());
        let client = Process::spawn(&mut command);
        Self { host, process, client, disk, slow_syncs: slow_syncs.to_owned() }
    }

    fn restart(&mut self) {
        self.process = start(&self.host, self.disk.as_ref(), &self.slow_syncs);
    }

    fn path(&self) -> String {
        self.disk.as_ref().expect("a voter has a disk").path().display().to_string()
    }
}

struct Nemesis {
    nodes: Vec<Node>,
    _net: Net,
    _tools: TempDir,
    faults: Faults,
}

/// How many kinds of faults there are.
const KINDS: usize = 14;

impl Nemesis {
    /// The leader, or anybody.
    fn victim(&mut self) -> usize {
        let any = self.faults.below(3);
        if self.faults.below(10) < 4 {
            return any;
        }
        let leader = voters::status(&self.nodes[3].host)
            .and_then(|status| status["leader"].as_str()?.strip_prefix("node")?.parse().ok());
        leader.map_or(any, |leader: usize| leader - 1)
    }

    /// Waits until all three vote, and one leads.
    fn wait_well(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while let Err(status) = voters::leader_of_all(&self.nodes[3].host) {
            assert!(Instant::now() < deadline, "not all vote again after {:?}: {status}", self.faults);
            self.check_running();
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// No node ends by itself, whatever is done to it.
    fn check_running(&mut self) {
        for node in &mut self.nodes {
            let ended = node.process.child.try_wait().expect("it was started here");
            let lines = node.process.log.lines();
            let last = &lines[lines.len().saturating_sub(20)..];
            assert!(ended.is_none(), "{} has ended, {ended:?}, after {:?}: {last:#?}", node.host.name, self.faults);
        }
    }

    /// Waits between 1 s and longer than elections and leases last.
    fn hold(&mut self) {
        let time = Duration::from_millis(1000 + 500 * self.faults.below(11) as u64);
        thread::sleep(time);
    }

    /// Breaks something for a while, and repairs it.
    fn fault(&mut self) {
        let victim = self.victim();
        let name = match self.faults.next_kind() {
            0 => {
                self.nodes[victim].process.kill();
                self.hold();
                self.nodes[victim].restart();
                "kill -9"
            }
            2 => {
                (0..3).for_each(|at| self.nodes[at].process.kill());
                (0..3).for_each(|at| self.nodes[at].restart());
                "kill -9 of all"
            }
            3 => {
                self.nodes[victim].process.signal("STOP");
                self.hold();
                self.nodes[victim].process.signal("CONT");
                "paused"
            }
            4 => {
                // As if the machine slept: everybody's time goes on without them.
                (0..3).for_each(|at| self.nodes[at].process.signal("STOP"));
                self.hold();
                (0..3).for_each(|at| self.nodes[at].process.signal("CONT"));
                "all paused"
            }
            5 => {
                self.rule(victim, &["INPUT -i eth0", "OUTPUT -o eth0"]);
                "alone"
            }
            6 => {
                self.rule(victim, &["INPUT -i eth0"]);
                "deaf"
            }
            7 => {
                self.rule(victim, &["OUTPUT -o eth0"]);
                "mute"
            }
            1 => {
                let other = addr(u8::try_from((victim + 1) % 3 + 1).expect("a voter"));
                self.rule(victim, &[&format!("INPUT -s {other}"), &format!("OUTPUT -d {other}")]);
                "two apart"
            }
            8 => {
                // The log has its room beforehand, and goes on for 64 MiB.
                let (host, path) = (&self.nodes[victim].host, self.nodes[victim].path());
                host.sh(&format!("head -c 1G /dev/zero >'{path}/others' 2>/dev/null || true"));
                self.hold();
                self.nodes[victim].host.sh(&format!("rm '{path}/others'"));
                "full disk"
            }
            9 => {
                self.wipe(victim);
                "wiped disk"
            }
            10 => {
                // Nobody is to have a vote because of it.
                self.nodes[3].process.signal("STOP");
                self.hold();
                self.nodes[3].process.signal("CONT");
                "the other paused"
            }
            11 => {
                self.slow_disks();
                "slow disks"
            }
            12 => {
                self.change_voters(victim);
                "voter removed and added"
            }
            _ => {
                for at in 0..3 {
                    self.nodes[at].process.signal("TERM");
                    assert!(self.nodes[at].process.wait().success(), "it ends well when it is told to");
                    self.nodes[at].restart();
                    self.wait_well();
                }
                "rolling restart"
            }
        };
        self.faults.count(name);
    }

    /// Breaks one thing after the other for so long, and waits until all is well again.
    fn break_things(&mut self, seconds: u64) {
        self.wait_well();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            self.fault();
            self.check_running();
            self.hold();
        }
        self.wait_well();
    }

    /// Tells the clients to finish.
    fn stop_clients(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.client.send_line("rest"));
    }

    /// Waits until all clients have ended, and gives what they printed.
    fn client_lines(&mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        for node in &mut self.nodes {
            assert!(node.client.wait().success(), "the client of {} ends well", node.host.name);
            node.client.log.wait_end();
            lines.extend(node.client.log.lines());
        }
        lines
    }

    /// Drops these packets of a voter.
    fn rule(&mut self, victim: usize, packets: &[&str]) {
        let rules = |nemesis: &Self, change: &str| {
            packets.iter().for_each(|which| nemesis.nodes[victim].host.iptables(&format!("{change} {which} -j DROP")));
        };
        rules(self, "-A");
        self.hold();
        rules(self, "-D");
    }

    /// All disks are slow to sync. No node may be declared failed because of it.
    fn slow_disks(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let sees_all =
            |node: &Node| node.host.members().iter().filter(|member| member["state"] == "alive").count() == 4;
        while !self.nodes.iter().all(sees_all) {
            assert!(Instant::now() < deadline, "not all see each other again after {:?}", self.faults);
            thread::sleep(Duration::from_millis(100));
        }
        let failures = |nodes: &[Node]| -> usize {
            nodes.iter().map(|node| node.process.log.count(&json!({"event": "failed"}))).sum()
        };
        let before = failures(&self.nodes);
        let change = |nodes: &[Node], command: &str| {
            nodes[..3].iter().for_each(|node| _ = node.host.sh(&format!("{command} '{}/{SLOW}'", node.path())));
        };
        change(&self.nodes, "touch");
        self.hold();
        change(&self.nodes, "rm");
        assert_eq!(failures(&self.nodes), before, "nobody is taken for failed because disks are slow");
    }

    /// A voter loses its disk, and an operator adds it again.
    fn wipe(&mut self, victim: usize) {
        self.wait_well();
        self.nodes[victim].process.kill();
        let path = self.nodes[victim].path();
        self.nodes[victim].host.sh(&format!("rm -r '{path}/data'"));
        self.nodes[victim].restart();
        self.operate("replace", victim);
    }

    /// An operator removes a voter, and adds it again with an empty disk.
    fn change_voters(&mut self, victim: usize) {
        self.wait_well();
        self.operate("remove", victim);
        self.nodes[victim].process.kill();
        let path = self.nodes[victim].path();
        self.nodes[victim].host.sh(&format!("rm -r '{path}/data'"));
        self.nodes[victim].restart();
        self.operate("add", victim);
    }

    /// Has an operator change who votes.
    fn operate(&self, change: &str, victim: usize) {
        let name = &self.nodes[victim].host.name;
        let deadline = Instant::now() + LIMIT;
        loop {
            let asked = self.nodes[3].host.ask(&["voters", change, name], b"");
            let said = String::from_utf8_lossy(&asked.stderr).into_owned();
            // It may be done although the answer was lost.
            if asked.status.success() || said.contains("does not vote") || said.contains("votes already") {
                return;
            }
            assert!(Instant::now() < deadline, "voters {change} {name} fails: {said}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Starts three voters, a node that does not vote, and beside each a client of this kind.
fn begin(client: &str, env: &[(&str, &str)]) -> Nemesis {
    let (net, tools) = (Net::new(), TempDir::new().expect("a folder for temporary files"));
    let slow_syncs = slow_syncs(&tools);
    let nodes = [4, 1, 2, 3].map(|n| Node::new(net.host(n), n != 4, client, env, &slow_syncs));
    let [other, voters @ ..] = nodes;
    let nodes: Vec<_> = voters.into_iter().chain([other]).collect();
    Nemesis { nodes, faults: Faults::new(KINDS), _net: net, _tools: tools }
}

fn what_was_answered_is_true() {
    let seconds = client::seconds(60);
    let mut nemesis = begin("", &[]);
    nemesis.break_things(seconds);
    nemesis.stop_clients();
    for node in &nemesis.nodes {
        node.client.log.wait_line(0, &json!({"resting": node.host.name}));
    }
    let other = &nemesis.nodes[3].host;
    wait("leases end", || run::has_ended(|args| other.ask(args, b"")));
    let lines = run::check(nemesis.client_lines(), &nemesis.faults);
    let by_etcd = lines.iter().filter(|line| {
        line["value"].as_str().is_some_and(|value| value.contains("-etcd-")) && !line["answer"].is_null()
    });
    assert!(by_etcd.count() > 50, "clients of etcd are answered");
}
