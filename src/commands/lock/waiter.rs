//! Waits for a lock: one request, whose events tell the position in the queue and the grant. If the connection breaks off
//! before the grant, the place in the queue is lost, and the lock is requested again.

use std::{io, sync::Arc, time::Duration};

use hyper::{Method, StatusCode, header};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    super::{
        backoff::Backoff,
        client::{ApiClient, ApiRequest, ApiResponse, ClientError, JSON_BODY, LEADER_WAIT, url_encoded},
        supervisor::{BootTime, BootTimer},
        table::{cell, items},
    },
    deadlines::may_start,
    keep_alive::KeepAlive,
    progress::Progress,
    request::LockRequest,
    stop::StopCondition,
    stream::EventStream,
};
use crate::{failure::Failure, visible};

/// The exit code if the lock was not granted in time, as in timeout(1).
pub(super) const NOT_IN_TIME: u8 = 124;
/// Nodes do not grant a shorter TTL.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// How long it may take to end a session that holds no lock.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A lock that is granted.
#[derive(Debug)]
pub(super) struct Grant {
    /// The event that granted it.
    pub(super) answer: Value,
    pub(super) keep_alive: KeepAlive,
    /// Says when the lock is lost, as long as the connection lasts.
    pub(super) stream: EventStream,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    client: &'a Arc<ApiClient>,
    request: &'a LockRequest,
    progress: &'a Progress,
    stop: StopCondition<'a>,
    /// The session, once it is known. Until the lock is granted, [`leave`](Self::leave) ends it.
    session: Option<String>,
    keep_alive: Option<KeepAlive>,
    /// Who holds the lock instead, if the node says so.
    holders: Value,
}

/// Why the lock was not acquired.
#[derive(Debug)]
pub(super) enum AcquireError {
    /// A signal came.
    Signal(Signal),
    /// The lock was refused, or not granted in time. `holders` have it instead, if the node says so.
    Failed { failure: Failure, holders: Value },
}

/// Why one request failed.
#[derive(Debug)]
enum RequestError {
    /// The next request would fail, too.
    Permanent(Failure),
    /// The next request may succeed, if this one had a place in the queue.
    Transient(String),
    /// The waiter has to stop; this is what it waited for.
    Stopped(String),
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        Self::Permanent(Failure::other(error))
    }
}

impl<'a> Waiter<'a> {
    pub(super) fn new(
        client: &'a Arc<ApiClient>,
        request: &'a LockRequest,
        progress: &'a Progress,
        stop: StopCondition<'a>,
    ) -> Self {
        Self { client, request, progress, stop, session: None, keep_alive: None, holders: Value::Null }
    }

    /// Waits for the grant. If there is none, no session is left behind.
    pub(super) async fn acquire(mut self) -> Result<Grant, AcquireError> {
        let granted = self.wait().await;
        if granted.is_err() {
            self.leave().await;
        }
        match (granted, self.stop.signal()) {
            (Ok(grant), _) => Ok(grant),
            (Err(_), Some(signal)) => Err(AcquireError::Signal(signal)),
            (Err(failure), None) => Err(AcquireError::Failed { failure, holders: self.holders }),
        }
    }

    async fn wait(&mut self) -> Result<Grant, Failure> {
        let began = BootTime::now();
        let (mut backoff, mut was_queued) = (Backoff::default(), false);
        loop {
            let left = self.request.wait.map(|wait| wait.saturating_sub(BootTime::now().since(began)));
            let problem = match self.request_once(left).await {
                Ok(grant) => return Ok(grant),
                Err(RequestError::Permanent(failure)) => return Err(failure),
                Err(RequestError::Stopped(problem)) => return Err(self.not_in_time(&problem)),
                Err(RequestError::Transient(problem)) => problem,
            };
            if self.session.is_some() {
                was_queued = true;
                backoff.reset();
                self.progress.warn(&format!("{problem}; the place in the queue is gone, asking again"));
            } else if !was_queued {
                return Err(Failure::other(problem));
            }
            self.leave().await;
            if left.is_some_and(|left| left.is_zero()) {
                return Err(self.not_in_time(&problem));
            }
            tokio::select! {
                () = sleep(backoff.next()) => {}
                stopped = self.stop.next() => {
                    stopped.map_err(Failure::other)?;
                    return Err(self.not_in_time(&problem));
                }
            }
        }
    }

