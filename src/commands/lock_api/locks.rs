//! Lists and shows locks, and releases them.

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{AuditHandle, Problem, Scope, Scopes, insufficient_scope, json_response, no_query, read_query};
use broadcast_lock::{
    LockError, Refusal,
    message::{ListPage, LockCommand, LockOutcome, LockQuery, LockState},
};
use serde::Serialize;

use super::{
    json::{LockJson, parse_session},
    name_in_path, parse_limit, parse_name,
    problem::problem,
};
use crate::{
    commands::store_api::{flag, number},
    store::NodeStore,
};

/// A page of locks.
#[derive(Serialize)]
struct LocksBody {
    locks: Vec<LockJson>,
    more: bool,
}

/// The tokens of the grants that were released.
#[derive(Serialize)]
struct ReleasedBody {
    released: Vec<u64>,
}

/// `GET /v1/locks`
pub(super) async fn list(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let [prefix, after, limit] = read_query(&uri, ["prefix", "after", "limit"])?;
    let after = after.map(|after| parse_name(&after)).transpose()?;
    let query = LockQuery::Locks { prefix: prefix.unwrap_or_default(), after, limit: parse_limit(limit)? };
    let found = store.run_locks(async move |locks| locks.query::<ListPage<LockState>>(&query).await).await;
    let ListPage { entries, more } = found.map_err(problem)?;
    let locks = entries.iter().map(|lock| LockJson::new(lock, false)).collect();
    Ok(json_response(StatusCode::OK, &LocksBody { locks, more }))
}

/// `GET /v1/locks/NAME`
pub(super) async fn get(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = name_in_path(uri.path(), "/v1/locks/")?;
    let lock = find(&store, name.clone()).await?;
    let free = || Problem::new(StatusCode::NOT_FOUND, format_args!("nobody holds {name}, or waits for it"));
    Ok(json_response(StatusCode::OK, &LockJson::new(&lock.ok_or_else(free)?, true)))
}

/// The lock of this name, if anybody holds it or waits for it.
pub(super) async fn find(store: &NodeStore, name: broadcast_lock::Name) -> Result<Option<LockState>, Problem> {
    store.run_locks(async move |locks| locks.query(&LockQuery::Lock(name)).await).await.map_err(problem)
}

/// `DELETE /v1/locks/NAME`
pub(super) async fn release(
    State(store): State<NodeStore>,
    Extension(scopes): Extension<Scopes>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
) -> Result<Response, Problem> {
    let [token, session, force] = read_query(&uri, ["token", "session", "force"])?;
    let name = name_in_path(uri.path(), "/v1/locks/")?;
    let command = match (number("token", token)?, session, flag("force", force.as_deref())?) {
        (Some(token), Some(session), false) => {
            LockCommand::Release { session: parse_session(&session)?, token, name: Some(name) }
        }
        (None, None, true) if scopes.has(Scope::Operate) => {
            audit.describe("whoever holds it");
            LockCommand::ForceRelease { name }
        }
        (None, None, true) => return Err(insufficient_scope(Scope::Operate)),
        _ => {
            let detail = "say whose it is, with token and session; or take it from whoever holds it, with force=true";
            return Err(Problem::bad_request(detail));
        }
    };
    let done = store.run_locks(async move |locks| locks.execute(&command).await).await;
    match done {
        Ok(LockOutcome::Released { tokens }) => Ok(json_response(StatusCode::OK, &ReleasedBody { released: tokens })),
        Ok(other) => Err(problem(LockError::UnexpectedAnswer(format!("{other:?}")))),
        Err(LockError::Refused(refusal @ Refusal::NotHeld { .. })) => Err(problem(refusal.into())),
        Err(error) => Err(problem(error)),
    }
}
