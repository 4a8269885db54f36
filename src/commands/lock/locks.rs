//! `broadcast locks`: lists who holds which lock and who waits for it, and takes a lock from its holder.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
};

use broadcast_lock::message::MAX_PAGE_ENTRIES;
use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{
    super::{
        client::{ApiClient, ApiRequest, ApiResponse, ClientError, LEADER_WAIT, url_encoded},
        output::{print_response, warn},
        table::{cell, items, table},
    },
    request::name,
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// List the locks that are held, or show who holds and awaits one of them
///
/// TOKEN is the fencing token. Those who wait are listed in the order in which they get it. LEFT is how long a session
/// lives on if it is not heard of any more. To see a lock that is called release, write broadcast locks -- release.
///
/// Exit codes: 0, printed; 1, nobody holds or awaits that lock, or the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        broadcast locks\n  \
        broadcast locks jobs/nightly\n  \
        broadcast locks --prefix jobs/ --json\n  \
        broadcast locks release jobs/nightly --force"
)]
pub(in super::super) struct LocksArgs {
    #[command(subcommand)]
    command: Option<LocksCommand>,

    /// The lock to show [default: list all]
    #[arg(value_name = "NAME", value_parser = name, conflicts_with = "prefix")]
    name: Option<String>,

    /// List only locks whose name begins with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,

    /// List this many locks at most
    #[arg(long, value_name = "N", default_value_t = MAX_PAGE_ENTRIES, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Subcommand)]
enum LocksCommand {
    Release(ReleaseArgs),
}

/// Take a lock from whoever holds it
///
/// The next one gets it at once, while the former holder may not know yet: only its fencing token keeps the two apart.
/// A broadcast lock that loses it that way ends its COMMAND.
///
/// Exit codes: 0, released; 1, nobody holds it, or the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  broadcast locks release jobs/nightly --force")]
struct ReleaseArgs {
    /// The lock
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,

    /// Says that its holder is to lose it
    #[arg(long, required = true)]
    force: bool,

