//! `broadcast elect`: one leader at a time. An election is an exclusive lock whose holder publishes a value.

use std::{env, ffi::OsString, process::ExitCode};

use broadcast_lock::Mode;
use clap::{Args, ValueHint};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    super::{
        client::{ApiClient, ApiRequest, ClientError, JSON_BODY, LEADER_WAIT, url_encoded},
        follow::Follower,
        kv, output,
        signals::run_until_stopped,
        sse::ServerEvent,
        supervisor::Program,
        table::cell,
    },
    hold::{self, KEY, TOKEN},
    request::{HoldArgs, name, value},
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// Run a command while leading an election, or see who leads
///
/// One candidate at a time leads NAME; the others wait, in the order in which they came. COMMAND is run as by broadcast
/// lock: it has the same environment, and it is over before somebody else leads. --value says something of the leader to
/// those who ask, its address say; COMMAND changes that with --proclaim. NAME is the lock of that name.
///
/// Exit codes: as those of broadcast lock. With --leader: 0, printed; 1, nobody leads, or no node answered. With
/// --observe: 0, the program that read the output has ended; 1, the node did not answer or refused; 130, Ctrl-C. With
/// --proclaim: 0, changed; 1, not changed. With wrong usage, 2.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast elect scheduler --value 10.0.0.1:8080 -- ./scheduler\n  \
    broadcast elect scheduler -- sh -c 'broadcast elect scheduler --proclaim ready; exec ./scheduler'\n  \
    broadcast elect scheduler --leader\n  \
    broadcast elect scheduler --observe --json | jq .value")]
pub(in super::super) struct ElectArgs {
    /// What is led, a path like db/primary
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,

    /// What is run while leading, with its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        value_hint = ValueHint::CommandWithArguments,
        conflicts_with_all = ["leader", "observe", "proclaim"]
    )]
    command: Vec<OsString>,

    /// What the leader says of itself
    #[arg(long, value_name = "TEXT", value_parser = value, conflicts_with_all = ["leader", "observe", "proclaim"])]
    value: Option<String>,

    /// Only print who leads
    #[arg(long, conflicts_with_all = ["observe", "proclaim"])]
    leader: bool,

    /// Print who leads, now and at each change, until Ctrl-C
    #[arg(long, conflicts_with = "proclaim")]
    observe: bool,

    /// Change what the leader says of itself; only COMMAND can, which has the session and the token in its environment
    #[arg(long, value_name = "TEXT", value_parser = value)]
    proclaim: Option<String>,

    #[command(flatten)]
    hold: HoldArgs,

    #[command(flatten)]
    client: ClientArgs,
}

pub(in super::super) async fn run(args: ElectArgs) -> Result<ExitCode, Failure> {
    if args.leader {
        return leader(&args.name, &args.client).await;
    }
    if args.observe {
        return observe(&args.name, &args.client).await;
    }
    if let Some(value) = args.proclaim {
        return proclaim(&args.name, &value, &args.client).await;
    }
    let program = Program::of(args.command);
    let value = Some(args.value.unwrap_or_default());
    let request = args.hold.request(vec![args.name], Mode::Exclusive, value, program.as_ref());
    hold::run(request, program, &args.client).await
}

async fn leader(name: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v1/elections/{}", url_encoded(name));
    let request = ApiRequest { path: &path, expects: "token", ..ApiRequest::default() };
    let answer = match ApiClient::new(args)?.call(request).await {
        Ok(answer) => answer,
        Err(ClientError::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => {
            return Err(Failure::other(format!("nobody leads {}", visible::quote(name))));
        }
        Err(error) => return Err(error.into()),
    };
    output::print_response(args, &answer, |answer| line(&answer.json) + "\n")?;
    Ok(ExitCode::SUCCESS)
}

async fn proclaim(name: &str, value: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let variable = |name| env::var(name).unwrap_or_default();
    let (key, token) = (variable(KEY), variable(TOKEN).parse::<u64>());
    let session = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('/'));
    let (Some(session), Ok(token)) = (session, token) else {
        let name = visible::quote(name);
        return Err(Failure::other(format!(
            "{KEY} and {TOKEN} are not those of {name}: have the command that leads it run this"
        )));
    };
    let path = format!("/v1/elections/{}", url_encoded(name));
    let body = json!({"session": session, "token": token, "value": value}).to_string().into();
    let headers = &[JSON_BODY];
    // The exit code says all that matters of the answer.
    let request = ApiRequest {
        method: Method::PUT,
        path: &path,
        headers,
        body,
        server_wait: LEADER_WAIT,
        ..ApiRequest::default()
    };
    ApiClient::new(args)?.send(request).await?;
    Ok(ExitCode::SUCCESS)
}

async fn observe(name: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let follower = Follower::new(ApiClient::new(args)?, format!("/v1/elections/{}", url_encoded(name)));
    run_until_stopped(follow(follower, args.json)).await
}

async fn follow(mut follower: Follower, json: bool) -> Result<ExitCode, Failure> {
    loop {
        let text: String = follower.next().await?.iter().filter_map(|event| event_line(event, json)).collect();
        if !output::print_in_background(text).await? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The line of an event. When nobody leads, that is `{}` in JSON and `nobody` in text.
fn event_line(event: &ServerEvent, json: bool) -> Option<String> {
    let is_vacant = match &*event.name {
        "leader" => false,
        "vacant" => true,
        _ => return None,
    };
    Some(match (json, is_vacant) {
        (true, _) => visible::escaped_json(&event.data) + "\n",
        (false, true) => "nobody\n".into(),
        (false, false) => line(&serde_json::from_str(&event.data).unwrap_or_default()) + "\n",
    })
}

/// Who leads, as a line.
fn line(leader: &Value) -> String {
    let value = kv::text_field(leader, "value");
    let value = if value.is_empty() { value } else { format!(": {value}") };
    format!("{} with token {}{value}", cell(&leader["node"]), cell(&leader["token"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_one_line() {
        let leader = json!({"name": "a", "token": 12, "session": "1f", "node": "node2", "value": "10.0.0.1:80\n"});
        assert_eq!(line(&leader), "node2 with token 12: 10.0.0.1:80\\n");
        assert_eq!(line(&json!({"token": 12, "node": "node2", "value": ""})), "node2 with token 12");
        assert_eq!(line(&json!({"token": 12, "node": "node2", "value_base64": "QQ=="})), "node2 with token 12: A");
    }
}
