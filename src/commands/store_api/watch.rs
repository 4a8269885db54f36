//! Watches keys with server-sent events, one for each revision that changes any of them.
//!
//! The id of an event has the id of the store and the revision. A client that comes back with the last id
//! (`Last-Event-ID`) gets what came after it, at any node. If that revision is compacted, or of another store, the answer is
//! 410; a client that is too slow gets the event `gone`. It must then read the keys and watch from there. The store waits
//! for slow watchers, and keeps nothing for them.

use std::{fmt, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
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

use super::{super::sse, flag, json::KeyValueJson, number, problem::problem};
use crate::store::NodeStore;

/// The longest silence. The store reports progress every 15 s, if it can be reached.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// All changes of one revision.
#[derive(Serialize)]
struct RevisionBody {
    revision: u64,
    events: Vec<ChangeBody>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ChangeBody {
    Put {
        kv: KeyValueJson,
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<KeyValueJson>,
    },
    Delete {
        kv: KeyValueJson,
        #[serde(skip_serializing_if = "Option::is_none")]
        prev: Option<KeyValueJson>,
    },
}

/// Why the watch ends.
#[derive(Serialize)]
struct EndBody {
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted: Option<u64>,
}

impl ChangeBody {
    fn new(event: &KeyEvent) -> Self {
        let (is_delete, prev) = (event.kv.is_tombstone(), event.prev.as_ref().map(KeyValueJson::of));
        let kv = KeyValueJson::new(&event.kv, !is_delete);
        if is_delete { Self::Delete { kv, prev } } else { Self::Put { kv, prev } }
    }
}

/// How far a watcher is: a revision of a store, or of any store if `store` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WatchCursor {
    store: u64,
    revision: u64,
}

impl fmt::Display for WatchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.store, self.revision)
    }
}

impl WatchCursor {
    /// Parses the id of an event, or a revision alone.
    fn parse(text: &str) -> Result<Self, Problem> {
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let cursor = match text.split_once('.') {
            Some((store, revision)) if store.len() == 16 && store.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u64::from_str_radix(store, 16).ok().zip(digits(revision))
            }
            Some(_) => None,
            None => digits(text).map(|revision| (0, revision)),
        };
        let (store, revision) = cursor.ok_or_else(|| {
            let shown = broadcast::config::quote(text);
            Problem::bad_request(format_args!(
                "Last-Event-ID = {shown}: not the id of an event of this stream, like 00e64e03f581bc8e.7"
            ))
        })?;
        Ok(Self { store, revision })
    }
}

/// The events of one watcher.
struct WatchStream {
    /// The first event.
    beginning: Option<String>,
    events: mpsc::Receiver<Result<(u64, WatchEvent), StoreError>>,
    ended: bool,
}

impl WatchStream {
    /// The next event; nothing after the last one.
    async fn next(&mut self) -> Option<String> {
        if let Some(beginning) = self.beginning.take() {
            return Some(beginning);
        }
        if self.ended {
            return None;
        }
        let Ok(event) = timeout(KEEP_ALIVE_INTERVAL, self.events.recv()).await else {
            return Some(sse::KEEP_ALIVE.into());
        };
        let (name, end) = match event {
            Some(Ok((store, WatchEvent::Changes { revision, events }))) => {
                let changes = RevisionBody { revision, events: events.iter().map(ChangeBody::new).collect() };
                let cursor = WatchCursor { store, revision }.to_string();
                return Some(sse::event(Some(&cursor), None, &sse::json(&changes)));
            }
            Some(Ok((store, WatchEvent::Progress { revision }))) => {
                return Some(format!("id: {}\n\n", WatchCursor { store, revision }));
            }
            Some(Ok((_, WatchEvent::Cancelled(cancelled)))) => {
                let (CancelReason::Compacted { compacted, .. } | CancelReason::Slow { compacted, .. }) = cancelled;
                ("gone", EndBody { reason: cancelled.to_string(), compacted: Some(compacted) })
            }
            // The store asks again: voters may come back.
            Some(Err(StoreError::NoLeader { .. } | StoreError::NoVoters)) => return Some(sse::KEEP_ALIVE.into()),
            Some(Err(error @ (StoreError::Refused(_) | StoreError::OtherStore { .. }))) => {
                ("gone", EndBody { reason: error.to_string(), compacted: None })
            }
            Some(Err(error)) => ("left", EndBody { reason: error.to_string(), compacted: None }),
            None => {
                let reason = "this node has left its cluster; ask another one".into();
                ("left", EndBody { reason, compacted: None })
            }
        };
        self.ended = true;
        Some(sse::event(None, Some(name), &sse::json(&end)))
    }
}

/// The cursor after which to go on.
fn cursor(headers: &HeaderMap, after: Option<String>) -> Result<Option<WatchCursor>, Problem> {
    match headers.get("last-event-id") {
        // A browser that reconnects has an id, and still the first query.
        Some(id) => WatchCursor::parse(&String::from_utf8_lossy(id.as_bytes())).map(Some),
        None => Ok(number("after", after)?.map(|revision| WatchCursor { store: 0, revision })),
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
    let after = cursor(&headers, after)?;
    let start_revision = match after {
        Some(WatchCursor { revision, .. }) => {
            revision.checked_add(1).ok_or_else(|| Problem::bad_request("there is no revision after this one"))?
        }
        None => 0,
    };
    check_start(&store, start_revision).await?;
    let watch = Watch { keys, start_revision, prev_kv, ..Watch::default() };
    let mut events = store.watch(after.map_or(0, |cursor| cursor.store), watch).await.map_err(problem)?;
    // The first event tells where the watch begins, or why it does not.
    let beginning = match events.recv().await {
        Some(Ok((store, WatchEvent::Progress { revision }))) => {
            format!("retry: 1000\nid: {}\n\n", WatchCursor { store, revision })
        }
        Some(Err(error)) => return Err(problem(error)),
        other => {
            let detail = format!("the store begins a watch with {other:?}");
            return Err(Problem::new(StatusCode::BAD_GATEWAY, detail));
        }
    };
    let watch = WatchStream { beginning: Some(beginning), events, ended: false };
    Ok(sse::response(stream::unfold(watch, async |mut watch| Some((watch.next().await?, watch)))))
}

/// Fails if the history from this revision on is compacted. A future revision is fine.
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
        let cursor = WatchCursor { store: 0x00e6_4e03_f581_bc8e, revision: 7 };
        assert_eq!(cursor.to_string(), "00e64e03f581bc8e.7");
        assert_eq!(WatchCursor::parse(&cursor.to_string()).ok(), Some(cursor));
        assert_eq!(WatchCursor::parse("7").ok(), Some(WatchCursor { store: 0, revision: 7 }));
        for bad in ["", ".", "7.", "-1", "+7", "e64e03f581bc8e.7", "00e64e03f581bc8e.", "00e64e03f581bc8e.+7", "x"] {
            assert!(WatchCursor::parse(bad).is_err(), "{bad}");
        }
    }
}
