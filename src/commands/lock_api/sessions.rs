//! Sessions, which hold locks as long as somebody keeps them alive.

use axum::{
    Extension,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{AuditHandle, Problem, json_response, no_query, read_json, read_query};
use broadcast_lock::{
    Refusal,
    message::{ListPage, LockQuery, SessionState, is_session},
};
use serde::Serialize;

use super::{
    json::{SessionBody, SessionJson, SessionParams, parse_session},
    parse_limit,
    problem::problem,
};
use crate::{
    commands::store_api::{
        json::{id_text, lease_text},
        rest_of_path,
    },
    store::NodeStore,
};

/// A session that was opened, and the store that it is in.
#[derive(Serialize)]
struct OpenedBody {
    #[serde(flatten)]
    session: SessionBody,
    store: String,
}

/// A session that was ended.
#[derive(Serialize)]
struct EndedBody {
    session: String,
}

/// A page of sessions.
#[derive(Serialize)]
struct SessionsBody {
    sessions: Vec<SessionJson>,
    more: bool,
}

/// The session in a path.
fn session_in_path(uri: &Uri) -> Result<i64, Problem> {
    no_query(uri)?;
    let text = rest_of_path(uri.path(), "/v1/sessions/")?;
    let session = parse_session(&String::from_utf8_lossy(&text))?;
    if is_session(session) { Ok(session) } else { Err(not_found(session)) }
}

fn not_found(session: i64) -> Problem {
    problem(Refusal::NoSession { session }.into())
}

/// `POST /v1/sessions`
pub(super) async fn open(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let params: SessionParams = read_json(request, "{\"ttl\": 10}, in seconds").await?;
    let config = params.config(store.session_config())?;
    let ttl = config.ttl.into();
    let opened =
        store.run_locks(async move |locks| Ok((locks.open_session(config).await?, locks.store().id().await?))).await;
    let (session, id) = opened.map_err(problem)?;
    let session = lease_text(session);
    audit.describe(format_args!("session {session}"));
    Ok(json_response(StatusCode::OK, &OpenedBody { session: SessionBody { session, ttl }, store: id_text(id) }))
}

/// `PUT /v1/sessions/SESSION`
pub(super) async fn keep_alive(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
) -> Result<Response, Problem> {
    audit.aggregate();
    let session = session_in_path(&uri)?;
    let kept = store.run_locks(async move |locks| Ok(locks.keep_alive(session).await?)).await.map_err(problem)?;
    let ttl = kept.ok_or_else(|| not_found(session))?.as_secs();
    Ok(json_response(StatusCode::OK, &SessionBody { session: lease_text(session), ttl }))
}

/// `DELETE /v1/sessions/SESSION`
pub(super) async fn end(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let session = session_in_path(&uri)?;
    store.run_locks(async move |locks| locks.end_session(session).await).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &EndedBody { session: lease_text(session) }))
}

/// `GET /v1/sessions/SESSION`
pub(super) async fn get(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let session = session_in_path(&uri)?;
    let asked = store.run_locks(async move |locks| locks.query(&LockQuery::Session(session)).await).await;
    let state: Option<SessionState> = asked.map_err(problem)?;
    let state = state.ok_or_else(|| not_found(session))?;
    Ok(json_response(StatusCode::OK, &SessionJson::new(&state)))
}

/// `GET /v1/sessions`
pub(super) async fn list(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let [after, limit] = read_query(&uri, ["after", "limit"])?;
    let after = after.map(|text| parse_session(&text)).transpose()?;
    let query = LockQuery::Sessions { after, limit: parse_limit(limit)? };
    let found = store.run_locks(async move |locks| locks.query::<ListPage<SessionState>>(&query).await).await;
    let ListPage { entries, more } = found.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &SessionsBody { sessions: entries.iter().map(SessionJson::new).collect(), more }))
}
