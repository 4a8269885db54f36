//! Real networks, as they are and as they should not be: each test has hosts of its own, with real interfaces,
//! addresses, firewalls and slow links between them (`support::netns`).
//!
//! What is checked is always the same: every message is delivered everywhere, once and in order, or told as
//! missed, and its sender knows.

use std::{
    collections::BTreeMap,
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    LIMIT, Log, Process,
    netns::{self, Host, Net, addr, seed},
    require::{self, Case},
};

/// How many messages are said where it matters that all arrive.
const MESSAGES: usize = 28;
/// More than a datagram takes, in bytes.
const LARGE: usize = 400_000;

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = require::cases(
        netns::missing().as_ref(),
        &[
            ("networks/packets_from_a_second_address", packets_from_a_second_address),
            ("networks/packets_from_second_addresses_everywhere", packets_from_second_addresses_everywhere),
            ("networks/packets_from_an_address_that_a_gateway_puts_on_them", packets_behind_a_gateway),
            ("networks/udp_blocked_everywhere", udp_blocked_everywhere),
            ("networks/udp_blocked_for_one_node", udp_blocked_for_one_node),
            ("networks/udp_blocked_in_one_direction", udp_blocked_in_one_direction),
            ("networks/udp_blocked_between_two", udp_blocked_between_two),
            ("networks/udp_blocked_while_it_runs", udp_blocked_while_it_runs),
            ("networks/tcp_blocked_for_one_node", tcp_blocked_for_one_node),
            ("networks/large_packets_dropped", large_packets_dropped),
            ("networks/all_but_the_smallest_datagrams_dropped", all_but_the_smallest_datagrams_dropped),
            ("networks/two_networks_and_no_seed_yet", two_networks_and_no_seed_yet),
            ("networks/a_host_whose_address_changes", a_host_whose_address_changes),
            ("networks/a_host_whose_address_changes_again_and_again", a_host_whose_address_changes_again_and_again),
            ("networks/a_seed_whose_address_changes", a_seed_whose_address_changes),
            ("networks/slow_link_lan", || a_large_message_over_a_slow_link("lan", 800_000)),
            ("networks/slow_link_local", || a_large_message_over_a_slow_link("local", 300_000)),
            ("networks/a_firewall_that_refuses_what_is_sent_to_one", a_firewall_that_refuses_what_is_sent_to_one),
            ("networks/addresses_with_a_zone", addresses_with_a_zone),
        ],
    );
    cases.extend(require::cases(
        netns::missing_clocks().as_ref(),
        &[
            ("networks/stopped_for_longer_than_remembered", stopped_for_longer_than_remembered),
            ("networks/stopped_until_messages_are_gone", stopped_until_messages_are_gone),
            ("networks/deaf_for_longer_than_remembered", deaf_for_longer_than_remembered),
            ("networks/clocks_two_days_ahead_and_behind", clocks_two_days_ahead_and_behind),
            ("networks/a_clock_that_is_another_with_each_restart", a_clock_that_is_another_with_each_restart),
        ],
    ));
    cases
}

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

    /// Has it say something, which all others have to acknowledge.
    #[track_caller]
    fn publish(&self, key: &str, value: &str, others: u64) {
        assert_eq!(self.host.publish(key, value), (others, others), "{key} of {}", self.name());
    }

    /// Has it say many things, and waits until all others have heard them, and acknowledged them.
    #[track_caller]
    fn publish_many(&self, key: &str, nodes: &[Node]) {
        self.host.publish_all(key, (0..MESSAGES).map(|i| format!("number {i}")));
        let others = nodes.iter().filter(|node| node.name() != self.name());
        others.clone().for_each(|node| node.wait_heard(key, self.name(), MESSAGES));
        self.publish(&format!("{key}, the last"), "", others.count() as u64);
    }

    /// Waits until it has heard so many messages of a key.
    #[track_caller]
    fn wait_heard(&self, key: &str, from: &str, count: usize) {
        let wanted = json!({"event": "received", "from": from, "key": key});
        self.log().wait_lines(count, &wanted);
    }

    #[track_caller]
    fn wait_members(&self, names: &[&str]) {
        for name in names.iter().filter(|name| **name != self.name()) {
            self.log().wait_line(0, &json!({"event": "joined", "member": name}));
        }
    }

    /// Waits until it does not remember a member.
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

