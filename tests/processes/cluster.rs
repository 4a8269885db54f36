//! Clusters of real processes on loopback: nodes find each other, leave, fail and come back, and every node receives every
//! message.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::support::{
    LIMIT, Process,
    cluster::{Cluster, Node, ask_view, own_addr, wait_believed},
    ledger::{self, Life},
    program, traffic,
};
use broadcast::{Envelope, wire::NodeState};
use serde_json::Value;

#[test]
fn nodes_start_in_any_order_and_find_each_other() {
    let seed = own_addr().to_string();
    let node3 = Node::sender("node3", &[&seed], &[]);
    let node2 = Node::sender("node2", &[&seed, &node3.addr().to_string()], &[]);
    for node in [&node2, &node3] {
        let line = node
            .log()
            .wait("the missing seed", |lines| lines.iter().find(|line| line["event"] == "seed_unreachable").cloned());
        let words = line["message"].as_str().expect("text");
        assert!(words.starts_with(&format!("cannot join through {seed} yet: ")), "{words}");
        assert!(
            words.ends_with("still trying; check that it runs and that BROADCAST_JOIN (--join) is right"),
            "{words}"
        );
    }
    let node1 = Node::start("node1", &[], &["--bind", &seed]);
    let cluster = Cluster { nodes: vec![node1, node2, node3] };
    cluster.agree();
    cluster.assert_unharmed();
    for node in &cluster.nodes {
        node.log().wait_message(0, "broadcast nodes = 3");
        assert!(node.count("seed_unreachable") <= 1, "it is told once, and not at every attempt");
    }
}

#[test]
fn the_text_log_has_exactly_the_words() {
    let receiver = Process::node(&["--name", "node1", "--log-format", "text"]);
    // A text line: time, level, node, words.
    let parts = |line: &Value| {
        let text = line.as_str().expect("text").to_owned();
        let (time, rest) = text.split_once(' ').expect("a time");
        humantime::parse_rfc3339(time).expect("a time");
        let (level, rest) = rest.trim_start().split_once(' ').expect("a level");
        let (node, words) = rest.split_once(' ').expect("a node");
        (level.to_owned(), node.to_owned(), words.to_owned())
    };
    let words_of = |lines: &[Value], name: &str| {
        lines.iter().map(parts).inspect(|(_, node, _)| assert_eq!(node, name)).map(|line| line.2).collect::<Vec<_>>()
    };
    let addr = receiver.log.wait("the address", |lines| {
        words_of(lines, "node1").iter().find_map(|words| words.strip_prefix("listening on ").map(String::from))
    });
    let sender =
        ["--name", "node2", "--role", "sender", "--interval", "100ms", "--join", &addr, "--log-format", "text"];
    let sender = Process::node(&sender);
    let heard = receiver.log.wait("two messages", |lines| {
        let words = words_of(lines, "node1");
        let heard: Vec<_> = words.iter().filter(|words| words.starts_with("received ")).cloned().collect();
        (heard.len() >= 2).then_some((words, heard))
    });
    let (words, heard) = heard;
    let first = words.iter().take_while(|words| !words.starts_with("received ")).map(String::as_str);
    let listening = format!("listening on {addr}");
    assert_eq!(
        first.collect::<Vec<_>>(),
        [listening.as_str(), "broadcast nodes = 1", "node2 joined", "broadcast nodes = 2"]
    );
    let value = |line: &str| -> u64 {
        let value = line.strip_prefix("received broadcast msg: key=I am node2 value=").expect("the words");
        value.parse().expect("a number")
    };
    assert_eq!(value(&heard[1]), value(&heard[0]) + 1);

    // What was heard may be read here before what was said.
    let lines = sender.log.wait("what it said", |lines| {
        let said = words_of(lines, "node2").iter().filter(|words| words.starts_with("send ")).count();
        (said >= 2).then(|| lines.to_vec())
    });
    assert!(lines.iter().map(parts).all(|(level, ..)| level == "INFO"), "{lines:?}");
    let said: Vec<_> = words_of(&lines, "node2").into_iter().filter(|words| words.starts_with("send ")).collect();
    assert_eq!(said[..2], ["send broadcast msg: key=I am node2 value=0", "send broadcast msg: key=I am node2 value=1"]);
    assert!(!words.iter().any(|words| words.starts_with("send ")), "a receiver sends nothing");
}

