//! Changing how a node runs.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast::{Faults, FaultsError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    App, LogFilter, body,
    problem::{self, Problem},
    query,
};

/// A body is at most this long, in bytes.
const MAX_BODY: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    filter: String,
}

/// `GET /v1/log`
pub(super) async fn log(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    Ok(problem::answer(StatusCode::OK, &json!({ "filter": filter(&app)?.get() })))
}

/// `PUT /v1/log`
pub(super) async fn set_log(State(app): State<Arc<App>>, uri: Uri, body: Body) -> Result<Response, Problem> {
    query::none(&uri)?;
    let Log { filter: wanted } = read(&app, body, "{\"filter\": \"broadcast=debug\"}").await?;
    filter(&app)?.set(&wanted).map_err(|error| Problem::bad_request(format_args!("filter {wanted:?}: {error}")))?;
    Ok(problem::answer(StatusCode::OK, &json!({ "filter": wanted })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    // With this it must be there, be it null.
    #[serde(deserialize_with = "Option::deserialize")]
    faults: Option<String>,
}

/// `GET /v1/faults`
pub(super) async fn faults(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let faults = app.node.faults().await.map(|faults| faults.to_string());
    Ok(problem::answer(StatusCode::OK, &json!({ "faults": faults })))
}

/// `PUT /v1/faults`
pub(super) async fn set_faults(State(app): State<Arc<App>>, uri: Uri, body: Body) -> Result<Response, Problem> {
    query::none(&uri)?;
    let Wanted { faults: wanted } = read(&app, body, "{\"faults\": \"loss=0.3\"}, or null for none").await?;
    let wanted = wanted.map(|text| text.parse::<Faults>()).transpose().map_err(Problem::bad_request)?;
    match app.node.set_faults(wanted).await {
        Ok(()) => faults(State(app), uri).await,
        Err(error @ FaultsError::Config(_)) => Err(Problem::bad_request(error)),
        Err(error @ FaultsError::Off) => Err(Problem::new(StatusCode::CONFLICT, error)),
        Err(FaultsError::Stopped) => Err(Problem::stopped()),
    }
}

fn filter(app: &App) -> Result<&dyn LogFilter, Problem> {
    let none = || Problem::new(StatusCode::NOT_FOUND, "the log of this program cannot be changed here");
    app.config.log.as_deref().ok_or_else(none)
}

/// Reads a small body of JSON; `like` shows what one looks like.
async fn read<T: DeserializeOwned>(app: &App, sent: Body, like: &str) -> Result<T, Problem> {
    let sent = body::whole(app, sent, MAX_BODY).await?.ok_or_else(|| {
        let detail = format!("the body is too long; send {like}, {MAX_BODY} bytes at most");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with("limit", MAX_BODY)
    })?;
    body::object(&sent).map_err(|error| {
        let problem = Problem::bad_request(format_args!("{error}; send {like}"));
        problem.with("line", error.line()).with("column", error.column())
    })
}
