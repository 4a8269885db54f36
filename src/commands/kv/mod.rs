//! `broadcast kv`: the keys of the replicated store, through any node.

mod show;
mod watch;

use std::{
    io::{self, Read as _},
    process::ExitCode,
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::{Method, header};
use serde_json::Value;

pub(super) use self::show::text_field;
use super::{
    client::{ApiClient, ApiRequest, JSON_BODY, LEADER_WAIT, url_encoded},
    output,
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// Read, change and watch the keys of the replicated store
///
/// Ask any node: one that does not vote asks the voters.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast kv put color green\n  \
    broadcast kv get color\n  \
    broadcast kv watch --prefix app/")]
pub(super) struct KvArgs {
    #[command(subcommand)]
    command: KvCommand,
}

#[derive(Debug, Subcommand)]
enum KvCommand {
    Get(GetArgs),
    Put(PutArgs),
    Del(DelArgs),
    Txn(TxnArgs),
    Watch(watch::WatchArgs),
}

/// Print the value of a key, or a list of keys
///
/// Without --prefix, it prints the value and a line end; with --raw, the value alone. With --prefix, each line is
/// KEY = VALUE.
///
/// Exit codes: 0, printed; 1, there is no such key, or the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast kv get color\n  \
    broadcast kv get --prefix app/ --limit 10\n  \
    broadcast kv get color --rev 7 --json")]
struct GetArgs {
    /// The key; with --prefix, what keys begin with, which may be nothing
    #[arg(value_name = "KEY", required_unless_present = "prefix", default_value = "", hide_default_value = true)]
    key: String,

    /// List all keys that begin with KEY
    #[arg(long)]
    prefix: bool,

    /// Read at this revision [default: the newest]
    #[arg(long, value_name = "REVISION", value_parser = revision)]
    rev: Option<u64>,

    /// List this many keys at most
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "prefix", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    /// List the keys without their values
    #[arg(long, requires = "prefix")]
    keys_only: bool,

    /// Print the value alone, without a line end
    #[arg(long, conflicts_with_all = ["prefix", "json"])]
    raw: bool,

    #[command(flatten)]
    client: ClientArgs,
}

/// Put a key
///
/// It prints the revision of the store, which is one more than before.
///
/// Exit codes: 0, put; 1, not put, or it is not known (standard error says which); 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast kv put color green\n  \
    broadcast kv put config - < config.json\n  \
    broadcast kv put color red --prev")]
struct PutArgs {
    /// The key
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,

    /// Its value; - reads all of standard input
    #[arg(value_name = "VALUE", allow_hyphen_values = true)]
    value: String,

    /// Delete the key when this lease ends
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,

    /// Also print the value that it had
    #[arg(long)]
    prev: bool,

    #[command(flatten)]
    client: ClientArgs,
}

/// Delete a key, or all keys that begin with it
///
/// It prints how many keys were deleted, which may be 0.
///
/// Exit codes: 0, done; 1, not done, or it is not known (standard error says which); 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  broadcast kv del color\n  broadcast kv del --prefix app/ --prev")]
struct DelArgs {
    /// The key; with --prefix, what keys begin with
    #[arg(value_name = "KEY", value_parser = key)]
    key: String,

    /// Delete all keys that begin with KEY
    #[arg(long)]
    prefix: bool,

    /// Also print the keys as they were
    #[arg(long)]
    prev: bool,

    #[command(flatten)]
    client: ClientArgs,
}

/// Change keys, depending on how they compare
///
/// If all comparisons hold, `success` is done, and otherwise `failure`; each is a list of get, put, delete and txn.
///
/// Exit codes: 0, the comparisons held; 1, they did not, or nothing was done (standard error says so); 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast kv txn '{\"compare\": [{\"key\": \"a\", \"version\": 0}], \"success\": [{\"put\": {\"key\": \"a\", \"value\": \"1\"}}]}'\n  \
    broadcast kv txn - --json < txn.json")]
struct TxnArgs {
    /// The transaction, as JSON; - reads it from standard input
    #[arg(value_name = "TXN")]
    txn: String,

    #[command(flatten)]
    client: ClientArgs,
}

fn key(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("a key has a letter at least") } else { Ok(text.into()) }
}

fn revision(text: &str) -> Result<u64, &'static str> {
    text.trim().parse().map_err(|_| "not a revision; write a number like 7")
}

