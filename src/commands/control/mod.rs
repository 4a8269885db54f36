//! The operator's part of the HTTP API: the log filter, injected faults, and leaving the cluster.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
    routing::{get, post},
};
use broadcast::{Faults, FaultsError, Handle, config::quote};
use broadcast_gateway::{AuditHandle, Problem, RequiredScopes, Routes, Scope, json_response, no_query, read_json};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::{log::LogControl, settings::explain};

/// Why a node leaves that was told so over HTTP, as the log says it.
pub(super) const TOLD_TO_LEAVE: &str = "told to leave, over HTTP";

/// The routes for `node`. `log` changes its filter, and the node leaves once `leave` is notified.
pub(super) fn routes(node: &Handle, log: LogControl, leave: &Arc<Notify>) -> Routes {
    const OPERATE: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Operate);
    let log_routes = get(get_log).put(set_log).with_state(Arc::new(log));
    let faults_routes = get(get_faults).put(set_faults).with_state(node.clone());
    let leave_route = post(leave_cluster).with_state((node.clone(), Arc::clone(leave)));
    Routes::new(
        include_str!("openapi.json"),
        [
            ("/v1/log", OPERATE, log_routes),
            ("/v1/faults", OPERATE, faults_routes),
            ("/v1/leave", RequiredScopes::scope(Scope::Operate), leave_route),
        ],
    )
}

/// The log filter.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct LogBody {
    filter: String,
}

/// `GET /v1/log`
async fn get_log(State(log): State<Arc<LogControl>>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    Ok(json_response(StatusCode::OK, &LogBody { filter: log.get() }))
}

/// `PUT /v1/log`
async fn set_log(
    State(log): State<Arc<LogControl>>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let wanted: LogBody = read_json(request, "{\"filter\": \"broadcast=debug\"}").await?;
    let LogBody { filter } = &wanted;
    audit.describe(format_args!("filter = {}", quote(filter)));
    log.set(filter).map_err(|error| Problem::bad_request(format_args!("filter = {}: {error}", quote(filter))))?;
    Ok(json_response(StatusCode::OK, &wanted))
}

/// The injected faults; null, if the node cannot have any.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FaultsBody {
    // Makes the field mandatory, even if it is null.
    #[serde(deserialize_with = "Option::deserialize")]
    faults: Option<String>,
}

/// `GET /v1/faults`
async fn get_faults(State(node): State<Handle>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    Ok(faults_response(&node).await)
}

async fn faults_response(node: &Handle) -> Response {
    let faults = node.faults().await.map(|faults| faults.to_string());
    json_response(StatusCode::OK, &FaultsBody { faults })
}

/// `PUT /v1/faults`
async fn set_faults(
    State(node): State<Handle>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let FaultsBody { faults } = read_json(request, "{\"faults\": \"loss=0.3\"}, or null for none").await?;
    audit.describe(format_args!("faults = {}", faults.as_deref().map_or_else(|| "null".into(), quote)));
    let faults = faults.map(|text| text.parse::<Faults>()).transpose().map_err(Problem::bad_request)?;
    match node.set_faults(faults).await {
        Ok(()) => Ok(faults_response(&node).await),
        Err(error @ FaultsError::Config(_)) => Err(Problem::bad_request(error)),
        Err(error @ FaultsError::Off) => Err(Problem::new(StatusCode::CONFLICT, explain(&error.to_string()))),
        Err(FaultsError::Stopped) => Err(Problem::stopped()),
    }
}

/// The name of the node that leaves.
#[derive(Serialize)]
struct LeaveBody<'a> {
    leaving: &'a str,
}

/// `POST /v1/leave`
async fn leave_cluster(State((node, leave)): State<(Handle, Arc<Notify>)>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    leave.notify_one();
    Ok(json_response(StatusCode::ACCEPTED, &LeaveBody { leaving: node.name() }))
}
