//! Keeps a session alive: one keepalive every third of its TTL, and a quick retry if one fails.
//!
//! A slow keepalive is not given up, since it still counts from when it was sent. Another one is sent beside it, in case
//! its connection is dead.

use std::{io, sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    super::{
        client::{ApiClient, ApiRequest, ApiResponse, ClientError},
        supervisor::{BootTime, BootTimer},
    },
    deadlines::expiry,
};

/// How many keepalives may be on their way at once.
const MAX_IN_FLIGHT: usize = 4;
/// The longest pause before a retry.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is known about the session.
#[derive(Clone, Debug)]
pub(super) struct KeepAliveState {
    /// When the last keepalive was sent that a node confirmed.
    pub(super) confirmed: BootTime,
    /// Why the keepalives since then failed.
    pub(super) error: Option<String>,
    /// Whether the session has ended, as a node says.
    pub(super) has_ended: bool,
}

/// Keeps a session alive until this is dropped.
#[derive(Debug)]
pub(super) struct KeepAlive {
    pub(super) session: String,
    pub(super) ttl: Duration,
    state: watch::Receiver<KeepAliveState>,
    task: AbortHandle,
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl KeepAlive {
    /// Starts for a session that a request opened, which was sent at that time.
    pub(super) fn start(client: &Arc<ApiClient>, session: String, ttl: Duration, sent: BootTime) -> io::Result<Self> {
        let (sender, state) = watch::channel(KeepAliveState { confirmed: sent, error: None, has_ended: false });
        let timer = BootTimer::new()?;
        let task = tokio::spawn(keep(Arc::clone(client), session.clone(), ttl, sender, timer)).abort_handle();
        Ok(Self { session, ttl, state, task })
    }

    /// The state now; [`changed`](Self::changed) waits for another one.
    pub(super) fn state(&mut self) -> KeepAliveState {
        self.state.borrow_and_update().clone()
    }

    /// Until when the session surely lives.
    pub(super) fn deadline(&self) -> BootTime {
        expiry(self.state.borrow().confirmed, self.ttl)
    }

    /// Waits until the state changes.
    pub(super) async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The session has ended, as the last state says.
            std::future::pending().await
        }
    }
}

/// The result of one keepalive.
struct Attempt {
    sent: BootTime,
    answer: Result<ApiResponse, ClientError>,
}

async fn keep(
    client: Arc<ApiClient>,
    session: String,
    ttl: Duration,
    state: watch::Sender<KeepAliveState>,
    timer: BootTimer,
) {
    let path: Arc<str> = format!("/v1/sessions/{session}").into();
    let every = ttl / 3;
    let pause = (ttl / 12).min(LONGEST_PAUSE);
    let mut attempts = JoinSet::new();
    let mut next = state.borrow().confirmed + every;
    // By the same clock as the deadline: a machine that was suspended may wake up just in time.
    while timer.set(next).is_ok() {
        tokio::select! {
            Some(Ok(Attempt { sent, answer })) = attempts.join_next() => match answer {
                Ok(_) => {
                    state.send_modify(|state| {
                        state.confirmed = state.confirmed.max(sent);
                        state.error = None;
                    });
                    next = state.borrow().confirmed + every;
                }
                Err(ClientError::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => {
                    state.send_modify(|state| state.has_ended = true);
                    return;
                }
                Err(error) => {
                    state.send_modify(|state| state.error = Some(error.to_string()));
                    next = next.min(BootTime::now() + pause);
                }
            },
            Ok(()) = timer.fired() => {
                next = BootTime::now() + pause * 2;
                if attempts.len() < MAX_IN_FLIGHT {
                    attempts.spawn(attempt(Arc::clone(&client), Arc::clone(&path), ttl));
                }
            }
        }
    }
}

async fn attempt(client: Arc<ApiClient>, path: Arc<str>, ttl: Duration) -> Attempt {
    let sent = BootTime::now();
    let request = ApiRequest { method: Method::PUT, path: &path, expects: "session", ..ApiRequest::default() };
    // A later answer is of no use.
    let answer = timeout(ttl, client.call(request)).await;
    let late =
        |_| Err(ClientError::NoResponse(format!("{} did not answer within {ttl:?}; see the node's log", client.node)));
    Attempt { sent, answer: answer.unwrap_or_else(late) }
}
