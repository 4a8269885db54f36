//! Logging requests, at level debug: never their query, headers or body, which may have secrets.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument as _, debug, debug_span};

use super::app::App;

/// The middleware that gives each request a span of its own, and logs its outcome.
pub(super) async fn request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let node = app.node.name();
    let span = debug_span!("http_request", node, method = %request.method(), path = request.uri().path());
    if span.is_disabled() {
        return next.run(request).await;
    }
    let (method, uri, began) = (request.method().clone(), request.uri().clone(), Instant::now());
    let answered = async {
        let response = next.run(request).await;
        let (path, status, ms) = (uri.path(), response.status().as_u16(), began.elapsed().as_secs_f64() * 1e3);
        debug!(node, event = "http_request", %method, path, status, ms, "{method} {path}: {status} in {ms:.1} ms");
        response
    };
    answered.instrument(span).await
}
