//! One cluster of our nodes and of real serf agents, seen through serf's own commands and handlers.

use std::{collections::BTreeMap, time::Instant};

use broadcast::{Config, Event, Profile, SerfConfig, Tags, start};
use serde_json::{Value, json};

use crate::serf_matrix;
use crate::support::{
    LIMIT, Process,
    require::{self, Case},
    serf,
    serf::{Agent, CommandOutput},
};

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    let missing = serf::missing();
    let mut cases = require::cases(
        missing.as_ref(),
        &[
            ("ours_joins_through_an_agent", || members_show_ours(true)),
            ("an_agent_joins_through_ours", || members_show_ours(false)),
            ("an_agent_s_event_is_heard_once_by_each_of_ours", an_agent_s_event_is_heard_once_by_each_of_ours),
            ("our_messages_are_events_once", our_messages_are_events_once),
            ("values_become_payloads_within_the_limit", values_become_payloads_within_the_limit),
            ("serf_s_commands_end_cleanly", serf_s_commands_end_cleanly),
            ("who_is_forced_to_leave_has_left", who_is_forced_to_leave_has_left),
            ("an_agent_leaves_and_fails", an_agent_leaves_and_fails),
            ("a_node_without_serf_is_not_let_in", a_node_without_serf_is_not_let_in),
        ],
    );
    cases.extend(require::cases(None, &[("the_page_has_the_cells", the_page_has_the_cells)]));
    for (name, setup) in serf_matrix::setups() {
        for (we_join, joins) in [(true, "we-join"), (false, "they-join")] {
            let test = Box::new(move || serf_matrix::check(setup, we_join));
            cases.push(Case { name: format!("serf/{name}/{joins}"), missing: missing.clone(), test });
        }
    }
    cases
}

/// The table in docs/serf.md has exactly these configurations.
fn the_page_has_the_cells() {
    let page = include_str!("../../docs/serf.md");
    let (_, table) = page.split_once("\n| | serf 0.10.1 |\n|---|---|\n").expect("the page has the table");
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    let cells: Vec<_> =
        serf_matrix::setups().into_iter().map(|(name, _)| format!("| {name} | we join, they join |")).collect();
    assert_eq!(rows, cells);
}

fn ours(name: &str, args: &[&str]) -> Process {
    Process::node(&[&["--serf", "--name", name], args].concat())
}

fn addr(node: &Process) -> String {
    node.addr().to_string()
}

fn stop(node: &mut Process) {
    node.signal("TERM");
    assert!(node.wait().success());
    node.log.wait_end();
}

fn members_show_ours(we_join: bool) {
    let tagged = |args: &[&str]| ours("ours", &[&["--tags", "role=web,zone=a b"], args].concat());
    let (agent, mut node) = if we_join {
        let agent = Agent::start("agent", &[]);
        let node = tagged(&["--join", &agent.addr]);
        (agent, node)
    } else {
        let node = tagged(&[]);
        let agent = Agent::start("agent", &[&format!("-join={}", addr(&node))]);
        (agent, node)
    };
    node.log.wait_line(0, &json!({"event": "joined", "member": "agent", "addr": agent.addr}));
    let member = agent.wait_member("ours", "alive");
    assert_eq!(member["addr"], addr(&node));
    assert_eq!(member["tags"], json!({"role": "web", "zone": "a b"}));

    stop(&mut node);
    agent.wait_member("ours", "left");
    agent
        .wait_until_events("that ours left", |heard| heard.iter().any(|line| line.starts_with("member-leave||ours\t")));
    assert!(!agent.events().iter().any(|line| line.starts_with("member-failed")), "{:?}", agent.events());

    let mut node = tagged(&["--join", &agent.addr]);
    agent.wait_member("ours", "alive");
    let bind = addr(&node);
    node.kill();
    agent.wait_member("ours", "failed");
    let _back = tagged(&["--join", &agent.addr, "--bind", &bind]);
    assert_eq!(agent.wait_member("ours", "alive")["addr"], bind);
}

