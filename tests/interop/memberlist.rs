//! One cluster of our nodes and of nodes built on hashicorp/memberlist, as `tests/interop/main.go` is. Here memberlist has
//! its default configuration; [`matrix`] has all others.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use broadcast::wire::NodeState;
use serde_json::{Value, json};

use crate::support::{
    LIMIT, Log, Process,
    cluster::ask_view,
    go::Release,
    require::{self, Case},
};
use crate::{churn, matrix};

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    let missing = Release::Current.missing();
    let old = Release::Old.missing().filter(|_| missing.is_none());
    let old = missing.clone().or(old);
    let mut cases = churn::cases(old.as_ref());
    cases.extend(matrix::cases(missing.as_ref(), old.as_ref()));
    cases.extend(require::cases(
        missing.as_ref(),
        &[
            ("ours_joins_through_go_local", || ours_joins_through_go("local")),
            ("ours_joins_through_go_lan", || ours_joins_through_go("lan")),
            ("go_joins_through_ours_local", || go_joins_through_ours("local")),
            ("go_joins_through_ours_lan", || go_joins_through_ours("lan")),
            ("on_every_address", on_every_address),
            ("each_sees_the_other_leave_and_return_local", || each_sees_the_other_leave_and_return("local")),
            ("each_sees_the_other_leave_and_return_lan", || each_sees_the_other_leave_and_return("lan")),
            ("go_fails_and_returns_local", || go_fails_and_returns("local")),
            ("go_fails_and_returns_lan", || go_fails_and_returns("lan")),
            ("ours_fails_and_returns_local", || ours_fails_and_returns("local")),
            ("ours_fails_and_returns_lan", || ours_fails_and_returns("lan")),
            ("ours_returns_elsewhere_when_go_has_forgotten_it", ours_returns_elsewhere_when_go_has_forgotten_it),
            ("what_go_tells_one_of_ours_all_hear_once", what_go_tells_one_of_ours_all_hear_once),
            ("what_go_says_again_is_heard_again", what_go_says_again_is_heard_again),
            ("ours_refutes_the_suspicion_of_go", ours_refutes_the_suspicion_of_go),
            ("go_refutes_the_suspicion_of_ours", go_refutes_the_suspicion_of_ours),
            ("a_name_that_go_has_is_not_taken", a_name_that_go_has_is_not_taken),
            ("a_name_that_ours_has_is_not_taken", a_name_that_ours_has_is_not_taken),
        ],
    ));
    cases
}

fn ours(name: &str, preset: &str, args: &[&str]) -> Process {
    Process::node(&[&["--name", name, "--profile", preset], args].concat())
}

fn go(name: &str, preset: &str, args: &[&str]) -> Process {
    let bind: &[&str] = if args.contains(&"-bind") { &[] } else { &["-bind", "127.0.0.1:0"] };
    Release::Current.node(&[&["-name", name, "-preset", preset], bind, args].concat())
}

fn addr(node: &Process) -> String {
    node.addr().to_string()
}

