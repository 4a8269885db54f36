//! Watching keys: server-sent events (WHATWG HTML, 9.2), one for each revision that changes any of them.
//!
//! The id of an event is the store's and the revision; whoever comes back with the last one (`Last-Event-ID`) is told what
//! comes after it, at whatever node. A revision that is compacted, or of another store, is answered 410, and whoever is too
//! slow is told `gone`: then the keys are to be read, and watched from there. The store waits for slow watchers, and keeps
//! nothing for them.

use std::{
    convert::Infallible,
    fmt::{self, Write as _},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use broadcast_gateway::{Problem, read_query};
use broadcast_store::{
    Error, StoreError,
    keys::{CancelReason, KeyEvent, KeyRange, Range, Watch, WatchEvent},
};
use futures_util::stream;
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use super::{flag, json::Kv, number, problem::problem};
use crate::store::NodeStore;

/// How long nothing is said at most; the store says something every 15 s, if it can be reached.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// All changes of a revision.
#[derive(Serialize)]
struct Changes {
    revision: u64,
    events: Vec<Change>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Change {
    Put {
        kv: Kv,
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<Kv>,
    },
    Delete {
        kv: Kv,
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<Kv>,
    },
}

/// Why there is no more.
#[derive(Serialize)]
struct Reason {
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted: Option<u64>,
}

impl Change {
    fn of(event: &KeyEvent) -> Self {
        let (is_delete, prev) = (event.kv.is_tombstone(), event.prev.as_ref().map(Kv::of));
        let kv = Kv::new(&event.kv, !is_delete);
        if is_delete { Self::Delete { kv, prev } } else { Self::Put { kv, prev } }
    }
}

/// How far somebody is: a revision of a store; of any, if that is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    store: u64,
    revision: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.store, self.revision)
    }
}

impl Place {
    /// The id of an event, or a revision alone.
    fn read(text: &str) -> Result<Self, Problem> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let place = match text.split_once('.') {
            Some((store, revision)) if store.len() == 16 && store.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u64::from_str_radix(store, 16).ok().zip(digits(revision))
            }
            Some(_) => None,
            None => digits(text).map(|revision| (0, revision)),
        };
        let (store, revision) = place.ok_or_else(|| {
            let shown = broadcast::config::quote(text);
            Problem::bad_request(format_args!(
                "Last-Event-ID = {shown}: not the id of an event of this stream, like 00e64e03f581bc8e.7"
            ))
        })?;
        Ok(Self { store, revision })
    }
}

/// Somebody who watches.
struct Watching {
    /// What is told before anything else.
    beginning: Option<String>,
    told: mpsc::Receiver<Result<(u64, WatchEvent), StoreError>>,
    ended: bool,
}

impl Watching {
    /// What is told next; nothing when that was all.
    async fn next(&mut self) -> Option<String> {
        if let Some(beginning) = self.beginning.take() {
            return Some(beginning);
        }
        if self.ended {
            return None;
        }
        let Ok(told) = timeout(KEEP_ALIVE, self.told.recv()).await else { return Some(":\n\n".into()) };
        let (name, reason) = match told {
            Some(Ok((store, WatchEvent::Changes { revision, events }))) => {
                let changes = Changes { revision, events: events.iter().map(Change::of).collect() };
                return Some(event(None, Some(Place { store, revision }), &changes));
            }
            Some(Ok((store, WatchEvent::Progress { revision }))) => {
                return Some(format!("id: {}\n\n", Place { store, revision }));
            }
            Some(Ok((_, WatchEvent::Cancelled(cancelled)))) => {
                let (CancelReason::Compacted { compacted, .. } | CancelReason::Slow { compacted, .. }) = cancelled;
                ("gone", Reason { reason: cancelled.to_string(), compacted: Some(compacted) })
            }
            // Voters may be there again, and are asked again.
            Some(Err(StoreError::NoLeader { .. } | StoreError::NoVoters)) => return Some(":\n\n".into()),
            Some(Err(error @ (StoreError::Refused(_) | StoreError::OtherStore { .. }))) => {
                ("gone", Reason { reason: error.to_string(), compacted: None })
            }
            Some(Err(error)) => ("left", Reason { reason: error.to_string(), compacted: None }),
            None => {
                let reason = "this node has left its cluster; ask another one".into();
                ("left", Reason { reason, compacted: None })
            }
        };
        self.ended = true;
        Some(event(Some(name), None, &reason))
    }
}

