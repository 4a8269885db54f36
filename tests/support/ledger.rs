//! Whether everybody heard everything, once and in order, told from the logs of all the lives of all
//! the nodes of a cluster.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Log;

/// One life of a node.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node's name.
    pub node: String,
    /// What it logged from its start to its end.
    pub lines: Vec<Value>,
    /// What is sent after this time and up to the next one, it has to hear.
    pub since: String,
    /// See `since`.
    pub until: String,
    /// It was killed: what it said last may have reached nobody, and what it heard ends anywhere.
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
pub type Said = (String, u64);

/// What each sender has sent last by now, and a time by which all that was sent before is part of it.
pub fn last_sent(nodes: &[(&str, &Log)]) -> (Vec<Said>, String) {
    let last = |(name, log): &(&str, &Log)| {
        let lines = log.lines();
        let last = lines.iter().rfind(|line| line["event"] == "send")?;
        Some((((*name).to_owned(), number(last, "value")), last["timestamp"].as_str().expect("a time").to_owned()))
    };
    let (said, times): (_, Vec<_>) = nodes.iter().filter_map(last).unzip();
    (said, times.into_iter().min().unwrap_or_default())
}

/// Waits until every node has heard what each sender had sent last.
#[track_caller]
pub fn wait_heard(sent: &[Said], nodes: &[(&str, &Log)]) {
    for (name, log) in nodes {
        for (sender, value) in sent.iter().filter(|(sender, _)| sender != name) {
            log.wait(&format!("{name} to hear {value} of {sender}"), |lines| {
                let mut heard = lines.iter().rev().filter(|line| line["event"] == "received");
                heard.any(|line| line["from"] == **sender && number(line, "value") == *value).then_some(())
            });
        }
    }
}

/// Waits until every other node has heard of a life that was killed what any of them has: who was cut off meanwhile
/// may hear of it only when it exchanges views with one of them.
#[track_caller]
pub fn wait_last_words(dead: &Life, nodes: &[(&str, &Log)]) {
    let epoch = epoch(dead);
    let last = |lines: &[Value]| {
        let heard = lines.iter().filter(|line| line["event"] == "received" && line["from"] == *dead.node);
        heard.filter(|line| number(line, "epoch") == epoch).map(|line| number(line, "seq")).max()
    };
    let nodes: Vec<_> = nodes.iter().filter(|(name, _)| *name != dead.node).collect();
    let said = nodes.iter().map(|(_, log)| last(&log.lines())).max().flatten();
    for (name, log) in nodes {
        log.wait(&format!("{name} to hear the last words of {}", dead.node), |lines| {
            (last(lines) >= said).then_some(())
        });
    }
}

/// Checks that of each life of each sender every life of every other node heard one unbroken run of what
/// was sent: each message once, in order, none left out, and all that was sent between the node's `since`
/// and its `until`. Gives how many messages were heard.
#[track_caller]
pub fn check(lives: &[Life]) -> usize {
    let mut heard_by_all = 0;
    for node in lives {
        for line in &node.lines {
            assert!(!["lagged", "log_lost"].iter().any(|event| line["event"] == *event), "{line}");
            assert!(line["event"] != "missed" || may_miss(node, line, lives), "{line}");
        }
        let others = lives.iter().filter(|life| life.node != node.node);
        let senders: BTreeSet<&str> = others.map(|life| life.node.as_str()).collect();
        for sender in &senders {
            for (life, heard) in heard_of(node, sender, lives) {
                check_run(node, life, &heard);
                heard_by_all += heard.len();
            }
        }
        let stranger = heard(node).into_keys().find(|(from, _)| !senders.contains(from.as_str()));
        assert_eq!(stranger, None, "{} heard of a stranger", node.node);
    }
    check_last_words(lives);
    heard_by_all
}

/// Whether all that a node is told to have missed was said before it and the sender had met.
fn may_miss(node: &Life, missed: &Value, lives: &[Life]) -> bool {
    let is_it = |life: &&Life| missed["origin"] == *life.node && !sent(life).is_empty();
    let mut senders = lives.iter().filter(is_it).filter(|life| epoch(life) == number(missed, "epoch"));
    let Some(sender) = senders.next() else { return false };
    let met = node.since.as_str().max(&sender.since);
    let last = usize::try_from(number(missed, "first") + number(missed, "count") - 1).expect("a small number");
    number(missed, "first") == 0 && sent(sender).get(last).is_some_and(|(_, time)| *time <= met)
}

/// A message as it was heard: its number and its value.
type Heard = (u64, u64);