#[track_caller]
fn wait(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < deadline, "waiting for {what}: it did not happen in time");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The arguments of a node that says something by itself, again and again.
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

/// Waits until a node has warned of what comes from one address and says that it is at another; it does so once.
#[track_caller]
fn warned_once(node: &Node, announced: &str, from: &str) {
    let is = |line: &Value| {
        let text = line.to_string();
        line["level"] == "WARN" && text.contains(&format!("{announced}:")) && text.contains(from)
    };
    let what = format!("{} to warn of {announced} heard from {from}", node.name());
    node.log().wait(&what, |lines| lines.iter().any(is).then_some(()));
    let lines = node.log().lines();
    let warnings: Vec<_> = lines.iter().filter(|line| is(line)).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
}

/// The host of `node2` has another address, which its packets leave from.
fn packets_from_a_second_address() {
    let net = Net::new();
    let second = "ip addr add 10.77.0.102/24 dev eth0; ip route replace 10.77.0.0/24 dev eth0 src 10.77.0.102";
    let hosts = [net.host(1), net.host(2), net.host(3)];
    hosts[1].sh(second);
    let join = seed(1);
    let nodes = hosts.map(|host| {
        let advertise = if host.name == "node2" { seed(2) } else { String::new() };
        let advertise: &[&str] = if advertise.is_empty() { &[] } else { &["--advertise", &advertise] };
        Node::new(host, &[&["--join", &join], advertise].concat())
    });
    heard_from_elsewhere(&nodes);
}

/// Each host has another address, which its packets leave from.
fn packets_from_second_addresses_everywhere() {
    let net = Net::new();
    let join = seed(1);
    let nodes = [1, 2, 3].map(|n| {
        let host = net.host(n);
        host.sh(&format!(
            "ip addr add 10.77.0.10{n}/24 dev eth0; ip route replace 10.77.0.0/24 dev eth0 src 10.77.0.10{n}"
        ));
        Node::new(host, &["--join", &join, "--advertise", &seed(n)])
    });
    nodes.iter().for_each(|node| node.wait_members(&["node1", "node2", "node3"]));
    all_hear_all(&nodes, "from elsewhere");
    nodes[0].publish("large", &"x".repeat(LARGE), 2);
}

/// What `node2` sends is given another address on its way. What is sent to it needs no gateway.
fn packets_behind_a_gateway() {
    let net = Net::new();
    let gateway = "ip addr add 10.77.0.102/24 dev eth0
        iptables -w -t raw -A PREROUTING -p udp -d 10.77.0.2 -j NOTRACK
        iptables -w -t nat -A POSTROUTING -p udp -s 10.77.0.2 -j SNAT --to-source 10.77.0.102";
    heard_from_elsewhere(&cluster(&net, &["", gateway, ""], &["--bind", "0.0.0.0:7946"]));
}

fn heard_from_elsewhere(nodes: &[Node]) {
    nodes.iter().for_each(|node| node.wait_members(&["node1", "node2", "node3"]));
    all_hear_all(nodes, "from elsewhere");
    [&nodes[0], &nodes[2]].iter().for_each(|node| warned_once(node, "10.77.0.2", "10.77.0.102"));
}

/// How often a node has said that a member is reached in such a way.
fn reached(node: &Node, member: &str, reach: &str) -> usize {
    node.log().count(&json!({"event": "reached", "member": member, "reach": reach}))
}

/// A node has said once that it reaches a member over TCP only.
#[track_caller]
fn reached_over_tcp(node: &Node, member: &str) {
    let is = |line: &Value| line["event"] == "reached" && line["member"] == member && line["reach"] == "tcp";
    let what = format!("{} to reach {member} over TCP", node.name());
    node.log().wait(&what, |lines| lines.iter().any(is).then_some(()));
    assert_eq!(reached(node, member, "tcp"), 1, "{} says it once of {member}", node.name());
}