#[test]
fn a_node_joins_a_running_cluster_at_once() {
    let seed = Node::start("node1", &[], &["--profile", "lan"]);
    let addr = seed.addr().to_string();
    let mut nodes = vec![seed];
    nodes.extend(["node2", "node3"].map(|name| Node::start(name, &[&addr], &["--profile", "lan"])));
    let mut cluster = Cluster { nodes };
    cluster.agree();
    let began = Instant::now();
    let joiner = Node::start("joiner", &[&addr], &["--profile", "lan"]);
    joiner.log().wait_message(0, "broadcast nodes = 4");
    let (joined, took) = (joiner.log().lines(), began.elapsed());
    cluster.nodes.push(joiner);
    cluster.agree();
    println!("joined in {took:?}, known to all after {:?}", began.elapsed());
    assert!(took < Duration::from_secs(5), "{took:?}: it waited for something. Its log: {joined:?}");
}

#[test]
fn a_signal_makes_a_node_leave_and_end_within_two_seconds() {
    for signal in ["TERM", "INT"] {
        let mut cluster = Cluster::start(3);
        let mut leaver = cluster.nodes.pop().expect("three nodes");
        leaver.process.signal(signal);
        let began = Instant::now();
        let status = leaver.process.wait();
        let took = began.elapsed();
        assert_eq!(status.code(), Some(0), "{signal}");
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        for node in &cluster.nodes {
            let at = node.wait_event(0, "left", "node3");
            node.log().wait_message(at, "broadcast nodes = 2");
        }
        cluster.flow();
        assert!(cluster.nodes.iter().all(|node| node.count("failed") == 0));
    }
}

#[test]
fn a_second_signal_ends_a_node_at_once() {
    // With one peer and the slow gossip of this profile, a good-bye takes a second.
    let stays = Node::start("stays", &[], &["--profile", "wan"]);
    let seed = stays.addr().to_string();
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut leaver = Node::start("leaver", &[&seed], &["--profile", "wan"]);
        leaver.log().wait_message(0, "broadcast nodes = 2");
        let from = stays.log().len();
        leaver.process.signal("TERM");
        stays.wait_event(from, "left", "leaver");
        leaver.process.signal(signal);
        assert_eq!(leaver.process.wait().code(), Some(code));
    }
}

#[test]
fn a_killed_node_fails_and_is_accepted_back_at_its_port_and_at_another() {
    let mut cluster = Cluster::start(3);
    let seed = cluster.nodes[0].addr().to_string();
    let addr = cluster.nodes[2].addr().to_string();
    for bind in [addr.as_str(), "127.0.0.1:0"] {
        let mut killed = cluster.nodes.pop().expect("three nodes");
        let from: Vec<_> = cluster.nodes.iter().map(|node| node.log().len()).collect();
        killed.process.kill();
        for (node, from) in cluster.nodes.iter().zip(&from) {
            let at = node.wait_event(*from, "failed", "node3");
            node.log().wait_message(at, "broadcast nodes = 2");
        }
        cluster.nodes.push(Node::sender("node3", &[&seed], &["--bind", bind]));
        cluster.agree();
        cluster.flow();
        for (node, from) in cluster.nodes.iter().zip(&from) {
            node.wait_event(*from, "joined", "node3");
            assert_eq!(node.count("left"), 0);
        }
    }
}

#[test]
fn a_node_restarted_at_once_is_the_same_one_and_at_another_port_once_the_old_one_is_given_up() {
    let mut cluster = Cluster::start(3);
    let seed = cluster.nodes[0].addr().to_string();
    let addr = cluster.nodes[2].addr().to_string();
    cluster.nodes.pop().expect("three nodes").process.kill();
    cluster.nodes.push(Node::sender("node3", &[&seed], &["--bind", &addr]));
    cluster.assert_unharmed();

    cluster.nodes.pop().expect("three nodes").process.kill();
    cluster.nodes.push(Node::sender("node3", &[&seed], &[]));
    let moved = cluster.nodes[2].addr();
    for node in &cluster.nodes[..2] {
        wait_believed(&Envelope::default(), node.addr(), "node3", |state| state.address.socket_addr() == moved);
    }
    cluster.agree();
    cluster.flow();
}

#[test]
fn a_seed_that_restarts_is_found_by_those_who_joined_through_it() {
    let bind = own_addr().to_string();
    let seed = Node::start("node1", &[], &["--bind", &bind]);
    let others = ["node2", "node3"].map(|name| Node::sender(name, &[&bind], &[]));
    let mut cluster = Cluster { nodes: others.into_iter().chain([seed]).collect() };
    cluster.agree();
    for signal in ["KILL", "TERM"] {
        let mut seed = cluster.nodes.pop().expect("three nodes");
        let from: Vec<_> = cluster.nodes.iter().map(|node| node.log().len()).collect();
        seed.process.signal(signal);
        seed.process.wait();
        for (node, from) in cluster.nodes.iter().zip(from) {
            node.wait_event(from, if signal == "KILL" { "failed" } else { "left" }, "node1");
        }
        // It knows of nobody.
        cluster.nodes.push(Node::start("node1", &[], &["--bind", &bind]));
        cluster.agree();
        cluster.flow();
    }
}