pub(super) async fn run(args: KvArgs) -> Result<ExitCode, Failure> {
    match args.command {
        KvCommand::Get(args) => get(args).await,
        KvCommand::Put(args) => put(args).await,
        KvCommand::Del(args) => del(args).await,
        KvCommand::Txn(args) => txn(args).await,
        KvCommand::Watch(args) => watch::run(args).await,
    }
}

/// An argument, or all of standard input if that is `-`.
fn argument_or_stdin(text: String) -> Result<Bytes, Failure> {
    if text != "-" {
        return Ok(text.into());
    }
    let mut all = Vec::new();
    let most = broadcast_store::keys::MAX_REQUEST as u64 * 2;
    let read = io::stdin().lock().take(most + 1).read_to_end(&mut all);
    read.map_err(|error| Failure::other(format!("cannot read standard input: {error}")))?;
    if all.len() as u64 > most {
        return Err(Failure::other(format!("standard input has more than {most} bytes, which no request may have")));
    }
    Ok(all.into())
}

async fn get(args: GetArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(&args.client)?;
    let which = if args.prefix { "prefix" } else { "key" };
    if !args.prefix && args.key.is_empty() {
        return Err(Failure::usage("KEY: a key has a letter at least; with --prefix, nothing stands for all keys"));
    }
    let mut path = format!("/v1/kv?{which}={}&limit={}", url_encoded(&args.key), args.limit);
    if let Some(revision) = args.rev {
        path.extend(["&revision=", &revision.to_string()]);
    }
    if args.keys_only {
        path.push_str("&keys_only=true");
    }
    let answer = client
        .call(ApiRequest { path: &path, expects: "kvs", server_wait: LEADER_WAIT, ..ApiRequest::default() })
        .await?;
    let kvs = answer.json["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_missing = !args.prefix && kvs.is_empty();
    if args.client.json {
        output::print_json(&answer)?;
    } else if args.prefix {
        output::print(show::list(kvs, args.keys_only))?;
        if answer.json["more"] == Value::Bool(true) {
            output::warn(&format!(
                "there are {} keys, and {} are listed: as many as --limit says, and 4 MiB at most",
                answer.number("count"),
                kvs.len()
            ));
        }
    } else if let Some(kv) = kvs.first() {
        let mut value = show::bytes(kv, "value");
        if !args.raw {
            value.push(b'\n');
        }
        output::print(value)?;
    }
    if is_missing {
        return Err(Failure::other(format!("there is no key {}", visible::quote(&args.key))));
    }
    Ok(ExitCode::SUCCESS)
}

async fn put(args: PutArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(&args.client)?;
    let body = argument_or_stdin(args.value)?;
    let mut path = format!("/v1/kv/{}?prev={}", url_encoded(&args.key), args.prev);
    if let Some(lease) = &args.lease {
        path.extend(["&lease=", &url_encoded(lease)]);
    }
    let headers = &[(header::CONTENT_TYPE, "application/octet-stream")];
    let call =
        ApiRequest { method: Method::PUT, path: &path, headers, body, server_wait: LEADER_WAIT, expects: "revision" };
    let answer = client.call(call).await?;
    output::print_response(&args.client, &answer, |answer| {
        let prev = &answer.json["prev"];
        let prev = if prev.is_object() { std::slice::from_ref(prev) } else { &[] };
        format!("revision {}\n{}", answer.number("revision"), show::list(prev, false))
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn del(args: DelArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(&args.client)?;
    let path = format!("/v1/kv/{}?prefix={}&prev={}", url_encoded(&args.key), args.prefix, args.prev);
    let call = ApiRequest {
        method: Method::DELETE,
        path: &path,
        server_wait: LEADER_WAIT,
        expects: "deleted",
        ..ApiRequest::default()
    };
    let answer = client.call(call).await?;
    output::print_response(&args.client, &answer, |answer| {
        let prev = answer.json["prev"].as_array().map(Vec::as_slice).unwrap_or_default();
        format!("deleted {}\n{}", answer.number("deleted"), show::list(prev, false))
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn txn(args: TxnArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(&args.client)?;
    let body = argument_or_stdin(args.txn)?;
    let headers = &[JSON_BODY];
    let call = ApiRequest {
        method: Method::POST,
        path: "/v1/kv",
        headers,
        body,
        server_wait: LEADER_WAIT,
        expects: "succeeded",
    };
    let answer = client.call(call).await?;
    let succeeded = answer.json["succeeded"] == Value::Bool(true);
    output::print_response(&args.client, &answer, |answer| show::txn(&answer.json))?;
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
