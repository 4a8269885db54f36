//! Taking a lock: an answer when it is granted, or events meanwhile (server-sent, WHATWG HTML, 9.2).
//!
//! Whoever goes away while it waits gives up its place. Once the lock is granted, only its session and its token count:
//! that a connection ends means nothing, since it may end for any reason.

use std::time::Duration;

use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use broadcast_gateway::{AuditHandle, Problem, json_response, no_query, read_json};
use broadcast_lock::{
    LockClient, LockError,
    client::{AcquireRequest, EnqueueOutcome, Owner, Waiter},
    message::{EntryChange, LockQuery},
};
use serde::{Deserialize, Serialize};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{
    events::{Gone, Told, accepts_events, stream},
    json::{Wanted, mode, session},
    name,
    problem::problem,
};
use crate::{
    commands::store_api::json::{bytes, lease_text},
    store::NodeStore,
};

/// How often somebody who waits is told how many are ahead, at most.
const AHEAD_EVERY: Duration = Duration::from_secs(1);
/// And how much less often for each that is.
const AHEAD_EACH: Duration = Duration::from_millis(10);
/// The longest that somebody may say it waits: longer is for ever.
const LONGEST: f64 = 1e9;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    names: Vec<String>,
    session: Whose,
    mode: Option<String>,
    permits: Option<u64>,
    wait: Option<f64>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Whose {
    There(String),
    New(Wanted),
}

/// A lock that is granted.
#[derive(Serialize)]
struct Granted {
    token: u64,
    names: Vec<String>,
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    store: String,
}

/// A place that waits.
#[derive(Serialize)]
struct Queued {
    token: u64,
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    ahead: u64,
}

#[derive(Serialize)]
struct Lost {
    reason: &'static str,
}

/// A request, and how long it waits.
struct Checked {
    acquire: AcquireRequest,
    ttl: Option<u32>,
    within: Option<Duration>,
}

const EXAMPLE: &str = "{\"names\": [\"jobs/nightly\"], \"session\": {\"ttl\": 10}, \"wait\": 5}";

fn check(store: &NodeStore, asked: Asked) -> Result<Checked, Problem> {
    let Asked { names, session: whose, mode: how, permits, wait, value, value_base64 } = asked;
    let owner = match whose {
        Whose::There(text) => Owner::Session(session(&text)?),
        Whose::New(wanted) => Owner::New(wanted.checked(store.session_config())?),
    };
    let ttl = match &owner {
        Owner::Session(_) => None,
        Owner::New(config) => Some(config.ttl),
    };
    let names = names.iter().map(|text| name(text)).collect::<Result<Vec<_>, _>>()?;
    let within = match wait {
        None => None,
        Some(wait) if wait >= 0.0 => (wait < LONGEST).then(|| Duration::from_secs_f64(wait)),
        Some(wait) => {
            return Err(Problem::bad_request(format_args!("wait = {wait}: write seconds, 0 or more")));
        }
    };
    let waits = within.is_none_or(|within| !within.is_zero());
    let value = bytes("value", value, value_base64)?.unwrap_or_default();
    let acquire =
        AcquireRequest { mode: mode(how.as_deref(), permits)?, value, waits, ..AcquireRequest::new(owner, names) };
    Ok(Checked { acquire, ttl, within })
}

/// `POST /v1/locks`
pub(super) async fn acquire(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let wants_events = accepts_events(request.headers());
    let asked: Asked = read_json(request, EXAMPLE).await?;
    audit.describe(asked.names.join(", "));
    let checked = check(&store, asked)?;
    if wants_events { events(&store, checked).await } else { once(&store, checked).await }
}

async fn once(store: &NodeStore, Checked { acquire, ttl, within }: Checked) -> Result<Response, Problem> {
    let granted = store.run_locks(async move |locks| {
        let names = acquire.names.clone();
        let waiter = locks.acquire(acquire, within).await?;
        let granted = granted(&locks, &waiter, &names, ttl).await?;
        Ok((granted, waiter))
    });
    let (granted, mut waiter) = granted.await.map_err(problem)?;
    // Whoever has gone until now does not have it.
    waiter.detach();
    Ok(json_response(StatusCode::OK, &granted))
}