/// Waits until a node's view has `name` in such a state, and such a life.
#[track_caller]
fn wait_belief(of: &Process, name: &str, wanted: impl Fn(NodeState, u32) -> bool) {
    let deadline = Instant::now() + LIMIT;
    let mut beliefs = Vec::new();
    loop {
        let nodes = ask_view(of.addr());
        let belief = nodes.iter().find(|node| node.name == name).map(|node| (node.state, node.incarnation));
        if belief.is_some_and(|(state, incarnation)| wanted(state, incarnation)) {
            return;
        }
        if beliefs.last() != Some(&belief) {
            beliefs.push(belief);
        }
        assert!(Instant::now() < deadline, "of {name} it believed {beliefs:?}. The log: {:#?}", of.log.lines());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for what a Go node logs from line `from` on.
#[track_caller]
fn wait_diagnostic(log: &Log, from: usize, words: &str) {
    log.wait(words, |lines| lines[from..].iter().any(|line| is_diagnostic(line, words)).then_some(()));
}

pub fn is_diagnostic(line: &Value, words: &str) -> bool {
    line["event"] == "log" && line["line"].as_str().is_some_and(|line| line.contains(words))
}

fn ours_joins_through_go(preset: &str) {
    let go = go("go", preset, &[]);
    let ours = ours("ours", preset, &["--join", &addr(&go), "--role", "sender", "--interval", "200ms"]);
    hear_each_other(ours, go, true);
}

fn go_joins_through_ours(preset: &str) {
    let ours = ours("ours", preset, &["--role", "sender", "--interval", "200ms"]);
    let go = go("go", preset, &["-join", &addr(&ours)]);
    hear_each_other(ours, go, true);
}

/// With the addresses that each finds by itself: memberlist writes an IPv4 one in 16 bytes, and may well
/// choose an IPv6 one. What it sends to an IPv4 address then comes from one that is not its own.
fn on_every_address() {
    let ours = ours("ours", "local", &["--bind", "0.0.0.0:0", "--role", "sender", "--interval", "200ms"]);
    let join = SocketAddr::from(([127, 0, 0, 1], ours.addr().port())).to_string();
    let go = go("go", "local", &["-bind", "0.0.0.0:0", "-join", &join]);
    if go.wait_started() {
        hear_each_other(ours, go, false);
    } else {
        eprintln!("skipped: on_every_address: memberlist finds no private address on this machine to advertise");
    }
}

/// `ours` sends by itself, `go` is told to. Both end.
fn hear_each_other(mut ours: Process, mut go: Process, is_named: bool) {
    ours.log.wait_line(0, &json!({"event": "joined", "member": "go", "addr": addr(&go)}));
    go.log.wait_line(0, &json!({"event": "joined", "member": "ours", "addr": addr(&ours)}));
    go.send_line("members");
    go.log.wait_line(0, &json!({"event": "members", "members": ["go", "ours"]}));

    go.log.wait_line(0, &json!({"event": "received", "key": "I am ours"}));
    let said = [("I am go", 1000), ("with \"quotes\" and ütf", 7), ("I am go", 1001), ("", 0)];
    for (key, value) in said {
        go.send_line(&format!("send {key} {value}"));
    }
    let heard = |(key, value)| {
        let mut line = json!({"event": "received", "key": key, "value": value});
        if is_named {
            line["from"] = "go".into();
        }
        line
    };
    for (key, value) in said {
        ours.log.wait_line(0, &heard((key, value)));
        go.log.wait_line(0, &json!({"event": "transmitted", "key": key, "value": value}));
    }
    // The clock of ours goes on from what it heard.
    go.log.wait_line(0, &json!({"event": "received", "key": "I am ours", "value": 1003}));
    assert_eq!(go.log.count(&json!({"event": "unreadable"})), 0);
    assert!(!go.log.lines().iter().any(|line| is_diagnostic(line, "[ERR]")), "{:?}", go.log.lines());

    let from = go.log.len();
    ours.signal("TERM");
    assert!(ours.wait().success());
    ours.log.wait_end();
    go.log.wait_line(from, &json!({"event": "gone", "member": "ours"}));
    for line in said.map(heard) {
        assert_eq!(ours.log.count(&line), 1, "{line}");
    }
    assert_eq!(ours.log.count(&json!({"event": "received"})), said.len());

    let mut heard = values(&go.log.lines(), "received");
    // memberlist may swap what comes at the same time, and hands its application each repetition.
    heard.sort_unstable();
    heard.dedup();
    let lines = ours.log.lines();
    let joined = lines.iter().position(|line| line["event"] == "joined").expect("waited for above");
    let sent = values(&lines, "send");
    assert!(sent.ends_with(&heard), "heard {heard:?} of {sent:?}");
    assert!(heard.len() >= values(&lines[joined..], "send").len(), "heard {heard:?} of {sent:?}");
}

/// The values of the messages in all lines of such an event.
fn values(lines: &[Value], event: &str) -> Vec<u64> {
    lines.iter().filter(|line| line["event"] == event).map(|line| line["value"].as_u64().expect("a number")).collect()
}

fn each_sees_the_other_leave_and_return(preset: &str) {
    let mut go_node = go("go", preset, &[]);
    let mut ours_node = ours("ours", preset, &["--join", &addr(&go_node)]);
    go_node.log.wait_line(0, &json!({"event": "joined", "member": "ours"}));

    // Perhaps before it has itself read whom it joined.
    let from = go_node.log.len();
    ours_node.signal("TERM");
    assert!(ours_node.wait().success());
    let from = go_node.log.wait_line(from, &json!({"event": "gone", "member": "ours"}));
    wait_belief(&go_node, "ours", |state, _| state == NodeState::Left);

    // memberlist lets only who has left come back at once at another port.
    let ours_node = ours("ours", preset, &["--join", &addr(&go_node)]);
    go_node.log.wait_line(from, &json!({"event": "joined", "member": "ours", "addr": addr(&ours_node)}));
    ours_node.log.wait_line(0, &json!({"event": "joined", "member": "go"}));

    go_node.send_line("leave");
    let from = ours_node.log.wait_line(0, &json!({"event": "left", "member": "go"}));
    go_node.log.wait_line(0, &json!({"event": "left"}));
    go_node.send_line("quit");
    assert!(go_node.wait().success());

    let mut go_node = go("go", preset, &["-join", &addr(&ours_node)]);
    ours_node.log.wait_line(from, &json!({"event": "joined", "member": "go", "addr": addr(&go_node)}));
    assert_eq!(ours_node.log.count(&json!({"event": "failed"})), 0);
    go_node.send_line("send back again 1");
    ours_node.log.wait_line(from, &json!({"event": "received", "from": "go", "key": "back again", "value": 1}));
}

fn go_fails_and_returns(preset: &str) {
    let ours = ours("ours", preset, &[]);
    let mut failing = go("go", preset, &["-join", &addr(&ours)]);
    ours.log.wait_line(0, &json!({"event": "joined", "member": "go"}));
    failing.kill();
    let from = ours.log.wait_line(0, &json!({"event": "failed", "member": "go"}));

    let mut back = go("go", preset, &["-join", &addr(&ours)]);
    ours.log.wait_line(from, &json!({"event": "joined", "member": "go", "addr": addr(&back)}));
    back.send_line("send back again 1");
    ours.log.wait_line(from, &json!({"event": "received", "from": "go", "key": "back again", "value": 1}));
}

fn ours_fails_and_returns(preset: &str) {
    let go = go("go", preset, &[]);
    let join = addr(&go);
    let mut failing = ours("ours", preset, &["--join", &join]);
    let from = go.log.wait_line(0, &json!({"event": "joined", "member": "ours"}));
    let bind = addr(&failing);
    failing.kill();
    let from = go.log.wait_line(from, &json!({"event": "gone", "member": "ours"}));
    wait_diagnostic(&go.log, 0, "Marking ours as failed");
    wait_belief(&go, "ours", |state, _| state == NodeState::Dead);

    let sender = ["--join", &join, "--bind", &bind, "--role", "sender", "--interval", "200ms"];
    let _back = ours("ours", preset, &sender);
    go.log.wait_line(from, &json!({"event": "joined", "member": "ours", "addr": bind}));
    go.log.wait_line(from, &json!({"event": "received", "key": "I am ours"}));
}

/// In its default configuration memberlist keeps the name of a node that failed for the old address, in
/// the local preset for 15 s.
fn ours_returns_elsewhere_when_go_has_forgotten_it() {
    let mut go = go("go", "local", &[]);
    let join = addr(&go);
    let mut failing = ours("ours", "local", &["--join", &join]);
    let from = go.log.wait_line(0, &json!({"event": "joined", "member": "ours"}));
    failing.kill();
    let from = go.log.wait_line(from, &json!({"event": "gone", "member": "ours"}));

    let back = ours("ours", "local", &["--join", &join]);
    go.log.wait_line(from, &json!({"event": "joined", "member": "ours", "addr": addr(&back)}));
    go.send_line("send there 1");
    back.log.wait_line(0, &json!({"event": "received", "from": "go", "key": "there", "value": 1}));
}

/// A message of `go` is transmitted once, to one of five.
fn what_go_tells_one_of_ours_all_hear_once() {
    let names = ["a", "b", "c", "d"];
    let mut go = go("go", "local", &["-retransmit", "1"]);
    let join = addr(&go);
    let mut sender = ours("sender", "local", &["--join", &join, "--role", "sender", "--interval", "100ms"]);
    let mut receivers = names.map(|name| ours(name, "local", &["--join", &join]));
    let everybody = json!({"event": "nodes", "nodes": names.len() + 2});
    sender.log.wait_line(0, &everybody);
    for node in &receivers {
        node.log.wait_line(0, &everybody);
    }
    for name in names {
        go.log.wait_line(0, &json!({"event": "joined", "member": name}));
    }

    let said = 0..30_u64;
    for value in said.clone() {
        go.send_line(&format!("send I am go {value}"));
    }
    for value in said.clone() {
        let heard = json!({"event": "received", "from": "go", "key": "I am go", "value": value});
        for node in receivers.iter().chain([&sender]) {
            node.log.wait_line(0, &heard);
        }
    }

    // What ours says reaches Go from its origin. All of this may have taken less time than passes between two messages.
    let known = sender.log.wait_line(0, &everybody);
    sender.log.wait_line(known, &json!({"event": "send"}));
    sender.signal("TERM");
    assert!(sender.wait().success());
    sender.log.wait_end();
    go.log.wait_line(0, &json!({"event": "gone", "member": "sender"}));
    let lines = sender.log.lines();
    let sent = values(&lines, "send");
    // It may have said something before it knew of anybody.
    let sent_to_go = values(&lines[known..], "send");
    assert!(!sent_to_go.is_empty(), "{sent:?}");
    for value in &sent_to_go {
        go.log.wait_line(0, &json!({"event": "received", "key": "I am sender", "value": value}));
    }
    for node in &mut receivers {
        node.signal("TERM");
        assert!(node.wait().success());
        node.log.wait_end();
    }
    // Straight, and through the queue: `mult · ceil(log10(n + 1))` times more, as from a memberlist node.
    let copies = go.log.count(&json!({"event": "received"}));
    assert!(copies <= sent.len() * (1 + 4), "{copies} copies of {sent:?}");
    assert!(values(&go.log.lines(), "received").iter().all(|value| sent.contains(value)), "nothing but {sent:?}");
    for node in receivers.iter().chain([&sender]) {
        for value in said.clone() {
            let heard = json!({"event": "received", "from": "go", "key": "I am go", "value": value});
            assert_eq!(node.log.count(&heard), 1, "{heard} at process {}", node.pid());
        }
    }
}

/// A Go sender that hears nobody says the same every 3 s.
fn what_go_says_again_is_heard_again() {
    let a = ours("a", "local", &[]);
    let join = addr(&a);
    let b = ours("b", "local", &["--join", &join]);
    let mut nodes = [a, b];
    let mut go = go("go", "local", &["-join", &join, "-role", "sender", "-interval", "3s"]);
    let heard = json!({"event": "received", "from": "go", "key": "I am go", "value": 0});
    for node in &nodes {
        node.log.wait_lines(3, &heard);
    }
    go.send_line("quit");
    assert!(go.wait().success());
    go.log.wait_end();
    for node in &mut nodes {
        node.signal("TERM");
        assert!(node.wait().success());
        node.log.wait_end();
        // The last one may not have got out.
        let times = node.log.count(&heard);
        assert!(times <= go.log.count(&json!({"event": "send"})), "{times} times: {:?}", go.log.lines());
        assert!(times >= go.log.count(&json!({"event": "transmitted"})), "{times} times: {:?}", go.log.lines());
    }
}

fn ours_refutes_the_suspicion_of_go() {
    let go = go("go", "lan", &[]);
    let ours = ours("ours", "lan", &["--join", &addr(&go)]);
    let from = go.log.wait_line(0, &json!({"event": "joined", "member": "ours"}));
    ours.signal("STOP");
    wait_diagnostic(&go.log, from, "Suspect ours has failed");
    ours.signal("CONT");
    wait_belief(&go, "ours", |state, incarnation| state == NodeState::Alive && incarnation > 1);
    assert_eq!(go.log.count(&json!({"event": "gone"})), 0);
}

fn go_refutes_the_suspicion_of_ours() {
    let ours = ours("ours", "lan", &[]);
    let go = go("go", "lan", &["-join", &addr(&ours)]);
    ours.log.wait_line(0, &json!({"event": "joined", "member": "go"}));
    go.signal("STOP");
    wait_belief(&ours, "go", |state, _| state == NodeState::Suspect);
    go.signal("CONT");
    wait_belief(&ours, "go", |state, incarnation| state == NodeState::Alive && incarnation > 1);
    assert_eq!(ours.log.count(&json!({"event": "failed"})), 0);
}

fn a_name_that_go_has_is_not_taken() {
    let go = go("twin", "local", &[]);
    let join = addr(&go);
    let witness = ours("witness", "local", &["--join", &join]);
    let from = witness.log.wait_line(0, &json!({"event": "joined", "member": "twin"}));
    let mut late = ours("twin", "local", &["--join", &join]);
    let conflict = json!({"event": "name_conflict", "member": "twin", "addr": addr(&late), "claimant": join});
    late.log.wait_line(0, &conflict);
    go.log.wait_line(0, &json!({"event": "conflict", "member": "twin", "claimant": addr(&late)}));

    // Its end is none of the holder's.
    late.signal("TERM");
    assert!(late.wait().success());
    assert!(!witness.log.lines()[from..].iter().any(|line| line["event"] == "left" || line["event"] == "failed"));
    wait_belief(&witness, "twin", |state, _| state == NodeState::Alive);
    wait_belief(&go, "twin", |state, _| state == NodeState::Alive);
}

fn a_name_that_ours_has_is_not_taken() {
    let ours = ours("twin", "local", &[]);
    let join = addr(&ours);
    let late = go("twin", "local", &["-join", &join]);
    late.log.wait_line(0, &json!({"event": "conflict", "member": "twin"}));
    let conflict = json!({"event": "name_conflict", "member": "twin", "addr": join, "claimant": addr(&late)});
    ours.log.wait_line(0, &conflict);
}
