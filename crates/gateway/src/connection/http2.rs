//! A connection in HTTP/2 (RFC 9113), with prior knowledge: many requests at the same time.
//!
//! What one client can hold is what it could hold with HTTP/1.1. A connection has a permit, which its first request
//! uses; each further one that is open at the same time needs a permit of its own, as a connection would, or is answered
//! 503 (where many are being told so, it is reset instead). What a request has read ahead is bounded by its window, and
//! what its answer has written ahead by what the client has room for: no more is given to the connection than that.
//!
//! # What can go wrong
//!
//! - *A client that opens and resets requests without end* (rapid reset): no more than [`MAX_STREAMS`] are being worked on;
//!   those that were reset before their turn end the connection (`h2` allows 20).
//! - *A client that leaves an answer where it is*: the request is reset when nothing of it was taken for as long as a
//!   connection in HTTP/1.1 may stall; the others go on.
//! - *A client that asks nothing* loses its connection as in HTTP/1.1; one that is gone, or sends half a frame and no
//!   more, does not answer pings.
//! - *Floods of settings, pings or empty frames* are read no faster than their answers are taken, and `h2` ends those that
//!   are worth nothing.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header},
    response::IntoResponse as _,
};
use bytes::Bytes;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{ClientStream, LINGER, REFUSAL_TIME, Service, over_limit};
use crate::{
    Timeouts,
    access::ConnectionInfo,
    app::App,
    grpc_health, guard,
    transport::{BUFFER, RuntimeSwitch},
};

/// Requests that a connection may have open at the same time.
pub(crate) const MAX_STREAMS: u32 = 100;
/// What a request may have sent, and nobody has read yet, in bytes: what the protocol begins with.
pub(crate) const STREAM_WINDOW: u32 = (64 << 10) - 1;
/// A head may be so long, in bytes, as the protocol counts it: 32 more for each header.
pub(crate) const MAX_HEAD: u32 = 40 << 10;
/// … and have so many headers, as in HTTP/1.1.
pub(crate) const MAX_HEADERS: usize = 100;

/// Headers that are about a connection in HTTP/1.1, and must not be in an answer in HTTP/2 (RFC 9113, section 8.2.2).
const HOP_BY_HOP_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A request, and where its answer goes.
type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

/// A connection that has asked for something.
pub(crate) struct Http2Connection {
    connection: Connection<ClientStream, Bytes>,
    runtime_switch: RuntimeSwitch,
    first: Exchange,
    info: Arc<ConnectionInfo>,
    service: Service,
}

/// What becomes of a connection when a request was answered.
#[derive(PartialEq, Eq)]
enum Disposition {
    KeepOpen,
    Close,
}

impl Http2Connection {
    /// Waits for the first request; nothing if there is none.
    pub(crate) async fn accept_first(
        mut stream: ClientStream,
        info: Arc<ConnectionInfo>,
        service: Service,
    ) -> Option<Self> {
        let runtime_switch = stream.runtime_switch();
        stream.strip_schemes();
        let begun = async {
            let mut connection = Builder::new()
                .max_concurrent_streams(MAX_STREAMS)
                .initial_window_size(STREAM_WINDOW)
                // All of them can be full, and none waits for another.
                .initial_connection_window_size(MAX_STREAMS * STREAM_WINDOW)
                .max_header_list_size(MAX_HEAD)
                .max_send_buffer_size(BUFFER)
                .handshake(stream)
                .await?;
            let first = connection.accept().await.transpose()?;
            Ok::<_, h2::Error>(first.map(|first| (connection, first)))
        };
        match begun.await {
            Ok(begun) => begun.map(|(connection, first)| Self { connection, runtime_switch, first, info, service }),
            Err(error) => {
                service.report_error(info.peer, error.get_io(), &error);
                None
            }
        }
    }

