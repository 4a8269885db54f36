//! `broadcast kv`, `broadcast voters` and `broadcast store`, at real nodes.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::Arc,
    thread,
};

use serde_json::{Value, json};

use super::{Cluster, command, put};
use crate::support::{Log, Process, child::OwnedChild, http::ask, program, refusal, stdout, voters::VOTERS, wait};

#[test]
fn the_demo_has_a_store_in_memory() {
    let demo = Process::spawn(&mut program(&["demo", "--http", "127.0.0.1:0", "--log-format", "json", "--for", "60s"]));
    let at = demo.http();
    demo.log.wait_line(0, &json!({ "event": "store_leads" }));
    let run = |args: &[&str]| stdout(command(at, args).output().expect("it runs"));
    assert_eq!(run(&["kv", "put", "color", "green"]), "revision 2\n");
    assert_eq!(run(&["kv", "get", "color"]), "green\n");
    let status = ask(at, "GET", "/v1/store", &[], b"").json();
    assert_eq!(status["voters"].as_array().map(Vec::len), Some(3), "{status}");
    // That nothing is kept is no news in a demo.
    assert!(demo.log.lines().iter().all(|line| line["level"] != "WARN"), "{:#?}", demo.log.lines());
}

#[test]
fn commands_do_what_they_say() {
    // One voter, in memory: it agrees with itself.
    let args = ["--name", "alone", "--role", "receiver,voter", "--voters", "alone", "--http", "127.0.0.1:0"];
    let node = Process::node(&args);
    let at = node.http();
    node.log.wait_line(0, &json!({ "event": "store_leads" }));
    assert_eq!(node.log.count(&json!({ "event": "store_ephemeral" })), 1);
    // What openraft says is for who asks for it.
    let strange: Vec<_> = node.log.lines().into_iter().filter(|line| line["event"].is_null()).collect();
    assert!(strange.is_empty(), "{strange:?}");
    let run = |args: &[&str]| stdout(command(at, args).output().expect("it runs"));

    assert_eq!(run(&["kv", "put", "color", "green"]), "revision 2\n");
    assert_eq!(run(&["kv", "get", "color"]), "green\n");
    assert_eq!(run(&["kv", "get", "color", "--raw"]), "green");
    assert_eq!(run(&["kv", "put", "color", "-1", "--prev"]), "revision 3\ncolor = green\n");
    assert_eq!(run(&["kv", "get", "color", "--rev", "2"]), "green\n");
    let mut child = command(at, &["kv", "put", "a/b c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("it is piped").write_all(b"line\n\xff").expect("it reads");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(ask(at, "GET", "/v1/kv/a/b%20c", &[], b"").body, b"line\n\xff");
    assert_eq!(run(&["kv", "get", "--prefix"]), "a/b c = line\\n\u{fffd}\ncolor = -1\n");
    assert_eq!(run(&["kv", "get", "--prefix", "a", "--keys-only"]), "a/b c\n");
    let json: Value = serde_json::from_str(&run(&["kv", "get", "color", "--json"])).expect("JSON");
    assert_eq!((&json["kvs"][0]["value"], &json["kvs"][0]["version"]), (&json!("-1"), &json!(2)));
    let gone = command(at, &["kv", "get", "colour"]).output().expect("it runs");
    assert_eq!(refusal(gone, 1), "there is no key \"colour\"");

    let txn = r#"{"compare": [{"key": "n", "version": 0}], "success": [{"put": {"key": "n", "value": "1"}}], "failure": [{"get": {"key": "n"}}]}"#;
    assert_eq!(run(&["kv", "txn", txn]), "the comparisons held, revision 5\nput\n");
    let again = command(at, &["kv", "txn", txn]).output().expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        "the comparisons did not hold, revision 5\nget: 1 keys\n  n = 1\n"
    );

    let watching = WatchCommand::start(command(at, &["kv", "watch", "--prefix", "--rev", "4", "--prev"]));
    watching.log.wait("5 PUT n = 1", |lines| lines.iter().any(|line| line == "5 PUT n = 1").then_some(()));
    assert_eq!(run(&["kv", "del", "n", "--prev"]), "deleted 1\nn = 1\n");
    watching.log.wait("the delete", |lines| lines.iter().any(|line| line == "6 DELETE n (was 1)").then_some(()));
    assert_eq!(run(&["kv", "del", "n"]), "deleted 0\n");
    assert_eq!(watching.log.len(), 3, "{:?}", watching.log.lines());

    let voters = run(&["voters", "list"]);
    let row = voters.lines().nth(1).expect("a row");
    assert!(row.starts_with("alone  leads  ") && row.ends_with("in memory"), "{voters}");
    let status = run(&["store", "status"]);
    assert!(status.contains("\nleader    alone, in term 1\nrevision  6\nproblems  none\n"), "{status}");
    let refused = command(at, &["voters", "remove", "alone"]).output().expect("it runs");
    assert_eq!(refusal(refused, 1), "alone is the last voter; somebody has to vote");
    let refused = command(at, &["voters", "add", "alone"]).output().expect("it runs");
    assert!(refusal(refused, 1).contains("alone votes already"));
    let refused = command(at, &["kv", "put", "", "x"]).output().expect("it runs");
    assert_eq!(refusal(refused, 2), "KEY: a key has a letter at least");
}

#[test]
fn a_watch_goes_on_where_it_was_when_its_node_comes_back() {
    let mut cluster = Cluster::start();
    let at = cluster.voters[0].http();
    let watching = WatchCommand::start(command(at, &["kv", "watch", "--prefix", "w/"]));
    // It watches from the next revision on; which is its first, nobody knows until it prints.
    let other = cluster.other.http();
    wait("it prints", || {
        assert_eq!(put(other, "w/first", b"1").0, 200);
        watching.log.len() > 0
    });
    cluster.voters[0].signal("KILL");
    cluster.voters[0].wait();
    cluster.wait_led(2);
    assert_eq!(put(other, "w/meanwhile", b"1").0, 200);
    // At the same address, with the same data.
    let data = cluster.folder.path().join("node1");
    let http = at.to_string();
    let args = ["--name", "node1", "--role", "voter", "--voters", VOTERS, "--http", &http];
    let join = cluster.other.addr().to_string();
    let more = ["--data", data.to_str().expect("text"), "--join", &join];
    cluster.voters[0] = Process::node(&[&args[..], &more].concat());
    cluster.wait_led(3);
    assert_eq!(put(other, "w/after", b"1").0, 200);
    let has = |lines: &[Value], what: &str| {
        lines.iter().filter(|line| line.as_str().is_some_and(|l| l.contains(what))).count()
    };
    watching.log.wait("what came after", |lines| (has(lines, "w/after") == 1).then_some(()));
    let lines = watching.log.lines();
    assert_eq!((has(&lines, "w/meanwhile"), has(&lines, "w/after")), (1, 1), "{lines:?}");
}

/// A command that keeps printing.
struct WatchCommand {
    _child: OwnedChild,
    log: Arc<Log>,
}

impl WatchCommand {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let log = Log::follow(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        // It is read, so that nobody waits for it.
        thread::spawn(move || drop(stderr.read_to_end(&mut Vec::new())));
        Self { _child: OwnedChild(child), log }
    }
}
