//! The commands that speak a node's HTTP API, and what a node logs of it: real programs.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::Arc,
};

use crate::support::{Log, Process, program, refusal, stdout};
use serde_json::{Value, json};

/// A node that serves its API, in a cluster of its own unless it joins one.
fn node(name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
    let defaults: &[&str] = if args.contains(&"--http") { &[] } else { &["--http", "127.0.0.1:0"] };
    Process::node_with(&[&["--name", name], defaults, args].concat(), env)
}

/// Two nodes that know each other.
fn pair() -> (Process, Process) {
    let first = node("node1", &[], &[]);
    let second = node("node2", &["--join", &first.addr().to_string(), "--meta", "zone=a"], &[]);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node2"}));
    (first, second)
}

fn url(node: &Process) -> String {
    format!("http://{}", node.http())
}

/// A command that asks `node`.
fn command(node: &Process, args: &[&str]) -> Command {
    let mut command = program(args);
    command.env("BROADCAST_NODE", url(node));
    command
}

fn ask(node: &Process, args: &[&str]) -> Output {
    command(node, args).output().expect("the program runs")
}

#[track_caller]
fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A command that is fed and followed while it runs.
struct Running {
    process: Process,
    errors: Arc<Log>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let errors = Log::follow(process.child.stderr.take().expect("it is piped"));
        Self { process, errors }
    }

    fn tail(node: &Process, args: &[&str]) -> Self {
        Self::start(command(node, &[&["tail", "--json"], args].concat()))
    }

    /// Waits for a message with this key and value.
    #[track_caller]
    fn wait(&self, key: &str, value: impl Into<Value>) {
        self.process.log.wait_line(0, &json!({"key": key, "value": value.into()}));
    }

    #[track_caller]
    fn wait_warning(&self, words: &str) {
        self.errors.wait(words, |lines| {
            lines.iter().any(|line| line.as_str().is_some_and(|line| line.contains(words))).then_some(())
        });
    }

    fn close_input(&mut self) {
        drop(self.process.child.stdin.take());
    }
}

fn feed(child: &mut Child, text: &[u8]) {
    child.stdin.as_mut().expect("it is piped").write_all(text).expect("it reads");
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    // It may refuse before it has read all.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    child.wait_with_output().expect("it ends")
}

/// The exit code that a shell shows.
fn code(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal))
}

