//! Real networks, good and bad: each test has hosts of its own, with real interfaces, addresses, firewalls and slow links between
//! them (`support::netns`).
//!
//! Every test checks the same: each message is delivered everywhere, once and in order, or reported as missed, and its sender
//! knows.

mod absence;
mod addresses;
mod blocked;

use std::{collections::BTreeMap, panic::resume_unwind, thread};

use serde_json::{Value, json};

use crate::support::{
    Log, Process,
    netns::{Host, Net, seed},
    require::Case,
    wait,
};

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    // The longest come first.
    [absence::cases(), blocked::cases(), addresses::cases()].into_iter().flatten().collect()
}

/// How many messages are sent where it matters that all arrive.
const MESSAGES: usize = 28;

/// More than a datagram takes, in bytes.
const LARGE: usize = 400_000;

/// A node and its host.
struct Node {
    host: Host,
    process: Process,
}

impl Node {
    fn new(host: Host, args: &[&str]) -> Self {
        let process = host.node(args);
        Self { host, process }
    }

    fn name(&self) -> &str {
        &self.host.name
    }

    fn log(&self) -> &Log {
        &self.process.log
    }

    /// Publishes a value, and waits until all others have acknowledged it.
    #[track_caller]
    fn publish(&self, key: &str, value: &str, others: u64) {
        assert_eq!(self.host.publish(key, value), (others, others), "{key} of {}", self.name());
    }

    /// Publishes many values, and waits until all others have received and acknowledged them.
    #[track_caller]
    fn publish_many(&self, key: &str, nodes: &[Node]) {
        self.host.publish_all(key, (0..MESSAGES).map(|i| format!("number {i}")));
        let others = nodes.iter().filter(|node| node.name() != self.name());
        others.clone().for_each(|node| node.wait_received(key, self.name(), MESSAGES));
        self.publish(&format!("{key}, the last"), "", others.count() as u64);
    }

    /// Waits until it has received so many messages of a key.
    #[track_caller]
    fn wait_received(&self, key: &str, from: &str, count: usize) {
        let wanted = json!({"event": "received", "from": from, "key": key});
        self.log().wait_lines(count, &wanted);
    }

    #[track_caller]
    fn wait_members(&self, names: &[&str]) {
        for name in names.iter().filter(|name| **name != self.name()) {
            self.log().wait_line(0, &json!({"event": "joined", "member": name}));
        }
    }

    /// Waits until it has forgotten a member.
    #[track_caller]
    fn wait_forgotten(&self, name: &str) {
        wait(&format!("{} to forget {name}", self.name()), || {
            self.host.members().iter().all(|member| member["name"] != name)
        });
    }
}

/// Hosts `node1` to `node<n>` on one network, prepared by a script each; then a node on each that joins through
/// the first, and knows all others.
fn cluster(net: &Net, scripts: &[&str], args: &[&str]) -> Vec<Node> {
    let hosts: Vec<_> = (1..).zip(scripts).map(|(n, script)| (net.host(n), *script)).collect();
    hosts.iter().for_each(|(host, script)| _ = host.sh(script));
    let join = seed(1);
    let args = [&["--join", &join], args].concat();
    let nodes: Vec<_> = hosts.into_iter().map(|(host, _)| Node::new(host, &args)).collect();
    let names: Vec<_> = nodes.iter().map(Node::name).collect();
    nodes.iter().for_each(|node| node.wait_members(&names));
    nodes
}

/// The arguments of a node that sends by itself.
const SENDER: [&str; 4] = ["--role", "sender", "--interval", "100ms"];

/// Each says many things, which all others hear, in whatever way; nobody heard anything twice, or in another
/// order, or left anything out in silence.
#[track_caller]
fn all_hear_all(nodes: &[Node], key: &str) {
    thread::scope(|scope| {
        let saying: Vec<_> = nodes.iter().map(|node| scope.spawn(|| node.publish_many(key, nodes))).collect();
        let ended: Vec<_> = saying.into_iter().map(|saying| saying.join()).collect();
        ended.into_iter().for_each(|ended| ended.unwrap_or_else(|panic| resume_unwind(panic)));
    });
    nodes.iter().for_each(|node| _ = check_told(node));
}

/// Checks that of each life of each origin a node was told every number from the first on, once and in order: as
/// a message, or as missed. Gives how many were missed.
#[track_caller]
fn check_told(node: &Node) -> u64 {
    let number = |line: &Value, field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
    let missed_here = node.host.metric("broadcast_messages_missed_total");
    let lines = node.log().wait(&format!("{} to say what it missed", node.name()), |lines| {
        let missed = lines.iter().filter(|line| line["event"] == "missed").map(|line| number(line, "count"));
        (missed.sum::<u64>() >= missed_here).then(|| lines.to_vec())
    });
    // Of each origin, as the log does not say in which life.
    let mut missed: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["event"] == "missed") {
        let (first, many) = (number(line, "first"), number(line, "count"));
        missed.entry(line["origin"].as_str().expect("text")).or_default().push((first, first + many));
    }
    let mut next: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["event"] == "received") {
        let (from, seq) = (line["from"].as_str().expect("text"), number(line, "seq"));
        let told = missed.entry(from).or_default();
        let expected = next.entry((from, number(line, "epoch"))).or_insert(seq);
        while let Some((_, end)) = told.iter().find(|(first, end)| first <= expected && *end > *expected && *end <= seq)
        {
            *expected = *end;
        }
        assert_eq!(seq, *expected, "{} was told nothing of what comes between ({told:?}): {line}", node.name());
        *expected += 1;
    }
    missed_here
}

/// How a node says that it reaches a member: one of the fields of its list.
#[track_caller]
fn member_field(node: &Node, member: &str, field: &str) -> Value {
    let members = node.host.members();
    let found = members.iter().find(|found| found["name"] == member);
    found.unwrap_or_else(|| panic!("{} does not list {member}", node.name()))[field].clone()
}
