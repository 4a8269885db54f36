//! The callee's side: connections that come, and the calls in them.

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
    body::{Incoming, Outgoing},
    bounds::Place,
    config::{CALLS_OF_SESSION, CONNECT, GRACE, HEADS, LONGEST, REFUSAL, SEND_BUFFER, SESSION_WINDOW, WINDOW},
    encrypted::Encrypted,
    error::Refusal,
    frames::Frames,
    handshake::{FIRST, HandshakeError, Identity, MAX_MESSAGE, Refused, Responder, VERSION},
    members,
    noise::Psk,
    service::{self, Answer, Kind},
    socket,
};

/// How a call says how many milliseconds it may take.
pub(crate) const TIMEOUT: &str = "timeout-ms";
/// How a refusal says its number.
pub(crate) const CODE: &str = "code";
/// The status of a refusal by the service itself. All others are this module's own.
pub(crate) const REFUSED: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// Who has called, and what it proved that with.
struct Session {
    calls: h2::server::Connection<Encrypted<TcpStream>, Bytes>,
    caller: Identity,
    psk: Psk,
    /// What happened since the caller was found to be a member.
    events: Subscription<Event>,
    _place: Place<NodeName>,
}

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
enum AcceptError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("a session of {0} was refused: {1}")]
    Refused(NodeName, Refused),
    #[error("what follows the handshake cannot be read: {0}")]
    Preface(#[from] h2::Error),
}

/// Serves a connection to its end. No `async fn`, as that would be compiled with whoever starts sessions, instead of once
/// with this crate.
pub(crate) fn begin(inner: Arc<Inner>, stream: std::net::TcpStream, from: SocketAddr) {
    tokio::spawn(serve(inner, stream, from));
}

async fn serve(inner: Arc<Inner>, stream: std::net::TcpStream, from: SocketAddr) {
    let Some(place) = inner.bounds.handshakes.take(host_network(from.ip())) else {
        inner.figures.refused();
        return debug!(%from, "a session was refused: too many handshakes at once");
    };
    let accepted = timeout(CONNECT, accept(&inner, stream, from)).await;
    drop(place);
    let session = match accepted {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            inner.figures.refused();
            return debug!(%from, %error, "a connection did not become a session");
        }
        Err(_) => {
            inner.figures.refused();
            return debug!(%from, "a connection did not become a session within {CONNECT:?}");
        }
    };
    let caller = session.caller.name.clone();
    debug!(%from, %caller, "a session was opened");
    let counted = inner.figures.session_served();
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
    if first != FIRST || version != VERSION || len > MAX_MESSAGE {
        return Err(HandshakeError::Unreadable.into());
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    let keys = inner.keys.borrow().clone();
    let responder = Responder::new(&keys.psks, &inner.label, &message)?;
    let caller = responder.caller.clone();
    let events = inner.node.events_from_now();
    let admitted = match inner.admits(&responder, &keys, from).await {
        Ok(()) if !inner.bounds.sessions.has_room(&caller.name) => Err(Refused::Full),
        admitted => admitted,
    };
    let full = || AcceptError::Refused(caller.name.clone(), Refused::Full);
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
        .max_concurrent_streams(CALLS_OF_SESSION)
        .max_header_list_size(HEADS)
        .max_send_buffer_size(SEND_BUFFER);
    // Whoever has only recorded a first message gets no further than this, and takes no place of whom it recorded.
    let calls = builder.handshake(Encrypted::new(stream, Frames::new(state))).await?;
    let place = inner.bounds.sessions.take(caller.name.clone()).ok_or_else(full)?;
    Ok(Session { calls, caller, psk, events, _place: place })
}

