//! `broadcast publish --ack all`: what it says of members that do not answer, lag or fail.

use super::{ask, command, node, object, pair, with_input};
use crate::support::{refusal, stdout};
use serde_json::json;

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
