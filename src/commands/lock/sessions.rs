//! `broadcast sessions`: lists the sessions that hold locks and wait for them, and ends one.

use std::process::ExitCode;

use broadcast_lock::message::MAX_PAGE_ENTRIES;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{
    super::{
        client::{ApiClient, ApiRequest, ApiResponse, LEADER_WAIT, url_encoded},
        output::{print_response, warn},
        table::{cell, items, table},
    },
    locks::{SESSIONS, seconds},
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// List the sessions, or end one
///
/// A session is what holds locks, and waits for them; each broadcast lock has one. LEFT is how long it lives on if it
/// is not heard of any more. HOLDS and WAITS name the locks, each with its token.
///
/// Exit codes: 0, printed; 1, the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        broadcast sessions\n  \
        broadcast sessions --json | jq '.sessions[].holds'\n  \
        broadcast sessions end 7fe1f6a01c3d9f27"
)]
pub(in super::super) struct SessionsArgs {
    #[command(subcommand)]
    command: Option<SessionsCommand>,

    /// List this many sessions at most
    #[arg(long, value_name = "N", default_value_t = MAX_PAGE_ENTRIES, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    End(EndArgs),
}

/// End a session: its locks pass to the next ones, and it waits for none any more
///
/// Its holder may not know yet: only fencing tokens keep it apart from the next one. A broadcast lock that loses its
/// session that way ends its COMMAND.
///
/// Exit codes: 0, ended; 1, there is no such session, or the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  broadcast sessions end 7fe1f6a01c3d9f27")]
struct EndArgs {
    /// The session, as broadcast sessions lists it
    #[arg(value_name = "SESSION", value_parser = session)]
    session: String,

    #[command(flatten)]
    client: ClientArgs,
}

fn session(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let is_valid = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_valid {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("not a session; write its 16 hex digits, as broadcast sessions lists them")
    }
}

pub(in super::super) async fn run(args: SessionsArgs) -> Result<ExitCode, Failure> {
    if let Some(SessionsCommand::End(args)) = args.command {
        return end(&args).await;
    }
    let answer = SESSIONS.read(&ApiClient::new(&args.client)?, args.limit, |_| true).await?;
    print_response(&args.client, &answer, sessions_table)?;
    if answer.json["more"] == true && !args.client.json {
        warn(&format!("there are more than the {} sessions listed; see --limit", args.limit));
    }
    Ok(ExitCode::SUCCESS)
}

async fn end(args: &EndArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v1/sessions/{}", url_encoded(&args.session));
    let request = ApiRequest {
        method: Method::DELETE,
        path: &path,
        server_wait: LEADER_WAIT,
        expects: "session",
        ..ApiRequest::default()
    };
    let answer = ApiClient::new(&args.client)?.call(request).await?;
    print_response(&args.client, &answer, |_| format!("ended {}\n", visible::escaped(&args.session)))?;
    Ok(ExitCode::SUCCESS)
}

fn sessions_table(answer: &ApiResponse) -> String {
    let mut rows = vec![["SESSION", "NODE", "TTL", "LEFT", "SINCE", "HOLDS", "WAITS", "LABEL"].map(String::from)];
    for session in items(&answer.json["sessions"]) {
        let [id, node, since, label] = ["session", "node", "since", "label"].map(|field| cell(&session[field]));
        let ttl = format!("{} s", cell(&session["ttl"]));
        let (holds, waits) = (locks(&session["holds"]), locks(&session["waits"]));
        rows.push([id, node, ttl, seconds(&session["left"]), since, holds, waits, label]);
    }
    table(&rows)
}

/// Locks and their tokens, in one cell.
fn locks(value: &Value) -> String {
    let locks: Vec<_> =
        items(value).map(|lock| format!("{} ({})", cell(&lock["name"]), cell(&lock["token"]))).collect();
    if locks.is_empty() { "-".into() } else { locks.join(", ") }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_shows_what_it_holds_and_awaits() {
        let json = json!({"sessions": [
            {"session": "1f", "node": "node2", "label": "x", "ttl": 10, "lock_delay": 0, "release_on_failure": false,
             "left": 7.25, "since": "t", "holds": [{"name": "a", "token": 12}, {"name": "b", "token": 12}],
             "waits": [{"name": "c", "token": 15}]},
            {"session": "2f", "node": "node1", "label": "", "ttl": 60, "left": null, "since": "t", "holds": [], "waits": []},
        ], "more": false});
        let text = sessions_table(&ApiResponse { status: StatusCode::OK, text: json.to_string(), json });
        let expected = "SESSION  NODE   TTL   LEFT   SINCE  HOLDS           WAITS   LABEL\n\
            1f       node2  10 s  7.2 s  t      a (12), b (12)  c (15)  x\n\
            2f       node1  60 s  -      t      -               -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_session_is_16_hex_digits() {
        assert_eq!(session(" 7FE1f6a01c3d9f27 ").as_deref(), Ok("7fe1f6a01c3d9f27"));
        assert!(session("4be1").is_err() && session("4be1f6a01c3d9f2x").is_err());
    }
}
