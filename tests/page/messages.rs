//! What the page shows of messages, and publishing from it.

use std::io::BufRead as _;

use serde_json::json;

use super::{MEMBERS, OUTCOME, REACH, check_quiet, open, publish};
use crate::support::{
    cluster::{api_node, api_nodes},
    http::{ask, open_stream},
};

pub(super) fn what_is_published_in_the_form_arrives_at_all() {
    let [first, second, third] = api_nodes(&[]);
    let browser = open(&first);
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive", "node3, alive"]));
    browser.wait_text("#self", "node1");
    publish(&browser, "cache:drop", r#"{"user": 42}"#);
    for node in [&second, &third] {
        node.log.wait_line(0, &json!({ "event": "received", "key": "cache:drop", "from": "node1" }));
    }
    let outcome = browser.wait_for(OUTCOME, |outcome| outcome.as_str().is_some_and(|text| text.contains(" ms")));
    assert!(outcome.as_str().expect("text").starts_with("delivered to 2 of 2 nodes in "), "{outcome}");
    browser.wait_text("#rows .value", r#"{"user": 42}"#);
    browser.wait(REACH, "2/2");
    browser.wait("broadcastPage.stats().arrived", 2);

    let other = open(&second);
    other.wait_text("#self", "node2");
    other.wait_text("#rows .origin", "node1");
    other.wait(REACH, "2/2");
    publish(&browser, "cache:drop", "<b>not markup</b>");
    other.wait_text("#rows .value", "<b>not markup</b>");
    other.wait("broadcastPage.stats().arrived", 2);
    check_quiet(&browser);
    check_quiet(&other);
}

pub(super) fn what_is_typed_is_what_is_published() {
    let first = api_node("node1", None, &[]);
    let browser = open(&first);
    for value in ["12345678901234567890", "1.0", r#"{"a":1,"a":2}"#, r#"[1, ",\"hops\":"]"#, "null"] {
        publish(&browser, r#"","value":1"#, value);
        browser.wait_text("#rows .value", value);
        let (messages, _) = open_stream(first.http(), "/v1/messages?last=1", &["accept: application/x-ndjson"]);
        let line = messages.lines().map(|line| line.expect("it goes on")).find(|line| line.contains(r#""key""#));
        let line = line.expect("it is told");
        assert!(line.contains(&format!(r#","value":{value},"hops":0"#)), "{line}");
    }
    publish(&browser, "text", r#"1 "and" more"#);
    browser.wait_text("#rows .value", r#"1 "and" more"#);
    browser.eval("document.querySelector('#key').value = ''");
    publish(&browser, "", "without a key");
    browser.wait_text("#rows .value", "without a key");
    check_quiet(&browser);
}

pub(super) fn windows_do_not_hold_up_each_other() {
    let first = api_node("node1", None, &[]);
    let browser = open(&first);
    for i in 0..4 {
        browser.open_beside(&format!("http://{}/", first.http()));
        browser.wait_text("#connection", "live");
        browser.wait("document.hidden", false);
        let value = format!("in window {i}");
        publish(&browser, "window", &value);
        browser.wait_text("#rows .value", &value);
        browser.wait_for(OUTCOME, |outcome| outcome.as_str().is_some_and(|text| text.starts_with("delivered to")));
    }
}

pub(super) fn long_values_are_not_kept() {
    let first = api_node("node1", None, &[]);
    let browser = open(&first);
    let before = browser.heap();
    let value = "x".repeat(1000 << 10);
    let count = 40;
    for i in 0..count {
        // A text, and something else.
        let value = if i % 2 == 0 { format!("\"{value}\"") } else { format!("[\"{value}\"]") };
        let body = format!(r#"{{"key":"long","value":{value}}}"#);
        assert_eq!(ask(first.http(), "POST", "/v1/messages", &[], body.as_bytes()).status, 202);
        browser.wait("broadcastPage.stats().messages", i + 1);
    }
    browser.wait("broadcastPage.stats().rows", count);
    let grown = browser.heap().saturating_sub(before);
    println!("{count} values of 1 MB: {grown} bytes more");
    assert!(grown < 10 << 20, "{grown} bytes more");
}

pub(super) fn it_does_not_guess_who_has_acknowledged() {
    let [first, second, third] = api_nodes(&[]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    // As where the origin tells others, and has no room for this node.
    browser.eval("positions.set = () => positions");
    browser.eval("positions.clear()");
    let body = br#"{"key":"of node2","value":1}"#;
    assert_eq!(ask(second.http(), "POST", "/v1/messages?ack=all", &[], body).status, 200);
    browser.wait_text("#rows .key", "of node2");
    browser.wait(REACH, "?/2");
    let title = browser.eval("document.querySelector('#rows .reach').title");
    assert!(title.as_str().is_some_and(|title| title.starts_with("unknown: node2 does not tell")), "{title}");
    browser.wait("broadcastPage.stats().dots", 0);
    drop(third);
}

pub(super) fn it_says_who_has_not_acknowledged() {
    // Slow enough that node3 is not taken for dead before the page has given up on it.
    let [first, _second, third] = api_nodes(&["--profile", "wan"]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    third.signal("STOP");
    publish(&browser, "who", "is there");
    browser.wait(REACH, "1/2");
    browser.wait(OUTCOME, "not acknowledged within 5 s by node3");
    browser.wait(REACH, "1/2");
    third.signal("CONT");
    browser.wait(REACH, "2/2");
}

pub(super) fn a_rate_below_one_is_shown_as_such() {
    let first = api_node("node1", None, &[]);
    let _second = api_node("node2", Some(&first), &["--role", "sender", "--interval", "2s"]);
    let browser = open(&first);
    browser.wait_for("document.querySelector('#rate').textContent", |rate| {
        let rate = rate.as_str().and_then(|text| text.strip_suffix(" msg/s")?.parse::<f64>().ok());
        rate.is_some_and(|rate| rate > 0.0 && rate < 1.0)
    });
    for (rate, text) in [("0", "0 msg/s"), ("2 / 3", "0.67 msg/s"), ("4.23", "4.2 msg/s"), ("50", "50 msg/s")] {
        browser.wait(&format!("perSecond({rate})"), text);
    }
    check_quiet(&browser);
}
