//! Locks, sessions, elections and fences over HTTP. Mounted on the gateway.
//!
//! Whoever may read messages may see who holds what. To take a lock, and to open a session, is the scope `locks`; to take a
//! lock from somebody else is an operator's business.

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

use super::store_api::rest_of_path;
use crate::store::NodeStore;

/// How many entries a list has, unless it is asked for more or less.
const LIMIT: u32 = 100;

/// What may be done with the locks of a node's cluster.
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

/// The name that is the rest of a path.
fn named(path: &str, before: &str) -> Result<Name, Problem> {
    let rest = rest_of_path(path, before)?;
    let text = String::from_utf8(rest).map_err(|_| Problem::bad_request("the name is not text in UTF-8"))?;
    name(&text)
}

fn name(text: &str) -> Result<Name, Problem> {
    Name::new(text).map_err(Problem::bad_request)
}

/// How many entries a list is asked for.
fn limit(limit: Option<String>) -> Result<u32, Problem> {
    let most = broadcast_lock::message::MAX_PAGE_ENTRIES;
    match super::store_api::number("limit", limit)? {
        None => Ok(LIMIT),
        Some(limit) if (1..=u64::from(most)).contains(&limit) => Ok(u32::try_from(limit).unwrap_or(most)),
        Some(limit) => Err(Problem::bad_request(format_args!("limit = {limit}: it must be from 1 to {most}"))),
    }
}
