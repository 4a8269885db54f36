//! Server-sent events (WHATWG HTML, 9.2): the API writes them here, and commands read them.
//!
//! Each event has one line of data. The parser takes a stream in pieces of any size; whoever feeds it bounds what it holds
//! with [`MAX_EVENT`].

use std::{convert::Infallible, fmt::Write as _, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use serde_json::Value;

use crate::visible;

/// After this long without a byte, a connection is dead: a node says something every 15 s.
pub(super) const SILENCE: Duration = Duration::from_secs(45);
/// The longest event, in bytes: the largest message, each byte of it escaped.
pub(super) const MAX_EVENT: usize = 8 << 20;
/// An event without content, which keeps a connection alive.
pub(super) const KEEP_ALIVE: &str = ":\n\n";

/// One event, as a client gets it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ServerEvent {
    /// `message`, if the server gives no name; `nothing`, if there is no data.
    pub(super) name: String,
    /// What to send as `Last-Event-ID` to go on after this event.
    pub(super) id: Option<String>,
    pub(super) data: String,
}

impl ServerEvent {
    /// What an event that is not a message says about messages, for people.
    pub(super) fn notice(&self) -> Option<String> {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        let text = |field: &str| visible::escaped(data[field].as_str().unwrap_or_default());
        Some(match &*self.name {
            "gone" => match data["missed"].as_u64() {
                Some(missed) => format!("{missed} messages are missing here: {}", text("reason")),
                None => format!("messages may be missing here: {}", text("reason")),
            },
            "missed" => {
                let (origin, from, to) = (text("origin"), &data["from"], &data["to"]);
                format!("the node has missed messages of {origin}, from number {from} to before {to}")
            }
            "left" => format!("{}; connecting again", text("reason")),
            _ => visible::escaped(data["reason"].as_str()?),
        })
    }
}

/// Makes events of a stream of bytes.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// The beginning of an event that is not complete.
    incomplete: Vec<u8>,
}

impl EventParser {
    /// Takes more bytes, and gives the events that are complete with them.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<ServerEvent> {
        let searched = self.incomplete.len().saturating_sub(1);
        self.incomplete.extend_from_slice(bytes);
        let Some(end) = self.incomplete[searched..].windows(2).rposition(|two| two == b"\n\n") else {
            return Vec::new();
        };
        let rest = self.incomplete.split_off(searched + end + 2);
        let complete = std::mem::replace(&mut self.incomplete, rest);
        String::from_utf8_lossy(&complete).split("\n\n").filter(|text| !text.is_empty()).map(parse).collect()
    }

    /// Whether the event that is not complete is too long already.
    pub(super) fn is_too_long(&self) -> bool {
        self.incomplete.len() > MAX_EVENT
    }
}

fn parse(text: &str) -> ServerEvent {
    let mut event = ServerEvent { name: "message".into(), ..ServerEvent::default() };
    for line in text.lines() {
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "id" => event.id = Some(value.into()),
            "event" => event.name = value.into(),
            "data" => event.data = value.into(),
            // `retry`, whose place a backoff of ours takes, and comments.
            _ => {}
        }
    }
    if event.data.is_empty() {
        event.name = "nothing".into();
    }
    event
}

/// Writes an event. Its data must have no line end, as JSON has none.
pub(super) fn event(id: Option<&str>, name: Option<&str>, data: &str) -> String {
    let mut text = String::new();
    for (field, value) in [("id", id), ("event", name)] {
        if let Some(value) = value {
            let _ = writeln!(text, "{field}: {value}");
        }
    }
    let _ = write!(text, "data: {data}\n\n");
    text
}

/// The data of an event.
pub(super) fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("events are structs, lists, text and numbers")
}

/// A response whose body is these events.
pub(super) fn response(events: impl Stream<Item = String> + Send + 'static) -> Response {
    use futures_util::StreamExt as _;

    streamed("text/event-stream", events.map(Ok::<_, Infallible>))
}

/// A response whose body is sent as it comes, and which no cache keeps. If the stream fails, the connection breaks off.
pub(super) fn streamed<T, E>(
    content_type: &'static str,
    stream: impl Stream<Item = Result<T, E>> + Send + 'static,
) -> Response
where
    T: Into<Bytes> + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let stream = "retry: 1000\nid: 7.0\n\n: keep-alive\n\nid: 7.1\ndata: {\"a\":\"ä: b\"}\n\nid: 7.2\nevent: gone\ndata: {}\n\nid: 7";
        let event = |name: &str, id: Option<&str>, data: &str| ServerEvent {
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
            let mut parser = EventParser::default();
            let read: Vec<_> = stream.as_bytes().chunks(size).flat_map(|bytes| parser.push(bytes)).collect();
            assert_eq!(read, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_is_read_as_it_is_written() {
        let written = event(Some("7.1"), Some("gone"), "{}");
        assert_eq!(written, "id: 7.1\nevent: gone\ndata: {}\n\n");
        let [read] = &EventParser::default().push(written.as_bytes())[..] else { panic!("one event") };
        assert_eq!((read.id.as_deref(), &*read.name, &*read.data), (Some("7.1"), "gone", "{}"));
    }
}
