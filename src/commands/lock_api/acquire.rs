//! Acquires locks: one response when the lock is granted, or server-sent events while the client waits and holds it.
//!
//! A client that disconnects while it waits loses its place in the queue. Once the lock is granted, only its session and its
//! token count. The end of the connection means nothing then, since a connection may end for any reason.

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
    client::{self, EnqueueOutcome, Owner, Waiter},
    message::{EntryChange, LockQuery},
};
use serde::{Deserialize, Serialize};
use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{
    events::{ClientGone, EventSender, accepts_events, response},
    json::{SessionParams, parse_mode, parse_session},
    parse_name,
    problem::problem,
};
use crate::{
    commands::store_api::json::{bytes, id_text, lease_text},
    store::NodeStore,
};

/// How often a waiter is told how many are ahead of it, at most.
const AHEAD_INTERVAL: Duration = Duration::from_secs(1);
/// How much longer that takes for each one ahead.
const AHEAD_EXTRA: Duration = Duration::from_millis(10);
/// A longer wait, in seconds, has no limit.
const LONGEST_WAIT: f64 = 1e9;

/// The body of a request for locks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AcquireRequest {
    names: Vec<String>,
    session: SessionRef,
    mode: Option<String>,
    permits: Option<u64>,
    wait: Option<f64>,
    value: Option<String>,
    value_base64: Option<String>,
}

/// The session for a lock: the id of one that exists, or the parameters of a new one.
#[derive(Deserialize)]
#[serde(untagged)]
enum SessionRef {
    Existing(String),
    New(SessionParams),
}

/// The lock is granted.
#[derive(Serialize)]
struct GrantedBody {
    token: u64,
    names: Vec<String>,
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    store: String,
}

/// The request waits in the queue.
#[derive(Serialize)]
struct QueuedBody {
    token: u64,
    session: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u32>,
    ahead: u64,
}

/// The lock is lost.
#[derive(Serialize)]
struct LostBody {
    reason: &'static str,
}

/// A valid request.
struct Acquisition {
    lock_request: client::AcquireRequest,
    /// The TTL of a new session.
    ttl: Option<u32>,
    /// How long to wait; as long as it takes, if none.
    wait: Option<Duration>,
}

const EXAMPLE: &str = "{\"names\": [\"jobs/nightly\"], \"session\": {\"ttl\": 10}, \"wait\": 5}";

fn check(store: &NodeStore, request: AcquireRequest) -> Result<Acquisition, Problem> {
    let AcquireRequest { names, session, mode, permits, wait, value, value_base64 } = request;
    let owner = match session {
        SessionRef::Existing(text) => Owner::Session(parse_session(&text)?),
        SessionRef::New(params) => Owner::New(params.config(store.session_config())?),
    };
    let ttl = match &owner {
        Owner::Session(_) => None,
        Owner::New(config) => Some(config.ttl),
    };
    let names = names.iter().map(|text| parse_name(text)).collect::<Result<Vec<_>, _>>()?;
    let wait = match wait {
        None => None,
        Some(wait) if wait >= 0.0 => (wait < LONGEST_WAIT).then(|| Duration::from_secs_f64(wait)),
        Some(wait) => {
            return Err(Problem::bad_request(format_args!("wait = {wait}: write seconds, 0 or more")));
        }
    };
    let waits = wait.is_none_or(|wait| !wait.is_zero());
    let value = bytes("value", value, value_base64)?.unwrap_or_default();
    let mode = parse_mode(mode.as_deref(), permits)?;
    let lock_request = client::AcquireRequest { mode, value, waits, ..client::AcquireRequest::new(owner, names) };
    Ok(Acquisition { lock_request, ttl, wait })
}

/// `POST /v1/locks`
pub(super) async fn acquire(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let wants_events = accepts_events(request.headers());
    let request: AcquireRequest = read_json(request, EXAMPLE).await?;
    audit.describe(request.names.join(", "));
    let acquisition = check(&store, request)?;
    if wants_events { with_events(&store, acquisition).await } else { without_events(&store, acquisition).await }
}