/// A server-sent event.
fn event(name: Option<&str>, id: Option<Place>, data: &impl Serialize) -> String {
    let mut text = String::new();
    for (field, value) in [("id", id.map(|id| id.to_string())), ("event", name.map(String::from))] {
        if let Some(value) = value {
            let _ = writeln!(text, "{field}: {value}");
        }
    }
    let data = serde_json::to_string(data).expect("events are structs, lists, text and numbers");
    let _ = write!(text, "data: {data}\n\n");
    text
}

/// The place after which to go on.
fn last_heard(headers: &HeaderMap, after: Option<String>) -> Result<Option<Place>, Problem> {
    match headers.get("last-event-id") {
        // What a browser has heard goes on from what the page began with.
        Some(id) => Place::read(&String::from_utf8_lossy(id.as_bytes())).map(Some),
        None => Ok(number("after", after)?.map(|revision| Place { store: 0, revision })),
    }
}

/// `GET /v1/watch`
pub(super) async fn watch(State(store): State<NodeStore>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let [key, prefix, after, prev] = read_query(&uri, ["key", "prefix", "after", "prev"])?;
    let keys = match (key, prefix) {
        (Some(key), None) if !key.is_empty() => KeyRange::one(key),
        (Some(_), None) => return Err(Problem::bad_request("key is empty; name a key, or give prefix")),
        (None, prefix) => KeyRange::prefix(prefix.unwrap_or_default()),
        (Some(_), Some(_)) => return Err(Problem::bad_request("key does not go with prefix; give one of them")),
    };
    let prev_kv = flag("prev", prev.as_deref())?;
    let after = last_heard(&headers, after)?;
    let start_revision = match after {
        Some(Place { revision, .. }) => {
            revision.checked_add(1).ok_or_else(|| Problem::bad_request("there is no revision after this one"))?
        }
        None => 0,
    };
    check_start(&store, start_revision).await?;
    let watch = Watch { keys, start_revision, prev_kv, ..Watch::default() };
    let mut told = store.watch(after.map_or(0, |place| place.store), watch).await.map_err(problem)?;
    // The first tells where it begins, or why it does not.
    let beginning = match told.recv().await {
        Some(Ok((store, WatchEvent::Progress { revision }))) => {
            format!("retry: 1000\nid: {}\n\n", Place { store, revision })
        }
        Some(Err(error)) => return Err(problem(error)),
        other => {
            let detail = format!("the store begins a watch with {other:?}");
            return Err(Problem::new(StatusCode::BAD_GATEWAY, detail));
        }
    };
    let watching = Watching { beginning: Some(beginning), told, ended: false };
    let body = stream::unfold(watching, async |mut watching| {
        let text = watching.next().await?;
        Some((Ok::<_, Infallible>(text), watching))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Whether there still is what comes from this revision on. That it is in the future is no problem.
async fn check_start(store: &NodeStore, start: u64) -> Result<(), Problem> {
    if start == 0 {
        return Ok(());
    }
    let keys = KeyRange::one("\0");
    let look = Range { revision: start, count_only: true, ..Range::in_range(keys) };
    match store.run(async move |store| store.range(look).await).await {
        Ok(_) | Err(StoreError::Refused(Error::FutureRevision { .. })) => Ok(()),
        Err(error) => Err(problem(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let place = Place { store: 0x00e6_4e03_f581_bc8e, revision: 7 };
        assert_eq!(place.to_string(), "00e64e03f581bc8e.7");
        assert_eq!(Place::read(&place.to_string()).ok(), Some(place));
        assert_eq!(Place::read("7").ok(), Some(Place { store: 0, revision: 7 }));
        for bad in ["", ".", "7.", "-1", "+7", "e64e03f581bc8e.7", "00e64e03f581bc8e.", "00e64e03f581bc8e.+7", "x"] {
            assert!(Place::read(bad).is_err(), "{bad}");
        }
    }
}
