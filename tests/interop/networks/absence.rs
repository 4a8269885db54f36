//! Nodes that are away for longer than others remember them, and wrong clocks.

use std::{process::Command, sync::LazyLock};

use serde_json::json;

use super::{Node, SENDER, all_hear_all, check_told, cluster, wait};
use crate::support::{
    Process,
    netns::{self, Host, Net, seed},
    require::{self, Case},
    stdout,
};

pub(super) fn cases() -> Vec<Case> {
    require::cases(
        netns::missing_clocks().as_ref(),
        &[
            ("networks/stopped_for_longer_than_remembered", stopped_for_longer_than_remembered),
            ("networks/stopped_until_messages_are_gone", stopped_until_messages_are_gone),
            ("networks/deaf_for_longer_than_remembered", deaf_for_longer_than_remembered),
            ("networks/clocks_two_days_ahead_and_behind", clocks_two_days_ahead_and_behind),
            ("networks/a_clock_that_is_another_with_each_restart", a_clock_that_is_another_with_each_restart),
        ],
    )
}

/// How much faster time passes for all of these nodes.
const FASTER: &str = "+0 x5";

/// Members are waited for for 120 s after they have failed; so many times half a second is longer.
const ABSENCE: usize = 300;

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

/// Of three nodes that keep sending, one goes away until the others have forgotten it, and comes back.
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

/// All are members again, and receive what is published.
fn back_again(nodes: &[Node]) {
    for node in &nodes[..2] {
        wait(&format!("{} to see node3 again", node.name()), || {
            node.host.members().iter().any(|member| member["name"] == "node3" && member["state"] == "alive")
        });
    }
    all_hear_all(nodes, "after");
}

/// The library that gives a process another clock. The command that knows where it is leaves something behind each time, in the
/// way of a later one with the same process id: so it is asked once.
static FAKETIME: LazyLock<String> = LazyLock::new(|| {
    let mut command = Command::new("faketime");
    let library = stdout(command.args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().expect("it is installed"));
    library.trim().to_owned()
});

/// Starts a node with another clock: one that is wrong by so much (`+2d`), or that goes faster (`+0 x5`).
fn node_at(host: &Host, clock: &str, args: &[&str]) -> Process {
    let (library, time) = (format!("LD_PRELOAD={}", *FAKETIME), format!("FAKETIME={clock}"));
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

/// A node whose clock was ahead starts again with a right clock, and so on: it goes on whatever its clock says.
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
