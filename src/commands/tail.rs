//! `broadcast tail`: the messages of the cluster, as one node receives them.
//!
//! If the connection breaks off, nothing is lost silently: see [`follow`](super::follow).

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    client::{ApiClient, url_encoded},
    follow::Follower,
    output::{self, warn},
    signals::run_until_stopped,
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
    let follower = Follower::new(ApiClient::new(&args.client)?, path(&args));
    let format = LineFormat { json: args.client.json, colour: log::colour(), width: 0 };
    run_until_stopped(follow(follower, format)).await
}

pub(super) fn last(text: &str) -> Result<u32, &'static str> {
    text.trim().parse().map_err(|_| "not a number of messages; write one like 10")
}

fn path(args: &TailArgs) -> String {
    let mut path = format!("/v1/messages?key={}", url_encoded(&args.key));
    let parameters = [
        ("from", args.from.as_deref().map(url_encoded)),
        ("last", args.last.map(|last| last.to_string())),
        ("after", args.after.as_deref().map(url_encoded)),
    ];
    for (name, value) in parameters {
        if let Some(value) = value {
            path.extend(["&", name, "=", &value]);
        }
    }
    path
}

/// Prints messages until nobody reads.
async fn follow(mut follower: Follower, mut format: LineFormat) -> Result<ExitCode, Failure> {
    loop {
        let mut text = String::new();
        for event in follower.next().await? {
            if event.name == "message" {
                format.message(&mut text, &event.data);
                continue;
            }
            if format.json && !event.data.is_empty() {
                text.extend([&event.data, "\n"]);
            }
            if let Some(notice) = event.notice() {
                warn(&notice);
            }
        }
        if !output::print_in_background(text).await? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// How a message becomes a line.
struct LineFormat {
    json: bool,
    colour: bool,
    /// The widest node name so far: names are padded to it.
    width: usize,
}

#[derive(Deserialize)]
struct MessageEvent<'a> {
    origin: String,
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    received: String,
}

impl LineFormat {
    fn message(&mut self, out: &mut String, data: &str) {
        if self.json {
            return out.extend([&*visible::escaped_json(data), "\n"]);
        }
        let Ok(MessageEvent { origin, key, value, received }) = serde_json::from_str(data) else {
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
        let mut format = LineFormat { json: false, colour: false, width: 0 };
        let mut out = String::new();
        for (origin, key) in [("sender-10", "a\\nb\\u001b[2J"), ("node2", "I am node2")] {
            format.message(
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
}
