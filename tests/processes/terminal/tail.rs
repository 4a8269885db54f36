//! `broadcast tail`, while nodes and readers come and go.

use std::{io::Read as _, process::Stdio, sync::Arc};

use super::{Running, ask, code, command, node, pair};
use crate::support::{Process, stdout};
use serde_json::json;

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
    tail.wait_warning("messages may be missing here: this node does not know this place");
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
    let mut tail = Process::new(child, Arc::default());
    assert_eq!(code(tail.wait()), Some(0));
}