    /// Ends the session, so that nobody waits behind it.
    async fn leave(&mut self) {
        self.keep_alive = None;
        if let Some(session) = self.session.take() {
            let path = format!("/v1/sessions/{}", url_encoded(&session));
            let request =
                ApiRequest { method: Method::DELETE, path: &path, expects: "session", ..ApiRequest::default() };
            // If this fails, the session expires.
            let _ = timeout(LEAVE_TIMEOUT, self.client.call(request)).await;
        }
    }

    async fn request_once(&mut self, wait: Option<Duration>) -> Result<Grant, RequestError> {
        let client = self.client;
        let node = &client.node;
        let body = self.request.body(wait).to_string().into();
        let headers = &[(header::ACCEPT, "text/event-stream"), JSON_BODY];
        let request = ApiRequest {
            method: Method::POST,
            path: "/v1/locks",
            headers,
            body,
            server_wait: LEADER_WAIT,
            ..ApiRequest::default()
        };
        let sent = BootTime::now();
        let opening = client.send(request);
        tokio::pin!(opening);
        let response = loop {
            tokio::select! {
                response = &mut opening => break response.map_err(|error| self.refused(error))?,
                stopped = self.stop.next() => {
                    stopped?;
                    self.check_stop(|| format!("{node} did not answer"))?;
                }
            }
        };
        let mut stream = EventStream::new(response);
        let timer = BootTimer::new()?;
        let answer = loop {
            if let Some(keep_alive) = &self.keep_alive {
                timer.set(keep_alive.deadline())?;
            }
            let event = tokio::select! {
                event = stream.next() => event.map_err(|problem| self.transient(&problem))?,
                _ = timer.fired() => return Err(self.transient(&self.unconfirmed())),
                () = state_changed(&mut self.keep_alive) => {
                    self.check_session()?;
                    continue;
                }
                stopped = self.stop.next() => {
                    stopped?;
                    let is_queued = self.session.is_some();
                    self.check_stop(|| match is_queued {
                        true => format!("{node} does not say what became of the place in the queue"),
                        false => format!("the voters gave {node} no answer; see broadcast store status whether one leads"),
                    })?;
                    continue;
                }
            };
            let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
            match &*event.name {
                "queued" => {
                    self.note_session(&data, sent)?;
                    self.progress.queued(&data);
                }
                "granted" => {
                    self.note_session(&data, sent)?;
                    data["token"].as_u64().ok_or_else(|| self.not_a_node())?;
                    break data;
                }
                "refused" => {
                    let status =
                        data["status"].as_u64().and_then(|status| StatusCode::from_u16(status.try_into().ok()?).ok());
                    let answer = ApiResponse { status: status.unwrap_or_default(), text: event.data, json: data };
                    return Err(self.refused(ClientError::Problem(answer)));
                }
                _ => {}
            }
        };
        // A command starts only if a keepalive was confirmed lately, so that it has some time.
        while let Some(keep_alive) = self.keep_alive.as_mut()
            && !may_start(BootTime::now(), keep_alive.deadline(), keep_alive.ttl)
        {
            timer.set(keep_alive.deadline())?;
            tokio::select! {
                () = keep_alive.changed() => {}
                _ = timer.fired() => return Err(self.transient(&self.unconfirmed())),
                stopped = self.stop.next() => {
                    stopped?;
                    self.check_stop(|| format!("{node} {}", self.unconfirmed()))?;
                }
            }
            if self.keep_alive.as_mut().is_some_and(|keep_alive| keep_alive.state().has_ended) {
                return Err(self.transient("has ended the session"));
            }
        }
        // From here on the grant owns the session, and its owner ends it.
        let keep_alive = self.keep_alive.take().ok_or_else(|| self.not_a_node())?;
        self.session = None;
        Ok(Grant { answer, keep_alive, stream })
    }

    /// Fails if it is time to stop. After a signal, that is once the session to end is known.
    fn check_stop(&self, waits_for: impl FnOnce() -> String) -> Result<(), RequestError> {
        let can_stop = self.stop.signal().is_some() && self.session.is_some();
        if self.stop.is_over() || can_stop { Err(RequestError::Stopped(waits_for())) } else { Ok(()) }
    }

    /// The failure of a lock that was not granted in time.
    fn not_in_time(&self, why: &str) -> Failure {
        let names = self.progress.names();
        let within = match self.request.wait {
            Some(wait) if !wait.is_zero() => format!("within {wait:?}"),
            _ => "at once".into(),
        };
        Failure::other(format!("{names} was not granted {within}: {}", visible::escaped(why))).with_code(NOT_IN_TIME)
    }

