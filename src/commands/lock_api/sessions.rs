//! Sessions: what locks are held by, as long as somebody keeps them alive.

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
    json::{Session, SessionJson, Wanted, session},
    limit,
    problem::problem,
};
use crate::{
    commands::store_api::{json::lease_text, rest_of_path},
    store::NodeStore,
};

#[derive(Serialize)]
struct Opened {
    #[serde(flatten)]
    session: Session,
    store: String,
}

#[derive(Serialize)]
struct Ended {
    session: String,
}

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<SessionJson>,
    more: bool,
}

/// The session that a path names.
fn named(uri: &Uri) -> Result<i64, Problem> {
    no_query(uri)?;
    let text = rest_of_path(uri.path(), "/v1/sessions/")?;
    let session = session(&String::from_utf8_lossy(&text))?;
    if is_session(session) { Ok(session) } else { Err(gone(session)) }
}

fn gone(session: i64) -> Problem {
    problem(Refusal::NoSession { session }.into())
}

/// `POST /v1/sessions`
pub(super) async fn open(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let wanted: Wanted = read_json(request, "{\"ttl\": 10}, in seconds").await?;
    let config = wanted.checked(store.session_config())?;
    let ttl = config.ttl.into();
    let opened =
        store.run_locks(async move |locks| Ok((locks.open_session(config).await?, locks.store().id().await?))).await;
    let (session, id) = opened.map_err(problem)?;
    let session = lease_text(session);
    audit.describe(format_args!("session {session}"));
    Ok(json_response(StatusCode::OK, &Opened { session: Session { session, ttl }, store: format!("{id:016x}") }))
}

/// `PUT /v1/sessions/SESSION`
pub(super) async fn keep_alive(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
) -> Result<Response, Problem> {
    audit.aggregate();
    let session = named(&uri)?;
    let kept = store.run_locks(async move |locks| Ok(locks.keep_alive(session).await?)).await.map_err(problem)?;
    let ttl = kept.ok_or_else(|| gone(session))?.as_secs();
    Ok(json_response(StatusCode::OK, &Session { session: lease_text(session), ttl }))
}

/// `DELETE /v1/sessions/SESSION`
pub(super) async fn end(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let session = named(&uri)?;
    store.run_locks(async move |locks| locks.end_session(session).await).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &Ended { session: lease_text(session) }))
}

/// `GET /v1/sessions/SESSION`
pub(super) async fn get(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let session = named(&uri)?;
    let asked = store.run_locks(async move |locks| locks.query(&LockQuery::Session(session)).await).await;
    let state: Option<SessionState> = asked.map_err(problem)?;
    let state = state.ok_or_else(|| gone(session))?;
    Ok(json_response(StatusCode::OK, &SessionJson::of(&state)))
}

/// `GET /v1/sessions`
pub(super) async fn list(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let [after, most] = read_query(&uri, ["after", "limit"])?;
    let after = after.map(|text| session(&text)).transpose()?;
    let query = LockQuery::Sessions { after, limit: limit(most)? };
    let found = store.run_locks(async move |locks| locks.query::<ListPage<SessionState>>(&query).await).await;
    let ListPage { entries, more } = found.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &Sessions { sessions: entries.iter().map(SessionJson::of).collect(), more }))
}
