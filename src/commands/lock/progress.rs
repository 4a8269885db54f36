//! Reports what happens while a command waits for a lock and holds it: as JSON lines, or as text for people.
//!
//! A thread of its own writes the lines: a slow reader must not delay what has a deadline.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::oneshot, time::timeout};

use crate::{failure::Failure, visible};

/// How many lines wait for a slow reader; more are dropped.
const MAX_QUEUED: usize = 1024;
/// How long the last lines may take to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Progress {
    /// The locks, as sentences name them.
    names: String,
    /// Whether each line is a JSON object.
    json: bool,
    /// Whether a command runs, to which standard output belongs.
    has_command: bool,
    lines: mpsc::SyncSender<OutputLine>,
    written: oneshot::Receiver<()>,
}

#[derive(Debug)]
enum OutputLine {
    Stdout(String),
    Stderr(String),
}

impl Progress {
    pub(super) fn new(names: &[String], json: bool, has_command: bool) -> Self {
        let (lines, queue) = mpsc::sync_channel(MAX_QUEUED);
        let (done, written) = oneshot::channel();
        thread::spawn(move || {
            for line in queue {
                // Nobody may read it.
                let _ = match line {
                    OutputLine::Stdout(line) => {
                        let mut stdout = io::stdout().lock();
                        writeln!(stdout, "{line}").and_then(|()| stdout.flush())
                    }
                    OutputLine::Stderr(line) => writeln!(io::stderr(), "{line}"),
                };
            }
            let _ = done.send(());
        });
        Self { names: joined(names), json, has_command, lines, written }
    }

    /// The locks, as sentences name them.
    pub(super) fn names(&self) -> &str {
        &self.names
    }

    /// The request waits in the queue.
    pub(super) fn queued(&self, event: &Value) {
        if self.json {
            return self.event("queued", event);
        }
        if io::stderr().is_terminal() {
            let ahead = event["ahead"].as_u64().unwrap_or_default();
            self.line(OutputLine::Stderr(format!("waiting for {}: {ahead} ahead", self.names)));
        }
    }

    /// The lock is granted.
    pub(super) fn granted(&self, event: &Value) {
        if self.json {
            self.event("granted", event);
        } else if !self.has_command {
            self.line(OutputLine::Stdout(event["token"].to_string()));
        }
    }

    /// The lock is not granted. `holders` have it instead, if that is known.
    pub(super) fn refused(&self, failure: &Failure, holders: &Value) {
        // As text, the program's error says it.
        if self.json {
            let mut data = json!({"reason": failure.to_string()});
            if !holders.is_null() {
                data["holders"] = holders.clone();
            }
            self.event("refused", &data);
        }
    }

    /// The lock is lost, and the command is about to be ended.
    pub(super) fn lost(&self, reason: &str) {
        if self.json {
            self.event("lost", &json!({"reason": reason}));
        } else if self.has_command {
            self.warn(&format!("{} is lost: {reason}; ending the command", self.names));
        }
    }

    /// The lock is lost, and the command has ended.
    pub(super) fn lost_after_end(&self, reason: &str) {
        // As text, the program's error says it.
        if self.json {
            self.lost(reason);
        }
    }

    pub(super) fn warn(&self, problem: &str) {
        if self.json {
            self.event("warning", &json!({"reason": problem}));
        } else {
            self.line(OutputLine::Stderr(format!("warning: {}", visible::escaped(problem))));
        }
    }

    /// Waits until all lines are written, but not for long.
    pub(super) async fn finish(self) {
        let Self { lines, written, .. } = self;
        drop(lines);
        let _ = timeout(FLUSH_TIMEOUT, written).await;
    }

    fn event(&self, name: &str, data: &Value) {
        let mut event = json!({"event": name});
        if let (Some(event), Some(data)) = (event.as_object_mut(), data.as_object()) {
            event.extend(data.iter().map(|(field, value)| (field.clone(), value.clone())));
        }
        let line = visible::escaped_json(&event.to_string());
        self.line(if self.has_command { OutputLine::Stderr(line) } else { OutputLine::Stdout(line) });
    }

    fn line(&self, line: OutputLine) {
        // Fails only if the queue is full: the thread lives as long as this.
        let _ = self.lines.try_send(line);
    }
}

/// Names of locks, as sentences have them.
pub(super) fn joined(names: &[String]) -> String {
    names.iter().map(|name| visible::escaped(name)).collect::<Vec<_>>().join(", ")
}