#[test]
fn a_node_that_hangs_is_suspected_and_says_otherwise_when_it_goes_on() {
    let cluster = Cluster::start(3);
    let (judge, hung) = (cluster.nodes[0].addr(), &cluster.nodes[2].process);
    hung.signal("STOP");
    let suspected = wait_believed(&Envelope::default(), judge, "node3", |state| state.state == NodeState::Suspect);
    hung.signal("CONT");
    wait_believed(&Envelope::default(), judge, "node3", |state| {
        state.state == NodeState::Alive && state.incarnation > suspected.incarnation
    });
    cluster.assert_unharmed();
}

#[test]
fn a_node_that_hangs_for_long_fails_and_returns_when_it_goes_on() {
    let cluster = Cluster::start(3);
    let (hung, others) = cluster.nodes.split_last().expect("three nodes");
    hung.process.signal("STOP");
    let failed: Vec<_> = others.iter().map(|node| node.wait_event(0, "failed", "node3")).collect();
    hung.process.signal("CONT");
    for (node, at) in others.iter().zip(failed) {
        node.wait_event(at, "joined", "node3");
    }
    cluster.agree();
    cluster.flow();
}

#[test]
fn a_node_whose_output_nobody_reads_goes_on_all_the_same() {
    let bind = own_addr();
    let args = ["node", "--name", "unread", "--bind", &bind.to_string(), "--profile", "local"];
    let unread = program(&args).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut unread = Process::new(unread, Arc::default());
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let deadline = Instant::now() + LIMIT;
    while TcpStream::connect(bind).is_err() {
        assert!(Instant::now() < deadline, "it does not listen");
    }
    // More than the pipe and the node itself keep.
    for value in 0..3000 {
        let said = format!("\x08{{\"key\":\"{}\",\"value\":{value}}}", "k".repeat(1000));
        socket.send_to(said.as_bytes(), bind).expect("loopback takes it");
        if value % 20 == 0 {
            assert_eq!(ask_view(bind).len(), 1, "it answers");
        }
    }
    unread.signal("TERM");
    let began = Instant::now();
    assert_eq!(unread.wait().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn thirteen_nodes_hear_every_message_of_the_others_once() {
    let cluster = Cluster::start(13);
    // What was said from here on has to be heard by all; what came before, only by those who were there.
    let from: Vec<_> = cluster.nodes.iter().map(|node| node.log().len()).collect();
    type SentValue = (String, u64);
    let is = |line: &Value, event: &str| line["event"] == event;
    let value = |line: &Value| line["value"].as_u64().expect("a number");
    let said = || {
        let mut said: Vec<SentValue> = Vec::new();
        for (node, from) in cluster.nodes.iter().zip(&from) {
            let lines = node.log().lines();
            let sent = lines[*from..].iter().filter(|line| is(line, "send"));
            said.extend(sent.map(|line| (node.name.clone(), value(line))));
        }
        said
    };
    // What flows first may have been said before.
    while said().len() < 12 * 5 {
        cluster.flow();
    }
    let said = said();
    let speakers: BTreeSet<_> = said.iter().map(|(name, _)| name).collect();
    assert_eq!(speakers.len(), 12, "{said:?}");
    let heard = |lines: &[Value]| {
        let mut heard: BTreeMap<SentValue, usize> = BTreeMap::new();
        for line in lines.iter().filter(|line| is(line, "received")) {
            *heard.entry((line["from"].as_str().expect("text").to_owned(), value(line))).or_default() += 1;
        }
        heard
    };
    for node in &cluster.nodes {
        let missing = |lines: &[Value]| {
            let heard = heard(lines);
            said.iter().filter(|said| said.0 != node.name && !heard.contains_key(*said)).cloned().collect::<Vec<_>>()
        };
        let what = format!("{} to hear all of {said:?}", node.name);
        node.log().wait(&what, |lines| missing(lines).is_empty().then_some(()));
    }
    // Whatever is still on its way by gossip has arrived when later messages have.
    cluster.flow();
    cluster.assert_unharmed();
    for node in &cluster.nodes {
        let lines = node.log().lines();
        for ((from, value), times) in heard(&lines) {
            assert_eq!(times, 1, "{} heard {value} of {from}", node.name);
            assert_ne!(from, node.name, "a node hears itself");
        }
        assert_clock(&node.name, &lines);
    }
}

#[test]
fn under_loss_a_pause_and_a_crash_everybody_hears_everything_once_and_in_order() {
    let faults = ["--faults", "loss=0.3,duplicate=0.05,delay=1ms..20ms"];
    let node1 = Node::start("node1", &[], &faults);
    let seed = node1.addr().to_string();
    // Nobody else takes its port while it is away.
    let bind = own_addr().to_string();
    let bound = [&["--bind", &bind][..], &faults].concat();
    let senders = (2..=13).map(|i| Node::sender(&format!("node{i}"), &[&seed], if i == 7 { &bound } else { &faults }));
    let mut cluster = Cluster { nodes: [node1].into_iter().chain(senders).collect() };
    let logs = |cluster: &Cluster| {
        let nodes = cluster.nodes.iter().map(|node| (node.name.clone(), Arc::clone(&node.process.log)));
        nodes.collect::<Vec<_>>()
    };
    let began = logs(&cluster);
    let began: Vec<_> = began.iter().map(|(name, log)| (name.as_str(), &**log)).collect();
    let since = traffic::wait_members(13, &began);
    cluster.flow();

    let everybody_sees = |cluster: &Cluster, what: &str, who: &str| {
        // What each has logged is scanned from the start: nobody fails by the faults alone.
        let others = cluster.nodes.iter().filter(|node| node.name != who);
        others.for_each(|node| _ = node.wait_event(0, what, who));
    };
    cluster.nodes[4].process.signal("STOP");
    everybody_sees(&cluster, "failed", "node5");
    cluster.nodes[4].process.signal("CONT");
    cluster.agree();

    let mut killed = cluster.nodes.remove(6);
    killed.process.kill();
    killed.log().wait_end();
    everybody_sees(&cluster, "failed", "node7");
    cluster.nodes.push(Node::sender("node7", &[&seed], &bound));
    let logs = logs(&cluster);
    let logs: Vec<_> = logs.iter().map(|(name, log)| (name.as_str(), &**log)).collect();
    let restarted = traffic::wait_members(13, &logs);
    cluster.flow();

    let (said, until) = ledger::last_sent(&logs);
    ledger::wait_received(&said, &logs);
    let life = |node: &Node, since: &str, until: &str, killed| Life {
        node: node.name.clone(),
        lines: node.log().lines(),
        since: since.to_owned(),
        until: until.to_owned(),
        killed,
    };
    ledger::wait_last_messages(&life(&killed, &since, &until, true), &logs);
    let leave = |nodes: &mut [Node]| {
        nodes.iter().for_each(|node| node.process.signal("TERM"));
        for node in nodes {
            assert_eq!(node.process.wait().code(), Some(0), "{}", node.name);
            node.log().wait_end();
        }
    };
    leave(&mut cluster.nodes[1..]);
    ledger::wait_received(&ledger::last_sent(&logs).0, &logs[..1]);
    leave(&mut cluster.nodes[..1]);

    // The receiver has outlived the senders, and heard what they said to the very last.
    let mut lives = vec![life(&cluster.nodes[0], &since, ledger::END, false), life(&killed, &since, &until, true)];
    lives.extend(cluster.nodes[1..12].iter().map(|node| life(node, &since, &until, false)));
    lives.push(life(&cluster.nodes[12], &restarted, &until, false));
    println!("{} messages heard", ledger::check(&lives));
}

/// A sender's clock: the next value is one more than the highest one that it has sent or received.
fn assert_clock(name: &str, lines: &[Value]) {
    let mut next = 0;
    for line in lines {
        let value = line["value"].as_u64();
        match line["event"].as_str() {
            Some("send") => {
                assert_eq!(value, Some(next), "{name}: {line}");
                next += 1;
            }
            Some("received") => next = next.max(value.expect("a number") + 1),
            _ => {}
        }
    }
}

#[test]
fn nodes_meet_over_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return eprintln!("skipped: this machine has no IPv6; enable it on the loopback interface");
    }
    let bind = ["--bind", "[::1]:0"];
    let node1 = Node::start("node1", &[], &bind);
    let seed = node1.addr().to_string();
    let others = ["node2", "node3"].map(|name| Node::sender(name, &[&seed], &bind));
    let cluster = Cluster { nodes: [node1].into_iter().chain(others).collect() };
    cluster.agree();
    cluster.assert_unharmed();
    assert!(cluster.nodes.iter().all(|node| node.addr().is_ipv6()));
}

#[test]
fn a_seed_and_an_advertised_address_may_be_host_names() {
    let node1 = Node::start("node1", &[], &["--bind", "0.0.0.0:0", "--advertise", "localhost"]);
    let seed = format!("localhost:{}", node1.addr().port());
    let node2 = Node::sender("node2", &[&seed], &["--bind", "0.0.0.0:0", "--advertise", "localhost"]);
    let cluster = Cluster { nodes: vec![node1, node2] };
    cluster.agree();
    cluster.assert_unharmed();
    assert!(cluster.nodes.iter().all(|node| node.addr().ip().is_loopback()));
}