/// How a node says that it reaches a member: one of the fields of its list.
#[track_caller]
fn member_field(node: &Node, member: &str, field: &str) -> Value {
    let members = node.host.members();
    let found = members.iter().find(|found| found["name"] == member);
    found.unwrap_or_else(|| panic!("{} does not list {member}", node.name()))[field].clone()
}

const NO_UDP: &str = "INPUT -p udp -j DROP";

fn udp_blocked_everywhere() {
    let net = Net::new();
    let blocked = format!("iptables -w -A {NO_UDP}");
    let nodes = cluster(&net, &[blocked.as_str(); 3], &[]);
    all_hear_all(&nodes, "no UDP");
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.name() != node.name()) {
            reached_over_tcp(node, other.name());
            assert_eq!(member_field(node, other.name(), "reach"), "tcp", "{} in the list", other.name());
        }
        assert_eq!(node.host.metric("broadcast_members_reached{by=\"tcp\"}"), 2, "{} counts them", node.name());
    }
}

fn udp_blocked_for_one_node() {
    let net = Net::new();
    let (from_it, all) = ("iptables -w -A INPUT -p udp -s 10.77.0.3 -j DROP", format!("iptables -w -A {NO_UDP}"));
    let nodes = cluster(&net, &[from_it, from_it, &all], &[]);
    all_hear_all(&nodes, "no UDP");
    nodes[..2].iter().for_each(|node| reached_over_tcp(node, "node3"));
    ["node1", "node2"].iter().for_each(|member| reached_over_tcp(&nodes[2], member));
    assert_eq!(reached(&nodes[0], "node2", "tcp") + reached(&nodes[1], "node1", "tcp"), 0, "theirs is open");
}

/// What is sent to one node is dropped, and what it sends arrives.
fn udp_blocked_in_one_direction() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", &format!("iptables -w -A {NO_UDP}")], &[]);
    all_hear_all(&nodes, "no UDP");
    nodes[..2].iter().for_each(|node| reached_over_tcp(node, "node3"));
}

/// Two do not hear each other, and all others hear both.
fn udp_blocked_between_two() {
    let net = Net::new();
    let [first, second] = [2, 1].map(|n| format!("iptables -w -A INPUT -p udp -s 10.77.0.{n} -j DROP"));
    let nodes = cluster(&net, &[&first, &second, "", ""], &SENDER);
    all_hear_all(&nodes, "no UDP");
    nodes[0].publish("large", &"x".repeat(LARGE), 3);
    all_hear_all(&nodes, "no UDP still");
}

/// The other way about.
fn tcp_blocked_for_one_node() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &SENDER);
    nodes[2].host.iptables("-A INPUT -p tcp -i eth0 -j DROP");
    all_hear_all(&nodes, "no TCP");
}

/// It begins, and it ends.
fn udp_blocked_while_it_runs() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &SENDER);
    all_hear_all(&nodes, "before");
    nodes[2].host.iptables(&format!("-A {NO_UDP}"));
    all_hear_all(&nodes, "meanwhile");
    nodes[..2].iter().for_each(|node| reached_over_tcp(node, "node3"));
    nodes[2].host.iptables(&format!("-D {NO_UDP}"));
    for node in &nodes[..2] {
        let back = json!({"event": "reached", "member": "node3", "reach": "udp"});
        node.log().wait_line(0, &back);
    }
    all_hear_all(&nodes, "after");
    nodes[..2].iter().for_each(|node| reached_over_tcp(node, "node3"));
}

