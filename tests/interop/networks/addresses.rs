//! Hosts with several addresses, addresses that are translated on the way, and addresses that change.

use serde_json::Value;

use super::{LARGE, Node, SENDER, all_hear_all, cluster, member_field, wait};
use crate::support::{
    netns::{self, Net, addr, seed},
    require::{self, Case},
};

pub(super) fn cases() -> Vec<Case> {
    require::cases(
        netns::missing().as_ref(),
        &[
            ("networks/packets_from_a_second_address", packets_from_a_second_address),
            ("networks/packets_from_second_addresses_everywhere", packets_from_second_addresses_everywhere),
            ("networks/packets_from_an_address_that_a_gateway_puts_on_them", packets_behind_a_gateway),
            ("networks/two_networks_and_no_seed_yet", two_networks_and_no_seed_yet),
            ("networks/a_host_whose_address_changes", a_host_whose_address_changes),
            ("networks/a_host_whose_address_changes_again_and_again", a_host_whose_address_changes_again_and_again),
            ("networks/a_seed_whose_address_changes", a_seed_whose_address_changes),
            ("networks/addresses_with_a_zone", addresses_with_a_zone),
        ],
    )
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