/// Answers once the lock is granted, or refused.
async fn without_events(
    store: &NodeStore,
    Acquisition { lock_request, ttl, wait }: Acquisition,
) -> Result<Response, Problem> {
    let granted = store.run_locks(async move |locks| {
        let names = lock_request.names.clone();
        let waiter = locks.acquire(lock_request, wait).await?;
        let granted = granted_body(&locks, &waiter, &names, ttl).await?;
        Ok((granted, waiter))
    });
    let (granted, mut waiter) = granted.await.map_err(problem)?;
    // A client that has disconnected before this does not get the lock.
    waiter.detach();
    Ok(json_response(StatusCode::OK, &granted))
}

async fn granted_body(
    locks: &LockClient,
    waiter: &Waiter,
    names: &[broadcast_lock::Name],
    ttl: Option<u32>,
) -> Result<GrantedBody, LockError> {
    Ok(GrantedBody {
        token: waiter.token(),
        names: names.iter().map(ToString::to_string).collect(),
        session: lease_text(waiter.session()),
        ttl,
        store: id_text(locks.store().id().await?),
    })
}

/// Answers at once, with a stream of events.
async fn with_events(store: &NodeStore, acquisition: Acquisition) -> Result<Response, Problem> {
    let (sender, events) = EventSender::new();
    let work = async move |locks: LockClient| {
        // A client that is gone hears nothing more.
        let _ = wait_and_hold(&locks, acquisition, &sender).await;
    };
    store.spawn_locks(work).await.map_err(|error| problem(error.into()))?;
    Ok(response(events))
}

/// Acquires the lock and sends all events, until the lock is refused or lost.
async fn wait_and_hold(
    locks: &LockClient,
    Acquisition { lock_request, ttl, wait }: Acquisition,
    events: &EventSender,
) -> Result<(), ClientGone> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    let names = lock_request.names.clone();
    let timed_out = async || match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    };
    let enqueued = select! {
        enqueued = locks.enqueue(lock_request) => enqueued,
        () = events.gone() => return Err(ClientGone),
        // A try without waiting has no time limit of its own.
        () = timed_out(), if wait.is_some_and(|wait| !wait.is_zero()) => {
            return events.refuse(LockError::Taken { holders: locks.holders(&names).await }).await;
        }
    };
    let mut waiter = match enqueued {
        Ok(EnqueueOutcome::Queued(waiter)) => waiter,
        Ok(EnqueueOutcome::Taken(holders)) => return events.refuse(LockError::Taken { holders }).await,
        Err(error) => return events.refuse(error).await,
    };
    let (mut ahead, token) = (None, waiter.token());
    let mut next_look = Instant::now();
    while !waiter.is_granted() {
        let look = async {
            sleep_until(next_look).await;
            count_ahead(locks, token).await
        };
        select! {
            biased;
            granted = waiter.granted() => {
                if let Err(error) = granted {
                    return events.refuse(error).await;
                }
            }
            () = events.gone() => return Err(ClientGone),
            () = timed_out() => {
                let given_up = waiter.give_up().await;
                let error = match given_up {
                    Ok(()) => LockError::Taken { holders: locks.holders(&names).await },
                    Err(error) => error,
                };
                return events.refuse(error).await;
            }
            now = look => {
                // Counting costs more for whoever is far behind, who also has more time.
                next_look = Instant::now() + AHEAD_INTERVAL + AHEAD_EXTRA * u32::try_from(now.unwrap_or_default()).unwrap_or_default();
                let Some(now) = now.filter(|now| Some(*now) != ahead) else { continue };
                ahead = Some(now);
                let session = lease_text(waiter.session());
                events.send("queued", &QueuedBody { token: waiter.token(), session, ttl, ahead: now }).await?;
            }
        }
    }
    match granted_body(locks, &waiter, &names, ttl).await {
        Ok(granted) => {
            events.send("granted", &granted).await?;
            waiter.detach();
        }
        Err(error) => return events.refuse(error).await,
    }
    let reason = select! {
        change = waiter.lost() => match change {
            EntryChange::Released => "it was released",
            EntryChange::Forced => "somebody took it away",
            EntryChange::Expired => "nobody kept its session alive",
            _ => "its session has ended",
        },
        () = events.gone() => return Err(ClientGone),
    };
    events.send("lost", &LostBody { reason }).await
}

/// How many are ahead in the queue, if the request still waits.
async fn count_ahead(locks: &LockClient, token: u64) -> Option<u64> {
    locks.query(&LockQuery::Ahead(token)).await.ok()?
}