/// A path whose MTU is 1280, for datagrams and streams, and of which nobody is told.
fn large_packets_dropped() {
    let net = Net::new();
    let hole = "iptables -w -A INPUT -i eth0 -m length --length 1281:65535 -j DROP";
    let nodes = cluster(&net, &[hole; 3], &[]);
    let [first, second, third] = &nodes[..] else { unreachable!("there are three") };
    first.host.publish_all("large", ["x".repeat(1250)]);
    first.host.publish_all("behind", (0..MESSAGES).map(|i| i.to_string()));
    for node in [second, third] {
        node.wait_heard("large", "node1", 1);
        node.wait_heard("behind", "node1", MESSAGES);
    }
    all_hear_all(&nodes, "and on");
    for other in [second, third] {
        // What an IP packet of 1280 bytes has room for, or less.
        let max = member_field(first, other.name(), "max_datagram").as_u64();
        assert!(max.is_some_and(|max| (1000..=1252).contains(&max)), "{} takes {max:?}", other.name());
    }
}

/// A path that takes less than any node sends by itself.
fn all_but_the_smallest_datagrams_dropped() {
    let net = Net::new();
    let hole = "iptables -w -A INPUT -p udp -m length --length 577:65535 -j DROP";
    let nodes = cluster(&net, &[hole, "", ""], &["--profile", "lan"]);
    nodes[1].host.publish_all("large", (0..MESSAGES).map(|_| "x".repeat(700)));
    nodes[0].wait_heard("large", "node2", MESSAGES);
    all_hear_all(&nodes, "and on");
}

/// The host of `node1` has a network of its own besides, which the others are not in; and nobody else is there
/// yet when its node starts.
fn two_networks_and_no_seed_yet() {
    let net = Net::new();
    net.bridge("br1");
    let host = net.bare_host("node1");
    net.attach(&host, "eth0", "br1", "10.76.0.1/24");
    net.attach(&host, "eth1", "br0", "10.77.0.1/24");
    let first = Node::new(host, &["--join", "node2,node3"]);
    first.process.addr();
    let hosts = [net.host(2), net.host(3)];
    net.resolve(&[("node1", addr(1)), ("node2", addr(2)), ("node3", addr(3))]);
    let others = hosts.map(|host| Node::new(host, &["--join", "node1"]));
    let nodes: Vec<_> = [first].into_iter().chain(others).collect();
    nodes.iter().for_each(|node| node.wait_members(&["node1", "node2", "node3"]));
    all_hear_all(&nodes, "to the other network");
}

fn move_to(node: &Node, n: u8) {
    node.host.sh(&format!("ip -4 addr flush dev eth0; ip addr add {}/24 dev eth0", addr(n)));
}

fn a_host_whose_address_changes() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &SENDER);
    all_hear_all(&nodes, "before");
    move_to(&nodes[2], 33);
    for node in &nodes[..2] {
        wait(&format!("{} to see node3 elsewhere", node.name()), || {
            let members = node.host.members();
            members.iter().any(|member| member["name"] == "node3" && member["addr"] == seed(33))
        });
    }
    all_hear_all(&nodes, "after");
}

fn a_host_whose_address_changes_again_and_again() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &SENDER);
    for n in [33, 43, 33, 3] {
        move_to(&nodes[2], n);
        for node in &nodes[..2] {
            let is_there = || member_field(node, "node3", "addr") == seed(n).as_str();
            wait(&format!("{} to see node3 at {n}", node.name()), is_there);
        }
        all_hear_all(&nodes, &format!("at {n}"));
    }
}

fn a_seed_whose_address_changes() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &SENDER);
    all_hear_all(&nodes, "before");
    move_to(&nodes[0], 11);
    for node in &nodes[1..] {
        wait(&format!("{} to see node1 elsewhere", node.name()), || {
            let members = node.host.members();
            members.iter().any(|member| member["name"] == "node1" && member["addr"] == seed(11))
        });
    }
    all_hear_all(&nodes, "after");
}