async fn answer_calls(inner: &Arc<Inner>, session: Session, from: SocketAddr) -> Result<(), h2::Error> {
    let Session { mut calls, caller, psk, events, _place } = session;
    let gone = members::gone(events, caller.clone(), Arc::downgrade(inner));
    pin!(gone);
    let (mut keys, mut stop) = (inner.keys.clone(), inner.stop.subscribe());
    let mut end_at = None;
    loop {
        let far = Instant::now() + LONGEST;
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
                    end_at = Some(Instant::now() + GRACE);
                }
            }
            () = &mut gone, if end_at.is_none() => {
                calls.graceful_shutdown();
                end_at = Some(Instant::now() + GRACE);
            }
            _ = stop.wait_for(|stop| *stop), if end_at.is_none() => {
                calls.graceful_shutdown();
                end_at = Some(Instant::now() + GRACE);
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
        return say(&mut respond, StatusCode::NOT_FOUND);
    };
    let Some(place) = service.share.calls.take(caller.name.clone()) else {
        inner.figures.refused();
        return say(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
    };
    let _counted = inner.figures.call_served();
    let deadline = time_for(&head.headers).map(|time| Instant::now() + time);
    // What has no end has to be answered some time.
    let by = deadline.unwrap_or_else(|| Instant::now() + LONGEST);
    let room = || service.share.held.none(caller.name.clone());
    let (held, full) = (room(), Arc::new(AtomicBool::new(false)));
    let outgoing = room();
    let request = service::Request { caller, from, deadline, body: Incoming::request(body, held, Arc::clone(&full)) };
    // Where a panic unwinds, a service that panics breaks off its own call only. The program's release build aborts instead.
    let mut work = (service.run)(request);
    let working = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    });
    let worked = select! {
        worked = working => worked,
        () = sleep_until(by) => return say(&mut respond, StatusCode::GATEWAY_TIMEOUT),
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    match worked {
        Some(Ok(Answer(Kind::Whole(bytes)))) => {
            let answer = async |outgoing: Outgoing| drop(outgoing.end(bytes).await);
            send(answer, &mut respond, outgoing, Some(by)).await;
        }
        Some(Ok(Answer(Kind::Stream(stream)))) => {
            // One that goes on for long is in nobody's way.
            let Ok(_permit) = Arc::clone(&inner.bounds.streams).try_acquire_owned() else {
                inner.figures.refused();
                return say(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
            };
            drop(place);
            send(stream, &mut respond, outgoing, deadline).await;
        }
        // It has not got what it was called with.
        Some(Err(_)) if full.load(Ordering::Relaxed) => {
            inner.figures.refused();
            say(&mut respond, StatusCode::SERVICE_UNAVAILABLE);
        }
        Some(Err(refusal)) => refuse(&mut respond, &refusal),
        None => {
            debug!("a service has panicked");
            say(&mut respond, StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
}

/// Sends an answer, until its time is over.
async fn send<F: Future<Output = ()>>(
    answer: impl FnOnce(Outgoing) -> F,
    respond: &mut SendResponse<Bytes>,
    place: Place<NodeName>,
    deadline: Option<Instant>,
) {
    let Ok(stream) = respond.send_response(Response::new(()), false) else { return };
    select! {
        () = answer(Outgoing::answer(stream, place)) => {}
        () = elapsed(deadline) => {}
    }
}

/// An answer that is nothing but its status.
fn say(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // Whom it cannot be said to needs to hear nothing.
    let _ = respond.send_response(response, true);
}

fn refuse(respond: &mut SendResponse<Bytes>, refusal: &Refusal) {
    let mut response = Response::new(());
    *response.status_mut() = REFUSED;
    response.headers_mut().insert(CODE, refusal.code.into());
    let end = (0..=refusal.text.len().min(REFUSAL)).rev().find(|end| refusal.text.is_char_boundary(*end));
    let text = &refusal.text[..end.unwrap_or_default()];
    if let Ok(mut stream) = respond.send_response(response, false) {
        // It fits in the window of a call that has sent nothing yet.
        let _ = stream.send_data(Bytes::copy_from_slice(text.as_bytes()), true);
    }
}

fn time_for(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(TIMEOUT)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis).min(LONGEST))
}

async fn elapsed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
