//! The picture of nodes in this process, drawn from their log while they run.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write},
};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    MAX_QUEUED, Picture,
    draw::{Drawing, Input},
    line::{self, LogLine},
    order::Witness,
    screen::Screen,
};
use crate::{
    commands::output::{self, warn},
    failure::Failure,
    visible,
};

/// A picture that is drawn while its nodes run.
pub(in crate::commands) struct LivePicture(Picture);

/// Takes the log as JSON, one line at a time. It may block the log's own thread while the picture is drawn slowly.
pub(in crate::commands) struct LogSink(mpsc::Sender<Input>);

#[derive(Deserialize)]
struct LogRecord<'a> {
    level: Cow<'a, str>,
    event: Option<Cow<'a, str>>,
    message: Cow<'a, str>,
}

impl LivePicture {
    /// A picture with a column for each node, and the sink for their log.
    pub(in crate::commands) fn new(names: &[String]) -> (Self, LogSink) {
        let (sender, inputs) = mpsc::channel(MAX_QUEUED);
        let mut drawing = Drawing::new(Screen::stdout());
        for name in names {
            drawing.take(Input::Node { name: name.clone(), witness: Witness::Itself });
        }
        (Self(Picture { drawing, inputs }), LogSink(sender))
    }

    /// Draws until nobody looks any more.
    pub(in crate::commands) async fn draw(&mut self) -> Result<bool, Failure> {
        self.0.draw().await
    }

    /// Draws what has been logged so far.
    pub(in crate::commands) async fn finish(&mut self) -> Result<(), Failure> {
        self.0.finish().await.map(drop)
    }
}

impl Write for LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let input = match line::read(&text) {
            Some(LogLine::Entry(entry)) => Input::Entry(entry),
            Some(LogLine::Node(name)) => Input::Node { name, witness: Witness::Itself },
            None => {
                print_notice(&text);
                return Ok(line.len());
            }
        };
        let sent = self.0.blocking_send(input);
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints other lines of the log that people should see: warnings, errors, and where the page is.
fn print_notice(line: &str) {
    let Ok(LogRecord { level, event, message }) = serde_json::from_str(line) else { return };
    let message = visible::escaped(&message);
    if level == "WARN" || level == "ERROR" {
        warn(&message);
    } else if event.as_deref() == Some("http") && io::stdout().is_terminal() {
        // If nobody reads, drawing finds out.
        let _ = output::write(format!("{message}\n\n").as_bytes());
    }
}
