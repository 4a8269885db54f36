//! The picture of nodes in this process: made of what they log.

use std::{
    borrow::Cow,
    io::{self, IsTerminal as _, Write},
};

use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    Picture, WAITING,
    draw::{Drawing, Input},
    line::{self, Line},
    order::Voice,
    screen::Screen,
};
use crate::{
    commands::{follow::warn, output},
    failure::Failure,
    visible,
};

/// A picture that is drawn while its nodes run.
pub(in crate::commands) struct Live(Picture);

/// Takes the log as JSON, a line at once. It may be held up by whoever looks at the picture, which the log's own thread
/// can bear.
pub(in crate::commands) struct Sink(mpsc::Sender<Input>);

#[derive(Deserialize)]
struct Logged<'a> {
    level: Cow<'a, str>,
    event: Option<Cow<'a, str>>,
    message: Cow<'a, str>,
}

impl Live {
    /// A column for each of these nodes, from the beginning; and what is to be given their log.
    pub(in crate::commands) fn new(names: &[String]) -> (Self, Sink) {
        let (sender, inputs) = mpsc::channel(WAITING);
        let mut drawing = Drawing::new(Screen::stdout());
        for name in names {
            drawing.take(Input::Node { name: name.clone(), voice: Voice::Own });
        }
        (Self(Picture { drawing, inputs }), Sink(sender))
    }

    /// Draws until nobody looks any longer.
    pub(in crate::commands) async fn draw(&mut self) -> Result<bool, Failure> {
        self.0.draw().await
    }

    /// Draws what has been logged so far.
    pub(in crate::commands) async fn finish(&mut self) -> Result<(), Failure> {
        self.0.finish().await.map(drop)
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let input = match line::read(&text) {
            Some(Line::Entry(entry)) => Input::Entry(entry),
            Some(Line::Node(name)) => Input::Node { name, voice: Voice::Own },
            None => {
                tell(&text);
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

/// Tells what the log says besides, as far as somebody has to know it.
fn tell(line: &str) {
    let Ok(Logged { level, event, message }) = serde_json::from_str(line) else { return };
    let message = visible::escaped(&message);
    if level == "WARN" || level == "ERROR" {
        warn(&message);
    } else if event.as_deref() == Some("http") && io::stdout().is_terminal() {
        // Whether somebody reads it the picture finds out.
        let _ = output::write(format!("{message}\n\n").as_bytes());
    }
}
