//! The client side: makes calls over the sessions of the [pool](crate::pool).

use std::{sync::Arc, time::Duration};

use broadcast::NodeName;
use bytes::Bytes;
use h2::{Reason, client::ResponseFuture};
use http::{Request, Response, StatusCode};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Inner,
    body::{IncomingBody, OutgoingBody},
    config::{CONNECT_TIMEOUT, MAX_CALL_TIME, MAX_REFUSAL_TEXT},
    error::{CallError, Refusal},
    pool::{self, SessionKind},
    server::{CODE, REFUSED, TIMEOUT},
    service::is_method,
};

/// How many sessions are tried for a call that has not been sent yet.
const TRIES: usize = 3;

/// A call whose request is being sent; made by [`Sessions::open`](crate::Sessions::open).
///
/// ```no_run
/// # use broadcast_session::Sessions;
/// # async fn f(sessions: Sessions) -> Result<(), Box<dyn std::error::Error>> {
/// let mut call = sessions.open("node2", "upload", None).await?;
/// call.outgoing.send("first piece".into()).await?;
/// let mut response = call.finish("last piece").await?;
/// println!("{:?}", response.incoming.all(1024).await?);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Call {
    /// The body of the request.
    pub outgoing: OutgoingBody,
    to: String,
    method: String,
    answer: ResponseFuture,
    deadline: Option<(Instant, Duration)>,
    permit: OwnedSemaphorePermit,
}

/// The response to a call. [`Call`] has an example.
#[derive(Debug)]
pub struct CallResponse {
    /// The body of the response.
    pub incoming: IncomingBody,
    /// The session is in use until the body has come.
    _permit: OwnedSemaphorePermit,
}

impl Call {
    /// Sends the last piece of the request, and returns the response as soon as the service begins it.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn finish(mut self, data: impl Into<Bytes>) -> Result<CallResponse, CallError> {
        // A service may respond before it has read the whole request.
        let sent = self.outgoing.finish(data.into()).await;
        let to = self.to.clone();
        match (self.split().await, sent) {
            (Err(CallError::Broken { .. }), Err(error)) => Err(CallError::of_body(&to, error)),
            (answered, _) => Ok(answered?.1),
        }
    }

    /// Waits until the service begins its response, and returns the request's body, to go on with, and the response.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn split(self) -> Result<(OutgoingBody, CallResponse), CallError> {
        let Self { outgoing, to, method, answer, deadline, permit } = self;
        let answer = async { answer.await.map_err(|error| of_h2(&to, &error)) };
        let response = match deadline {
            Some((at, within)) => {
                timeout_at(at, answer).await.map_err(|_| CallError::Deadline { to: to.clone(), within })??
            }
            None => answer.await?,
        };
        let (head, body) = response.into_parts();
        let incoming = IncomingBody::response(body);
        if head.status == StatusCode::OK {
            return Ok((outgoing, CallResponse { incoming, _permit: permit }));
        }
        Err(refused(to, method, deadline, Response::from_parts(head, incoming)).await)
    }
}

/// The error of a call, by the status of its response.
async fn refused(
    to: String,
    method: String,
    deadline: Option<(Instant, Duration)>,
    response: Response<IncomingBody>,
) -> CallError {
    let (head, mut body) = response.into_parts();
    match head.status {
        StatusCode::NOT_FOUND => CallError::NoService { to, method },
        StatusCode::SERVICE_UNAVAILABLE => CallError::Busy(to),
        StatusCode::GATEWAY_TIMEOUT => {
            CallError::Deadline { to, within: deadline.map_or(MAX_CALL_TIME, |(_, time)| time) }
        }
        REFUSED => {
            let code = head.headers.get(CODE).and_then(|code| code.to_str().ok()?.parse().ok()).unwrap_or_default();
            let text = match timeout(CONNECT_TIMEOUT, body.all(MAX_REFUSAL_TEXT)).await {
                Ok(Ok(text)) => String::from_utf8_lossy(&text).into_owned(),
                _ => "in words that did not arrive".into(),
            };
            CallError::Refused { to, refusal: Refusal { code, text } }
        }
        StatusCode::INTERNAL_SERVER_ERROR => {
            CallError::Broken { to, problem: "the service has failed; see the log there".into() }
        }
        status => CallError::Broken { to, problem: format!("it answers {status}") },
    }
}