async fn granted(
    locks: &LockClient,
    waiter: &Waiter,
    names: &[broadcast_lock::Name],
    ttl: Option<u32>,
) -> Result<Granted, LockError> {
    Ok(Granted {
        token: waiter.token(),
        names: names.iter().map(ToString::to_string).collect(),
        session: lease_text(waiter.session()),
        ttl,
        store: format!("{:016x}", locks.store().id().await?),
    })
}

async fn events(store: &NodeStore, checked: Checked) -> Result<Response, Problem> {
    let (told, events) = Told::new();
    let work = async move |locks: LockClient| {
        // Whoever has gone is not told.
        let _ = wait(&locks, checked, &told).await;
    };
    store.spawn_locks(work).await.map_err(|error| problem(error.into()))?;
    Ok(stream(events))
}

/// Tells somebody what becomes of its request, until there is nothing more to tell.
async fn wait(locks: &LockClient, Checked { acquire, ttl, within }: Checked, told: &Told) -> Result<(), Gone> {
    let deadline = within.map(|within| Instant::now() + within);
    let names = acquire.names.clone();
    let late = async || match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    };
    let placed = select! {
        placed = locks.enqueue(acquire) => placed,
        () = told.gone() => return Err(Gone),
        // To try takes as long as it takes.
        () = late(), if within.is_some_and(|within| !within.is_zero()) => {
            return told.refuse(LockError::Taken { holders: locks.holders(&names).await }).await;
        }
    };
    let mut waiter = match placed {
        Ok(EnqueueOutcome::Queued(waiter)) => waiter,
        Ok(EnqueueOutcome::Taken(holders)) => return told.refuse(LockError::Taken { holders }).await,
        Err(error) => return told.refuse(error).await,
    };
    let (mut ahead, token) = (None, waiter.token());
    let mut look_at = Instant::now();
    while !waiter.is_granted() {
        let look = async {
            sleep_until(look_at).await;
            look_ahead(locks, token).await
        };
        select! {
            biased;
            granted = waiter.granted() => {
                if let Err(error) = granted {
                    return told.refuse(error).await;
                }
            }
            () = told.gone() => return Err(Gone),
            () = late() => {
                let given_up = waiter.give_up().await;
                let error = match given_up {
                    Ok(()) => LockError::Taken { holders: locks.holders(&names).await },
                    Err(error) => error,
                };
                return told.refuse(error).await;
            }
            now = look => {
                // To count takes longer for who is far behind, who has more time.
                look_at = Instant::now() + AHEAD_EVERY + AHEAD_EACH * u32::try_from(now.unwrap_or_default()).unwrap_or_default();
                let Some(now) = now.filter(|now| Some(*now) != ahead) else { continue };
                ahead = Some(now);
                let session = lease_text(waiter.session());
                told.tell("queued", &Queued { token: waiter.token(), session, ttl, ahead: now }).await?;
            }
        }
    }
    match granted(locks, &waiter, &names, ttl).await {
        Ok(granted) => {
            told.tell("granted", &granted).await?;
            waiter.detach();
        }
        Err(error) => return told.refuse(error).await,
    }
    let reason = select! {
        change = waiter.lost() => match change {
            EntryChange::Released => "it was released",
            EntryChange::Forced => "somebody took it away",
            EntryChange::Expired => "nobody kept its session alive",
            _ => "its session has ended",
        },
        () = told.gone() => return Err(Gone),
    };
    told.tell("lost", &Lost { reason }).await
}

/// How many are before a place, if it still waits.
async fn look_ahead(locks: &LockClient, token: u64) -> Option<u64> {
    locks.query(&LockQuery::Ahead(token)).await.ok()?
}
