//! `broadcast tail`: what is said in the cluster, as one node hears it.
//!
//! Whoever is cut off from the node hears what it missed, or is told if that is gone: see [`follow`](super::follow).

use std::{fmt::Write as _, io, process::ExitCode};

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    client::Client,
    follow::{Follower, warn},
    node::Signals,
    output,
};
use crate::{
    failure::Failure,
    log::{self, DIM, RESET},
    settings::client::ClientArgs,
    visible,
};

/// Print the messages of the cluster as they arrive, until Ctrl-C
///
/// Each line has the time at which the message reached the node, the node that published it, the key and the value.
/// If the node goes away, the command waits until it is back, and prints what has arrived in the meantime. If
/// messages were missed, standard error says so.
///
/// Exit codes: 0, the program that read the output has ended; 1, the node did not answer or refused; 2, wrong
/// usage; 130, Ctrl-C, as with docker logs -f.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast tail\n  \
    broadcast tail --key 'I am ' --from node2 --last 10\n  \
    broadcast tail --json | jq .value")]
pub(super) struct TailArgs {
    /// Only messages whose key begins with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    key: String,

    /// Only messages from this node
    #[arg(long, value_name = "NODE")]
    from: Option<String>,

    /// Begin with the last N messages that the node keeps
    #[arg(long, value_name = "N", conflicts_with = "after", value_parser = last)]
    last: Option<u32>,

    /// Begin after the message with this cursor, as --json prints it
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,

    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: TailArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(Failure::other)?;
    let follower = Follower::new(Client::of(&args.client)?, path(&args));
    let look = Look { json: args.client.json, colour: log::colour(), width: 0 };
    tokio::select! {
        ended = follow(follower, look) => ended,
        () = output::nobody_reads() => Ok(ExitCode::SUCCESS),
        code = signals.recv() => Ok(code),
    }
}

pub(super) fn last(text: &str) -> Result<u32, &'static str> {
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
pub(super) fn encoded(text: &str) -> String {
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

/// Prints what the node tells, until nobody reads it.
async fn follow(mut follower: Follower, mut look: Look) -> Result<ExitCode, Failure> {
    loop {
        let mut text = String::new();
        for event in follower.next().await? {
            if event.name == "message" {
                look.message(&mut text, &event.data);
                continue;
            }
            if look.json && !event.data.is_empty() {
                text.extend([&event.data, "\n"]);
            }
            if let Some(notice) = event.notice() {
                warn(&notice);
            }
        }
        match output::print_slowly(text).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(output::unwritable(&error)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
