//! `broadcast kv watch`: changes of keys as they happen.
//!
//! If the node goes away, the watch goes on where it was once the node is back: see [`follow`](super::super::follow).

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    super::{
        client::{ApiClient, url_encoded},
        follow::Follower,
        output,
        signals::run_until_stopped,
    },
    revision, show,
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// Print changes of keys as they happen, until Ctrl-C
///
/// Each line has the revision, and PUT KEY = VALUE or DELETE KEY. If the node goes away, the command waits until it is
/// back, and prints what has happened in the meantime.
///
/// Exit codes: 0, the program that read the output has ended; 1, the node did not answer or refused, or the history is
/// compacted; 2, wrong usage; 130, Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast kv watch color\n  \
    broadcast kv watch --prefix app/ --rev 7 --prev\n  \
    broadcast kv watch --prefix --json | jq .")]
pub(super) struct WatchArgs {
    /// The key; with --prefix, what keys begin with, which may be nothing
    #[arg(value_name = "KEY", required_unless_present = "prefix", default_value = "", hide_default_value = true)]
    key: String,

    /// Watch all keys that begin with KEY
    #[arg(long)]
    prefix: bool,

    /// Begin with the changes of this revision [default: with what comes next]
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    rev: Option<u64>,

    /// Also print what was there before
    #[arg(long)]
    prev: bool,

    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn run(args: WatchArgs) -> Result<ExitCode, Failure> {
    let which = if args.prefix { "prefix" } else { "key" };
    let mut path = format!("/v1/watch?{which}={}&prev={}", url_encoded(&args.key), args.prev);
    if let Some(revision) = args.rev {
        path.extend(["&after=", &revision.saturating_sub(1).to_string()]);
    }
    let follower = Follower::new(ApiClient::new(&args.client)?, path);
    run_until_stopped(follow(follower, args.client.json)).await
}

/// Prints changes until the watch ends or nobody reads.
async fn follow(mut follower: Follower, json: bool) -> Result<ExitCode, Failure> {
    loop {
        let (mut text, mut end) = (String::new(), None);
        for event in follower.next().await? {
            match &*event.name {
                "message" if json => text.extend([&*visible::escaped_json(&event.data), "\n"]),
                "message" => changes(&mut text, &event.data),
                "gone" => end = Some(event.notice().unwrap_or_default()),
                _ => {}
            }
        }
        if !output::print_in_background(text).await? {
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(end) = end {
            return Err(Failure::other(end));
        }
    }
}

/// Adds a line for each change of a revision.
fn changes(text: &mut String, data: &str) {
    let changes: Value = serde_json::from_str(data).unwrap_or_default();
    let revision = &changes["revision"];
    for event in changes["events"].as_array().into_iter().flatten() {
        let key = show::text_field(&event["kv"], "key");
        let _ = match event["type"] == "delete" {
            true => write!(text, "{revision} DELETE {key}"),
            false => write!(text, "{revision} PUT {key} = {}", show::text_field(&event["kv"], "value")),
        };
        if event["prev"].is_object() {
            let _ = write!(text, " (was {})", show::text_field(&event["prev"], "value"));
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_has_a_line_for_each_change() {
        let mut text = String::new();
        let data = r#"{"revision":7,"events":[{"type":"put","kv":{"key":"a","value":"2"},"prev":{"key":"a","value":"1"}},
            {"type":"delete","kv":{"key":"b\n"}}]}"#;
        changes(&mut text, data);
        assert_eq!(text, "7 PUT a = 2 (was 1)\n7 DELETE b\\n\n");
    }
}
