//! `broadcast tail`: what is said in the cluster, as one node hears it.
//!
//! The node's server-sent events name a place with each message; who loses the node asks it to go on from
//! the last one, and is told if something is gone.

use std::{
    fmt::Write as _,
    future::pending,
    io::{self, Write as _},
    os::fd::AsFd as _,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use http_body_util::BodyExt as _;
use hyper::{StatusCode, header};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::{
    task,
    time::{sleep, timeout},
};

use super::{
    Failure,
    client::{Call, Client, ClientArgs, Trouble},
    log::{self, DIM, RESET},
    node::Signals,
    output, visible,
};

/// A node says something every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// What one event takes at most, in bytes: the largest message, each byte of it escaped.
const MAX_EVENT: usize = 8 << 20;
/// When to connect again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Print what is said in the cluster, as it comes, until Ctrl-C
///
/// Each line is the time at which the node had the message, who said it, the key and the value. When the node
/// goes away, it is waited for, and what it heard meanwhile is printed; what was missed standard error says.
///
/// Exit code 0: whoever read the output has gone. 1: the node cannot be asked. 2: wrong usage. 130: Ctrl-C, as with
/// docker logs -f.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast tail\n  \
    broadcast tail --key 'I am ' --from node2 --last 10\n  \
    broadcast tail --json | jq .value")]
pub(super) struct TailArgs {
    /// Only messages whose key begins so
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    key: String,

    /// Only messages of this node
    #[arg(long, value_name = "NODE")]
    from: Option<String>,

    /// Begin with the last messages that the node has kept, so many of them
    #[arg(long, value_name = "N", conflicts_with = "after", value_parser = last)]
    last: Option<u32>,

    /// Begin after the message with this cursor, which --json shows
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,

    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: TailArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(Failure::other)?;
    let mut tail = Tail {
        client: args.client.client()?,
        path: path(&args),
        cursor: None,
        state: State::New,
        look: Look { json: args.client.json, colour: log::colour(), width: 0 },
    };
    tokio::select! {
        ended = tail.follow() => ended,
        () = nobody_reads() => Ok(ExitCode::SUCCESS),
        code = signals.recv() => Ok(code),
    }
}

fn last(text: &str) -> Result<u32, &'static str> {
    text.trim().parse().map_err(|_| "not a number of messages; write one like 10")
}

fn path(args: &TailArgs) -> String {
    let mut path = format!("/v1/messages?key={}", encoded(&args.key));
    let parameters = [
        ("from", args.from.as_deref().map(encoded)),
        ("last", args.last.map(|last| last.to_string())),
        ("after", args.after.as_deref().map(encoded)),
    ];
    for (name, value) in parameters {
        if let Some(value) = value {
            path.extend(["&", name, "=", &value]);
        }
    }
    path
}

/// As a query can carry it (RFC 3986).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Ends when the reader of stdout has gone, if it is a pipe's.
async fn nobody_reads() {
    let gone = task::spawn_blocking(|| {
        let stdout = io::stdout();
        loop {
            // No event is asked for: only an end is told.
            let mut end = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
            match poll(&mut end, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                polled => return polled.is_ok(),
            }
        }
    });
    if !gone.await.unwrap_or_default() {
        pending().await
    }
}

struct Tail {
    client: Client,
    path: String,
    /// The last place that the node named.
    cursor: Option<String>,
    state: State,
    look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not answered yet.
    New,
    Connected,
    /// It was there, and is waited for.
    Lost,
}