#[test]
fn what_is_published_is_heard_and_the_publisher_knows_it() {
    let (first, second) = pair();
    let tail = Running::tail(&second, &["--key", "a", "--from", "node1", "--last", "9"]);

    let id = stdout(ask(&first, &["publish", "a b", "hello"]));
    assert!(id.starts_with("node1.") && id.ends_with(".0\n"), "{id}");
    tail.wait("a b", "hello");
    let words = stdout(ask(&first, &["publish", "a", r#"{"x": [1, -2.50]}"#, "--ack", "all"]));
    assert!(words.starts_with("delivered to 1 of 1 nodes in ") && words.ends_with(" ms\n"), "{words}");
    tail.wait("a", json!({"x": [1, -2.5]}));
    let answer = object(&stdout(ask(&first, &["publish", "a", "-5", "--ack", "all", "--timeout", "10s", "--json"])));
    assert_eq!((&answer["seq"], &answer["delivered"], &answer["members"]), (&json!(2), &json!(1), &json!(1)));
    tail.wait("a", -5);
    stdout(ask(&first, &["publish", "a", "7", "--text"]));
    tail.wait("a", "7");
    stdout(with_input(command(&first, &["publish", "a", "-"]), b"{\n\"whole\": true\n}\n"));
    tail.wait("a", json!({"whole": true}));
    stdout(ask(&first, &["publish", "other", "1"]));
    stdout(ask(&second, &["publish", "a", "1", "--ack", "all"]));
    stdout(ask(&first, &["publish", "a", "\"the last\"", "--ack", "all"]));
    tail.wait("a", "the last");
    assert_eq!(tail.process.log.len(), 6, "neither another key nor another node: {:?}", tail.process.log.lines());

    // What cannot be sent is refused as a whole line, and nothing moves the cursor.
    let large = format!("\"{}\"", "x".repeat(100_000));
    let large: Vec<_> = std::iter::repeat_n(&*large, 11).collect();
    let line =
        refusal(with_input(command(&first, &["publish", "a", "-"]), format!("[{}]", large.join(",")).as_bytes()), 1);
    assert!(line.contains("bytes"), "{line}");
    stdout(ask(&first, &["publish", "\u{1b}[2J\na", "\u{1b}[31m\u{85}", "--ack", "all"]));
    let mut text = Running::start(command(&second, &["tail", "--last", "1"]));
    let line = text.process.log.wait("the line", |lines| lines.first().cloned());
    let line = line.as_str().expect("no JSON").to_owned();
    assert!(line.ends_with("Z node1 \\u{1b}[2J\\na = \"\\u001b[31m\\u{85}\""), "{line}");
    for (signal, exit) in [("INT", 130), ("TERM", 143)] {
        text.process.signal(signal);
        assert_eq!(code(text.process.wait()), Some(exit));
        text = Running::start(command(&second, &["tail", "--last", "1"]));
        text.process.log.wait("the line", |lines| lines.first().cloned());
    }
}

#[test]
fn a_member_that_does_not_answer_is_named() {
    let (first, mut second) = pair();
    stdout(ask(&first, &["publish", "k", "1", "--ack", "all"]));
    second.signal("STOP");
    let args = ["publish", "k", "2", "--ack", "all", "--timeout", "200ms"];
    assert_eq!(refusal(ask(&first, &args), 1), "not delivered within 200ms to node2; still trying");
    let output = ask(&first, &[&args[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(object(&String::from_utf8_lossy(&output.stdout))["missing"], json!(["node2"]));
    let lines = with_input(command(&first, &["publish", "k", "--ack", "all", "--timeout", "200ms"]), b"3\n");
    assert_eq!(lines.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&lines.stdout), "published 1 message\n");
    let warning = "warning: not delivered within 200ms to node2; still trying\n";
    assert_eq!(String::from_utf8_lossy(&lines.stderr), warning);
    second.signal("CONT");
    second.kill();
}

#[test]
fn a_member_that_is_not_waited_for_otherwise_is_waited_for_and_named_by_receipts() {
    // In this profile it is not found to be gone for half a minute.
    let args = ["--profile", "wan", "--lag-limit", "500ms"];
    let first = node("node1", &args, &[]);
    let second = node("node2", &[&args[..], &["--join", &first.addr().to_string()]].concat(), &[]);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node2"}));
    stdout(ask(&first, &["publish", "k", "1", "--ack", "all"]));
    second.signal("STOP");
    stdout(ask(&first, &["publish", "k", "2"]));
    first.log.wait_line(0, &json!({"event": "cut_loose"}));
    let all = ["publish", "k", "3", "--ack", "all"];
    let line = refusal(ask(&first, &[&all[..], &["--timeout", "700ms"]].concat()), 1);
    assert_eq!(line, "not delivered within 700ms to node2; still trying");

    let members = stdout(ask(&first, &["members"]));
    assert!(members.lines().any(|line| line.starts_with("node2") && line.contains("  2 (loose)  ")), "{members}");
    let status = stdout(ask(&first, &["status"]));
    let words = "\nloose    node2: publishers do not wait for them any more, until they have caught up\n";
    assert!(status.contains(words), "{status}");

    second.signal("CONT");
    let words = stdout(ask(&first, &[&all[..], &["--timeout", "60s"]].concat()));
    assert!(words.starts_with("delivered to 1 of 1 nodes in "), "{words}");
    let status = object(&stdout(ask(&first, &["status", "--json"])));
    assert_eq!(status["loose"], json!([]));
}

#[test]
fn a_member_that_fails_meanwhile_is_named_by_receipts() {
    let (first, second) = pair();
    let third = node("node3", &["--join", &first.addr().to_string()], &[]);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node3"}));
    stdout(ask(&first, &["publish", "k", "1", "--ack", "all"]));
    third.signal("STOP");
    let all = ["publish", "k", "2", "--ack", "all", "--timeout", "60s"];
    let words = stdout(ask(&first, &all));
    assert!(words.starts_with("delivered to 1 of 1 live nodes in "), "{words}");
    assert!(words.ends_with(" ms; node3 failed meanwhile\n"), "{words}");
    let answer = object(&stdout(ask(&first, &[&all[..], &["--json"]].concat())));
    assert_eq!((&answer["delivered"], &answer["failed"], &answer["left"]), (&json!(1), &json!([]), &json!([])));
    drop(second);
}

#[test]
fn a_number_that_is_published_is_no_senders_clock() {
    let first = node("node1", &[], &[]);
    let args = ["--role", "sender", "--interval", "50ms", "--join", &first.addr().to_string()];
    let sender = node("node2", &args, &[]);
    sender.log.wait_line(0, &json!({"event": "joined", "member": "node1"}));
    for value in ["42", "18446744073709551615"] {
        stdout(ask(&first, &["publish", "greeting", value, "--ack", "all"]));
        stdout(ask(&first, &["publish", "I am node3", value, "--ack", "all"]));
    }
    let key = json!({"event": "received", "key": "I am node3", "value": u64::MAX});
    let from = sender.log.wait_line(0, &key);
    sender.log.wait("three more", |lines| {
        (lines[from..].iter().filter(|line| line["event"] == "send").count() >= 3).then_some(())
    });
    let lines = sender.log.lines();
    let values = lines.iter().filter(|line| line["event"] == "send").map(|line| line["value"].as_u64());
    assert!(values.eq((0..).map(Some).take(lines.iter().filter(|line| line["event"] == "send").count())), "{lines:?}");
}

#[test]
fn who_publishes_before_the_node_has_joined_is_told() {
    // Nothing listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has ports");
    let lost = node("node1", &["--join", &free.to_string()], &[]);
    let warning = "warning: the node has not joined its cluster yet, so that nobody else gets this; broadcast health \
        says when it has\n";
    for (args, input, words) in [
        (&["publish", "k", "1", "--ack", "all"][..], &b""[..], "delivered to 0 of 0 nodes in "),
        (&["publish", "k", "1"], b"", "node1."),
        (&["publish", "k"], b"1\n2\n", "published 2 messages"),
        (&["publish", "k", "1", "--json"], b"", "{"),
    ] {
        let output = with_input(command(&lost, args), input);
        assert_eq!(code(output.status), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), warning);
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(said.starts_with(words), "{said}");
        assert!(!args.contains(&"--json") || object(&said)["joined"] == false, "{said}");
    }
    let _second = node("node2", &["--join", &lost.addr().to_string()], &[]);
    lost.log.wait_line(0, &json!({"event": "joined", "member": "node2"}));
    let answer = object(&stdout(ask(&lost, &["publish", "k", "1", "--ack", "all", "--json"])));
    assert_eq!(answer["joined"], Value::Null, "{answer}");
}

#[test]
fn lines_are_sent_as_they_come() {
    let (first, second) = pair();
    let tail = Running::tail(&second, &["--last", "1000"]);
    let mut publish = Running::start(command(&first, &["publish", "log"]));
    // Each is heard while the next is not yet written.
    for (line, value) in [("one", json!("one")), ("2", json!(2)), ("", json!("")), ("{\"a\": 1}", json!({"a": 1}))] {
        feed(&mut publish.process.child, format!("{line}\n").as_bytes());
        tail.wait("log", value);
    }
    feed(&mut publish.process.child, b"without an end");
    publish.close_input();
    tail.wait("log", "without an end");
    assert_eq!(code(publish.process.wait()), Some(0));
    publish.process.log.wait_end();
    assert_eq!(publish.process.log.lines(), [json!("published 5 messages")]);

    let many: String = (0..10_000).map(|i| format!("{{\"key\":\"many\",\"value\":{i}}}\n")).collect();
    let words = stdout(with_input(command(&first, &["publish", "--ack", "all", "--timeout", "60s"]), many.as_bytes()));
    assert!(words.starts_with("published 10000 messages, delivered to 1 of 1 nodes in "), "{words}");
    tail.wait("many", 9999);
    let lines = tail.process.log.lines();
    let heard = lines.iter().filter(|line| line["key"] == "many").map(|line| line["value"].as_u64());
    assert!(heard.eq((0..10_000).map(Some)), "each once, in order");

    // A bad line ends it; those before it are published.
    let input = b"{\"key\":\"bad\",\"value\":1}\n\n{\"key\":\"bad\"}\n{\"key\":\"bad\",\"value\":3}\n";
    let output = with_input(command(&first, &["publish"]), input);
    assert_eq!(code(output.status), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.starts_with("error: line 3 of standard input: not a message: missing field `value` at column "),
        "{error}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "published 1 message\n");
    tail.wait("bad", 1);
    // With --json it is told what was published, and what the API answered.
    let long = format!("{}{{\"key\":\"bad\"}}\n", "{\"key\":\"good\",\"value\":1}\n".repeat(5000));
    let output = with_input(command(&first, &["publish", "--json"]), long.as_bytes());
    assert_eq!(code(output.status), Some(1));
    let answers: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(object).collect();
    let published = answers.iter().map(|answer| answer["published"].as_u64().expect("a count")).sum::<u64>();
    let problem = answers.last().expect("an answer");
    assert_eq!((published, &problem["status"], &problem["line"]), (5000, &json!(400), &json!(5001)), "{problem}");
    let detail = problem["detail"].as_str().expect("text");
    assert!(detail.starts_with("not a message: missing field `value` at column "), "{detail}");
    assert!(answers.len() > 1, "it takes several calls, which each number their own lines");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: line 5001 of standard input: not a message"));

    let line = refusal(with_input(command(&first, &["publish", "k"]), b"\xff\n"), 1);
    assert_eq!(line, "line 1 of standard input: it is not text (UTF-8)");
    assert_eq!(stdout(with_input(command(&first, &["publish"]), b"")), "published 0 messages\n");

    let mut publish = Running::start(command(&first, &["publish", "log", "--json"]));
    feed(&mut publish.process.child, b"last\n");
    let line = publish.process.log.wait("the answer", |lines| lines.first().cloned());
    assert_eq!((&line["published"], line["first"] == line["last"]), (&json!(1), true));
    publish.process.signal("INT");
    assert_eq!(code(publish.process.wait()), Some(130));
}

#[test]
fn a_tail_outlives_its_node_and_says_so() {
    let (first, mut second) = pair();
    let at = second.http().to_string();
    stdout(ask(&first, &["publish", "before", "1", "--ack", "all"]));
    let mut tail = Running::tail(&second, &["--last", "1"]);
    tail.wait("before", 1);

    second.kill();
    tail.wait_warning("; connecting again");
    // By another name, so that it need not wait for the first to be held for failed.
    let again = node("node3", &["--join", &first.addr().to_string(), "--http", &at], &[]);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node3"}));
    // The killed one is waited for until it is found to have failed.
    stdout(ask(&first, &["publish", "after", "1", "--ack", "all", "--timeout", "60s"]));
    tail.wait("after", 1);
    tail.wait_warning("answers again");
    tail.wait_warning("messages may be missing here: this node does not know the place");
    let lost = tail.errors.lines().iter().filter(|line| line.to_string().contains("connecting again")).count();
    assert_eq!(lost, 1, "it says so once");

    // Where the node stays the same, nothing is lost or repeated: its own cursor leads on.
    stdout(ask(&first, &["publish", "after", "2", "--ack", "all"]));
    tail.wait("after", 2);
    let line = tail.process.log.lines().into_iter().find(|line| line["key"] == "after" && line["value"] == 1);
    let line = line.expect("it was heard");
    let cursor = line["cursor"].as_str().expect("text");
    let mut on = Running::tail(&again, &["--after", cursor]);
    on.wait("after", 2);
    assert_eq!(on.process.log.len(), 1);

    again.signal("TERM");
    tail.wait_warning("this node has left its cluster");
    for tail in [&mut tail, &mut on] {
        tail.process.signal("INT");
        assert_eq!(code(tail.process.wait()), Some(130));
    }
}

#[test]
fn a_tail_ends_with_its_reader() {
    let alone = node("node1", &[], &[]);
    stdout(ask(&alone, &["publish", "k", "1"]));
    let mut child = command(&alone, &["tail", "--last", "1"]).stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut out = child.stdout.take().expect("it is piped");
    assert_eq!(out.read(&mut [0; 16]).expect("it says something"), 16);
    drop(out);
    // Nothing more is said: it notices by itself.
    let mut tail = Process { child, log: Arc::default() };
    assert_eq!(code(tail.wait()), Some(0));
}

#[test]
fn members_status_and_health_are_those_that_the_node_sees() {
    let (first, second) = pair();
    let deadline = std::time::Instant::now() + crate::support::LIMIT;
    // The members have to settle first.
    let healthy = loop {
        let output = ask(&first, &["health"]);
        if output.status.success() || std::time::Instant::now() > deadline {
            break output;
        }
        let words = refusal(output, 1);
        assert!(words.starts_with("unhealthy: "), "{words}");
    };
    assert_eq!(stdout(healthy), "healthy: ready, 2 members\n");
    let ready = object(&stdout(ask(&first, &["health", "--json"])));
    assert_eq!(ready, json!({"status": "ready", "members": 2}));
    assert_eq!(stdout(ask(&first, &["health", "--live"])), "healthy: alive, 2 members\n");

    stdout(ask(&first, &["publish", "k", "1", "--ack", "all"]));
    let table = stdout(ask(&first, &["members"]));
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "KIND", "ADDRESS", "RTT", "REACH", "LAG", "META"]);
    assert_eq!(rows[1], ["node1", "alive", "broadcast", &first.addr().to_string(), "itself", "-", "-", "-"]);
    let row = &rows[2];
    assert_eq!(row[..4], ["node2", "alive", "broadcast", &second.addr().to_string()]);
    assert_eq!(row[row.len() - 2..], ["0", "zone=a"], "{table}");
    let json = object(&stdout(ask(&first, &["members", "--json"])));
    assert_eq!((&json["node"], &json["members"][1]["meta"]), (&json!("node1"), &json!("zone=a")));

    stdout(ask(&second, &["publish", "k", "1", "--ack", "all"]));
    let text = stdout(ask(&first, &["status"]));
    assert!(
        text.starts_with(&format!("node1 at {}, broadcast {}\n", first.addr(), env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
    assert!(text.contains("\nmembers  2 alive, 0 suspect, 0 dead, 0 left\n"), "{text}");
    let origin = text.lines().last().expect("lines").split_whitespace().collect::<Vec<_>>();
    assert_eq!((origin[0], origin[2], origin[3]), ("node2", "1", "1"), "{text}");
    assert_eq!(object(&stdout(ask(&first, &["status", "--json"])))["joined"], true);
}

#[test]
fn what_cannot_be_written_is_told() {
    let alone = node("node1", &[], &[]);
    stdout(ask(&alone, &["publish", "k", "1"]));
    for args in [
        &["members"][..],
        &["status", "--json"],
        &["log"],
        &["publish", "k", "1"],
        &["tail", "--last", "1"],
        &["man"],
        &["completions", "bash"],
        &["keygen"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = command(&alone, args).stdout(full).output().expect("the program runs");
        assert_eq!(
            refusal(output, 1),
            "cannot write to standard output: No space left on device (os error 28)",
            "{args:?}"
        );
        let (read, write) = std::io::pipe().expect("there are pipes");
        drop(read);
        let output = command(&alone, args).stdout(write).output().expect("the program runs");
        assert_eq!(stdout(output), "", "nobody wants to read it: {args:?}");
    }
}

#[test]
fn who_answers_like_no_node_is_none() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has free ports");
    let at = format!("http://{}", listener.local_addr().expect("it is bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("somebody asks");
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"ok\": true}");
        }
    });
    for args in [
        &["publish", "k", "1", "--ack", "all"][..],
        &["publish", "k", "1"],
        &["members"],
        &["status"],
        &["health", "--node", &at],
        &["health", "--live", "--node", &at],
        &["log"],
        &["faults"],
    ] {
        let words = refusal(program(args).env("BROADCAST_NODE", &at).output().expect("the program runs"), 1);
        assert!(words.contains("(200 OK) is not a broadcast node"), "{args:?}: {words}");
    }
}

#[test]
fn what_a_node_logs_and_suffers_changes_while_it_runs() {
    let alone = node("node1", &[], &[("BROADCAST_FAULTS", "ready")]);
    assert_eq!(stdout(ask(&alone, &["log"])), "info\n");
    assert_eq!(stdout(ask(&alone, &["log", "warn,broadcast_gateway=debug"])), "warn,broadcast_gateway=debug\n");
    let id = stdout(ask(&alone, &["publish", "k", "1"]));
    let line = alone.log.wait_line(0, &json!({"event": "published", "key": "k"}));
    let line = &alone.log.lines()[line];
    assert_eq!(line["spans"][0]["path"], "/v1/messages");
    assert_eq!(line["spans"][1], json!({"name": "publish", "node": "node1", "id": id.trim()}));
    let line = alone.log.wait_line(0, &json!({"event": "http_request", "method": "POST"}));
    let line = &alone.log.lines()[line];
    assert_eq!((&line["status"], &line["path"], line["ms"].is_number()), (&json!(202), &json!("/v1/messages"), true));
    assert_eq!(object(&stdout(ask(&alone, &["log", "off", "--json"]))), json!({"filter": "off"}));
    let quiet = alone.log.len();
    stdout(ask(&alone, &["publish", "k", "2"]));
    stdout(ask(&alone, &["log", "info"]));
    let line = alone.log.wait_line(quiet, &json!({"event": "log"}));
    assert!(alone.log.lines()[quiet..line].iter().all(|line| line["event"] != "published"));
    let line = refusal(ask(&alone, &["log", "broadcast=loud"]), 2);
    assert!(line.contains("broadcast=loud"), "{line}");

    let faults = stdout(ask(&alone, &["faults", "loss=0.25"]));
    assert!(faults.contains("loss=0.25"), "{faults}");
    assert_eq!(stdout(ask(&alone, &["faults"])), faults);
    let none = stdout(ask(&alone, &["faults", "none"]));
    assert!(!none.contains("loss=0.25"), "{none}");
    assert!(refusal(ask(&alone, &["faults", "gremlins=1"]), 2).contains("the faults there are"));
    let sound = node("node2", &[], &[]);
    assert!(refusal(ask(&sound, &["faults", "loss=0.25"]), 1).contains("BROADCAST_FAULTS"));
}

#[test]
fn no_log_has_the_secrets() {
    let token = "correct-horse-battery-staple";
    let key = stdout(program(&["keygen"]).output().expect("the program runs"));
    let env = [("BROADCAST_HTTP_TOKEN", token), ("BROADCAST_SECRET_KEYS", key.trim()), ("BROADCAST_LOG", "trace")];
    let first = node("node1", &[], &env);
    let second = node("node2", &["--join", &first.addr().to_string()], &env);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node2"}));

    let wanted = "a token is needed, as `Authorization: Bearer TOKEN` or as the password of basic authentication; \
        set BROADCAST_HTTP_TOKEN, or BROADCAST_HTTP_TOKEN_FILE (--http-token-file)";
    assert_eq!(refusal(ask(&first, &["members"]), 1), wanted);
    assert_eq!(refusal(ask(&first, &["tail"]), 1), wanted);
    let mut wrong = command(&first, &["members"]);
    let line = refusal(wrong.env("BROADCAST_HTTP_TOKEN", "another-horse").output().expect("the program runs"), 1);
    assert!(line.starts_with("the token is not this node's (BROADCAST_HTTP_TOKEN); set "), "{line}");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, token).expect("a temporary file can be written");
    let path = file.path().to_str().expect("text");
    let args = ["publish", "k", "1", "--ack", "all", "--http-token-file", path];
    assert!(stdout(ask(&first, &args)).starts_with("delivered to 1 of 1 nodes in "));
    stdout(command(&second, &["members"]).env("BROADCAST_HTTP_TOKEN", token).output().expect("the program runs"));

    first.log.wait_line(0, &json!({"event": "http_request", "status": 200, "path": "/v1/messages"}));
    first.log.wait_line(0, &json!({"event": "http_request", "status": 401, "path": "/v1/members"}));
    second.log.wait_line(0, &json!({"event": "http_request", "status": 200, "path": "/v1/members"}));
    for node in [&first, &second] {
        let log: String = node.log.lines().iter().map(ToString::to_string).collect();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "it logs more than usual");
        assert!(!log.contains(token) && !log.contains(key.trim()), "a secret is in the log");
        assert!(!log.contains("another-horse"), "nor what was tried");
    }
}

#[test]
fn a_node_that_cannot_be_asked_is_named_with_what_to_do() {
    // Nothing listens on a port that was just given back.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback has ports");
    let at = format!("http://{free}");
    let run = |args: &[&str]| program(args).output().expect("the program runs");
    for args in [&["publish", "k", "1"][..], &["tail"], &["members"], &["status"], &["log"], &["faults"]] {
        let line = refusal(run(&[args, &["--node", &at]].concat()), 1);
        assert!(line.starts_with(&format!("nothing answers at {at}: ")), "{line}");
        assert!(line.ends_with("check that the node runs, and that BROADCAST_NODE (--node) is right"), "{line}");
    }
    assert!(refusal(run(&["health", "--node", &at]), 1).starts_with("unhealthy: nothing answers at "));
    let line = refusal(run(&["members", "--node", &free.to_string()]), 1);
    assert!(line.starts_with(&format!("nothing answers at {at}: ")), "{line}");
    let line = refusal(run(&["members", "--node", "a node"]), 2);
    assert_eq!(
        line,
        "BROADCAST_NODE (--node) = \"a node\": not where a node serves its API; write it like localhost:8946 or \
         http://127.0.0.1:8946"
    );
    assert!(refusal(run(&["tail", "--node", "https://node1"]), 2).contains("https is not supported"));

    // What listens may be something else: a node's gossip, say, or another server.
    let server = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let at: SocketAddr = server.local_addr().expect("it is bound");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("it is called");
        let _ = stream.read(&mut [0; 1024]);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot here\n").expect("it listens");
    });
    let line = refusal(run(&["members", "--node", &format!("http://{at}")]), 1);
    assert!(
        line.starts_with(&format!("what answers at http://{at} (404 Not Found) is not a broadcast node")),
        "{line}"
    );
    other.join().expect("it was called");

    for args in [
        &["publish", "k", "1", "--timeout", "1s"][..],
        &["publish", "k", "1", "--ack", "some"],
        &["publish", "k", "1", "--ack", "all", "--timeout", "2m"],
        &["tail", "--last", "some"],
        &["completions", "ash"],
    ] {
        refusal(run(args), 2);
    }
}