fn of_h2(to: &str, error: &h2::Error) -> CallError {
    match error.reason() {
        // The node has not looked at the call.
        Some(Reason::REFUSED_STREAM) => CallError::Busy(to.into()),
        // The node ends the session, and this call is not among those that it still answers.
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => {
            CallError::Unreachable { to: to.into(), problem: "its session ended before it took the call".into() }
        }
        _ => CallError::Broken { to: to.into(), problem: error.to_string() },
    }
}

/// Calls a service. With a deadline, the response has to be complete by then. If this fails, the call has not begun.
pub(crate) async fn call(
    inner: &Arc<Inner>,
    to: &str,
    method: &str,
    deadline: Option<(Instant, Duration)>,
    kind: SessionKind,
) -> Result<Call, CallError> {
    if !is_method(method) {
        return Err(CallError::NoService { to: to.into(), method: method.into() });
    }
    let begin = begin(inner, to, method, deadline, kind);
    match deadline {
        Some((at, within)) => timeout_at(at, begin).await.unwrap_or_else(|_| {
            let problem = format!("no session with it had room for one more call within {within:?}");
            Err(CallError::Unreachable { to: to.into(), problem })
        }),
        None => begin.await,
    }
}

async fn begin(
    inner: &Arc<Inner>,
    to: &str,
    method: &str,
    deadline: Option<(Instant, Duration)>,
    kind: SessionKind,
) -> Result<Call, CallError> {
    let peer = (NodeName::from(to), kind);
    if peer.0 == inner.me.name {
        return Err(CallError::SelfCall(to.into()));
    }
    let mut problem = String::new();
    // A session may have ended unnoticed. Nothing has been sent on it, so another one is tried.
    for _ in 0..TRIES {
        let session = pool::session(inner, &peer).await?;
        problem = match session.room().await {
            Ok((mut requests, permit)) => {
                let request = request(method, deadline).map_err(|error| {
                    let problem = format!("it cannot be called: {error}");
                    CallError::Unreachable { to: to.into(), problem }
                })?;
                match requests.send_request(request, false) {
                    Ok((answer, stream)) => {
                        let (to, method) = (to.into(), method.into());
                        return Ok(Call {
                            outgoing: OutgoingBody::request(stream),
                            to,
                            method,
                            answer,
                            deadline,
                            permit,
                        });
                    }
                    Err(error) => error.to_string(),
                }
            }
            Err(problem) => problem,
        };
        inner.pool.forget(&peer, &session);
    }
    Err(CallError::Unreachable { to: to.into(), problem })
}

fn request(method: &str, deadline: Option<(Instant, Duration)>) -> http::Result<Request<()>> {
    let mut request = Request::post(format!("http://node/{method}"));
    if let Some((at, _)) = deadline {
        let left = u64::try_from(at.saturating_duration_since(Instant::now()).as_millis()).unwrap_or(u64::MAX);
        request = request.header(TIMEOUT, left.max(1));
    }
    request.body(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_a_session_takes_no_more_has_not_begun() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let (client, server) = tokio::join!(h2::client::handshake(near), builder.handshake::<_, Bytes>(far));
        let ((client, connection), mut server) = (client.expect("it is h2"), server.expect("it is h2"));
        tokio::spawn(connection);
        let ask = || Request::post("http://node/method").body(()).expect("a request");
        let mut first = client.clone().ready().await.expect("it is open");
        let (_taken, _stream) = first.send_request(ask(), true).expect("it is open");
        let _respond = server.accept().await.expect("it is open").expect("it is h2");
        let mut second = client.clone().ready().await.expect("it is open");
        let (waiting, _stream) = second.send_request(ask(), true).expect("it is open");
        server.graceful_shutdown();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let error = of_h2("other", &waiting.await.expect_err("it is not taken"));
        assert!(matches!(error, CallError::Unreachable { .. }) && !error.has_begun(), "{error:?}");
    }
}