/// At 500 kbit/s it takes longer than a connection that stands still is kept for. What is said behind it does not
/// wait for much more.
fn a_large_message_over_a_slow_link(profile: &str, bytes: usize) {
    let net = Net::new();
    let slow = "tc qdisc add dev eth0 root tbf rate 500kbit burst 8kb latency 500ms";
    let nodes = cluster(&net, &[slow, ""], &["--profile", profile, "--compression", "false"]);
    let [first, second] = &nodes[..] else { unreachable!("there are two") };
    thread::scope(|scope| {
        let large = scope.spawn(|| first.publish("large", &"x".repeat(bytes), 1));
        wait("the large message to be said", || first.host.metric("broadcast_messages_published_total") > 0);
        first.host.publish_all("small", (0..10).map(|i| i.to_string()));
        large.join().unwrap_or_else(|panic| resume_unwind(panic));
    });
    first.publish("the end", "", 1);
    // Its log has no room for a line of this length.
    let told = ["delivered", "missed"].map(|what| second.host.metric(&format!("broadcast_messages_{what}_total")));
    assert_eq!(told, [12, 0], "delivered, missed");
}

/// What is sent to `node3` is refused to the sender: what goes to the others goes on in batches.
fn a_firewall_that_refuses_what_is_sent_to_one() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &[]);
    let [first, second, third] = &nodes[..] else { unreachable!("there are three") };
    let before = batching(first, second, "before");
    assert!(before > 1.5, "there is something to lose: {before} datagrams in a call");
    third.wait_heard("before", "node1", BURST);
    let refuse = "OUTPUT -p udp -d 10.77.0.3 -j DROP";
    first.host.iptables(&format!("-A {refuse}"));
    batching(first, second, "refused");
    let after = batching(first, second, "after");
    assert!(after > before / 2.0, "{before} datagrams in a call before, {after} after");
    first.host.iptables(&format!("-D {refuse}"));
    ["refused", "after"].iter().for_each(|key| third.wait_heard(key, "node1", BURST));
    all_hear_all(&nodes, "without it");
}

const BURST: usize = 2000;

/// How many datagrams a node sends in one call, when it has much to say.
fn batching(node: &Node, hearer: &Node, key: &str) -> f64 {
    let counts = || {
        let packets = node.host.metric("broadcast_packets_total{direction=\"sent\"}");
        let snmp = node.host.sh("cat /proc/net/snmp");
        let fields: Vec<_> = snmp.lines().filter_map(|line| line.strip_prefix("Udp: ")).collect();
        let at = fields[0].split(' ').position(|field| field == "OutDatagrams").expect("the kernel counts them");
        let calls: u64 = fields[1].split(' ').nth(at).expect("as many").parse().expect("a number");
        (packets, calls)
    };
    let before = counts();
    node.host.publish_all(key, (0..BURST).map(|i| format!("a message of some length, number {i:06}")));
    hearer.wait_heard(key, node.name(), BURST);
    let after = counts();
    (after.0 - before.0) as f64 / (after.1 - before.1) as f64
}

/// Hosts that have link-local addresses alone.
fn addresses_with_a_zone() {
    let net = Net::new();
    let hosts = ["node1", "node2", "node3"].map(|name| net.bare_host(name));
    hosts.iter().for_each(|host| net.attach(host, "eth0", "br0", ""));
    let addrs = hosts.each_ref().map(|host| format!("[{}%eth0]:7946", host.link_local("eth0")));
    let join = addrs[0].clone();
    let nodes: Vec<_> =
        hosts.into_iter().zip(&addrs).map(|(host, addr)| Node::new(host, &["--bind", addr, "--join", &join])).collect();
    nodes.iter().for_each(|node| node.wait_members(&["node1", "node2", "node3"]));
    all_hear_all(&nodes, "by zone");
}

/// A node is stopped until the others have forgotten it: it hears all that they said meanwhile.
fn stopped_for_longer_than_remembered() {
    absent(&[], |node| node.process.signal("STOP"), |node| node.process.signal("CONT"));
}

/// The same, and what they said is more than they keep.
fn stopped_until_messages_are_gone() {
    let few = ["--retain-messages", "64"];
    let missed = absent(&few, |node| node.process.signal("STOP"), |node| node.process.signal("CONT"));
    assert!(missed > 0, "nobody has kept them");
}

