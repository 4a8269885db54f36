//! `broadcast voters` and `broadcast store`: who votes in the replicated store, and how it is.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::{
    backup::{self, RecoverArgs, RestoreArgs, SnapshotArgs},
    client::{ApiClient, ApiRequest, ApiResponse, LEADER_WAIT, url_encoded},
    output,
    table::{cell, items, table},
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// How long a change of voters may take: a new voter first gets all data.
const CHANGE_WAIT: Duration = Duration::from_secs(90);

/// List the voters of the replicated store, or change who votes
///
/// A node that is to vote has the role voter, and BROADCAST_VOTERS with its own name and those of the others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast voters list\n  \
    broadcast voters add node4\n  \
    broadcast voters replace node2")]
pub(super) struct VotersArgs {
    #[command(subcommand)]
    command: VotersCommand,
}

#[derive(Debug, Subcommand)]
enum VotersCommand {
    /// List the voters, and the nodes that have the role and no vote
    ///
    /// Exit codes: 0, listed; 1, the node did not answer or refused; 2, wrong usage.
    #[command(after_help = "Example:\n  broadcast voters list --node 10.0.0.1:8946")]
    List(ListArgs),
    /// Have a node vote, too
    ///
    /// It has to have the role voter, and an empty data directory.
    ///
    /// Exit codes: 0, it votes; 1, it does not, or it is not known (standard error says which); 2, wrong usage.
    #[command(after_help = "Example:\n  broadcast voters add node4")]
    Add(NameArgs),
    /// Have a node vote no more
    ///
    /// Exit codes: 0, it votes no more; 1, it still does, or it is not known (standard error says which); 2, wrong usage.
    #[command(after_help = "Example:\n  broadcast voters remove node4")]
    Remove(NameArgs),
    /// Have a node that lost its disk vote in the place of its former self
    ///
    /// Voters do that by themselves 5 minutes after the former one was last seen.
    ///
    /// Exit codes: 0, it votes; 1, it does not, or it is not known (standard error says which); 2, wrong usage.
    #[command(after_help = "Example:\n  broadcast voters replace node2")]
    Replace(NameArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct NameArgs {
    /// The name of the node
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    client: ClientArgs,
}

/// Show how the replicated store is, back it up, or found it anew
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast store status\n  \
    broadcast store snapshot save backup\n  \
    broadcast store restore backup --name node1 --data /var/lib/broadcast")]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Show the leader, the term, the revision, the voters, and what somebody should look at
    ///
    /// Exit codes: 0, shown, and there is no problem; 1, there is one, or the node did not answer or refused; 2, wrong
    /// usage.
    #[command(after_help = "Examples:\n  broadcast store status\n  broadcast store status --node 10.0.0.1:8946 --json")]
    Status(ListArgs),
    Snapshot(SnapshotArgs),
    Restore(RestoreArgs),
    Recover(RecoverArgs),
}

pub(super) async fn voters(args: VotersArgs) -> Result<ExitCode, Failure> {
    match args.command {
        VotersCommand::List(args) => {
            let answer = status(&args.client).await?;
            output::print_response(&args.client, &answer, voters_table)?;
            Ok(ExitCode::SUCCESS)
        }
        VotersCommand::Add(args) => change(args, Method::PUT, "", "votes").await,
        VotersCommand::Remove(args) => change(args, Method::DELETE, "", "votes no more").await,
        VotersCommand::Replace(args) => {
            change(args, Method::PUT, "?replace=true", "votes in the place of its former self").await
        }
    }
}

pub(super) async fn store(args: StoreArgs) -> Result<ExitCode, Failure> {
    let ListArgs { client } = match args.command {
        StoreCommand::Status(args) => args,
        StoreCommand::Snapshot(args) => return backup::snapshot(args).await,
        StoreCommand::Restore(args) => return backup::restore(args).await,
        StoreCommand::Recover(args) => return backup::recover(args).await,
    };
    let answer = status(&client).await?;
    output::print_response(&client, &answer, status_text)?;
    let is_well = items(&answer.json["problems"]).next().is_none();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn status(args: &ClientArgs) -> Result<ApiResponse, Failure> {
    let call = ApiRequest { path: "/v1/store", expects: "voters", server_wait: LEADER_WAIT, ..ApiRequest::default() };
    Ok(ApiClient::new(args)?.call(call).await?)
}

async fn change(args: NameArgs, method: Method, query: &str, done: &str) -> Result<ExitCode, Failure> {
    let path = format!("/v1/store/voters/{}{query}", url_encoded(&args.name));
    let call = ApiRequest { method, path: &path, server_wait: CHANGE_WAIT, expects: "name", ..ApiRequest::default() };
    let answer = ApiClient::new(&args.client)?.call(call).await?;
    output::print_response(&args.client, &answer, |_| format!("{} {done}\n", visible::escaped(&args.name)))?;
    Ok(ExitCode::SUCCESS)
}

fn voters_table(answer: &ApiResponse) -> String {
    let mut rows = vec![["NAME", "STATE", "ID", "APPLIED", "REVISION", "BYTES", "KEPT"].map(String::from)];
    for voter in items(&answer.json["voters"]) {
        let state = match (&voter["problem"], &voter["votes"], &voter["leads"]) {
            (Value::String(_), ..) => "away",
            (_, _, Value::Bool(true)) => "leads",
            (_, Value::Bool(true), _) => "follows",
            _ => "no vote",
        };
        let kept = match voter["ephemeral"].as_bool() {
            Some(true) => "in memory",
            Some(false) => "on disk",
            None => "-",
        };
        let [name, id, applied, revision, bytes] =
            ["name", "id", "applied", "revision", "bytes"].map(|field| cell(&voter[field]));
        rows.push([name, state.into(), id, applied, revision, bytes, kept.into()]);
    }
    table(&rows)
}

fn status_text(answer: &ApiResponse) -> String {
    let status = &answer.json;
    let [cluster, leader, term, revision] = ["cluster", "leader", "term", "revision"].map(|field| cell(&status[field]));
    let problems: Vec<_> = items(&status["problems"]).map(cell).collect();
    let problems = if problems.is_empty() { "none".into() } else { problems.join("\n          ") };
    format!(
        "store     {cluster}\nleader    {leader}, in term {term}\nrevision  {revision}\nproblems  {problems}\n\n{}",
        voters_table(answer)
    )
}
