//! `broadcast publish`: values as arguments, as lines and as JSON.

use std::net::TcpListener;

use super::{Running, ask, code, command, feed, node, object, pair, with_input};
use crate::support::{refusal, stdout};
use serde_json::{Value, json};

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