    /// Whether it asks for the node's health.
    pub(crate) fn asks_for_health(&self) -> bool {
        let (request, path) = (&self.first.0, self.first.0.uri().path());
        match *request.method() {
            Method::GET | Method::HEAD => guard::HEALTH_PATHS.contains(&path),
            Method::POST => path == grpc_health::CHECK,
            _ => false,
        }
    }

    /// It is served in another runtime from now on.
    pub(crate) fn moved(self) -> Self {
        self.runtime_switch.switch();
        self
    }

    /// Says why it is not served.
    pub(crate) async fn refuse(mut self) {
        let none = Arc::new(Semaphore::new(0));
        self.service.permits = Arc::clone(&none);
        self.run(true, none).await;
    }

    /// Serves it to its end; or, if it is not to be kept alive, its first request.
    pub(crate) async fn serve(self, keep_alive: bool) {
        self.run(!keep_alive, Arc::new(Semaphore::new(1))).await;
    }

    /// `own_permit` has the permit of the connection itself.
    async fn run(self, once: bool, own_permit: Arc<Semaphore>) {
        let Self { mut connection, first, info, mut service, .. } = self;
        let peer = info.peer;
        let Timeouts { head, stall, .. } = service.app.config.timeouts;
        let mut exchanges = JoinSet::new();
        exchanges.spawn(handle_exchange(first, Arc::clone(&info), service.clone(), Arc::clone(&own_permit)));
        let mut closing = once;
        if once {
            connection.graceful_shutdown();
        }
        let mut ping_loop = pin!(ping_loop(connection.ping_pong(), head, stall));
        let (mut idle, mut is_closing_idle) = (pin!(sleep(head)), false);
        loop {
            tokio::select! {
                accepted = next_exchange(&mut connection, exchanges.len()) => match accepted {
                    Some(Ok((_, mut respond))) if once => respond.send_reset(Reason::REFUSED_STREAM),
                    Some(Ok(next)) => {
                        exchanges.spawn(handle_exchange(next, Arc::clone(&info), service.clone(), Arc::clone(&own_permit)));
                    }
                    Some(Err(error)) => return service.report_error(peer, error.get_io(), &error),
                    None => return,
                },
                Some(ended) = exchanges.join_next() => {
                    // Should it have panicked, its request was reset.
                    if ended.is_ok_and(|disposition| disposition == Disposition::Close) && !closing {
                        closing = true;
                        connection.graceful_shutdown();
                    }
                    idle.as_mut().reset(Instant::now() + head);
                }
                () = &mut idle, if exchanges.is_empty() && !is_closing_idle => {
                    (is_closing_idle, closing) = (true, true);
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                }
                // The server has gone, or says so.
                _ = service.stopping.changed(), if !closing => {
                    closing = true;
                    connection.graceful_shutdown();
                }
                () = &mut ping_loop => {
                    return service.app.counts.cut_off(format_args!("{peer} has not answered a ping for {stall:?}"));
                }
            }
        }
    }
}

/// The next request, where so many are being worked on; nothing when the connection has ended. While they are as many as
/// may be none is taken: `h2` counts those that are reset meanwhile.
async fn next_exchange(
    connection: &mut Connection<ClientStream, Bytes>,
    open: usize,
) -> Option<Result<Exchange, h2::Error>> {
    if open < MAX_STREAMS as usize {
        return connection.accept().await;
    }
    let ended = poll_fn(|context| connection.poll_closed(context)).await;
    ended.err().map(Err)
}