/// Of two agents, with words that repeat. That what each exchange of views says again is not heard again shows
/// when one more agent joins, which exchanges views with everybody it joins through.
fn an_agent_s_event_is_heard_once_by_each_of_ours() {
    let first = Agent::start("first", &[]);
    let second = Agent::start("second", &[&format!("-join={}", first.addr)]);
    let mut nodes = ["a", "b", "c"].map(|name| ours(name, &["--join", &first.addr]));
    for node in &nodes {
        node.log.wait_line(0, &json!({"event": "nodes", "nodes": 5}));
    }
    let said = [("deploy", "v1"), ("deploy", "v1"), ("deploy", ""), ("ünï \"code\"", "{\"a\": [1]}"), ("last", "1")];
    for (i, (name, payload)) in said.iter().enumerate() {
        [&first, &second][i % 2].event(name, payload);
        let so_far = said[..=i].iter().filter(|one| *one == &(*name, *payload)).count();
        for node in &nodes {
            let received = json!({"event": "received", "from": "serf", "key": name, "value": payload});
            node.log.wait_lines(so_far, &received);
        }
        // To serf, what two agents say in the same words before they have heard of each other is one event.
        let line = format!("user|{name}|{payload}");
        for agent in [&first, &second] {
            agent.wait_until_events(&line, |heard| heard.iter().filter(|one| **one == line).count() == so_far);
        }
    }

    let joins = nodes.each_ref().map(|node| format!("-join={}", addr(node)));
    let late = Agent::start("late", &joins.each_ref().map(String::as_str));
    late.event("after", "all");
    for node in &nodes {
        node.log.wait_line(0, &json!({"event": "received", "key": "after", "value": "all"}));
    }
    let mut newcomer = ours("d", &["--join", &first.addr]);
    newcomer.log.wait_line(0, &json!({"event": "nodes", "nodes": 7}));
    first.event("to", "all");
    for node in nodes.iter().chain([&newcomer]) {
        node.log.wait_line(0, &json!({"event": "received", "key": "to", "value": "all"}));
    }
    for node in &mut nodes {
        stop(node);
        let count = |name: &str, payload: &str| {
            node.log.count(&json!({"event": "received", "from": "serf", "key": name, "value": payload}))
        };
        assert_eq!(said.map(|(name, payload)| count(name, payload)), [2, 2, 1, 1, 1]);
        assert_eq!((count("after", "all"), count("to", "all")), (1, 1));
        assert_eq!(node.log.count(&json!({"event": "received"})), said.len() + 2);
        assert_eq!(node.log.count(&json!({"event": "rejected"})), 0, "{:#?}", node.log.lines());
    }
    stop(&mut newcomer);
    assert_eq!(newcomer.log.count(&json!({"event": "received", "key": "deploy"})), 0, "it was said before it joined");
}

