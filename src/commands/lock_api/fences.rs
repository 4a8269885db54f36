//! Fences: the highest fencing token seen, for a resource that cannot compare tokens itself.

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{Problem, Scope, Scopes, insufficient_scope, json_response, no_query, read_query};
use broadcast_lock::message::{LockCommand, LockQuery};
use serde::Serialize;

use super::{name_in_path, problem::problem};
use crate::{commands::store_api::number, store::NodeStore};

/// A fence that was removed.
#[derive(Serialize)]
struct ForgottenBody {
    name: String,
}

/// The highest token.
#[derive(Serialize)]
struct FenceBody {
    token: u64,
}

/// `PUT /v1/fences/NAME`
pub(super) async fn put(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let [token] = read_query(&uri, ["token"])?;
    let name = name_in_path(uri.path(), "/v1/fences/")?;
    let token = number("token", token)?.ok_or_else(|| Problem::bad_request("token is missing: write token=12"))?;
    store.run_locks(async move |locks| locks.raise_fence(name, token).await).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &FenceBody { token }))
}

/// `DELETE /v1/fences/NAME`
pub(super) async fn forget(
    State(store): State<NodeStore>,
    Extension(scopes): Extension<Scopes>,
    uri: Uri,
) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = name_in_path(uri.path(), "/v1/fences/")?;
    // Without the fence, holders of old tokens get through.
    if !scopes.has(Scope::Operate) {
        return Err(insufficient_scope(Scope::Operate));
    }
    let forget = LockCommand::ForgetFence { name: name.clone() };
    store.run_locks(async move |locks| locks.execute(&forget).await).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &ForgottenBody { name: name.to_string() }))
}

/// `GET /v1/fences/NAME`
pub(super) async fn get(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = name_in_path(uri.path(), "/v1/fences/")?;
    let query = LockQuery::Fence(name.clone());
    let highest: Option<u64> = store.run_locks(async move |locks| locks.query(&query).await).await.map_err(problem)?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format_args!("no token was seen of {name}"));
    Ok(json_response(StatusCode::OK, &FenceBody { token: highest.ok_or_else(unknown)? }))
}