/// Ends when a ping is not answered.
async fn ping_loop(pings: Option<PingPong>, every: Duration, pong_timeout: Duration) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(every).await;
        match timeout(pong_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has an end of its own.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

/// Answers a request, or says that there is no room for it.
async fn handle_exchange(
    (request, mut respond): Exchange,
    info: Arc<ConnectionInfo>,
    service: Service,
    own_permit: Arc<Semaphore>,
) -> Disposition {
    let (app, peer) = (&service.app, info.peer);
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let (unread, left) = oneshot::channel();
    let request = request.map(|body| Body::new(RequestBody::new(body, length, unread)));
    let permit = own_permit.try_acquire_owned().or_else(|_| Arc::clone(&service.permits).try_acquire_owned());
    if permit.is_err() {
        drop(request);
        app.counts.refused.fetch_add(1, Ordering::Relaxed);
        match service.refusals.try_acquire() {
            // Whoever does not read it has not missed much.
            Ok(_place) => {
                let sent = discard_unread_while(send(over_limit().into_response(), respond, peer, app), left);
                drop(timeout(REFUSAL_TIME, sent).await);
            }
            Err(_) => respond.send_reset(Reason::REFUSED_STREAM),
        }
        return Disposition::KeepOpen;
    }
    let answer = async {
        if request.headers().len() > MAX_HEADERS {
            return StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response();
        }
        service.respond(request, &info).await.unwrap_or_else(|never| match never {})
    };
    let answered = async {
        let response = tokio::select! {
            response = answer => response,
            _ = poll_fn(|context| respond.poll_reset(context)) => return (Disposition::KeepOpen, SendOutcome::Partial),
        };
        send(response, respond, peer, app).await
    };
    discard_unread_while(answered, left).await
}

/// Whether an answer has gone to its end.
#[derive(PartialEq, Eq)]
enum SendOutcome {
    Complete,
    Partial,
}

/// Answers, and beside that drops what comes of the request's body and nobody reads, which would be held for as long as the
/// answer takes. More than its window is only taken when all was sent, for [`LINGER`]: some clients take it for an error if
/// their request is reset before they have sent all, although the answer is there (curl 7.88).
async fn discard_unread_while(
    answer: impl Future<Output = (Disposition, SendOutcome)>,
    left: oneshot::Receiver<RecvStream>,
) -> Disposition {
    let (mut answer, mut unread_body) = (pin!(answer), UnreadBody::of(left));
    let (disposition, sent) = tokio::select! {
        answered = &mut answer => answered,
        never = unread_body.discard_within_window() => match never {},
    };
    if sent == SendOutcome::Complete {
        drop(timeout(LINGER, unread_body.discard_rest()).await);
    }
    disposition
}

/// What is left of a body that nobody reads to its end.
struct UnreadBody {
    left: Option<oneshot::Receiver<RecvStream>>,
    stream: Option<RecvStream>,
    /// How much was dropped, and not made room for.
    dropped: usize,
}

impl UnreadBody {
    fn of(left: oneshot::Receiver<RecvStream>) -> Self {
        Self { left: Some(left), stream: None, dropped: 0 }
    }

    /// The next piece; none at the end. Nothing is lost when this is given up.
    async fn next(&mut self) -> Option<usize> {
        if let Some(left) = &mut self.left {
            self.stream = left.await.ok();
            self.left = None;
        }
        let piece = self.stream.as_mut()?.data().await;
        let length = piece.and_then(Result::ok).map(|data| data.len());
        if length.is_none() {
            self.stream = None;
        }
        length
    }

    /// Drops what comes, for as long as it is polled, and makes no room for more.
    async fn discard_within_window(&mut self) -> Infallible {
        while let Some(length) = self.next().await {
            self.dropped += length;
        }
        pending().await
    }

    /// Takes all of it, and drops that.
    async fn discard_rest(&mut self) {
        let mut taken = self.dropped;
        loop {
            if let Some(stream) = &mut self.stream
                && stream.flow_control().release_capacity(taken).is_err()
            {
                return;
            }
            let Some(length) = self.next().await else { return };
            taken = length;
        }
    }
}

/// Sends an answer.
async fn send(
    response: Response<Body>,
    mut respond: SendResponse<Bytes>,
    peer: std::net::SocketAddr,
    app: &App,
) -> (Disposition, SendOutcome) {
    let (response, disposition) = prepare_head(response);
    let (head, body) = response.into_parts();
    let response = Response::from_parts(head, ());
    let stall = app.config.timeouts.stall;
    let sent = async {
        let stream = respond.send_response(response, body.is_end_stream())?;
        if body.is_end_stream() { Ok(()) } else { send_body(stream, body, stall).await }
    };
    match sent.await {
        Ok(()) => return (disposition, SendOutcome::Complete),
        Err(SendError::Stalled) => {
            app.counts.cut_off(format_args!("{peer} has read nothing of an answer for {stall:?}"));
        }
        Err(SendError::Broken(error)) => debug!(%peer, %error, "an answer in HTTP/2 broke off"),
    }
    (disposition, SendOutcome::Partial)
}

/// What HTTP/2 wants of a head, and what becomes of the connection.
fn prepare_head(mut response: Response<Body>) -> (Response<Body>, Disposition) {
    let length = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream());
    let headers = response.headers_mut();
    let closes = headers.remove(header::CONNECTION).is_some_and(|value| value == "close");
    HOP_BY_HOP_HEADERS.iter().for_each(|name| drop(headers.remove(name)));
    if let Some(length) = length {
        headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    let date = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()));
    headers.entry(header::DATE).or_insert(date.expect("a date is of letters that headers carry"));
    (response, if closes { Disposition::Close } else { Disposition::KeepOpen })
}

