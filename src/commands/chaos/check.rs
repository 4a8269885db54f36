//! Checks in the nodes' logs whether each surviving node has each message once, and in order.
//!
//! The logs begin while the nodes run. Others may have received a node's first message before that, so it does not count. A
//! node that logs `listening` has restarted, and is not a survivor.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{self, ExitCode},
};

use broadcast_ledger::{Life, LogEntry, Obligation, Verdict};

use crate::{commands::output, failure::Failure, visible::quote};

/// Sorts after all times.
const END: &str = "~";

/// What a node logged since the start of the run.
pub(super) struct NodeLog {
    pub(super) name: String,
    /// Up to when messages count that must arrive.
    pub(super) sent: String,
    /// Up to now.
    pub(super) received: String,
}

/// The verdict on the logs in a folder.
pub(super) fn folder(folder: &Path) -> Result<ExitCode, Failure> {
    let unreadable = |error: io::Error| {
        Failure::other(format!("cannot read the logs in {}: {error}", quote(&folder.to_string_lossy())))
    };
    let mut logs = Vec::new();
    for path in paths(folder, "log").map_err(unreadable)? {
        let read = |extension: &str| fs::read(path.with_extension(extension)).map_err(unreadable);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        logs.push(NodeLog { name, sent: text(read("sent")?), received: text(read("log")?) });
    }
    if logs.is_empty() {
        return Err(Failure::usage(format!(
            "there is no NAME.log in {folder:?}: check needs it, and NAME.sent, of each node; see broadcast chaos check --help"
        )));
    }
    let verdict = judge(&logs);
    output::print_line(&verdict.to_string())?;
    Ok(if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn paths(folder: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|is| is == extension));
    paths.sort();
    Ok(paths)
}

/// Writes logs to a new folder for [`folder`], and gives its path.
pub(super) fn keep(logs: &[NodeLog]) -> Result<String, Failure> {
    let folder = env::temp_dir().join(format!("broadcast-chaos-{}", process::id()));
    let write = || {
        // Messages may be private.
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        logs.iter().try_for_each(|log| {
            fs::write(folder.join(format!("{}.sent", log.name)), &log.sent)?;
            fs::write(folder.join(format!("{}.log", log.name)), &log.received)
        })
    };
    write().map_err(|error| Failure::other(format!("cannot keep the logs in {folder:?}: {error}")))?;
    Ok(folder.display().to_string())
}

/// The verdict on these logs.
pub(super) fn judge(logs: &[NodeLog]) -> Verdict {
    let lives: Vec<_> = logs.iter().flat_map(lives).collect();
    broadcast_ledger::judge(&lives)
}

/// The lives of a node, from one start to the next. The first began before the log.
fn lives(log: &NodeLog) -> Vec<Life> {
    let count = |life: &Vec<LogEntry>| life.iter().filter(|entry| matches!(entry, LogEntry::Sent { .. })).count();
    let owed: Vec<_> = entries(&log.sent).iter().map(count).collect();
    let lives = entries(&log.received);
    let last = lives.len() - 1;
    let life = |(at, entries)| Life {
        node: log.name.clone(),
        entries,
        obligation: if last == 0 { Obligation::Until(END.into()) } else { Obligation::Nothing },
        since: String::new(),
        owed: usize::from(at == 0)..owed.get(at).copied().unwrap_or_default(),
        ended: at < last,
        complete: false,
    };
    lives.into_iter().enumerate().map(life).collect()
}

