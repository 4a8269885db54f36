//! The serving side: accepts sessions, and answers the calls in them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use broadcast::{Event, NodeName, Subscription, host_network};
use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    pin, select,
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use crate::{
    Inner,
    body::{IncomingBody, OutgoingBody},
    config::{
        CONNECT_TIMEOUT, GRACE_PERIOD, MAX_CALL_TIME, MAX_CALLS_PER_SESSION, MAX_HEADER_BYTES, MAX_REFUSAL_TEXT,
        SEND_BUFFER, SESSION_WINDOW, WINDOW,
    },
    encrypted::Encrypted,
    error::Refusal,
    frames::Frames,
    handshake::{HandshakeError, HandshakeRefusal, Identity, MAGIC, MAX_MESSAGE, Responder, VERSION},
    limits::Reservation,
    members,
    noise::Psk,
    service::{self, ResponseBody},
    socket,
};

/// The header with the time that a call may take, in milliseconds.
pub(crate) const TIMEOUT: &str = "timeout-ms";
/// The header with the code of a [`Refusal`].
pub(crate) const CODE: &str = "code";
/// The status of a [`Refusal`] by a service. All other statuses come from this module.
pub(crate) const REFUSED: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// A session with a caller that has proven its key.
struct Session {
    calls: h2::server::Connection<Encrypted<TcpStream>, Bytes>,
    caller: Identity,
    psk: Psk,
    /// The events since the caller was found to be a member.
    events: Subscription<Event>,
    _reservation: Reservation<NodeName>,
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("a session of {0} was refused: {1}")]
    Refused(NodeName, HandshakeRefusal),
    #[error("what follows the handshake cannot be read: {0}")]
    Preface(#[from] h2::Error),
}

/// Serves a connection to its end, in a task of its own. Not an `async fn`: that would be compiled in every crate that starts
/// sessions, not once in this one.
pub(crate) fn spawn(inner: Arc<Inner>, stream: std::net::TcpStream, from: SocketAddr) {
    tokio::spawn(serve(inner, stream, from));
}

async fn serve(inner: Arc<Inner>, stream: std::net::TcpStream, from: SocketAddr) {
    let Some(reservation) = inner.limits.handshakes.take(host_network(from.ip())) else {
        inner.counters.refused();
        return debug!(%from, "a session was refused: too many handshakes at once");
    };
    let accepted = timeout(CONNECT_TIMEOUT, accept(&inner, stream, from)).await;
    drop(reservation);
    let session = match accepted {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            inner.counters.refused();
            return debug!(%from, %error, "a connection did not become a session");
        }
        Err(_) => {
            inner.counters.refused();
            return debug!(%from, "a connection did not become a session within {CONNECT_TIMEOUT:?}");
        }
    };
    let caller = session.caller.name.clone();
    debug!(%from, %caller, "a session was opened");
    let counted = inner.counters.session_served();
    let ended = answer_calls(&inner, session, from).await;
    drop(counted);
    match ended {
        Ok(()) => debug!(%from, %caller, "a session has ended"),
        Err(error) => debug!(%from, %caller, %error, "a session was broken off"),
    }
}

async fn accept(inner: &Inner, stream: std::net::TcpStream, from: SocketAddr) -> Result<Session, AcceptError> {
    let mut stream = TcpStream::from_std(stream)?;
    socket::prepare(&stream);
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [first, version, len @ ..] = head;
    let len = usize::from(u16::from_be_bytes(len));
    if first != MAGIC || version != VERSION || len > MAX_MESSAGE {
        return Err(HandshakeError::Unreadable.into());
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    let keys = inner.keys.borrow().clone();
    let responder = Responder::new(&keys.psks, &inner.label, &message)?;
    let caller = responder.caller.clone();
    let events = inner.node.events_from_now();
    let admitted = match inner.admits(&responder, &keys, from).await {
        Ok(()) if !inner.limits.sessions.has_room(&caller.name) => Err(HandshakeRefusal::Full),
        admitted => admitted,
    };
    let full = || AcceptError::Refused(caller.name.clone(), HandshakeRefusal::Full);
    if let Err(why) = admitted {
        stream.write_all(&responder.refuse(why)?).await?;
        stream.shutdown().await?;
        return Err(AcceptError::Refused(caller.name, why));
    }
    let psk = keys.psks[responder.key].clone();
    let (message, state) = responder.accept(&inner.me)?;
    stream.write_all(&message).await?;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .max_concurrent_streams(MAX_CALLS_PER_SESSION)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER);
    // Whoever only replays a first message gets no further than this, and does not use up the victim's sessions.
    let calls = builder.handshake(Encrypted::new(stream, Frames::new(state))).await?;
    let reservation = inner.limits.sessions.take(caller.name.clone()).ok_or_else(full)?;
    Ok(Session { calls, caller, psk, events, _reservation: reservation })
}

