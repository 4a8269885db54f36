//! Server-sent events (WHATWG HTML, 9.2) about locks.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use broadcast_lock::LockError;
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use super::problem::problem;

/// How long nothing is said at most.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that wait for who is told.
const EVENTS: usize = 4;

/// Whether somebody wants events, and not one answer.
pub(super) fn accepts_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepts.split(',').any(|each| each.split(';').next().is_some_and(|kind| kind.trim() == "text/event-stream"))
}

/// What somebody is told as it happens; it has gone when this cannot be sent.
pub(super) struct Told(mpsc::Sender<String>);

impl Told {
    pub(super) fn new() -> (Self, mpsc::Receiver<String>) {
        let (told, events) = mpsc::channel(EVENTS);
        (Self(told), events)
    }

    /// Resolves when nobody listens any more.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }

    pub(super) async fn tell(&self, name: &str, data: &impl Serialize) -> Result<(), Gone> {
        let data = serde_json::to_string(data).expect("structs, lists, text and numbers");
        self.0.send(format!("event: {name}\ndata: {data}\n\n")).await.map_err(|_| Gone)
    }

    pub(super) async fn refuse(&self, error: LockError) -> Result<(), Gone> {
        let body = problem(error).into_response().into_body().collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        self.0.send(format!("event: refused\ndata: {}\n\n", String::from_utf8_lossy(&body))).await.map_err(|_| Gone)
    }
}

/// Whoever was to be told.
pub(super) struct Gone;

/// Those events, as an answer without end.
pub(super) fn stream(events: mpsc::Receiver<String>) -> Response {
    let body = futures_util::stream::unfold(events, async |mut events| {
        let text = match timeout(KEEP_ALIVE, events.recv()).await {
            Ok(text) => text?,
            Err(_) => ":\n\n".into(),
        };
        Some((Ok::<_, Infallible>(text), events))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_for_who_accepts_them() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(value));
            accepts_events(&headers)
        };
        assert!(accepts("text/event-stream") && accepts("application/json;q=0.5, text/event-stream; q=1"));
        assert!(!accepts("*/*") && !accepts("text/event-streams") && !accepts_events(&HeaderMap::new()));
    }
}
