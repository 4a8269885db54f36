//! Server-sent events about locks.

use std::time::Duration;

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response},
};
use broadcast_lock::LockError;
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use super::{super::sse, problem::problem};

/// The longest silence.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How many events wait for a slow client.
const MAX_QUEUED: usize = 4;

/// Whether a client wants events, and not one response.
pub(super) fn accepts_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accepts.split(',').any(|each| each.split(';').next().is_some_and(|kind| kind.trim() == "text/event-stream"))
}

/// Sends events to one client.
pub(super) struct EventSender(mpsc::Sender<String>);

/// The client has disconnected.
pub(super) struct ClientGone;

impl EventSender {
    pub(super) fn new() -> (Self, mpsc::Receiver<String>) {
        let (sender, events) = mpsc::channel(MAX_QUEUED);
        (Self(sender), events)
    }

    /// Waits until the client disconnects.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }

    /// Sends an event with this name.
    pub(super) async fn send(&self, name: &str, data: &impl Serialize) -> Result<(), ClientGone> {
        self.send_text(name, &sse::json(data)).await
    }

    /// Sends the event that refuses a request.
    pub(super) async fn refuse(&self, error: LockError) -> Result<(), ClientGone> {
        let body = problem(error).into_response().into_body().collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        self.send_text("refused", &String::from_utf8_lossy(&body)).await
    }

    async fn send_text(&self, name: &str, data: &str) -> Result<(), ClientGone> {
        self.0.send(sse::event(None, Some(name), data)).await.map_err(|_| ClientGone)
    }
}

/// A response with these events, and with something to keep the connection alive.
pub(super) fn response(events: mpsc::Receiver<String>) -> Response {
    sse::response(futures_util::stream::unfold(events, async |mut events| {
        let text = match timeout(KEEP_ALIVE_INTERVAL, events.recv()).await {
            Ok(text) => text?,
            Err(_) => sse::KEEP_ALIVE.into(),
        };
        Some((text, events))
    }))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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