/// A node hears nothing, and is heard, until the others have forgotten it.
fn deaf_for_longer_than_remembered() {
    let deaf = "INPUT -i eth0 -j DROP";
    let rule = |node: &Node, change: &str| node.host.iptables(&format!("{change} {deaf}"));
    absent(&[], |node| rule(node, "-A"), |node| rule(node, "-D"));
}

/// Of three nodes that go on speaking one goes away until the others have forgotten all about it, and comes back.
/// Gives how many messages it was told to have missed.
fn absent(args: &[&str], go: impl Fn(&Node), come: impl Fn(&Node)) -> u64 {
    let net = Net::new();
    let join = seed(1);
    let args = [&["--join", &join, "--role", "sender", "--interval", "500ms"], args].concat();
    let node = |host: Host| Node { process: node_at(&host, FASTER, &args), host };
    let nodes = [1, 2, 3].map(|n| node(net.host(n)));
    nodes.iter().for_each(|node| node.wait_members(&["node1", "node2", "node3"]));
    all_hear_all(&nodes, "before");
    go(&nodes[2]);
    let said = json!({"event": "send"});
    let before = nodes[0].log().count(&said);
    nodes[0].log().wait_lines(before + ABSENCE, &said);
    nodes[..2].iter().for_each(|node| node.wait_forgotten("node3"));
    come(&nodes[2]);
    back_again(&nodes);
    check_told(&nodes[2])
}

/// Time goes by so much faster for all of these nodes, which cannot know.
const FASTER: &str = "+0 x5";
/// Members are waited for for 120 s after they have failed; so many times half a second is longer.
const ABSENCE: usize = 300;

/// All are members again, and know what was said.
fn back_again(nodes: &[Node]) {
    for node in &nodes[..2] {
        wait(&format!("{} to see node3 again", node.name()), || {
            node.host.members().iter().any(|member| member["name"] == "node3" && member["state"] == "alive")
        });
    }
    all_hear_all(nodes, "after");
}

/// Starts a node with another clock: one that is wrong by so much (`+2d`), or that goes faster (`+0 x5`).
fn node_at(host: &Host, clock: &str, args: &[&str]) -> Process {
    let library = host.sh("faketime -f +0 printenv LD_PRELOAD");
    let (library, time) = (format!("LD_PRELOAD={}", library.trim()), format!("FAKETIME={clock}"));
    // Unless it goes faster, what counts time alone goes on as it is.
    let monotonic = if clock.contains('x') { "0" } else { "1" };
    let monotonic = ["FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"].map(|name| format!("{name}={monotonic}"));
    host.node_with(&["env", &library, &time, &monotonic[0], &monotonic[1]], args)
}

fn clocks_two_days_ahead_and_behind() {
    let net = Net::new();
    let join = seed(1);
    let nodes: Vec<_> = (1..=4)
        .zip(["", "+2d", "-2d", "+400d"])
        .map(|(n, clock)| {
            let host = net.host(n);
            let args = ["--join", &join];
            let process = if clock.is_empty() { host.node(&args) } else { node_at(&host, clock, &args) };
            Node { host, process }
        })
        .collect();
    nodes.iter().for_each(|node| node.wait_members(&["node1", "node2", "node3", "node4"]));
    all_hear_all(&nodes, "at any time");
}

/// A node that began in the future begins again in the present, and so on, whatever its clock says.
fn a_clock_that_is_another_with_each_restart() {
    let net = Net::new();
    let mut nodes = cluster(&net, &["", ""], &SENDER);
    let join = seed(1);
    let args = [&["--join", &join], &SENDER[..]].concat();
    let mut host = net.host(3);
    for clock in ["+2d", "+0", "-3d", "+5d"] {
        let process = node_at(&host, clock, &args);
        nodes.push(Node { host, process });
        nodes[2].wait_members(&["node1", "node2"]);
        // What they say before they have met it is not for it.
        nodes[0].wait_members(&["node2", "node3"]);
        nodes[1].wait_members(&["node1", "node3"]);
        all_hear_all(&nodes, &format!("at {clock}"));
        let mut last = nodes.pop().expect("it was added");
        last.process.kill();
        host = last.host;
    }
}