#[test]
fn shells_and_readers_know_every_command() {
    let run = |args: &[&str]| stdout(program(args).output().expect("the program runs"));
    let commands =
        ["node", "demo", "publish", "tail", "timeline", "members", "status", "health", "log", "faults", "man"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        for word in commands.iter().chain(&["keygen", "sim", "completions"]) {
            assert!(script.contains(word), "{word} for {shell}");
        }
        assert!(script.contains("ack"), "flags for {shell}");
    }
    let page = run(&["man"]);
    assert!(page.contains(".TH broadcast 1") && page.contains("broadcast\\-publish(1)"), "{page}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("man1");
    let said = run(&["man", "--dir", dir.to_str().expect("text")]);
    let pages = std::fs::read_dir(&dir).expect("it is made").count();
    assert!(said.starts_with(&format!("wrote {pages} manual pages into {}", dir.display())), "{said}");
    for command in commands {
        let page = std::fs::read_to_string(dir.join(format!("broadcast-{command}.1"))).expect(command);
        assert!(page.contains(&format!(".TH broadcast-{command} 1")), "{page}");
    }
    // Where bash is, it takes its script.
    if let Ok(mut bash) = Command::new("bash").args(["-n"]).stdin(Stdio::piped()).spawn() {
        feed(&mut bash, run(&["completions", "bash"]).as_bytes());
        drop(bash.stdin.take());
        assert!(bash.wait().expect("it ends").success());
    }
}