    #[command(flatten)]
    client: ClientArgs,
}

pub(in super::super) async fn run(args: LocksArgs) -> Result<ExitCode, Failure> {
    match args {
        LocksArgs { command: Some(LocksCommand::Release(args)), .. } => release(&args).await,
        LocksArgs { name: Some(name), client, .. } => one(&name, &client).await,
        args => all(&args).await,
    }
}

async fn all(args: &LocksArgs) -> Result<ExitCode, Failure> {
    let prefix = args.prefix.as_ref().map(|prefix| format!("&prefix={}", url_encoded(prefix))).unwrap_or_default();
    let pages = PagedList { path: "/v1/locks", query: &prefix, list: "locks", id: "name" };
    let answer = pages.read(&ApiClient::new(&args.client)?, args.limit, |_| true).await?;
    print_response(&args.client, &answer, locks_table)?;
    if answer.json["more"] == true && !args.client.json {
        warn(&format!("there are more than the {} locks listed; see --limit and --prefix", args.limit));
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(name: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(args)?;
    let path = format!("/v1/locks/{}", url_encoded(name));
    let answer = match client
        .call(ApiRequest { path: &path, server_wait: LEADER_WAIT, expects: "name", ..ApiRequest::default() })
        .await
    {
        Ok(answer) => answer,
        Err(ClientError::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => {
            return Err(Failure::other(format!("nobody holds or awaits {}", visible::quote(name))));
        }
        Err(error) => return Err(error.into()),
    };
    let left = if args.json { HashMap::new() } else { time_left(&client, &answer.json).await };
    print_response(args, &answer, |answer| lock_text(answer, &left))?;
    Ok(ExitCode::SUCCESS)
}

/// How long the sessions of a lock live on, by session. What cannot be found out is left out.
async fn time_left(client: &ApiClient, lock: &Value) -> HashMap<String, String> {
    let mut wanted: HashSet<String> =
        ["holders", "queue"].into_iter().flat_map(|who| items(&lock[who])).map(|who| cell(&who["session"])).collect();
    let mut found = HashMap::new();
    let more = |page: &[Value]| {
        for session in page {
            let id = cell(&session["session"]);
            if wanted.remove(&id) {
                found.insert(id, seconds(&session["left"]));
            }
        }
        !wanted.is_empty()
    };
    // If a page fails, what the pages before had is still right.
    let _ = SESSIONS.read(client, u32::MAX, more).await;
    found
}

/// A list that the API gives in pages of [`MAX_PAGE_ENTRIES`] entries.
pub(super) struct PagedList<'a> {
    pub(super) path: &'a str,
    /// More parameters, each with `&` before it.
    pub(super) query: &'a str,
    /// The field with the entries, and the field of an entry after which the next page begins.
    pub(super) list: &'static str,
    pub(super) id: &'static str,
}

pub(super) const SESSIONS: PagedList<'_> =
    PagedList { path: "/v1/sessions", query: "", list: "sessions", id: "session" };

impl PagedList<'_> {
    /// Reads up to `limit` entries into one response, page after page, as long as `wants_more` says so of each.
    pub(super) async fn read(
        &self,
        client: &ApiClient,
        limit: u32,
        mut wants_more: impl FnMut(&[Value]) -> bool,
    ) -> Result<ApiResponse, ClientError> {
        let mut entries: Vec<Value> = Vec::new();
        loop {
            let left = limit - u32::try_from(entries.len()).unwrap_or(limit).min(limit);
            let mut path = format!("{}?limit={}{}", self.path, left.min(MAX_PAGE_ENTRIES), self.query);
            if let Some(last) = entries.last() {
                path.extend(["&after=", &url_encoded(last[self.id].as_str().unwrap_or_default())]);
            }
            let request =
                ApiRequest { path: &path, server_wait: LEADER_WAIT, expects: self.list, ..ApiRequest::default() };
            let mut answer = client.call(request).await?;
            let page = answer.json[self.list].as_array_mut().map(std::mem::take).unwrap_or_default();
            let is_last = answer.json["more"] != true || page.is_empty() || page.len() >= left as usize;
            let is_enough = !wants_more(&page) || is_last;
            entries.extend(page);
            if is_enough {
                answer.json[self.list] = entries.into();
                answer.text = answer.json.to_string();
                return Ok(answer);
            }
        }
    }
}

async fn release(args: &ReleaseArgs) -> Result<ExitCode, Failure> {
    debug_assert!(args.force, "it has to be given");
    let path = format!("/v1/locks/{}?force=true", url_encoded(&args.name));
    let request = ApiRequest {
        method: Method::DELETE,
        path: &path,
        server_wait: LEADER_WAIT,
        expects: "released",
        ..ApiRequest::default()
    };
    let answer = ApiClient::new(&args.client)?.call(request).await?;
    print_response(&args.client, &answer, |answer| {
        let tokens: Vec<_> = items(&answer.json["released"]).map(cell).collect();
        format!("released {}, token {}\n", visible::escaped(&args.name), tokens.join(", "))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Seconds, to a tenth.
pub(super) fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".into(), |seconds| format!("{seconds:.1} s"))
}

fn locks_table(answer: &ApiResponse) -> String {
    let mut rows = vec![["NAME", "MODE", "TOKEN", "NODE", "SINCE", "WAITING", "LABEL"].map(String::from)];
    for lock in items(&answer.json["locks"]) {
        let holders: Vec<_> = items(&lock["holders"]).collect();
        let nobody = [&Value::Null];
        for holder in if holders.is_empty() { &nobody[..] } else { &holders } {
            let [name, mode, waiting] = ["name", "mode", "waiting"].map(|field| cell(&lock[field]));
            let [token, node, since, label] = ["token", "node", "since", "label"].map(|field| cell(&holder[field]));
            rows.push([name, mode, token, node, since, waiting, label]);
        }
    }
    table(&rows)
}

fn lock_text(answer: &ApiResponse, left: &HashMap<String, String>) -> String {
    let lock = &answer.json;
    let mut rows = vec![["STATE", "TOKEN", "NODE", "SESSION", "LEFT", "SINCE", "LABEL"].map(String::from)];
    let holders = items(&lock["holders"]).map(|holder| ("holds".to_owned(), holder));
    let queue = items(&lock["queue"]).zip(1..).map(|(waiter, place)| (format!("waits, {place}"), waiter));
    for (state, who) in holders.chain(queue) {
        let [token, node, session, since, label] =
            ["token", "node", "session", "since", "label"].map(|field| cell(&who[field]));
        let left = left.get(&session).cloned().unwrap_or_else(|| "-".into());
        rows.push([state, token, node, session, left, since, label]);
    }
    let (name, mode) = (cell(&lock["name"]), cell(&lock["mode"]));
    format!("{name}, {mode}, {} waiting\n\n{}", cell(&lock["waiting"]), table(&rows))
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use serde_json::json;

    use super::*;

    fn answer(json: Value) -> ApiResponse {
        ApiResponse { status: StatusCode::OK, text: json.to_string(), json }
    }

    #[test]
    fn each_holder_has_a_row() {
        let text = locks_table(&answer(json!({"locks": [
            {"name": "jobs/nightly", "mode": "exclusive", "waiting": 2, "holders": [
                {"token": 12, "session": "1f", "node": "node2", "label": "job\n", "since": "2026-11-29T20:00:00Z"}]},
            {"name": "licence", "mode": "semaphore", "waiting": 0, "holders": [
                {"token": 13, "session": "2f", "node": "node1", "label": "a", "since": "2026-11-29T20:00:01Z"},
                {"token": 14, "session": "3f", "node": "node3", "label": "b", "since": "2026-11-29T20:00:02Z"}]},
            {"name": "kept", "mode": "exclusive", "waiting": 1, "holders": []},
        ], "more": false})));
        let expected = "NAME          MODE       TOKEN  NODE   SINCE                 WAITING  LABEL\n\
            jobs/nightly  exclusive  12     node2  2026-11-29T20:00:00Z  2        job\\n\n\
            licence       semaphore  13     node1  2026-11-29T20:00:01Z  0        a\n\
            licence       semaphore  14     node3  2026-11-29T20:00:02Z  0        b\n\
            kept          exclusive  -      -      -                     1        -\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_lock_shows_its_queue_in_order() {
        let left = HashMap::from([("1f".to_owned(), seconds(&json!(7.25)))]);
        let text = lock_text(
            &answer(json!({"name": "a", "mode": "exclusive", "waiting": 1,
                "holders": [{"token": 12, "session": "1f", "node": "node2", "label": "x", "since": "t1"}],
                "queue": [{"token": 15, "session": "2f", "node": "node1", "label": "y", "since": "t2"}]})),
            &left,
        );
        let expected = "a, exclusive, 1 waiting\n\n\
            STATE     TOKEN  NODE   SESSION  LEFT   SINCE  LABEL\n\
            holds     12     node2  1f       7.2 s  t1     x\n\
            waits, 1  15     node1  2f       -      t2     y\n";
        assert_eq!(text, expected);
    }
}
