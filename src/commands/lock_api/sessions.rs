//! Sessions: what locks are held by, as long as somebody keeps them alive.

use axum::{
    Extension,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{Audited, Problem, answer, no_query, read, read_query};
use broadcast_lock::{
    Refusal,
    message::{List, Question, SessionState, is_session},
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
    Extension(audited): Extension<Audited>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let wanted: Wanted = read(request, "{\"ttl\": 10}, in seconds").await?;
    let config = wanted.checked(store.session_config())?;
    let ttl = config.ttl.into();
    let opened = store.run_locks(async move |locks| Ok((locks.open(config).await?, locks.store().id().await?))).await;
    let (session, id) = opened.map_err(problem)?;
    let session = lease_text(session);
    audited.what(format_args!("session {session}"));
    Ok(answer(StatusCode::OK, &Opened { session: Session { session, ttl }, store: format!("{id:016x}") }))
}

/// `PUT /v1/sessions/SESSION`
pub(super) async fn keep_alive(
    State(store): State<NodeStore>,
    Extension(audited): Extension<Audited>,
    uri: Uri,
) -> Result<Response, Problem> {
    audited.count_together();
    let session = named(&uri)?;
    let kept = store.run_locks(async move |locks| Ok(locks.keep_alive(session).await?)).await.map_err(problem)?;
    let ttl = kept.ok_or_else(|| gone(session))?.as_secs();
    Ok(answer(StatusCode::OK, &Session { session: lease_text(session), ttl }))
}

/// `DELETE /v1/sessions/SESSION`
pub(super) async fn end(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let session = named(&uri)?;
    store.run_locks(async move |locks| locks.end(session).await).await.map_err(problem)?;
    Ok(answer(StatusCode::OK, &Ended { session: lease_text(session) }))
}

/// `GET /v1/sessions/SESSION`
pub(super) async fn get(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let session = named(&uri)?;
    let asked = store.run_locks(async move |locks| locks.ask(&Question::Session(session)).await).await;
    let state: Option<SessionState> = asked.map_err(problem)?;
    let state = state.ok_or_else(|| gone(session))?;
    Ok(answer(StatusCode::OK, &SessionJson::of(&state)))
}

/// `GET /v1/sessions`
pub(super) async fn list(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let [after, most] = read_query(&uri, ["after", "limit"])?;
    let after = after.map(|text| session(&text)).transpose()?;
    let question = Question::Sessions { after, limit: limit(most)? };
    let found = store.run_locks(async move |locks| locks.ask::<List<SessionState>>(&question).await).await;
    let List { entries, more } = found.map_err(problem)?;
    Ok(answer(StatusCode::OK, &Sessions { sessions: entries.iter().map(SessionJson::of).collect(), more }))
}
