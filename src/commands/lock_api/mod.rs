//! Locks, sessions, elections and fences over HTTP.
//!
//! Whoever may read messages may see who holds which lock. Acquiring locks and opening sessions needs the scope `locks`;
//! taking a lock from its holder needs `operate`.

mod acquire;
mod elections;
mod events;
mod fences;
mod json;
mod locks;
mod metrics;
mod problem;
mod sessions;

use axum::routing::get;
use broadcast_gateway::{Problem, RequiredScopes, Routes, Scope};
use broadcast_lock::Name;

pub(super) use self::json::mode_fields;
use super::store_api::rest_of_path;
use crate::store::NodeStore;

/// How many entries a list has at most, unless the request has `limit`.
const DEFAULT_LIMIT: u32 = 100;

/// The routes for the locks of a node's cluster.
pub(super) fn routes(store: &NodeStore) -> Routes {
    const LOCKS: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Locks);
    let counted = store.clone();
    let lock = get(locks::get).delete(locks::release).with_state(store.clone());
    let session = get(sessions::get).put(sessions::keep_alive).delete(sessions::end).with_state(store.clone());
    let election = get(elections::leader).put(elections::proclaim).with_state(store.clone());
    let fence = get(fences::get).put(fences::put).delete(fences::forget).with_state(store.clone());
    Routes::new(
        include_str!("openapi.json"),
        [
            ("/v1/locks", LOCKS, get(locks::list).post(acquire::acquire).with_state(store.clone())),
            ("/v1/locks/{*name}", LOCKS, lock),
            ("/v1/sessions", LOCKS, get(sessions::list).post(sessions::open).with_state(store.clone())),
            ("/v1/sessions/{session}", LOCKS, session),
            ("/v1/elections/{*name}", LOCKS, election),
            ("/v1/fences/{*name}", LOCKS, fence),
        ],
    )
    .script(include_str!("tab.js"))
    .metrics(move |sheet| {
        let times = counted.lock_times();
        counted.look_at_locks(|locks| metrics::write(sheet, locks, &times)).unwrap_or(Ok(()))
    })
}

/// The name of a lock in a path, after `prefix`.
fn name_in_path(path: &str, prefix: &str) -> Result<Name, Problem> {
    let rest = rest_of_path(path, prefix)?;
    let text = String::from_utf8(rest).map_err(|_| Problem::bad_request("the name is not text in UTF-8"))?;
    parse_name(&text)
}

/// Parses the name of a lock.
fn parse_name(text: &str) -> Result<Name, Problem> {
    Name::new(text).map_err(Problem::bad_request)
}

/// Parses the most entries that a list may have.
fn parse_limit(limit: Option<String>) -> Result<u32, Problem> {
    let most = broadcast_lock::message::MAX_PAGE_ENTRIES;
    match super::store_api::number("limit", limit)? {
        None => Ok(DEFAULT_LIMIT),
        Some(limit) if (1..=u64::from(most)).contains(&limit) => Ok(u32::try_from(limit).unwrap_or(most)),
        Some(limit) => Err(Problem::bad_request(format_args!("limit = {limit}: it must be from 1 to {most}"))),
    }
}
