//! `broadcast locks`: who holds what, and who waits for it.

use std::{
    collections::{HashMap, HashSet},
    process::ExitCode,
    time::Duration,
};

use broadcast_lock::message::MAX_PAGE_ENTRIES;
use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{
    super::{
        client::{Answer, Call, Client, Trouble},
        follow::warn,
        look::{list, table, word},
        output,
        tail::encoded,
    },
    ask::name,
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// How long a node may wait for a leader.
pub(super) const WAITS: Duration = Duration::from_secs(15);

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
    let prefix = args.prefix.as_ref().map(|prefix| format!("&prefix={}", encoded(prefix))).unwrap_or_default();
    let pages = Pages { path: "/v1/locks", query: &prefix, list: "locks", id: "name" };
    let answer = pages.read(&Client::of(&args.client)?, args.limit, |_| true).await?;
    show(&args.client, &answer, locks_table)?;
    if answer.json["more"] == true && !args.client.json {
        warn(&format!("there are more than the {} locks listed; see --limit and --prefix", args.limit));
    }
    Ok(ExitCode::SUCCESS)
}

async fn one(name: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let client = Client::of(args)?;
    let path = format!("/v1/locks/{}", encoded(name));
    let answer = match client.call(Call { path: &path, waits: WAITS, has: "name", ..Call::default() }).await {
        Ok(answer) => answer,
        Err(Trouble::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => {
            return Err(Failure::other(format!("nobody holds or awaits {}", visible::shown(name))));
        }
        Err(trouble) => return Err(trouble.into()),
    };
    let left = if args.json { HashMap::new() } else { left(&client, &answer.json).await };
    show(args, &answer, |answer| lock_text(answer, &left))?;
    Ok(ExitCode::SUCCESS)
}

/// How long the sessions of a lock have left. It is not worth a failure.
async fn left(client: &Client, lock: &Value) -> HashMap<String, String> {
    let mut wanted: HashSet<String> =
        ["holders", "queue"].into_iter().flat_map(|who| list(&lock[who])).map(|who| word(&who["session"])).collect();
    let mut found = HashMap::new();
    let more = |page: &[Value]| {
        for session in page {
            let id = word(&session["session"]);
            if wanted.remove(&id) {
                found.insert(id, seconds(&session["left"]));
            }
        }
        !wanted.is_empty()
    };
    // What was found before a page fails is well.
    let _ = SESSIONS.read(client, u32::MAX, more).await;
    found
}

/// A list that the API gives in pages of [`MAX_PAGE_ENTRIES`] entries.
pub(super) struct Pages<'a> {
    pub(super) path: &'a str,
    /// More of the query, each part with `&` before it.
    pub(super) query: &'a str,
    /// The field with the entries, and that of an entry by which the next page begins behind it.
    pub(super) list: &'static str,
    pub(super) id: &'static str,
}

pub(super) const SESSIONS: Pages<'_> = Pages { path: "/v1/sessions", query: "", list: "sessions", id: "session" };

impl Pages<'_> {
    /// So many entries, in one answer, as long as more pages are wanted.
    pub(super) async fn read(
        &self,
        client: &Client,
        limit: u32,
        mut wants_more: impl FnMut(&[Value]) -> bool,
    ) -> Result<Answer, Trouble> {
        let mut entries: Vec<Value> = Vec::new();
        loop {
            let left = limit - u32::try_from(entries.len()).unwrap_or(limit).min(limit);
            let mut path = format!("{}?limit={}{}", self.path, left.min(MAX_PAGE_ENTRIES), self.query);
            if let Some(last) = entries.last() {
                path.extend(["&after=", &encoded(last[self.id].as_str().unwrap_or_default())]);
            }
            let call = Call { path: &path, waits: WAITS, has: self.list, ..Call::default() };
            let mut answer = client.call(call).await?;
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
    let path = format!("/v1/locks/{}?force=true", encoded(&args.name));
    let call = Call { method: Method::DELETE, path: &path, waits: WAITS, has: "released", ..Call::default() };
    let answer = Client::of(&args.client)?.call(call).await?;
    show(&args.client, &answer, |answer| {
        let tokens: Vec<_> = list(&answer.json["released"]).map(word).collect();
        format!("released {}, token {}\n", visible::escaped(&args.name), tokens.join(", "))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An answer, as JSON or in words.
pub(super) fn show(args: &ClientArgs, answer: &Answer, text: impl Fn(&Answer) -> String) -> Result<(), Failure> {
    output::print(if args.json { format!("{}\n", visible::escaped_json(&answer.text)) } else { text(answer) })
}

/// A number of seconds, to a tenth.
pub(super) fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".into(), |seconds| format!("{seconds:.1} s"))
}

fn locks_table(answer: &Answer) -> String {
    let mut rows = vec![["NAME", "MODE", "TOKEN", "NODE", "SINCE", "WAITING", "LABEL"].map(String::from)];
    for lock in list(&answer.json["locks"]) {
        let holders: Vec<_> = list(&lock["holders"]).collect();
        let nobody = [&Value::Null];
        for holder in if holders.is_empty() { &nobody[..] } else { &holders } {
            let [name, mode, waiting] = ["name", "mode", "waiting"].map(|field| word(&lock[field]));
            let [token, node, since, label] = ["token", "node", "since", "label"].map(|field| word(&holder[field]));
            rows.push([name, mode, token, node, since, waiting, label]);
        }
    }
    table(&rows)
}

fn lock_text(answer: &Answer, left: &HashMap<String, String>) -> String {
    let lock = &answer.json;
    let mut rows = vec![["STATE", "TOKEN", "NODE", "SESSION", "LEFT", "SINCE", "LABEL"].map(String::from)];
    let holders = list(&lock["holders"]).map(|holder| ("holds".to_owned(), holder));
    let queue = list(&lock["queue"]).zip(1..).map(|(waiter, place)| (format!("waits, {place}"), waiter));
    for (state, who) in holders.chain(queue) {
        let [token, node, session, since, label] =
            ["token", "node", "session", "since", "label"].map(|field| word(&who[field]));
        let left = left.get(&session).cloned().unwrap_or_else(|| "-".into());
        rows.push([state, token, node, session, left, since, label]);
    }
    let (name, mode) = (word(&lock["name"]), word(&lock["mode"]));
    format!("{name}, {mode}, {} waiting\n\n{}", word(&lock["waiting"]), table(&rows))
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use serde_json::json;

    use super::*;

    fn answer(json: Value) -> Answer {
        Answer { status: StatusCode::OK, text: json.to_string(), json }
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
