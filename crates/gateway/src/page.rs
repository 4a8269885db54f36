//! What the node serves about itself: the page for people, and the API's description for programs.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use rand::{TryRng, rngs::SysRng};

use super::{
    app::App,
    problem::{Problem, json_text_response},
};

const PAGE: &str = include_str!("page.html");
/// A part of the page's script, and its placeholder in the page.
const TIMELINE: &str = include_str!("timeline.js");
const TIMELINE_SCRIPT: &str = "TIMELINE_SCRIPT";
/// The placeholder for the scripts of mounted routes.
const MOUNTED_SCRIPTS: &str = "MOUNTED_SCRIPTS";
/// The placeholder for the nonce, which differs in each response.
const NONCE: &str = "NONCE";

/// `GET /`
pub(super) async fn page(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let mut nonce = [0; 16];
    SysRng
        .try_fill_bytes(&mut nonce)
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the system has no source of randomness"))?;
    let nonce = BASE64_STANDARD.encode(nonce);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", &policy),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
    ];
    let page = PAGE.replace(NONCE, &nonce).replacen(TIMELINE_SCRIPT, TIMELINE, 1);
    Ok((headers, page.replacen(MOUNTED_SCRIPTS, &app.scripts, 1)).into_response())
}

/// `GET /openapi.json`
pub(super) async fn openapi(State(app): State<Arc<App>>) -> Response {
    json_text_response(StatusCode::OK, Bytes::clone(&app.openapi))
}
