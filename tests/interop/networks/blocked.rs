//! Firewalls, small datagrams and slow links.

use std::{panic::resume_unwind, thread};

use serde_json::{Value, json};

use super::{LARGE, MESSAGES, Node, SENDER, all_hear_all, cluster, member_field, wait};
use crate::support::{
    netns::{self, Net},
    require::{self, Case},
};

pub(super) fn cases() -> Vec<Case> {
    require::cases(
        netns::missing().as_ref(),
        &[
            ("networks/udp_blocked_everywhere", udp_blocked_everywhere),
            ("networks/udp_blocked_for_one_node", udp_blocked_for_one_node),
            ("networks/udp_blocked_in_one_direction", udp_blocked_in_one_direction),
            ("networks/udp_blocked_between_two", udp_blocked_between_two),
            ("networks/udp_blocked_while_it_runs", udp_blocked_while_it_runs),
            ("networks/tcp_blocked_for_one_node", tcp_blocked_for_one_node),
            ("networks/large_packets_dropped", large_packets_dropped),
            ("networks/all_but_the_smallest_datagrams_dropped", all_but_the_smallest_datagrams_dropped),
            ("networks/slow_link_lan", || a_large_message_over_a_slow_link("lan", 800_000)),
            ("networks/slow_link_local", || a_large_message_over_a_slow_link("local", 300_000)),
            ("networks/a_firewall_that_refuses_what_is_sent_to_one", a_firewall_that_refuses_what_is_sent_to_one),
        ],
    )
}

/// How often a node has logged that it reaches a member in this way.
fn reached(node: &Node, member: &str, reach: &str) -> usize {
    node.log().count(&json!({"event": "reached", "member": member, "reach": reach}))
}

/// A node has logged once that it reaches a member over TCP only.
#[track_caller]
fn reached_over_tcp(node: &Node, member: &str) {
    let is = |line: &Value| line["event"] == "reached" && line["member"] == member && line["reach"] == "tcp";
    let what = format!("{} to reach {member} over TCP", node.name());
    node.log().wait(&what, |lines| lines.iter().any(is).then_some(()));
    assert_eq!(reached(node, member, "tcp"), 1, "{} says it once of {member}", node.name());
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

/// TCP is blocked, and UDP is not.
fn tcp_blocked_for_one_node() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &SENDER);
    nodes[2].host.iptables("-A INPUT -p tcp -i eth0 -j DROP");
    all_hear_all(&nodes, "no TCP");
}

/// UDP is blocked only for a while.
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

/// A path with an MTU of 1280 bytes, for datagrams and streams, that drops what is larger without telling anybody.
fn large_packets_dropped() {
    let net = Net::new();
    let hole = "iptables -w -A INPUT -i eth0 -m length --length 1281:65535 -j DROP";
    let nodes = cluster(&net, &[hole; 3], &[]);
    let [first, second, third] = &nodes[..] else { unreachable!("there are three") };
    first.host.publish_all("large", ["x".repeat(1250)]);
    first.host.publish_all("behind", (0..MESSAGES).map(|i| i.to_string()));
    for node in [second, third] {
        node.wait_received("large", "node1", 1);
        node.wait_received("behind", "node1", MESSAGES);
    }
    all_hear_all(&nodes, "and on");
    for other in [second, third] {
        // What an IP packet of 1280 bytes has room for, or less.
        let max = member_field(first, other.name(), "max_datagram").as_u64();
        assert!(max.is_some_and(|max| (1000..=1252).contains(&max)), "{} takes {max:?}", other.name());
    }
}

/// A path that takes only datagrams smaller than those that nodes send.
fn all_but_the_smallest_datagrams_dropped() {
    let net = Net::new();
    let hole = "iptables -w -A INPUT -p udp -m length --length 577:65535 -j DROP";
    let nodes = cluster(&net, &[hole, "", ""], &["--profile", "lan"]);
    nodes[1].host.publish_all("large", (0..MESSAGES).map(|_| "x".repeat(700)));
    nodes[0].wait_received("large", "node2", MESSAGES);
    all_hear_all(&nodes, "and on");
}

/// What is sent to `node3` is refused to the sender: what goes to the others goes on in batches.
fn a_firewall_that_refuses_what_is_sent_to_one() {
    let net = Net::new();
    let nodes = cluster(&net, &["", "", ""], &[]);
    let [first, second, third] = &nodes[..] else { unreachable!("there are three") };
    let before = batching(first, second, "before");
    assert!(before > 1.5, "there is something to lose: {before} datagrams in a call");
    third.wait_received("before", "node1", BURST);
    let refuse = "OUTPUT -p udp -d 10.77.0.3 -j DROP";
    first.host.iptables(&format!("-A {refuse}"));
    batching(first, second, "refused");
    let after = batching(first, second, "after");
    assert!(after > before / 2.0, "{before} datagrams in a call before, {after} after");
    first.host.iptables(&format!("-D {refuse}"));
    ["refused", "after"].iter().for_each(|key| third.wait_received(key, "node1", BURST));
    all_hear_all(&nodes, "without it");
}

const BURST: usize = 2000;

/// How many datagrams a node sends in one system call, when it sends many.
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
    hearer.wait_received(key, node.name(), BURST);
    let after = counts();
    (after.0 - before.0) as f64 / (after.1 - before.1) as f64
}

/// At 500 kbit/s it takes longer than an idle connection is kept. What is sent after it does not
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
