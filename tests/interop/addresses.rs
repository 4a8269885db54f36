//! Nodes on hosts with unusual addresses: several networks, an address that changes, link-local IPv6. Each host is a network
//! namespace; virtual cables connect them.

use std::{
    net::SocketAddr,
    process::{Command, Output, Stdio},
};

use crate::support::{Log, Process, child::OwnedChild, program, require};
use serde_json::Value;

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let missing = (!require::answers(Command::new("unshare").args(["--net", "nsenter", "--version"]))
        || !require::answers(Command::new("ip").arg("-V")))
    .then(|| "no network namespaces: run as root on Linux, with `ip`, `unshare` and `nsenter` installed".into());
    let tests: &[require::Test] = &[
        ("addresses/the_route_to_the_first_seed_that_is_there_decides", first_seed_decides),
        ("addresses/the_route_to_who_joins_first_decides_without_a_seed", first_joiner_decides),
        ("addresses/a_right_guess_stays", a_right_guess_stays),
        ("addresses/a_node_goes_on_at_another_address_of_its_host", a_node_goes_on_at_another_address),
        ("addresses/link_local_addresses_work_with_their_zones", link_local_addresses_work),
    ];
    require::cases(missing.as_ref(), tests)
}

/// A host of its own, as long as this is held.
struct Host(OwnedChild);

