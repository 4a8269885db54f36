//! What a command tells while it waits for a lock and holds it.
//!
//! The lines are written by a thread of their own: whoever reads them may be slow, and a deadline does not wait.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::oneshot, time::timeout};

use crate::{failure::Failure, visible};

/// Lines that wait for who reads them. Whoever does not read at all misses what comes then.
const LINES: usize = 1024;
/// How long the last lines may take.
const LAST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Told {
    names: String,
    /// Whether each line is a JSON object.
    json: bool,
    /// Whether standard output is the command's.
    has_command: bool,
    lines: mpsc::SyncSender<Line>,
    written: oneshot::Receiver<()>,
}

#[derive(Debug)]
enum Line {
    Stdout(String),
    Stderr(String),
}

impl Told {
    pub(super) fn new(names: &[String], json: bool, has_command: bool) -> Self {
        let (lines, queue) = mpsc::sync_channel(LINES);
        let (done, written) = oneshot::channel();
        thread::spawn(move || {
            for line in queue {
                // If nobody reads it, nobody does.
                let _ = match line {
                    Line::Stdout(line) => {
                        let mut stdout = io::stdout().lock();
                        writeln!(stdout, "{line}").and_then(|()| stdout.flush())
                    }
                    Line::Stderr(line) => writeln!(io::stderr(), "{line}"),
                };
            }
            let _ = done.send(());
        });
        Self { names: shown(names), json, has_command, lines, written }
    }

    /// The names, as sentences have them.
    pub(super) fn names(&self) -> &str {
        &self.names
    }

    /// It has to wait.
    pub(super) fn queued(&self, event: &Value) {
        if self.json {
            return self.event("queued", event);
        }
        if io::stderr().is_terminal() {
            let ahead = event["ahead"].as_u64().unwrap_or_default();
            self.line(Line::Stderr(format!("waiting for {}: {ahead} ahead", self.names)));
        }
    }

    pub(super) fn granted(&self, event: &Value) {
        if self.json {
            self.event("granted", event);
        } else if !self.has_command {
            self.line(Line::Stdout(event["token"].to_string()));
        }
    }

    /// It is not granted; these hold it instead, if that is known.
    pub(super) fn refused(&self, failure: &Failure, holders: &Value) {
        // In words, it is told at the end of the program.
        if self.json {
            let mut data = json!({"reason": failure.to_string()});
            if !holders.is_null() {
                data["holders"] = holders.clone();
            }
            self.event("refused", &data);
        }
    }

    /// It is lost, and the command is not over yet.
    pub(super) fn lost(&self, reason: &str) {
        if self.json {
            self.event("lost", &json!({"reason": reason}));
        } else if self.has_command {
            self.warn(&format!("{} is lost: {reason}; ending the command", self.names));
        }
    }

    /// It is lost, and all is over.
    pub(super) fn lost_at_last(&self, reason: &str) {
        // In words, it is told at the end of the program.
        if self.json {
            self.lost(reason);
        }
    }

    pub(super) fn warn(&self, what: &str) {
        if self.json {
            self.event("warning", &json!({"reason": what}));
        } else {
            self.line(Line::Stderr(format!("warning: {}", visible::escaped(what))));
        }
    }

    /// Waits until all of it is written, but not for long.
    pub(super) async fn finish(self) {
        let Self { lines, written, .. } = self;
        drop(lines);
        let _ = timeout(LAST, written).await;
    }

    fn event(&self, name: &str, data: &Value) {
        let mut event = json!({"event": name});
        if let (Some(event), Some(data)) = (event.as_object_mut(), data.as_object()) {
            event.extend(data.iter().map(|(field, value)| (field.clone(), value.clone())));
        }
        let line = visible::escaped_json(&event.to_string());
        self.line(if self.has_command { Line::Stderr(line) } else { Line::Stdout(line) });
    }

    fn line(&self, line: Line) {
        // The thread ends with this.
        let _ = self.lines.try_send(line);
    }
}

/// Names as sentences have them.
pub(super) fn shown(names: &[String]) -> String {
    names.iter().map(|name| visible::escaped(name)).collect::<Vec<_>>().join(", ")
}