async fn answer_calls(inner: &Arc<Inner>, session: Session, from: SocketAddr) -> Result<(), h2::Error> {
    let Session { mut calls, caller, psk, events, _reservation } = session;
    let departed = members::departed(events, caller.clone(), Arc::downgrade(inner));
    pin!(departed);
    let (mut keys, mut stop) = (inner.keys.clone(), inner.stop.subscribe());
    let mut end_at = None;
    loop {
        let far = Instant::now() + MAX_CALL_TIME;
        select! {
            call = calls.accept() => match call {
                Some(call) => {
                    let (request, respond) = call?;
                    tokio::spawn(answer(Arc::clone(inner), caller.clone(), from, request, respond));
                }
                None => return Ok(()),
            },
            Ok(()) = keys.changed(), if end_at.is_none() => {
                if !keys.borrow_and_update().has(&psk) {
                    calls.graceful_shutdown();
                    end_at = Some(Instant::now() + GRACE_PERIOD);
                }
            }
            () = &mut departed, if end_at.is_none() => {
                calls.graceful_shutdown();
                end_at = Some(Instant::now() + GRACE_PERIOD);
            }
            _ = stop.wait_for(|stop| *stop), if end_at.is_none() => {
                calls.graceful_shutdown();
                end_at = Some(Instant::now() + GRACE_PERIOD);
            }
            () = sleep_until(end_at.unwrap_or(far)), if end_at.is_some() => return Err(Reason::NO_ERROR.into()),
        }
    }
}

/// Answers one call.
async fn answer(
    inner: Arc<Inner>,
    caller: Identity,
    from: SocketAddr,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let Some(service) = inner.service(head.uri.path()) else {
        return respond_with(&mut respond, StatusCode::NOT_FOUND);
    };
    let Some(reservation) = service.quota.calls.take(caller.name.clone()) else {
        inner.counters.refused();
        return respond_with(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
    };
    let _counted = inner.counters.call_served();
    let deadline = time_for(&head.headers).map(|time| Instant::now() + time);
    // A call without a deadline needs a first answer within this time.
    let by = deadline.unwrap_or_else(|| Instant::now() + MAX_CALL_TIME);
    let room = || service.quota.buffered.empty(caller.name.clone());
    let (buffered, full) = (room(), Arc::new(AtomicBool::new(false)));
    let outgoing = room();
    let request =
        service::Request { caller, from, deadline, body: IncomingBody::request(body, buffered, Arc::clone(&full)) };
    // Where panics unwind, a service that panics fails only its own call. The program's release build aborts instead.
    let mut work = (service.run)(request);
    let working = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    });
    let worked = select! {
        worked = working => worked,
        () = sleep_until(by) => return respond_with(&mut respond, StatusCode::GATEWAY_TIMEOUT),
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    match worked {
        Some(Ok(service::Response(ResponseBody::Whole(bytes)))) => {
            let answer = async |outgoing: OutgoingBody| drop(outgoing.end(bytes).await);
            send(answer, &mut respond, outgoing, Some(by)).await;
        }
        Some(Ok(service::Response(ResponseBody::Stream(stream)))) => {
            // A long stream does not count as one of the calls at once.
            let Ok(_permit) = Arc::clone(&inner.limits.streams).try_acquire_owned() else {
                inner.counters.refused();
                return respond_with(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
            };
            drop(reservation);
            send(stream, &mut respond, outgoing, deadline).await;
        }
        // The service did not get the request, as there was no room for it.
        Some(Err(_)) if full.load(Ordering::Relaxed) => {
            inner.counters.refused();
            respond_with(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
        }
        Some(Err(refusal)) => refuse(&mut respond, &refusal),
        None => {
            debug!("a service has panicked");
            respond_with(&mut respond, StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}

/// Sends a response, until its deadline.
async fn send<F: Future<Output = ()>>(
    answer: impl FnOnce(OutgoingBody) -> F,
    respond: &mut SendResponse<Bytes>,
    reservation: Reservation<NodeName>,
    deadline: Option<Instant>,
) {
    let Ok(stream) = respond.send_response(Response::new(()), false) else { return };
    select! {
        () = answer(OutgoingBody::response(stream, reservation)) => {}
        () = elapsed(deadline) => {}
    }
}

/// A response of a status alone.
fn respond_with(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // Fails only if the caller is gone.
    let _ = respond.send_response(response, true);
}

fn refuse(respond: &mut SendResponse<Bytes>, refusal: &Refusal) {
    let mut response = Response::new(());
    *response.status_mut() = REFUSED;
    response.headers_mut().insert(CODE, refusal.code.into());
    let end = (0..=refusal.text.len().min(MAX_REFUSAL_TEXT)).rev().find(|end| refusal.text.is_char_boundary(*end));
    let text = &refusal.text[..end.unwrap_or_default()];
    if let Ok(mut stream) = respond.send_response(response, false) {
        // It fits into the window, as nothing has been sent yet.
        let _ = stream.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
    }
}

fn time_for(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(TIMEOUT)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis).min(MAX_CALL_TIME))
}

async fn elapsed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