fn our_messages_are_events_once() {
    let first = Agent::start("first", &[]);
    let second = Agent::start("second", &[&format!("-join={}", first.addr)]);
    let mut receivers = ["a", "b"].map(|name| ours(name, &["--join", &first.addr]));
    for node in &receivers {
        node.log.wait_line(0, &json!({"event": "nodes", "nodes": 4}));
    }
    let join = [&first.addr, &second.addr, &addr(&receivers[0])].map(String::as_str).join(",");
    let mut sender = ours("sender", &["--join", &join, "--role", "sender", "--interval", "100ms"]);
    let from = sender.log.wait_line(0, &json!({"event": "nodes", "nodes": 5}));
    for agent in [&first, &second] {
        agent.wait_member("sender", "alive");
    }
    sender.log.wait("30 messages to be sent", |lines| {
        (lines[from..].iter().filter(|line| line["event"] == "send").count() >= 30).then_some(())
    });
    // Says again what it has heard to whom it exchanges views with.
    let late = Agent::start("late", &[&format!("-join={}", first.addr), &format!("-join={}", addr(&receivers[1]))]);
    late.wait_member("a", "alive");
    let sent: Vec<Value> =
        sender.log.lines()[from..].iter().filter(|line| line["event"] == "send").map(|l| l["value"].clone()).collect();
    let lines: Vec<String> = sent.iter().map(|value| format!("user|I am sender|{value}")).collect();
    for agent in [&first, &second] {
        agent.wait_events(&lines);
    }
    for node in &receivers {
        for value in &sent {
            node.log.wait_line(0, &json!({"event": "received", "from": "sender", "value": value}));
        }
    }
    stop(&mut sender);
    first.wait_member("sender", "left");
    for node in &mut receivers {
        stop(node);
        for value in &sent {
            assert_eq!(node.log.count(&json!({"event": "received", "value": value})), 1, "{value}");
        }
        let others = node.log.lines().iter().filter(|l| l["event"] == "received" && l["from"] != "sender").count();
        assert_eq!(others, 0, "an event is no message of its own");
        assert_eq!(node.log.count(&json!({"event": "rejected"})), 0, "{:#?}", node.log.lines());
    }
    for agent in [&first, &second] {
        let mut counts = BTreeMap::<_, usize>::new();
        agent
            .events()
            .into_iter()
            .filter(|line| line.starts_with("user|"))
            .for_each(|l| *counts.entry(l).or_default() += 1);
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(lines.iter().all(|line| counts.contains_key(line)));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn values_become_payloads_within_the_limit() {
    let agent = Agent::start("agent", &[]);
    let mut witness = ours("witness", &["--join", &agent.addr]);
    let seeds = [&agent.addr, &addr(&witness)].map(|seed| seed.parse().expect("an address"));
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let config = Config::new("embedded").bind(loopback).profile(Profile::Local).join(seeds);
    let node =
        start(config.serf(SerfConfig { tags: Tags::from([("a".into(), "b".into())]) })).await.expect("it starts");
    let mut events = node.events();
    let mut known = 1;
    while known < 3 {
        if let Some(Ok(Event::Joined(_))) = events.recv().await {
            known += 1;
        }
    }
    assert_eq!(agent.wait_member("embedded", "alive")["tags"], json!({"a": "b"}));
    witness.log.wait_line(0, &json!({"event": "nodes", "nodes": 3}));

    let longest = "x".repeat(512 - "k".len());
    let values = [
        (json!("text"), "text".to_owned()),
        (json!("naïve \"quoted\""), "naïve \"quoted\"".to_owned()),
        (json!(42), "42".to_owned()),
        (json!({"a": [1, null]}), r#"{"a":[1,null]}"#.to_owned()),
        (json!({"hex": "4869"}), "Hi".to_owned()),
        (json!(longest), longest.clone()),
    ];
    for (value, _) in &values {
        node.publish("k", value).await.expect("there is room");
    }
    let too_long = format!("{longest}x");
    node.publish("k", &too_long).await.expect("there is room");
    node.publish("k", &too_long).await.expect("there is room");
    node.publish("last", "").await.expect("there is room").delivered().await.expect("the witness has it all");
    let lines = values.map(|(_, payload)| format!("user|k|{payload}"));
    agent.wait_events(&lines);
    agent.wait_events(&["user|last|".to_owned()]);
    let of_ours = agent.events().into_iter().filter(|line| line.starts_with("user|")).count();
    assert_eq!(of_ours, lines.len() + 1, "the long ones are none: {:#?}", agent.events());

    let (count, reason) = loop {
        if let Some(Ok(Event::SerfEventDropped { count, reason })) = events.recv().await {
            break (count, reason);
        }
    };
    assert_eq!(
        (count, node.metrics().await.messages.serf_events_dropped),
        (1, 2),
        "each is counted, and told once for a while"
    );
    assert_eq!(reason, "the key and value of \"k\" take 513 bytes, more than the 512 that serf allows an event");
    node.leave().await;
    agent.wait_member("embedded", "left");
    stop(&mut witness);
    assert_eq!(witness.log.count(&json!({"event": "received", "from": "embedded"})), lines.len() + 3);
    assert_eq!(witness.log.count(&json!({"event": "received"})), lines.len() + 3);
}

fn serf_s_commands_end_cleanly() {
    let agent = Agent::start("agent", &[]);
    let nodes = [ours("a", &["--join", &agent.addr, "--tags", "role=web"]), ours("b", &["--join", &agent.addr])];
    for node in &nodes {
        node.log.wait_line(0, &json!({"event": "nodes", "nodes": 3}));
    }
    let run = |command, args: &[&str]| {
        let started = Instant::now();
        let answer = agent.run(command, args);
        assert!(started.elapsed() < LIMIT / 2, "{command} took {:?}", started.elapsed());
        answer
    };
    // Serf sends each answer in one datagram and waits for some seconds only: a busy machine loses one now and then.
    // What never comes is missing all three times.
    let ask = |command, args: &[&str], answered: &dyn Fn(&CommandOutput) -> bool| {
        let missed: Vec<_> = (0..3).map(|_| run(command, args)).take_while(|answer| !answered(answer)).collect();
        assert!(missed.len() < 3, "{command} {args:?}: {}", missed[2].text);
    };
    let acks = |text: &str| ["agent", "a", "b"].map(|name| text.matches(&format!("Ack from '{name}'")).count());

    ask("query", &["uptime", "payload"], &|query| {
        query.success && acks(&query.text) == [1, 1, 1] && query.text.contains("Total Responses: 0")
    });
    ask("query", &["-tag", "role=w.b", "uptime"], &|query| acks(&query.text) == [0, 1, 0]);
    ask("query", &["-node", "b", "-relay-factor", "2", "uptime"], &|query| acks(&query.text) == [0, 0, 1]);
    let query = run("query", &["-no-ack", "uptime"]);
    assert!(query.success && acks(&query.text) == [0, 0, 0], "{}", query.text);

    ask("reachability", &[], &|answer| answer.success && answer.text.contains("Successfully contacted all live nodes"));
    // Each says that it has none.
    ask("keys", &["-list"], &|keys| keys.text.contains("3/3 nodes reported failure"));
    let rtt = run("rtt", &["a"]);
    assert!(rtt.text.contains("Could not find a coordinate for node \"a\""), "{}", rtt.text);
    let leave = run("force-leave", &["a"]);
    assert!(leave.success, "{}", leave.text);
    // It is alive, and says so.
    agent.wait_member("a", "alive");
    for node in &nodes {
        assert_eq!(node.log.count(&json!({"event": "rejected"})), 0, "{:#?}", node.log.lines());
        assert_eq!(node.log.count(&json!({"event": "received"})), 0, "a query is no message");
    }
}

fn who_is_forced_to_leave_has_left() {
    let agent = Agent::start("agent", &[]);
    let witness = ours("witness", &["--join", &agent.addr]);
    let mut node = ours("ours", &["--join", &agent.addr]);
    witness.log.wait_line(0, &json!({"event": "joined", "member": "ours"}));
    node.kill();
    agent.wait_member("ours", "failed");
    assert!(agent.run("force-leave", &["ours"]).success);
    agent.wait_member("ours", "left");
    witness.log.wait_line(0, &json!({"event": "left", "member": "ours"}));
    // Somebody who learns it from ours alone knows that, too.
    let late = Agent::start("late", &[&format!("-join={}", addr(&witness))]);
    late.wait_member("witness", "alive");
    agent.wait_member("late", "alive");
    let back = ours("ours", &["--join", &agent.addr]);
    assert_eq!(agent.wait_member("ours", "alive")["addr"], addr(&back));
}

fn an_agent_leaves_and_fails() {
    let node = ours("ours", &[]);
    let join = format!("-join={}", addr(&node));
    let agent = Agent::start("agent", &[&join]);
    let from = node.log.wait_line(0, &json!({"event": "joined", "member": "agent"}));
    assert!(agent.run("leave", &[]).success);
    let from = node.log.wait_line(from, &json!({"event": "left", "member": "agent"}));
    drop(agent);
    let agent = Agent::start("agent", &[&join]);
    let from = node.log.wait_line(from, &json!({"event": "joined", "member": "agent", "addr": agent.addr}));
    drop(agent);
    node.log.wait_line(from, &json!({"event": "failed", "member": "agent"}));
}

fn a_node_without_serf_is_not_let_in() {
    let agent = Agent::start("agent", &[]);
    let plain = Process::node(&["--name", "plain", "--join", &agent.addr]);
    plain.log.wait("why it is not", |lines| {
        let told =
            |line: &&Value| line["event"] == "rejected" && line["reason"].as_str().is_some_and(is_about_versions);
        lines.iter().find(told).map(|_| ())
    });
    assert_eq!(agent.members().len(), 1);
}

fn is_about_versions(reason: &str) -> bool {
    reason.contains("delegate protocol version")
}