fn heard(node: &Life) -> BTreeMap<(String, u64), Vec<Heard>> {
    let mut heard: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in node.lines.iter().filter(|line| line["event"] == "received") {
        let from = line["from"].as_str().expect("text").to_owned();
        heard.entry((from, number(line, "epoch"))).or_default().push((number(line, "seq"), number(line, "value")));
    }
    heard
}

/// What a node heard of each life of a sender that has said anything.
fn heard_of<'a>(node: &Life, sender: &str, lives: &'a [Life]) -> Vec<(&'a Life, Vec<Heard>)> {
    let spoke: Vec<_> = lives.iter().filter(|life| life.node == sender && !sent(life).is_empty()).collect();
    let mut heard: BTreeMap<_, _> = heard(node).into_iter().filter(|((from, _), _)| from == sender).collect();
    // Who joins late does not hear the former lives, and who ends early not the later ones.
    let mut run = |life| heard.remove(&(sender.to_owned(), epoch(life))).unwrap_or_default();
    let runs = spoke.into_iter().map(|life| (life, run(life))).collect();
    assert!(heard.is_empty(), "{} heard lives of {sender} that there were not: {:?}", node.node, heard.keys());
    runs
}

/// The number of a life in which something was sent.
fn epoch(life: &Life) -> u64 {
    let line = life.lines.iter().find(|line| line["event"] == "send").expect("something was sent");
    let epoch = line["id"].as_str().and_then(|id| id.rsplit('.').nth(1)?.parse().ok());
    epoch.unwrap_or_else(|| panic!("NODE.EPOCH.NUMBER in {line}"))
}

/// The values a node sent, and when.
fn sent(life: &Life) -> Vec<(u64, &str)> {
    let sent = life.lines.iter().filter(|line| line["event"] == "send");
    sent.map(|line| (number(line, "value"), line["timestamp"].as_str().expect("a time"))).collect()
}

fn check_run(node: &Life, sender: &Life, heard: &[Heard]) {
    let who = format!("{} (since {}) of {} (since {})", node.node, node.since, sender.node, sender.since);
    let sent = sent(sender);
    for pair in heard.windows(2) {
        assert_eq!(pair[1].0, pair[0].0 + 1, "{who}: the numbers heard, {pair:?}");
    }
    let since = node.since.as_str().max(&sender.since);
    let expected = sent.iter().position(|(_, time)| *time > since);
    let Some((first, _)) = heard.first() else {
        let to_hear = expected
            .map(|i| sent[i])
            .filter(|(_, time)| *time <= node.until.as_str() && !node.killed && !sender.killed);
        return assert_eq!(to_hear, None, "{who}: nothing heard");
    };
    let first = usize::try_from(*first).expect("a small number");
    if let Some(expected) = expected {
        assert!(first <= expected, "{who}: heard from number {first} on, and not from {expected} on");
    }
    let sent_values: Vec<_> = sent.iter().skip(first).map(|(value, _)| *value).collect();
    let heard_values: Vec<_> = heard.iter().map(|(_, value)| *value).collect();
    let common = sent_values.len().min(heard_values.len());
    assert_eq!(heard_values[..common], sent_values[..common], "{who}");
    // A sender that is killed may not have logged its last one.
    assert!(heard_values.len() <= sent_values.len() + usize::from(sender.killed), "{who}: more heard than sent");
    if !node.killed && !sender.killed {
        let left_out = sent.get(first + heard.len()).filter(|(_, time)| *time <= node.until.as_str());
        assert_eq!(left_out, None, "{who}: {} heard, then no more", heard.len());
    }
}

/// What a killed node said last, either all who outlived it have heard, or none.
fn check_last_words(lives: &[Life]) {
    for dead in lives.iter().filter(|life| life.killed) {
        let witnesses = lives.iter().filter(|life| !life.killed && life.since <= dead.since && life.node != dead.node);
        let last = |witness: &Life| {
            let mut runs = heard_of(witness, &dead.node, lives).into_iter();
            runs.find(|(life, _)| std::ptr::eq(*life, dead)).and_then(|(_, run)| run.last().copied())
        };
        let ends: BTreeMap<_, _> = witnesses.map(|life| (life.node.clone(), last(life))).collect();
        let first = ends.values().next();
        assert!(ends.values().all(|end| Some(end) == first), "the last of {}: {ends:?}", dead.node);
        assert!(first.is_some_and(Option::is_some), "{} was heard: {ends:?}", dead.node);
    }
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"))
}