impl Tail {
    async fn follow(&mut self) -> Result<ExitCode, Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let trouble = match self.connection(&mut pause).await {
                Ok(ended) => return ended.map(|()| ExitCode::SUCCESS),
                Err(trouble) => trouble,
            };
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
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Follows over one connection, until there is trouble with it, or nobody reads what is printed, or it cannot be.
    async fn connection(&mut self, pause: &mut Duration) -> Result<Result<(), Failure>, Trouble> {
        let mut headers = vec![(header::ACCEPT, "text/event-stream")];
        let cursor = self.cursor.clone();
        if let Some(cursor) = &cursor {
            headers.push((header::HeaderName::from_static("last-event-id"), cursor));
        }
        let response = self.client.open(Call { path: &self.path, headers: &headers, ..Call::default() }).await?;
        if self.state == State::Lost {
            warn(&format!("{} answers again", self.client.node));
        }
        (self.state, *pause) = (State::Connected, FIRST_PAUSE);
        let mut body = response.into_body();
        let mut events = Events::default();
        loop {
            let gone = |why: &str| Trouble::Silent(format!("{} {why}", self.client.node));
            let frame = match timeout(SILENCE, body.frame()).await {
                Err(_) => return Err(gone("says nothing any more")),
                Ok(None) => return Err(gone("has closed the connection")),
                Ok(Some(Err(error))) => return Err(self.client.broken(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            let mut text = String::new();
            for event in events.take(frame.data_ref().map(|data| &**data).unwrap_or_default()) {
                if event.name == "message" {
                    self.look.message(&mut text, &event.data);
                } else {
                    self.notice(&mut text, &event);
                    if event.name == "left" {
                        // That it closes the connection next, is no news.
                        self.state = State::Lost;
                    }
                }
                self.cursor = event.id.or(self.cursor.take());
            }
            match print(text).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Ok(())),
                Err(error) => return Ok(Err(output::unwritable(&error))),
            }
            if events.rest.len() > MAX_EVENT {
                return Ok(Err(Failure::other(format!(
                    "{} sends an event of more than {MAX_EVENT} bytes, which no message has; is it a node?",
                    self.client.node
                ))));
            }
        }
    }

    /// What is said about messages, and is none.
    fn notice(&self, text: &mut String, event: &Event) {
        if event.data.is_empty() {
            return;
        }
        if self.look.json {
            text.extend([&event.data, "\n"]);
        }
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let word = |field: &str| visible::escaped(data[field].as_str().unwrap_or_default());
        warn(&match &*event.name {
            "gone" => match data["missed"].as_u64() {
                Some(missed) => format!("{missed} messages are missing here: {}", word("reason")),
                None => format!("messages may be missing here: {}", word("reason")),
            },
            "missed" => {
                let (origin, from, to) = (word("origin"), &data["from"], &data["to"]);
                format!("the node has missed messages of {origin}, from number {from} to before {to}")
            }
            "left" => format!("{}; connecting again", word("reason")),
            _ => word("reason"),
        });
    }
}

fn warn(text: &str) {
    // It is for people, of whom none may be there.
    let _ = writeln!(io::stderr(), "warning: {text}");
}

/// Writes to stdout, which may take long.
async fn print(text: String) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    task::spawn_blocking(move || output::write(text.as_bytes())).await.map_err(io::Error::other)?
}

/// How messages look.
struct Look {
    json: bool,
    colour: bool,
    /// The widest name of a node so far.
    width: usize,
}

#[derive(Deserialize)]
struct Message<'a> {
    origin: String,
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    received: String,
}

impl Look {
    fn message(&mut self, out: &mut String, data: &str) {
        if self.json {
            return out.extend([&*visible::escaped_json(data), "\n"]);
        }
        let Ok(Message { origin, key, value, received }) = serde_json::from_str(data) else {
            return out.extend([&*visible::escaped(data), "\n"]);
        };
        // To the millisecond, as in the log.
        let time = received.get(..23).map_or_else(|| received.clone(), |time| format!("{time}Z"));
        let [time, origin, key, value] = [&*time, &*origin, &*key, value.get()].map(visible::escaped);
        self.width = self.width.max(origin.chars().count());
        let width = self.width;
        let (dim, name, reset) = if self.colour { (DIM, "\x1b[36m", RESET) } else { ("", "", "") };
        let _ = writeln!(out, "{dim}{time}{reset} {name}{origin:width$}{reset} {key} = {value}");
    }
}

/// A server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: String,
    id: Option<String>,
    data: String,
}

/// Reads a stream of server-sent events (WHATWG HTML, 9.2.6), each of one line of data.
#[derive(Debug, Default)]
struct Events {
    /// The beginning of what is not complete.
    rest: Vec<u8>,
}

impl Events {
    /// Those that are complete with these bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<Event> {
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

    #[test]
    fn a_message_is_one_line_that_cannot_move_the_cursor() {
        let mut look = Look { json: false, colour: false, width: 0 };
        let mut out = String::new();
        for (origin, key) in [("sender-10", "a\\nb\\u001b[2J"), ("node2", "I am node2")] {
            look.message(
                &mut out,
                &format!(
                    r#"{{"id":null,"origin":"{origin}","key":"{key}","value":[1, "x"],"received":"2026-11-25T03:40:00.123456Z"}}"#
                ),
            );
        }
        let lines = "2026-11-25T03:40:00.123Z sender-10 a\\nb\\u{1b}[2J = [1, \"x\"]\n\
            2026-11-25T03:40:00.123Z node2     I am node2 = [1, \"x\"]\n";
        assert_eq!(out, lines);
    }

    #[test]
    fn a_query_carries_any_text() {
        assert_eq!(encoded("I am ä&=#?+%/node-1.x_y~"), "I%20am%20%C3%A4%26%3D%23%3F%2B%25%2Fnode-1.x_y~");
    }
}
