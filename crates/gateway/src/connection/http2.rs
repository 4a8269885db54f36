//! Connections in HTTP/2 (RFC 9113), with prior knowledge: many requests at the same time.
//!
//! A client can hold no more than it could with HTTP/1.1. A connection has one permit, and its first request uses it. Each
//! further request that is open at the same time needs a permit of its own, as a connection would, or is answered 503; where
//! many are being answered so, it is reset. What a request has sent and nobody has read is bounded by its window; what is
//! written of its response is bounded by what the client has room for.
//!
//! # What can go wrong
//!
//! - *A client that opens and resets requests without end* (rapid reset): no more than [`MAX_STREAMS`] are worked on. Requests
//!   that are reset before their turn end the connection (`h2` allows 20).
//! - *A client that does not read a response*: the request is reset when nothing of it was taken for as long as a connection in
//!   HTTP/1.1 may stall. The others go on.
//! - *A client that asks nothing* loses its connection, as in HTTP/1.1. One that is gone, or sends half a frame, does not
//!   answer pings.
//! - *Floods of settings, pings or empty frames* are read no faster than their replies are taken, and `h2` ends useless ones.

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

/// How many requests a connection may have open at the same time.
pub(crate) const MAX_STREAMS: u32 = 100;
/// How much of a request may be sent and not read yet, in bytes: the protocol's initial window.
pub(crate) const STREAM_WINDOW: u32 = (64 << 10) - 1;
/// The longest head of a request, in bytes as the protocol counts them: 32 more for each header.
pub(crate) const MAX_HEAD: u32 = 40 << 10;
/// How many headers a head may have, as in HTTP/1.1.
pub(crate) const MAX_HEADERS: usize = 100;

/// Headers for one hop: they belong to HTTP/1.1, and a response in HTTP/2 must not have them (RFC 9113, section 8.2.2).
const HOP_BY_HOP_HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A request, and where its response goes.
type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

/// A connection that has sent its first request.
pub(crate) struct Http2Connection {
    connection: Connection<ClientStream, Bytes>,
    runtime_switch: RuntimeSwitch,
    first: Exchange,
    info: Arc<ConnectionInfo>,
    service: Service,
}

/// What happens to the connection after a response.
#[derive(PartialEq, Eq)]
enum Disposition {
    KeepOpen,
    Close,
}

impl Http2Connection {
    /// Waits for the first request; `None` if the client sends none.
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
                // So all streams can be full, and none waits for another.
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

    /// Whether the first request is a health check.
    pub(crate) fn asks_for_health(&self) -> bool {
        let (request, path) = (&self.first.0, self.first.0.uri().path());
        match *request.method() {
            Method::GET | Method::HEAD => guard::HEALTH_PATHS.contains(&path),
            Method::POST => path == grpc_health::CHECK,
            _ => false,
        }
    }

    /// From now on it is served on another runtime.
    pub(crate) fn moved(self) -> Self {
        self.runtime_switch.switch();
        self
    }

    /// Answers the first request that there are too many connections.
    pub(crate) async fn refuse(mut self) {
        let none = Arc::new(Semaphore::new(0));
        self.service.permits = Arc::clone(&none);
        self.run(true, none).await;
    }

    /// Serves the connection to its end, or, without `keep_alive`, its first request.
    pub(crate) async fn serve(self, keep_alive: bool) {
        self.run(!keep_alive, Arc::new(Semaphore::new(1))).await;
    }

    /// `own_permit` stands for the permit of the connection.
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
                    // An error means that it has panicked: then its request was reset.
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
                // The server stops, or is gone.
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

/// The next request; `None` when the connection has ended. While `open` is the maximum, none is accepted: `h2` counts those
/// that are reset meanwhile.
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

/// Pings the client, and ends when it does not answer.
async fn ping_loop(pings: Option<PingPong>, every: Duration, pong_timeout: Duration) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        sleep(every).await;
        match timeout(pong_timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection reports its own error.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

/// Responds to a request, or says that there are too many.
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
            // A client that does not read this misses little.
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

/// Whether all of a response was sent.
#[derive(PartialEq, Eq)]
enum SendOutcome {
    Complete,
    Partial,
}

/// Responds, and meanwhile drops what comes of the request's body and nobody reads: otherwise it would stay in memory as long
/// as the response takes. More than a window is only taken when all of the response was sent, for [`LINGER`]: some clients
/// report an error if their request is reset before they have sent all, although the response is there (curl 7.88).
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

/// A body that nobody reads to its end.
struct UnreadBody {
    left: Option<oneshot::Receiver<RecvStream>>,
    stream: Option<RecvStream>,
    /// Bytes that were dropped, and for which the window was not opened again.
    dropped: usize,
}

impl UnreadBody {
    fn of(left: oneshot::Receiver<RecvStream>) -> Self {
        Self { left: Some(left), stream: None, dropped: 0 }
    }

    /// The length of the next piece; `None` at the end. Cancel-safe.
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

    /// Drops what comes, and opens no window for more.
    async fn discard_within_window(&mut self) -> Infallible {
        while let Some(length) = self.next().await {
            self.dropped += length;
        }
        pending().await
    }

    /// Drops all that comes, and opens the window for more.
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

/// Sends a response.
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

/// Makes a head fit for HTTP/2. Also says what happens to the connection.
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

/// Why a response was not sent to its end.
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
            // A client must not take a part for the whole.
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
                // The client has reset the stream.
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

/// The body of a request. Reading it opens the window for more.
struct RequestBody {
    /// Set until this is dropped.
    stream: Option<RecvStream>,
    /// Receives the stream then, if it has not ended.
    unread: Option<oneshot::Sender<RecvStream>>,
    /// How much is still to come, where a content-length says so. `h2` checks that it is true.
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
            // Nobody receives it where the response was given up.
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
