//! Reads what the clients of a [nemesis](super) printed, and checks it: by revision, and by real time.

use std::{process::Output, time::Duration};

use broadcast_store::keys::{DeleteOutcome, KeyEvent, KeyValue, KeysOutcome, OpOutcome, PutOutcome, RangeOutcome};
use serde_json::Value;

use super::{
    client::LAST,
    faults::Faults,
    history::{Answer, Ask, History, LeaseHeld, Operation},
};

/// Whether all leases of the clients have ended. Then it also puts the key whose change ends their watches. `ask` runs the
/// program.
pub(crate) fn has_ended(ask: impl Fn(&[&str]) -> Output) -> bool {
    let left = ask(&["kv", "get", "--prefix", "lease-", "--json"]);
    let left: Value = serde_json::from_slice(&left.stdout).unwrap_or_default();
    left["count"] == 0 && ask(&["kv", "put", LAST, ""]).status.success()
}

/// Checks all that the clients printed in a run with these faults.
pub(crate) fn check(mut lines: Vec<Value>, faults: &Faults) -> Vec<Value> {
    // A lease has ended when the first of them is told so.
    lines.sort_by_key(|line| line["at"].as_u64());
    let mut run = Run::default();
    lines.iter().for_each(|line| run.take(line));
    run.history.check();
    let failures = run.history.failures();
    assert!(failures.is_empty(), "{faults:?}: {failures:#?}");
    eprintln!("{}; faults {faults:?}", run.figures());
    assert!(run.changes.len() > 100, "the store did something: {}", run.figures());
    lines
}

/// What the clients printed, as a history.
#[derive(Default)]
struct Run {
    history: History,
    /// When each change was answered.
    changes: Vec<u64>,
    unanswered: usize,
}

impl Run {
    fn take(&mut self, line: &Value) {
        let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
        if let Some(told) = line.get("told") {
            let (watcher, revision) =
                (line["watcher"].as_str().expect("a name"), told["revision"].as_u64().expect("it"));
            let watcher = watcher.trim_start_matches("node").parse().expect("a number");
            let before = self.history.watched_revisions.get(&watcher).copied().unwrap_or(1);
            if before + 1 != revision {
                self.history.fail(format!("watcher {watcher} is told of {revision} after {before}"));
            }
            let events: Vec<_> = told["events"].as_array().expect("a list").iter().map(event).collect();
            self.history.check_revision(watcher, revision, &events, Duration::from_nanos(number("at")));
        } else if let Some(key) = line.get("lease") {
            let key = key.as_str().expect("text").to_owned().into();
            let not_before = Duration::from_nanos(number("not_before"));
            self.history.leases.push(LeaseHeld { key, since: number("since"), not_before });
        } else if line.get("op").is_some() {
            let (ask, answer) = operation_of(line);
            let mut ended = number("ended");
            match answer {
                Answer::Changed(_) => self.changes.push(ended),
                Answer::Found(_) => {}
                Answer::Nothing => {
                    self.unanswered += 1;
                    // It may take effect whenever.
                    ended = u64::MAX;
                }
            }
            self.history.operations.push(Operation { ask, answer, began: number("began"), ended });
        } else if line.get("resting").is_none() && line["ended"] != "left" {
            self.history.fail(format!("a client says {line}"));
        }
    }

    fn figures(&mut self) -> String {
        self.changes.sort_unstable();
        let gap = self.changes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        format!(
            "{} operations, {} unanswered, {} changes, {} leases; longest time without a change {:.1} s",
            self.history.operations.len(),
            self.unanswered,
            self.changes.len(),
            self.history.leases.len(),
            Duration::from_nanos(gap).as_secs_f64()
        )
    }
}

fn operation_of(line: &Value) -> (Ask, Answer) {
    let text = |field: &str| bytes::Bytes::from(line[field].as_str().expect("text").to_owned());
    let (key, value) = (text("key"), text("value"));
    let answer = &line["answer"];
    let number = |field: &str| answer[field].as_u64().unwrap_or_else(|| panic!("{field} in {line}"));
    let answered = |read: &dyn Fn() -> Answer| if answer.is_null() { Answer::Nothing } else { read() };
    let found = || Answer::Found(range(answer));
    match line["op"].as_str().expect("text") {
        "put" => {
            let put = || Answer::Changed(KeysOutcome::Put(PutOutcome { revision: number("revision"), prev: None }));
            (Ask::Put { key, value }, answered(&put))
        }
        "delete" => {
            let (revision, deleted) = (|| number("revision"), || number("deleted"));
            let delete = || DeleteOutcome { revision: revision(), deleted: deleted(), prev: Vec::new() };
            (Ask::Delete { key }, answered(&|| Answer::Changed(KeysOutcome::Delete(delete()))))
        }
        "swap" => {
            let swapped = || {
                let responses = answer["responses"].as_array().expect("a list").iter();
                let responses = responses.filter_map(|one| Some(OpOutcome::Range(range(one.get("get")?)))).collect();
                let succeeded = answer["succeeded"].as_bool().expect("yes or no");
                Answer::Changed(KeysOutcome::Txn { revision: number("revision"), succeeded, responses })
            };
            (Ask::Swap { key, expected: line["expected"].as_u64().expect("a revision"), value }, answered(&swapped))
        }
        "read" => (Ask::Read, answered(&found)),
        _ => (Ask::ReadLocally, answered(&found)),
    }
}

fn range(found: &Value) -> RangeOutcome {
    let kvs = found["kvs"].as_array().expect("a list").iter().map(|one| kv(one).into()).collect();
    let number = |field: &str| found[field].as_u64().unwrap_or_default();
    RangeOutcome { revision: number("revision"), count: number("count"), more: false, kvs }
}

fn kv(kv: &Value) -> KeyValue {
    let number = |field: &str| kv[field].as_u64().unwrap_or_else(|| panic!("{field} in {kv}"));
    let text = |field: &str| kv[field].as_str().unwrap_or_default().to_owned();
    KeyValue {
        key: text("key").into(),
        value: text("value").into(),
        create_revision: number("create_revision"),
        mod_revision: number("mod_revision"),
        version: number("version"),
        lease: kv["lease"].as_str().map_or(0, |lease| i64::from_str_radix(lease, 16).expect("digits of base 16")),
    }
}

fn event(event: &Value) -> KeyEvent {
    KeyEvent { kv: kv(&event["kv"]).into(), prev: event.get("prev").map(|prev| kv(prev).into()) }
}
