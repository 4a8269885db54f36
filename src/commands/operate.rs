//! `broadcast faults`, `broadcast log` and `broadcast leave`: an operator's commands to a running node.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{client::ApiClient, output};
use crate::{
    failure::Failure,
    settings::{client::ClientArgs, log, node},
    visible,
};

/// Show or change the faults in what a node sends, for tests
///
/// The node must have been started with BROADCAST_FAULTS; BROADCAST_FAULTS=ready starts it without faults.
///
/// Exit codes: 0, the faults were shown or changed; 1, they could not be; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast faults\n  \
    broadcast faults loss=0.3,delay=5ms..50ms --node 10.0.0.1:8946\n  \
    broadcast faults none")]
pub(super) struct FaultsArgs {
    /// New faults, as in BROADCAST_FAULTS, or none [default: only show the faults]
    #[arg(value_name = "FAULTS", value_parser = faults)]
    faults: Option<String>,

    #[command(flatten)]
    client: ClientArgs,
}

/// Show or change what a node logs, while it runs
///
/// Exit codes: 0, the filter was shown or changed; 1, it could not be; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  broadcast log\n  broadcast log broadcast=debug\n  broadcast log info")]
pub(super) struct LogArgs {
    /// New log filter, in tracing's syntax: debug, or warn,broadcast=debug [default: only show the filter]
    #[arg(value_name = "FILTER", value_parser = log::checked)]
    filter: Option<String>,

    #[command(flatten)]
    client: ClientArgs,
}

/// Have a node leave its cluster, and end
///
/// As a signal does, but from another host: the node says goodbye, and its process exits with 0. What restarts it, like a
/// container's policy, may do so.
///
/// Exit codes: 0, the node leaves; 1, it could not be told; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  broadcast leave\n  broadcast leave --node 10.0.0.1:8946")]
pub(super) struct LeaveArgs {
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn leave(args: LeaveArgs) -> Result<ExitCode, Failure> {
    let answer = ApiClient::new(&args.client)?.post("/v1/leave", "leaving").await?;
    output::print_response(&args.client, &answer, |answer| {
        format!("{} leaves\n", visible::escaped(answer.text("leaving")))
    })?;
    Ok(ExitCode::SUCCESS)
}

const NO_FAULTS: &str = "none";

fn faults(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text != NO_FAULTS {
        node::faults(text)?;
    }
    Ok(text.into())
}

pub(super) async fn set_faults(args: FaultsArgs) -> Result<ExitCode, Failure> {
    let new = args.faults.map(|faults| (faults != NO_FAULTS).then_some(faults).into());
    setting(&args.client, "faults", new).await
}

pub(super) async fn set_log(args: LogArgs) -> Result<ExitCode, Failure> {
    setting(&args.client, "log", args.filter.map(Value::from)).await
}

/// Shows a setting, after changing it if there is a new value.
async fn setting(args: &ClientArgs, name: &str, new: Option<Value>) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(args)?;
    let path = format!("/v1/{name}");
    let field = if name == "log" { "filter" } else { name };
    let answer = match new {
        None => client.get(&path, field).await?,
        Some(value) => client.put(&path, &json!({ field: value }), field).await?,
    };
    output::print_response(args, &answer, |answer| {
        format!("{}\n", visible::escaped(answer.json[field].as_str().unwrap_or(NO_FAULTS)))
    })?;
    Ok(ExitCode::SUCCESS)
}