    /// Learns the session from an event, and keeps it alive from now on.
    fn note_session(&mut self, data: &Value, sent: BootTime) -> Result<(), RequestError> {
        if self.keep_alive.is_none() {
            let session = data["session"].as_str().ok_or_else(|| self.not_a_node())?;
            self.session = Some(session.to_owned());
            let ttl = data["ttl"].as_f64().and_then(|ttl| Duration::try_from_secs_f64(ttl).ok());
            let ttl = ttl.filter(|ttl| *ttl >= SHORTEST_TTL).ok_or_else(|| self.not_a_node())?.min(self.request.ttl);
            self.keep_alive = Some(KeepAlive::start(self.client, session.to_owned(), ttl, sent)?);
        }
        self.check_stop(String::new)
    }

    fn check_session(&mut self) -> Result<(), RequestError> {
        let has_ended = self.keep_alive.as_mut().is_some_and(|keep_alive| keep_alive.state().has_ended);
        if has_ended { Err(self.session_ended()) } else { Ok(()) }
    }

    /// The error for a session that has ended: it expired, or somebody ended it.
    fn session_ended(&self) -> RequestError {
        if self.keep_alive.as_ref().is_none_or(|keep_alive| keep_alive.deadline() <= BootTime::now()) {
            return self.transient(&self.unconfirmed());
        }
        let names = self.progress.names();
        RequestError::Permanent(Failure::other(format!(
            "somebody ended the session that waited for {names}; ask again"
        )))
    }

    /// Why the deadline has passed.
    fn unconfirmed(&self) -> String {
        "did not confirm in time that the session lives".into()
    }

    fn transient(&self, problem: &str) -> RequestError {
        RequestError::Transient(format!("{} {problem}", self.client.node))
    }

    fn not_a_node(&self) -> RequestError {
        let node = &self.client.node;
        RequestError::Permanent(Failure::other(format!(
            "what {node} tells of a lock has no session, TTL or token; is it a node?"
        )))
    }

    fn refused(&mut self, error: ClientError) -> RequestError {
        match &error {
            ClientError::Problem(answer) if answer.status == StatusCode::CONFLICT => {
                let names = self.progress.names();
                self.holders = answer.json["holders"].clone();
                let failure = Failure::other(format!("{names} was not granted in time{}", holders(&answer.json)));
                RequestError::Permanent(failure.with_code(NOT_IN_TIME))
            }
            ClientError::Problem(answer) if answer.status == StatusCode::NOT_FOUND && self.session.is_some() => {
                self.session_ended()
            }
            ClientError::Problem(answer)
                if !answer.status.is_server_error() && answer.status != StatusCode::TOO_MANY_REQUESTS =>
            {
                RequestError::Permanent(error.into())
            }
            _ => RequestError::Transient(error.to_string()),
        }
    }
}

/// Waits until the state of the session changes, if there is a session.
async fn state_changed(keep_alive: &mut Option<KeepAlive>) {
    match keep_alive {
        Some(keep_alive) => keep_alive.changed().await,
        None => std::future::pending().await,
    }
}

/// Who holds the lock instead, to end a sentence with.
fn holders(problem: &Value) -> String {
    let holder = |holder: &Value| {
        let label = holder["label"].as_str().filter(|label| !label.is_empty());
        let label = label.map(|label| format!(" ({})", visible::escaped(label))).unwrap_or_default();
        format!("{}{label}, token {}, since {}", cell(&holder["node"]), cell(&holder["token"]), cell(&holder["since"]))
    };
    let holders: Vec<_> = items(&problem["holders"]).map(holder).collect();
    if holders.is_empty() { String::new() } else { format!("; it is held through {}", holders.join("; and through ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_says_who_holds_it() {
        let problem = json!({"holders": [
            {"name": "a", "session": "1", "token": 12, "node": "node2", "label": "nightly\n", "since": "2026-11-29T20:00:00Z"},
            {"name": "a", "session": "2", "token": 13, "node": "node3", "label": "", "since": "2026-11-29T20:00:01Z"},
        ]});
        assert_eq!(
            holders(&problem),
            "; it is held through node2 (nightly\\n), token 12, since 2026-11-29T20:00:00Z; and through node3, token 13, since \
             2026-11-29T20:00:01Z"
        );
        assert_eq!(holders(&json!({})), "");
    }
}
