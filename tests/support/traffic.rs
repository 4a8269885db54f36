//! What the nodes of a cluster sent and received, from their logs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Log;

/// A node of the cluster: its name, and what it logs.
pub type NamedLog<'a> = (&'a str, &'a Log);

/// Waits until every node sees `count` nodes. Gives the time when the last one did.
#[track_caller]
pub fn wait_members(count: usize, nodes: &[NamedLog<'_>]) -> String {
    let since = nodes.iter().map(|(name, log)| {
        log.wait(&format!("{name} to see {count} nodes"), |lines| {
            let last = lines.iter().rfind(|line| line["event"] == "nodes")?;
            (last["nodes"] == count).then(|| text(last, "timestamp").to_owned())
        })
    });
    since.max().unwrap_or_default()
}

/// Waits for the next `each` messages that each of `senders` sends after `since`, and for every other
/// node to receive them.
#[track_caller]
pub fn wait_delivered(senders: &[&str], each: usize, since: &str, nodes: &[NamedLog<'_>]) {
    for sender in senders {
        let (_, log) = nodes.iter().find(|(name, _)| name == sender).expect("it is one of the nodes");
        let values: Vec<u64> = log.wait(&format!("{sender} to send {each} messages"), |lines| {
            let later = lines.iter().filter(|line| line["event"] == "send" && text(line, "timestamp") > since);
            let values: Vec<_> = later.map(value).take(each).collect();
            (values.len() == each).then_some(values)
        });
        for (name, log) in nodes.iter().filter(|(name, _)| name != sender) {
            for sent in &values {
                log.wait(&format!("{name} to receive {sent} of {sender}"), |lines| {
                    let heard = |line: &&Value| line["event"] == "received" && line["from"] == *sender;
                    let mut later = lines.iter().filter(heard).filter(|line| text(line, "timestamp") >= since);
                    later.any(|line| value(line) == *sent).then_some(())
                });
            }
        }
    }
}

/// Checks what holds in the log of any node: it is that node's own, it receives messages of others and not its own,
/// each once, and the values that it sends are a Lamport clock's.
#[track_caller]
pub fn check_log(name: &str, lines: &[Value]) {
    let mut heard = BTreeSet::new();
    let mut next = 0;
    for line in lines {
        assert_eq!(line["node"], name, "{line}");
        match line["event"].as_str() {
            Some("send") => {
                assert_eq!(line["key"], format!("I am {name}"), "{line}");
                assert_eq!(value(line), next, "the largest value sent or heard before, plus one: {line}");
                next += 1;
            }
            Some("received") => {
                let from = text(line, "from");
                assert_ne!(from, name, "it hears itself: {line}");
                assert_eq!(line["key"], format!("I am {from}"), "{line}");
                assert!(heard.insert((from, value(line))), "{name} hears it twice: {line}");
                next = next.max(value(line) + 1);
            }
            _ => {}
        }
    }
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("{field} in {line}"))
}

fn value(line: &Value) -> u64 {
    line["value"].as_u64().unwrap_or_else(|| panic!("value in {line}"))
}
