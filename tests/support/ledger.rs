//! Whether every node received every message, once and in order, judged by the logs of all lives of all nodes of a cluster;
//! and waiting until they have.

use broadcast_ledger::{LogEntry, Obligation, judge};
use serde_json::Value;

use super::Log;

/// One life of a node.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node's name.
    pub node: String,
    /// What it logged from its start to its end.
    pub lines: Vec<Value>,
    /// What is sent after this time and up to `until`, it has to receive.
    pub since: String,
    /// See `since`.
    pub until: String,
    /// It was killed: what it sent last may have reached nobody, and what it received ends anywhere.
    pub killed: bool,
}

/// All times come before this one.
pub const END: &str = "~";

/// One of a node's lives, each of which begins where the node says that it listens.
pub fn nth_life(lines: &[Value], n: usize) -> Vec<Value> {
    let begins = |at: &usize| lines[*at]["event"] == "listening";
    let lives: Vec<_> = (0..lines.len()).filter(begins).chain([lines.len()]).collect();
    lines[lives[n]..lives[n + 1]].to_vec()
}

/// What a sender has sent last: its name and the value.
pub type LastSent = (String, u64);

/// What each sender has sent last by now, and a time by which all that was sent before is part of it.
pub fn last_sent(nodes: &[(&str, &Log)]) -> (Vec<LastSent>, String) {
    let last = |(name, log): &(&str, &Log)| {
        let lines = log.lines();
        let last = lines.iter().rfind(|line| line["event"] == "send")?;
        Some((((*name).to_owned(), number(last, "value")), last["timestamp"].as_str().expect("a time").to_owned()))
    };
    let (sent, times): (_, Vec<_>) = nodes.iter().filter_map(last).unzip();
    (sent, times.into_iter().min().unwrap_or_default())
}

/// Waits until every node has received what each sender had sent last.
#[track_caller]
pub fn wait_received(sent: &[LastSent], nodes: &[(&str, &Log)]) {
    for (name, log) in nodes {
        for (sender, value) in sent.iter().filter(|(sender, _)| sender != name) {
            log.wait(&format!("{name} to receive {value} of {sender}"), |lines| {
                let mut heard = lines.iter().rev().filter(|line| line["event"] == "received");
                heard.any(|line| line["from"] == **sender && number(line, "value") == *value).then_some(())
            });
        }
    }
}

/// Waits until every other node has received of a life that was killed what any of them has. A node that was cut off meanwhile
/// may get it only when it exchanges views with one of them.
#[track_caller]
pub fn wait_last_messages(dead: &Life, nodes: &[(&str, &Log)]) {
    let epoch = epoch(dead);
    let last = |lines: &[Value]| {
        let heard = lines.iter().filter(|line| line["event"] == "received" && line["from"] == *dead.node);
        heard.filter(|line| number(line, "epoch") == epoch).map(|line| number(line, "seq")).max()
    };
    let nodes: Vec<_> = nodes.iter().filter(|(name, _)| *name != dead.node).collect();
    let newest = nodes.iter().map(|(_, log)| last(&log.lines())).max().flatten();
    for (name, log) in nodes {
        log.wait(&format!("{name} to receive the last messages of {}", dead.node), |lines| {
            (last(lines) >= newest).then_some(())
        });
    }
}

/// Checks that of each life of each sender every life of every other node received one unbroken run of what was sent: each
/// message once, in order, none left out, and all that was sent between the node's `since` and its `until`. What a killed
/// node sent last, either all who outlived it have received, or none. Gives how many messages were received.
#[track_caller]
pub fn check(lives: &[Life]) -> usize {
    let verdict = judge(&lives.iter().map(Life::judged).collect::<Vec<_>>());
    assert!(verdict.anomalies.is_empty(), "{verdict}");
    for dead in lives.iter().filter(|life| life.killed) {
        let epoch = epoch(dead);
        let is_of_it = |line: &Value| line["from"] == *dead.node && line["epoch"] == epoch;
        let was_heard = lives.iter().any(|life| life.lines.iter().any(is_of_it));
        assert!(was_heard, "{} was heard before it was killed", dead.node);
    }
    verdict.received
}

impl Life {
    /// As the judge takes it.
    fn judged(&self) -> broadcast_ledger::Life {
        broadcast_ledger::Life {
            node: self.node.clone(),
            entries: self.lines.iter().filter_map(LogEntry::of_json).collect(),
            obligation: if self.killed { Obligation::Run } else { Obligation::Until(self.until.clone()) },
            since: self.since.clone(),
            owed: 0..usize::MAX,
            ended: self.killed,
            complete: true,
        }
    }
}

/// The number of a life in which something was sent.
fn epoch(life: &Life) -> u64 {
    let line = life.lines.iter().find(|line| line["event"] == "send").expect("something was sent");
    let epoch = line["id"].as_str().and_then(|id| id.rsplit('.').nth(1)?.parse().ok());
    epoch.unwrap_or_else(|| panic!("NODE.EPOCH.NUMBER in {line}"))
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"))
}