impl Host {
    fn new() -> Self {
        // It ends when its input does, at the latest with this process, and the namespace with it.
        let mut holder = Command::new("unshare");
        let child = holder.args(["--net", "sh", "-c", "echo; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().expect("unshare runs");
        let mut first = [0];
        let output = child.stdout.as_mut().expect("it is piped");
        std::io::Read::read_exact(output, &mut first).expect("it is in its namespace");
        let host = Self(OwnedChild(child));
        host.ip("link set lo up");
        host
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Runs `ip` there.
    #[track_caller]
    fn ip(&self, args: &str) {
        let output = self.here(Command::new("ip").args(args.split(' '))).output().expect("nsenter runs");
        assert!(output.status.success(), "ip {args}: {output:?}");
    }

    /// A cable to another host, between two interfaces of this name, which are down and have no addresses.
    fn cable(&self, other: &Self, name: &str) {
        self.ip(&format!("link add {name} type veth peer name {name} netns {}", other.pid()));
        for host in [self, other] {
            host.ip(&format!("link set {name} addrgenmode none"));
        }
    }

    /// The interface gets these addresses, and is up.
    fn up(&self, name: &str, addresses: &[&str]) {
        for address in addresses {
            let no_check = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {name}{no_check}"));
        }
        self.ip(&format!("link set {name} up"));
    }

    /// The same command, there.
    fn here(&self, command: &Command) -> Command {
        let mut here = Command::new("nsenter");
        here.args(["--net", "--target", &self.pid(), "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => here.env(name, value),
                None => here.env_remove(name),
            };
        }
        here
    }

    /// Starts a node that sends.
    fn node(&self, name: &str, args: &[&str]) -> Process {
        let defaults =
            [["--bind", "0.0.0.0:7946"], ["--http", "off"], ["--profile", "local"], ["--log-format", "json"]];
        let defaults = defaults.iter().filter(|[flag, _]| !args.contains(flag)).flatten().copied();
        let own = ["node", "--name", name, "--role", "sender", "--interval", "200ms"];
        let args: Vec<_> = own.into_iter().chain(defaults).chain(args.iter().copied()).collect();
        Process::spawn(&mut self.here(&program(&args)))
    }

    fn run(&self, args: &[&str]) -> Output {
        self.here(&program(args)).output().expect("the program runs")
    }
}

/// Waits until a node has seen the other come at this address; gives the place in its log.
#[track_caller]
fn wait_there(log: &Log, from: usize, member: &str, addr: &str) -> usize {
    log.wait_line(from, &serde_json::json!({"event": "joined", "member": member, "addr": addr}))
}

/// Waits until each has received three new messages of the other.
#[track_caller]
fn wait_received(one: (&str, &Process), other: (&str, &Process)) {
    for ((_, hearer), (name, _)) in [(one, other), (other, one)] {
        let from = hearer.log.len();
        for _ in 0..3 {
            hearer.log.wait_line(from, &serde_json::json!({"event": "received", "from": name}));
        }
    }
}

/// What was heard of a node came in order, each message once.
#[track_caller]
fn check_order(log: &Log, from: &str) {
    let heard: Vec<(u64, u64)> = log
        .lines()
        .iter()
        .filter(|line| line["event"] == "received" && line["from"] == from)
        .map(|line| (line["epoch"].as_u64().expect("a life"), line["seq"].as_u64().expect("a number")))
        .collect();
    assert!(heard.is_sorted_by(|a, b| a < b), "{heard:?}");
}

#[track_caller]
fn moved(log: &Log, from: &str, to: &str) {
    log.wait_line(0, &serde_json::json!({"event": "moved", "from": from, "addr": to}));
}

/// A host on two networks, the wrong one first, and one on the right one.
fn two_networks() -> (Host, Host, Host) {
    let (both, wrong, right) = (Host::new(), Host::new(), Host::new());
    both.cable(&wrong, "wrong0");
    both.up("wrong0", &["10.66.0.1/24"]);
    wrong.up("wrong0", &["10.66.0.2/24"]);
    both.cable(&right, "right0");
    right.up("right0", &["10.77.0.2/24"]);
    (both, wrong, right)
}

fn first_seed_decides() {
    let (both, _wrong, right) = two_networks();
    // There is no way to the seed yet, as when its name is not in DNS.
    let a = both.node("a", &["--join", "10.77.0.2"]);
    assert_eq!(a.addr(), "10.66.0.1:7946".parse::<SocketAddr>().expect("an address"));
    both.up("right0", &["10.77.0.1/24"]);
    let b = right.node("b", &[]);
    wait_there(&b.log, 0, "a", "10.77.0.1:7946");
    moved(&a.log, "10.66.0.1:7946", "10.77.0.1:7946");
    wait_received(("a", &a), ("b", &b));
    let left = |line: &Value| line["event"] == "left" || line["event"] == "failed";
    assert!(!b.log.lines().iter().any(left), "nobody was told of the wrong address: {:?}", b.log.lines());
}

fn first_joiner_decides() {
    let (both, _wrong, right) = two_networks();
    both.up("right0", &["10.77.0.1/24"]);
    let a = both.node("a", &[]);
    assert_eq!(a.addr(), "10.66.0.1:7946".parse::<SocketAddr>().expect("an address"));
    let b = right.node("b", &["--join", "10.77.0.1"]);
    wait_there(&b.log, 0, "a", "10.77.0.1:7946");
    moved(&a.log, "10.66.0.1:7946", "10.77.0.1:7946");
    wait_received(("a", &a), ("b", &b));

    // What is configured is not overridden.
    let c = both.node("c", &["--bind", "0.0.0.0:7947", "--advertise", "10.66.0.1", "--join", "10.77.0.2"]);
    wait_there(&b.log, 0, "c", "10.66.0.1:7947");
    wait_there(&c.log, 0, "b", "10.77.0.2:7946");
    let from = c.log.len();
    c.log.wait_lines(10, &serde_json::json!({"event": "send"}));
    assert!(!c.log.lines()[from..].iter().any(|line| line["event"] == "moved"));
    assert_eq!(c.addr(), "10.66.0.1:7947".parse::<SocketAddr>().expect("an address"));
}

fn a_right_guess_stays() {
    let (both, _wrong, right) = two_networks();
    both.up("right0", &["10.77.0.1/24"]);
    right.ip("route add 10.66.0.0/24 via 10.77.0.1");
    let a = both.node("a", &[]);
    // It is reached there, whatever the way back is.
    let b = right.node("b", &["--join", "10.66.0.1"]);
    wait_there(&b.log, 0, "a", "10.66.0.1:7946");
    wait_there(&a.log, 0, "b", "10.77.0.2:7946");
    a.log.wait_lines(20, &serde_json::json!({"event": "send"}));
    assert_eq!(a.log.count(&serde_json::json!({"event": "moved"})), 0);
}

fn a_node_goes_on_at_another_address() {
    let (a, b) = (Host::new(), Host::new());
    a.cable(&b, "net0");
    a.up("net0", &["10.77.0.1/24"]);
    b.up("net0", &["10.77.0.2/24"]);
    let (mut one, two) = (a.node("a", &[]), b.node("b", &["--join", "10.77.0.1"]));
    wait_there(&two.log, 0, "a", "10.77.0.1:7946");
    wait_received(("a", &one), ("b", &two));

    a.ip("addr del 10.77.0.1/24 dev net0");
    a.ip("addr add 10.77.0.9/24 dev net0");
    moved(&one.log, "10.77.0.1:7946", "10.77.0.9:7946");
    wait_there(&two.log, 0, "a", "10.77.0.9:7946");
    wait_received(("a", &one), ("b", &two));
    check_order(&two.log, "a");
    check_order(&one.log, "b");

    // No network for a while, and then another one.
    a.ip("addr flush dev net0");
    two.log.wait_line(0, &serde_json::json!({"event": "failed", "member": "a"}));
    a.ip("addr add 10.88.0.1/24 dev net0");
    b.ip("route add 10.88.0.0/24 dev net0");
    a.ip("route add 10.77.0.0/24 dev net0");
    moved(&one.log, "10.77.0.9:7946", "10.88.0.1:7946");
    wait_there(&two.log, 0, "a", "10.88.0.1:7946");
    wait_received(("a", &one), ("b", &two));
    one.signal("TERM");
    assert_eq!(one.wait().code(), Some(0));
}

fn link_local_addresses_work() {
    let (a, b) = (Host::new(), Host::new());
    // And another link, so that the right one has to be chosen.
    a.cable(&b, "other0");
    a.cable(&b, "link0");
    for (host, address) in [(&a, "fe80::a/64"), (&b, "fe80::b/64")] {
        host.up("other0", &["fe80::c/64"]);
        host.up("link0", &[address]);
    }
    let bound = b.node("bound", &["--bind", "[fe80::b%link0]:7946", "--http", "[fe80::b%link0]:8946"]);
    let guessed = a.node("guessed", &["--join", "fe80::b%link0"]);
    wait_there(&bound.log, 0, "guessed", "[fe80::a]:7946");
    wait_there(&guessed.log, 0, "bound", "[fe80::b]:7946");
    wait_received(("bound", &bound), ("guessed", &guessed));
    let told =
        a.node("told", &["--bind", "[::]:7950", "--advertise", "fe80::a%link0", "--join", "[fe80::b%link0]:7946"]);
    wait_there(&bound.log, 0, "told", "[fe80::a]:7950");
    wait_received(("bound", &bound), ("told", &told));
    wait_received(("guessed", &guessed), ("told", &told));

    let health = b.run(&["health", "--bind", "[fe80::b%link0]:7946"]);
    assert!(health.status.success(), "{health:?}");
    let members = a.run(&["members", "--node", "http://[fe80::b%25link0]:8946"]);
    assert!(members.status.success(), "{members:?}");
    let receipt = a.run(&["publish", "k", "1", "--ack", "all", "--node", "http://[fe80::b%25link0]:8946"]);
    assert!(String::from_utf8_lossy(&receipt.stdout).starts_with("delivered to 2 of 2 "), "{receipt:?}");

    let lost = a.node("lost", &["--bind", "[::]:7951", "--join", "fe80::b%no-such"]);
    let line = lost
        .log
        .wait("the missing interface", |lines| lines.iter().find(|line| line["event"] == "seed_unreachable").cloned());
    let reason = line["reason"].as_str().expect("text");
    assert!(reason.starts_with("this host has no interface \"no-such\"; it has lo, "), "{reason}");
    let output =
        a.run(&["node", "--name", "x", "--bind", "[::]:7952", "--http", "off", "--advertise", "fe80::b%no-such"]);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && words.contains("this host has no interface \"no-such\""), "{output:?}");
}
