//! Connections, in HTTP/1.1 (`http1`) and in HTTP/2 (`http2`): how long they last, and how they end.
//!
//! A task of its own serves each. A connection has a timeout to send the head of a request, also of the next one, and is cut
//! off when it takes nothing of a response for a while ([`Timeouts`](super::Timeouts)).

mod client_stream;
mod http1;
mod http2;
mod scheme_stripper;

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::debug;

pub(super) use self::client_stream::ClientStream;
pub(super) use self::http2::Http2Connection;
#[cfg(test)]
pub(super) use self::http2::{MAX_HEAD, MAX_STREAMS, STREAM_WINDOW};
#[cfg(any(test, feature = "fuzzing"))]
pub(super) use self::scheme_stripper::strip_all;
use super::{
    access::ConnectionInfo,
    app::App,
    problem::Problem,
    transport::{Socket, Transport},
};

/// The first bytes of a connection in HTTP/2 (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a refused client may take to read the refusal.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How long a client may go on sending after the last response. Most clients read the response only when they have sent all,
/// and a connection that is closed before that discards it.
const LINGER: Duration = Duration::from_secs(5);

/// What serves the requests of all connections.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    /// Changes when the server stops.
    pub(super) stopping: watch::Receiver<()>,
    /// A permit for each connection, and for each request that a connection has open besides its first.
    pub(super) permits: Arc<Semaphore>,
    /// A permit for each request in HTTP/2 that is being refused.
    pub(super) refusals: Arc<Semaphore>,
}

impl Service {
    /// Serves a connection in HTTP/1.1 to its end, or, without `keep_alive`, one request of it.
    pub(super) async fn serve_http1(self, stream: ClientStream, info: Arc<ConnectionInfo>, keep_alive: bool) {
        http1::serve(stream, info, self, keep_alive).await;
    }

    /// Serves a connection whose first bytes came one by one, and did not show yet whether it is HTTP/2.
    pub(super) async fn serve_undecided(self, mut stream: ClientStream, info: Arc<ConnectionInfo>) {
        let (peer, head) = (info.peer, self.app.config.timeouts.head);
        match timeout(head, stream.begins_with(PREFACE)).await {
            Ok(Ok(true)) => match timeout(head, Http2Connection::accept_first(stream, info, self)).await {
                Ok(Some(http2)) => http2.serve(true).await,
                Ok(None) => {}
                Err(_) => debug!(%peer, "an HTTP/2 connection asked nothing for {head:?}"),
            },
            Ok(Ok(false)) => http1::serve(stream, info, self, true).await,
            Ok(Err(error)) => debug!(%peer, %error, "an HTTP connection broke"),
            Err(_) => debug!(%peer, "an HTTP connection said nothing whole for {head:?}"),
        }
    }

    /// Responds to a request, through the middleware and the router. Handlers find the [`ConnectionInfo`] in its extensions.
    fn respond<B>(
        &self,
        mut request: Request<B>,
        info: &Arc<ConnectionInfo>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<B>
    where
        B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        request.extensions_mut().insert(Arc::clone(info));
        TowerToHyperService::new(self.router.clone()).call(request)
    }

    /// Logs or counts the error with which a connection has ended.
    fn report_error(&self, peer: SocketAddr, cause: Option<&io::Error>, error: &dyn fmt::Display) {
        if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut) {
            let stall = self.app.config.timeouts.stall;
            self.app.counts.cut_off(format_args!("{peer} has read nothing for {stall:?}"));
        } else {
            debug!(%peer, %error, "an HTTP connection broke");
        }
    }
}

/// The refusal of a connection beyond the limit.
fn over_limit() -> Problem {
    let detail = "too many connections are open; close some, or try again in a moment";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1")
}

/// Refuses a connection in HTTP/1.1 before it has sent a request.
pub(super) async fn refuse_http1(mut stream: ClientStream) -> io::Result<()> {
    stream.set_write_timeout(REFUSAL_TIME);
    respond_to_any(stream, &over_limit(), "503 Service Unavailable\r\nretry-after: 1").await
}

/// Refuses a connection without TLS where TLS is needed.
pub(super) async fn refuse_plain(stream: TcpStream) -> io::Result<()> {
    let detail = "this port speaks HTTP over TLS only: write https:// instead of http://";
    let stream = ClientStream::new(Transport::Plain(Socket::new(stream, REFUSAL_TIME)));
    respond_to_any(stream, &Problem::bad_request(detail), "400 Bad Request").await
}

/// Responds without reading a request.
async fn respond_to_any(mut stream: ClientStream, problem: &Problem, status: &str) -> io::Result<()> {
    // Without a content-length: the body ends with the connection.
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n{}",
        problem.body()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
