//! Changing how a node runs, over HTTP: what it logs, its faults on purpose, and that it leaves. Mounted on the gateway.

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

use crate::{log::Control, settings::explain};

/// As the log says why a node leaves.
pub(super) const TOLD_TO_LEAVE: &str = "told to leave, over HTTP";

/// What an operator may change on `node`, whose log is controlled by `log`, and which leaves once `leave` is notified.
pub(super) fn routes(node: &Handle, log: Control, leave: &Arc<Notify>) -> Routes {
    const OPERATE: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Operate);
    let log_routes = get(get_log).put(set_log).with_state(Arc::new(log));
    let faults_routes = get(get_faults).put(set_faults).with_state(node.clone());
    let leave_route = post(begin_to_leave).with_state((node.clone(), Arc::clone(leave)));
    Routes::new(
        include_str!("openapi.json"),
        [
            ("/v1/log", OPERATE, log_routes),
            ("/v1/faults", OPERATE, faults_routes),
            ("/v1/leave", RequiredScopes::scope(Scope::Operate), leave_route),
        ],
    )
}

/// What is logged.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Log {
    filter: String,
}

/// `GET /v1/log`
async fn get_log(State(log): State<Arc<Control>>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    Ok(json_response(StatusCode::OK, &Log { filter: log.get() }))
}

/// `PUT /v1/log`
async fn set_log(
    State(log): State<Arc<Control>>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let wanted: Log = read_json(request, "{\"filter\": \"broadcast=debug\"}").await?;
    let Log { filter } = &wanted;
    audit.describe(format_args!("filter = {}", quote(filter)));
    log.set(filter).map_err(|error| Problem::bad_request(format_args!("filter = {}: {error}", quote(filter))))?;
    Ok(json_response(StatusCode::OK, &wanted))
}

/// The faults, or none.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct OnPurpose {
    // With this it must be there, be it null.
    #[serde(deserialize_with = "Option::deserialize")]
    faults: Option<String>,
}

/// `GET /v1/faults`
async fn get_faults(State(node): State<Handle>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    Ok(current(&node).await)
}

async fn current(node: &Handle) -> Response {
    let faults = node.faults().await.map(|faults| faults.to_string());
    json_response(StatusCode::OK, &OnPurpose { faults })
}

/// `PUT /v1/faults`
async fn set_faults(
    State(node): State<Handle>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let OnPurpose { faults } = read_json(request, "{\"faults\": \"loss=0.3\"}, or null for none").await?;
    audit.describe(format_args!("faults = {}", faults.as_deref().map_or_else(|| "null".into(), quote)));
    let faults = faults.map(|text| text.parse::<Faults>()).transpose().map_err(Problem::bad_request)?;
    match node.set_faults(faults).await {
        Ok(()) => Ok(current(&node).await),
        Err(error @ FaultsError::Config(_)) => Err(Problem::bad_request(error)),
        Err(error @ FaultsError::Off) => Err(Problem::new(StatusCode::CONFLICT, explain(&error.to_string()))),
        Err(FaultsError::Stopped) => Err(Problem::stopped()),
    }
}

/// Who leaves.
#[derive(Serialize)]
struct Leaving<'a> {
    leaving: &'a str,
}

/// `POST /v1/leave`
async fn begin_to_leave(State((node, leave)): State<(Handle, Arc<Notify>)>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    leave.notify_one();
    Ok(json_response(StatusCode::ACCEPTED, &Leaving { leaving: node.name() }))
}
