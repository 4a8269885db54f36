//! The store under faults, with real processes, networks, disks and clocks: three voters and a node that does not vote, each
//! in a network of its own; what uses them ([`client`]); and somebody who breaks things. Afterwards all that was answered and
//! told is checked as in the simulation: by revision, and by real time.
//!
//! A minute long; `BROADCAST_TESTS_NEMESIS` says how many seconds instead.

pub(crate) mod client;
mod etcd;
#[allow(dead_code, reason = "the simulation uses the rest")]
#[path = "../../../crates/store/tests/simulation/history.rs"]
mod history;
mod locks;

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use broadcast_store::keys::{DeleteOutcome, Event, KeyValue, OpOutcome, Outcome, PutOutcome, RangeOutcome};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng as _, SeedableRng as _},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::history::{Answer, Ask, History, LeaseHeld, Operation};
use crate::{
    support::{
        LIMIT, Process,
        netns::{self, Host, Net, addr},
        require::{self, Case},
    },
    voters,
};

/// How the names of clients begin that want locks.
const LOCKS: &str = "locks";
/// Set in the processes that use the store; their name.
const CLIENT: &str = "BROADCAST_TESTS_NEMESIS_CLIENT";
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
    let Ok(name) = std::env::var(CLIENT) else { return false };
    if name.starts_with(LOCKS) {
        locks::run(&name)
    } else {
        client::run(&name)
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
        command.arg(format!("{CLIENT}={client}{}", host.name));
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
    seed: u64,
    _net: Net,
    _tools: TempDir,
    random: Xoshiro256PlusPlus,
    /// What is still to come before all begin again.
    kinds: Vec<usize>,
    faults: BTreeMap<&'static str, u32>,
}

/// How many kinds of faults there are.
const KINDS: usize = 14;