/// The entries of a log, life by life.
fn entries(log: &str) -> Vec<Vec<LogEntry>> {
    let mut lives = vec![Vec::new()];
    for entry in log.lines().filter_map(LogEntry::read) {
        if entry == LogEntry::Started {
            lives.push(Vec::new());
        } else if let Some(life) = lives.last_mut() {
            life.push(entry);
        }
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What three nodes logged: node1 receives, node2 and node3 send, node3 is killed and comes back.
    const LOGS: [(&str, &str); 3] = [
        ("node1", "< node2 1|< node3 2|< node2 3|< node3 4|< node2 6|< node3 7"),
        ("node2", "> 1|< node3 2|> 3|< node3 4|> 6|< node3 7"),
        ("node3", "> 0|> 2|< node2 3|> 4|> 5|!|< node2 6|> 7"),
    ];

    /// The verdict after one node's log was changed in one place.
    fn verdict(node: &str, what: &str, other: &str, line: fn(&str, &str) -> String) -> Verdict {
        let log = |(name, script): (&str, &str)| {
            let script = if name == node { script.replacen(what, other, 1) } else { script.into() };
            let log: String = script.split('|').filter(|step| !step.is_empty()).map(|step| line(name, step)).collect();
            NodeLog { name: name.into(), sent: log.clone(), received: log }
        };
        judge(&LOGS.map(log))
    }

    fn words(name: &str, step: &str) -> String {
        match step.split(' ').collect::<Vec<_>>()[..] {
            ["<", from, value] => format!("received broadcast msg: key=I am {from} value={value}"),
            [">", value] => format!("send broadcast msg: key=I am {name} value={value}"),
            _ => "listening on 172.18.0.2:7946".into(),
        }
    }

    fn text(name: &str, step: &str) -> String {
        format!("2026-11-24T21:26:42.093Z  INFO {name} {}\n", words(name, step))
    }

    fn json(name: &str, step: &str) -> String {
        // node3 has a second life.
        let epoch = |from: &str, value: &str| if from == "node3" && value == "7" { 2 } else { 1 };
        let fields = match step.split(' ').collect::<Vec<_>>()[..] {
            ["<", from, value] => format!(
                r#""event":"received","from":"{from}","key":"I am {from}","value":{value},"epoch":{}"#,
                epoch(from, value)
            ),
            [">", value] => {
                format!(r#""event":"send","key":"I am {name}","value":{value},"id":"{name}.{}.0""#, epoch(name, value))
            }
            _ => r#""event":"listening""#.into(),
        };
        format!("{{\"timestamp\":\"2026-11-24T21:26:42.093Z\",{fields},\"message\":\"{}\"}}\n", words(name, step))
    }

    #[test]
    fn the_check_finds_what_is_wrong() {
        let lost = "  (1 more were lost with the killed node that had sent them, before any survivor had them)";
        for line in [text, json] {
            // Of the first of each nobody knows who heard it, and 5 went with its sender.
            let good = verdict("", "", "", line);
            assert_eq!(
                (good.is_good(), good.to_string()),
                (
                    true,
                    format!(
                        "2 of 3 nodes survived (killed or restarted: node3); 5 messages sent by 2 senders; each \
                         survivor has each of them once\n{lost}"
                    )
                )
            );
            for (node, what, other, wrong) in [
                ("node1", "|< node2 3", "", "node1 lacks of node2: 3"),
                ("node1", "|< node2 3", "|< node2 3|< node2 3", "node1 has too often of node2: 3"),
                (
                    "node1",
                    "|< node2 6",
                    "|< node2 6|< node2 1",
                    "node1 has too often of node2: 1\n  node1 has out of order of node2: 1",
                ),
                (
                    "node1",
                    "< node2 3|< node3 4|< node2 6",
                    "< node2 6|< node3 4|< node2 3",
                    "node1 has out of order of node2: 3",
                ),
                // In a former life of its sender, with which it was not lost: another has it …
                ("node1", "|< node3 4", "", "node1 lacks of node3: 4"),
                // … and from the new life of that.
                ("node2", "|< node3 7", "", "node2 lacks of node3: 7"),
                // What was sent before something that arrived is not lost with its sender.
                ("node3", "> 2|", "> 2|> 2000|", "node1 lacks of node3: 2000\n  node2 lacks of node3: 2000"),
            ] {
                let bad = verdict(node, what, other, line);
                assert!(!bad.is_good());
                let bad = bad.to_string();
                assert!(
                    bad.ends_with(&format!("not each survivor has each of them once:\n  {wrong}\n{lost}")),
                    "{bad}"
                );
            }
            // Nothing sent, nothing proved.
            let few = verdict("node2", "> 1|< node3 2|> 3|< node3 4|> 6|< node3 7", "!", line);
            assert!(!few.is_good() && few.to_string().ends_with("too little to check"), "{few}");
        }
    }

    #[test]
    fn a_value_of_two_lives_is_counted() {
        // By the text alone nobody can tell the one 7 from the other.
        let logs = ["< node3 2|< node3 7|< node3 7", "< node3 2|< node3 7|< node3 7", "> 2|> 3|> 7|!|> 7"];
        let log = |(name, script): (&str, &str)| {
            let log: String = script.split('|').map(|step| text(name, step)).collect();
            NodeLog { name: name.into(), sent: log.clone(), received: log }
        };
        let verdict = judge(&["node1", "node2", "node3"].into_iter().zip(logs).map(log).collect::<Vec<_>>());
        assert!(
            verdict.to_string().ends_with("once:\n  node1 lacks of node3: 3\n  node2 lacks of node3: 3"),
            "{verdict}"
        );
    }
}