/// Why an answer was not sent to its end.
enum SendError {
    Stalled,
    Broken(h2::Error),
}

impl From<h2::Error> for SendError {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error)
    }
}

/// Sends a body, no more of it at a time than the client has room for.
async fn send_body(mut stream: SendStream<Bytes>, mut body: Body, stall: Duration) -> Result<(), SendError> {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            reset = poll_fn(|context| stream.poll_reset(context)) => return Err(h2::Error::from(reset?).into()),
        };
        let Some(frame) = frame else { return Ok(stream.send_data(Bytes::new(), true)?) };
        let Ok(frame) = frame else {
            // Half of an answer is not to be taken for one.
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                send_data(&mut stream, data, is_last, stall).await?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
}

async fn send_data(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    stall: Duration,
) -> Result<(), SendError> {
    if data.is_empty() && is_last {
        return Ok(stream.send_data(data, true)?);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match timeout(stall, poll_fn(|context| stream.poll_capacity(context))).await {
                Ok(Some(capacity)) => drop(capacity?),
                // It was reset.
                Ok(None) => return Err(h2::Error::from(Reason::CANCEL).into()),
                Err(_) => {
                    stream.send_reset(Reason::CANCEL);
                    return Err(SendError::Stalled);
                }
            }
        }
        let part = data.split_to(stream.capacity().min(data.len()));
        stream.send_data(part, is_last && data.is_empty())?;
    }
    Ok(())
}

/// A request's body. What was read makes room for more.
struct RequestBody {
    /// Set until it is dropped.
    stream: Option<RecvStream>,
    /// Who gets it then, if it has not ended.
    unread: Option<oneshot::Sender<RecvStream>>,
    /// How much is still to come, if that was announced; `h2` sees to it that it is true.
    length: Option<u64>,
    expects_trailers: bool,
}

impl RequestBody {
    fn new(stream: RecvStream, length: Option<u64>, unread: oneshot::Sender<RecvStream>) -> Self {
        Self { stream: Some(stream), unread: Some(unread), length, expects_trailers: true }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some((stream, unread)) = self.stream.take().zip(self.unread.take())
            && !stream.is_end_stream()
        {
            // Nobody takes it where the answer was given up.
            let _ = unread.send(stream);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { stream: Some(stream), length, expects_trailers, .. } = &mut *self else {
            return Poll::Ready(None);
        };
        match ready!(stream.poll_data(context)) {
            Some(Ok(data)) => {
                *length = length.map(|length| length.saturating_sub(data.len() as u64));
                let released = stream.flow_control().release_capacity(data.len());
                return Poll::Ready(Some(released.map(|()| Frame::data(data))));
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None if !*expects_trailers => return Poll::Ready(None),
            None => {}
        }
        let trailers = ready!(stream.poll_trailers(context)).transpose();
        *expects_trailers = false;
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