impl Nemesis {
    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.random.next_u64() % most as u64).expect("it is below a usize")
    }

    /// The leader, or anybody.
    fn victim(&mut self) -> usize {
        let any = self.below(3);
        if self.below(10) < 4 {
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

    /// Whatever is done to it, no node ends by itself.
    fn check_running(&mut self) {
        for node in &mut self.nodes {
            let ended = node.process.child.try_wait().expect("it was started here");
            let lines = node.process.log.lines();
            let last = &lines[lines.len().saturating_sub(20)..];
            assert!(ended.is_none(), "{} has ended, {ended:?}, after {:?}: {last:#?}", node.host.name, self.faults);
        }
    }

    /// Between 1 s and what outlives elections and leases.
    fn hold(&mut self) {
        let time = Duration::from_millis(1000 + 500 * self.below(11) as u64);
        thread::sleep(time);
    }

    /// Breaks something for a while, and mends it.
    fn fault(&mut self) {
        let victim = self.victim();
        if self.kinds.is_empty() {
            self.kinds = (0..KINDS).collect();
        }
        let next = self.below(self.kinds.len());
        let name = match self.kinds.swap_remove(next) {
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
        *self.faults.entry(name).or_default() += 1;
    }

    /// Breaks one thing after the other for so long, and waits until all is well again.
    fn rage(&mut self, seconds: u64) {
        self.wait_well();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            self.fault();
            self.check_running();
            self.hold();
        }
        self.wait_well();
    }

    /// Has the clients come to rest.
    fn rest(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.client.say("rest"));
    }

    /// Waits until all clients have ended, and gives what they printed.
    fn printed(&mut self) -> Vec<Value> {
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

    /// All disks are slow to sync, which must not be taken for a failure of whoever waits for them.
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

    /// A voter loses its disk, and an operator has it vote again.
    fn wipe(&mut self, victim: usize) {
        self.wait_well();
        self.nodes[victim].process.kill();
        let path = self.nodes[victim].path();
        self.nodes[victim].host.sh(&format!("rm -r '{path}/data'"));
        self.nodes[victim].restart();
        self.operate("replace", victim);
    }

    /// A voter loses its vote, and is taken in again with an empty disk.
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

/// How long things are broken.
fn seconds(usually: u64) -> u64 {
    std::env::var("BROADCAST_TESTS_NEMESIS").map_or(usually, |text| text.parse().expect("seconds"))
}

/// Three voters, one that is none, and beside each a client of that kind.
fn begin(client: &str, env: &[(&str, &str)]) -> Nemesis {
    let seed = client::now().as_nanos() as u64;
    let (net, tools) = (Net::new(), TempDir::new().expect("a folder for temporary files"));
    let slow_syncs = slow_syncs(&tools);
    let nodes = [4, 1, 2, 3].map(|n| Node::new(net.host(n), n != 4, client, env, &slow_syncs));
    let [other, voters @ ..] = nodes;
    let nodes: Vec<_> = voters.into_iter().chain([other]).collect();
    let random = Xoshiro256PlusPlus::seed_from_u64(seed);
    Nemesis { nodes, seed, random, kinds: Vec::new(), faults: BTreeMap::new(), _net: net, _tools: tools }
}

fn what_was_answered_is_true() {
    let seconds = seconds(60);
    let mut nemesis = begin("", &[]);
    nemesis.rage(seconds);
    nemesis.rest();
    for node in &nemesis.nodes {
        node.client.log.wait_line(0, &json!({"resting": node.host.name}));
    }
    let other = &nemesis.nodes[3].host;
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = other.ask(&["kv", "get", "--prefix", "lease-", "--json"], b"");
        let left: Value = serde_json::from_slice(&left.stdout).unwrap_or_default();
        if left["count"] == 0 && other.ask(&["kv", "put", client::LAST, ""], b"").status.success() {
            break;
        }
        assert!(Instant::now() < deadline, "leases do not end: {left}");
        thread::sleep(Duration::from_millis(200));
    }
    let mut lines = nemesis.printed();
    // A lease has ended when the first of them is told so.
    lines.sort_by_key(|line| line["at"].as_u64());
    let mut run = Run::default();
    lines.iter().for_each(|line| run.take(line));
    run.history.check();
    assert!(
        run.history.failures().is_empty(),
        "seed {}, {:?}: {:#?}",
        nemesis.seed,
        nemesis.faults,
        run.history.failures()
    );
    eprintln!("{} in {seconds} s; faults {:?}", run.figures(), nemesis.faults);
    let by_etcd = lines.iter().filter(|line| {
        line["value"].as_str().is_some_and(|value| value.contains("-etcd-")) && !line["answer"].is_null()
    });
    assert!(by_etcd.count() > 50, "clients of etcd are answered");
    assert!(run.changes.len() > 100, "the store did something: {}", run.figures());
}

/// What the clients printed, read.
#[derive(Default)]
struct Run {
    history: History,
    /// When each change was answered.
    changes: Vec<u64>,
    unanswered: usize,
}

impl Run {
    fn take(&mut self, line: &Value) {
        let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
        if let Some(told) = line.get("told") {
            let (watcher, revision) =
                (line["watcher"].as_str().expect("a name"), told["revision"].as_u64().expect("it"));
            let watcher = watcher.trim_start_matches("node").parse().expect("a number");
            let before = self.history.told.get(&watcher).copied().unwrap_or(1);
            if before + 1 != revision {
                self.history.fail(format!("watcher {watcher} is told of {revision} after {before}"));
            }
            let events: Vec<_> = told["events"].as_array().expect("a list").iter().map(event).collect();
            self.history.told(watcher, revision, &events, Duration::from_nanos(number("at")));
        } else if let Some(key) = line.get("lease") {
            let key = key.as_str().expect("text").to_owned().into();
            let not_before = Duration::from_nanos(number("not_before"));
            self.history.leases.push(LeaseHeld { key, since: number("since"), not_before });
        } else if line.get("op").is_some() {
            let (ask, answer) = asked(line);
            let mut ended = number("ended");
            match answer {
                Answer::Changed(_) => self.changes.push(ended),
                Answer::Found(_) => {}
                Answer::Nothing => {
                    self.unanswered += 1;
                    // It may take effect whenever.
                    ended = u64::MAX;
                }
            }
            self.history.operations.push(Operation { ask, answer, began: number("began"), ended });
        } else if line.get("resting").is_none() && line["ended"] != "left" {
            self.history.fail(format!("a client says {line}"));
        }
    }

    fn figures(&mut self) -> String {
        self.changes.sort_unstable();
        let gap = self.changes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        format!(
            "{} operations, {} unanswered, {} changes, {} leases; longest time without a change {:.1} s",
            self.history.operations.len(),
            self.unanswered,
            self.changes.len(),
            self.history.leases.len(),
            Duration::from_nanos(gap).as_secs_f64()
        )
    }
}

fn asked(line: &Value) -> (Ask, Answer) {
    let text = |field: &str| bytes::Bytes::from(line[field].as_str().expect("text").to_owned());
    let (key, value) = (text("key"), text("value"));
    let answer = &line["answer"];
    let number = |field: &str| answer[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
    let answered = |read: &dyn Fn() -> Answer| if answer.is_null() { Answer::Nothing } else { read() };
    let found = || Answer::Found(range(answer));
    match line["op"].as_str().expect("text") {
        "put" => {
            let put = || Answer::Changed(Outcome::Put(PutOutcome { revision: number("revision"), prev: None }));
            (Ask::Put { key, value }, answered(&put))
        }
        "delete" => {
            let (revision, deleted) = (|| number("revision"), || number("deleted"));
            let delete = || DeleteOutcome { revision: revision(), deleted: deleted(), prev: Vec::new() };
            (Ask::Delete { key }, answered(&|| Answer::Changed(Outcome::Delete(delete()))))
        }
        "swap" => {
            let swapped = || {
                let responses = answer["responses"].as_array().expect("a list").iter();
                let responses = responses.filter_map(|one| Some(OpOutcome::Range(range(one.get("get")?)))).collect();
                let succeeded = answer["succeeded"].as_bool().expect("yes or no");
                Answer::Changed(Outcome::Txn { revision: number("revision"), succeeded, responses })
            };
            (Ask::Swap { key, expected: line["expected"].as_u64().expect("a revision"), value }, answered(&swapped))
        }
        "read" => (Ask::Read, answered(&found)),
        _ => (Ask::ReadLocally, answered(&found)),
    }
}

fn range(found: &Value) -> RangeOutcome {
    let kvs = found["kvs"].as_array().expect("a list").iter().map(|one| kv(one).into()).collect();
    let number = |field: &str| found[field].as_u64().unwrap_or_default();
    RangeOutcome { revision: number("revision"), count: number("count"), more: false, kvs }
}

fn kv(kv: &Value) -> KeyValue {
    let number = |field: &str| kv[field].as_u64().unwrap_or_else(|| panic!("{field} in {kv}"));
    let text = |field: &str| kv[field].as_str().unwrap_or_default().to_owned();
    KeyValue {
        key: text("key").into(),
        value: text("value").into(),
        create_revision: number("create_revision"),
        mod_revision: number("mod_revision"),
        version: number("version"),
        lease: kv["lease"].as_str().map_or(0, |lease| i64::from_str_radix(lease, 16).expect("digits of base 16")),
    }
}

fn event(event: &Value) -> Event {
    Event { kv: kv(&event["kv"]).into(), prev: event.get("prev").map(|prev| kv(prev).into()) }
}
