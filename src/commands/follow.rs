//! Following what a node tells, for as long as it takes.
//!
//! The node's server-sent events name a place with each message; who loses the node asks it to go on from
//! the last one, and is told if something is gone.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use http_body_util::BodyExt as _;
use hyper::{StatusCode, body::Incoming, header};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::client::{Call, Client, Trouble};
use crate::{failure::Failure, visible};

/// A node says something every 15 s.
pub(super) const SILENCE: Duration = Duration::from_secs(45);
/// What one event takes at most, in bytes: the largest message, each byte of it escaped.
pub(super) const MAX_EVENT: usize = 8 << 20;
/// When to connect again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Follows one node, and connects again where that breaks off.
pub(super) struct Follower {
    client: Client,
    path: String,
    /// The last place that the node named.
    cursor: Option<String>,
    state: State,
    connection: Option<Connection>,
    /// How long to wait before the next try.
    pause: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not answered yet.
    New,
    Connected,
    /// It was there, and is waited for.
    Lost,
}

struct Connection {
    body: Incoming,
    events: Events,
}

impl Follower {
    pub(super) fn new(client: Client, path: String) -> Self {
        Self { client, path, cursor: None, state: State::New, connection: None, pause: FIRST_PAUSE }
    }

    /// What the node tells next.
    ///
    /// # Errors
    ///
    /// It cannot be followed: it has never answered, or refuses.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, Failure> {
        loop {
            let trouble = match self.told().await {
                Ok(events) => {
                    self.note(&events);
                    self.check_size()?;
                    return Ok(events);
                }
                Err(trouble) => trouble,
            };
            self.connection = None;
            // What it says of the request it will say again.
            let passing = match &trouble {
                Trouble::Silent(_) => true,
                Trouble::Problem(answer) => {
                    answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS
                }
            };
            if self.state == State::New || !passing {
                return Err(trouble.into());
            }
            if self.state == State::Connected {
                self.state = State::Lost;
                warn(&format!("{trouble}; connecting again"));
            }
            sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
    }

    /// The events that come with the next bytes.
    async fn told(&mut self) -> Result<Vec<Event>, Trouble> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let body = self.connect().await?;
                self.connection.insert(Connection { body, events: Events::default() })
            }
        };
        let gone = |why: &str| Trouble::Silent(format!("{} {why}", self.client.node));
        let frame = match timeout(SILENCE, connection.body.frame()).await {
            Err(_) => return Err(gone("says nothing any more")),
            Ok(None) => return Err(gone("has closed the connection")),
            Ok(Some(Err(error))) => return Err(self.client.broken(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        Ok(connection.events.take(frame.data_ref().map(|data| &**data).unwrap_or_default()))
    }

    async fn connect(&mut self) -> Result<Incoming, Trouble> {
        let mut headers = vec![(header::ACCEPT, "text/event-stream")];
        if let Some(cursor) = &self.cursor {
            headers.push((header::HeaderName::from_static("last-event-id"), cursor));
        }
        let response = self.client.open(Call { path: &self.path, headers: &headers, ..Call::default() }).await?;
        if self.state == State::Lost {
            warn(&format!("{} answers again", self.client.node));
        }
        (self.state, self.pause) = (State::Connected, FIRST_PAUSE);
        Ok(response.into_body())
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            if event.name == "left" {
                // That it closes the connection next, is no news.
                self.state = State::Lost;
            }
            if event.id.is_some() {
                self.cursor.clone_from(&event.id);
            }
        }
    }

    fn check_size(&self) -> Result<(), Failure> {
        if self.connection.as_ref().is_none_or(|connection| connection.events.rest.len() <= MAX_EVENT) {
            return Ok(());
        }
        Err(Failure::other(format!(
            "{} sends an event of more than {MAX_EVENT} bytes, which no message has; is it a node?",
            self.client.node
        )))
    }
}

pub(super) fn warn(text: &str) {
    // It is for people, of whom none may be there.
    let _ = writeln!(io::stderr(), "warning: {text}");
}

/// A server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    id: Option<String>,
    pub(super) data: String,
}

impl Event {
    /// What is said about messages, and is none.
    pub(super) fn notice(&self) -> Option<String> {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        let word = |field: &str| visible::escaped(data[field].as_str().unwrap_or_default());
        Some(match &*self.name {
            "gone" => match data["missed"].as_u64() {
                Some(missed) => format!("{missed} messages are missing here: {}", word("reason")),
                None => format!("messages may be missing here: {}", word("reason")),
            },
            "missed" => {
                let (origin, from, to) = (word("origin"), &data["from"], &data["to"]);
                format!("the node has missed messages of {origin}, from number {from} to before {to}")
            }
            "left" => format!("{}; connecting again", word("reason")),
            _ => visible::escaped(data["reason"].as_str()?),
        })
    }
}

/// Reads a stream of server-sent events (WHATWG HTML, 9.2.6), each of one line of data.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The beginning of what is not complete.
    pub(super) rest: Vec<u8>,
}

impl Events {
    /// Those that are complete with these bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
        let searched = self.rest.len().saturating_sub(1);
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest[searched..].windows(2).rposition(|two| two == b"\n\n") else { return Vec::new() };
        let rest = self.rest.split_off(searched + end + 2);
        let whole = std::mem::replace(&mut self.rest, rest);
        String::from_utf8_lossy(&whole).split("\n\n").filter(|text| !text.is_empty()).map(event).collect()
    }
}

fn event(text: &str) -> Event {
    let mut event = Event { name: "message".into(), ..Event::default() };
    for line in text.lines() {
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "id" => event.id = Some(value.into()),
            "event" => event.name = value.into(),
            "data" => event.data = value.into(),
            // When to connect again, which is known here, and what keeps the connection alive.
            _ => {}
        }
    }
    if event.data.is_empty() {
        event.name = "nothing".into();
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = "retry: 1000\nid: 7.0\n\n: keep-alive\n\nid: 7.1\ndata: {\"a\":\"ä: b\"}\n\nid: 7.2\nevent: gone\ndata: {}\n\nid: 7";
        let event = |name: &str, id: Option<&str>, data: &str| Event {
            name: name.into(),
            id: id.map(Into::into),
            data: data.into(),
        };
        let expected = [
            event("nothing", Some("7.0"), ""),
            event("nothing", None, ""),
            event("message", Some("7.1"), "{\"a\":\"ä: b\"}"),
            event("gone", Some("7.2"), "{}"),
        ];
        for size in 1..=stream.len() {
            let mut events = Events::default();
            let read: Vec<_> = stream.as_bytes().chunks(size).flat_map(|bytes| events.take(bytes)).collect();
            assert_eq!(read, expected, "in pieces of {size}");
        }
    }
}
