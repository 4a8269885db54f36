//! Connections: how long they last, and how they end.
//!
//! Each is served by a task of its own, in HTTP/1.1 (`http1`) or in HTTP/2 (`http2`). It has a time limit to send a
//! request's head, also after an earlier one, and is cut off when it takes nothing of its answer for a while
//! ([`Times`](super::Times)).

mod http1;
mod http2;
mod patient;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::debug;

#[cfg(test)]
pub(super) use self::http2::{MAX_HEAD, STREAMS, WINDOW};
pub(super) use self::http2::{PREFACE, Session};
use self::patient::Patient;
use super::{app::App, problem::Problem};

/// What is read ahead of a request in HTTP/1.1, and written ahead of a client, in bytes.
const BUFFER: usize = 32 << 10;
/// How long a refused client may take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How long a client may go on sending after it was answered for good. Most read the answer only when they have sent
/// all, and a connection that is closed before that takes it back.
const LINGER: Duration = Duration::from_secs(5);

/// What all connections are served with.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) app: Arc<App>,
    pub(super) router: Router,
    /// Changes when the server stops.
    pub(super) stopping: watch::Receiver<()>,
    /// One for each connection, and for each request more that one has open.
    pub(super) permits: Arc<Semaphore>,
    /// One for each request of HTTP/2 that is being told that there is no permit for it.
    pub(super) refusals: Arc<Semaphore>,
}

impl Service {
    /// Serves one in HTTP/1.1, to its end; or one request of it.
    pub(super) async fn serve_http1(self, stream: TcpStream, peer: SocketAddr, keep_alive: bool) {
        let stream = Patient::new(stream, self.app.config.times.stall);
        http1::serve(stream, peer, self, keep_alive).await;
    }

    /// Serves one of which it is not known what it speaks, because it says it byte by byte.
    pub(super) async fn serve_unclear(self, stream: TcpStream, peer: SocketAddr) {
        let super::Times { head, stall, .. } = self.app.config.times;
        let mut stream = Patient::new(stream, stall);
        match timeout(head, stream.begins_with(PREFACE)).await {
            Ok(Ok(true)) => match timeout(head, Session::over(stream, peer, self)).await {
                Ok(Some(session)) => session.serve(true).await,
                Ok(None) => {}
                Err(_) => debug!(%peer, "an HTTP/2 connection asked nothing for {head:?}"),
            },
            Ok(Ok(false)) => http1::serve(stream, peer, self, true).await,
            Ok(Err(error)) => debug!(%peer, %error, "an HTTP connection broke"),
            Err(_) => debug!(%peer, "an HTTP connection said nothing whole for {head:?}"),
        }
    }

    /// A connection has ended with an error.
    fn report(&self, peer: SocketAddr, cause: Option<&io::Error>, error: &dyn fmt::Display) {
        if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::TimedOut) {
            let stall = self.app.config.times.stall;
            self.app.counts.cut_off(format_args!("{peer} has read nothing for {stall:?}"));
        } else {
            debug!(%peer, %error, "an HTTP connection broke");
        }
    }
}

/// Why there is no answer.
fn refusal() -> Problem {
    let detail = "too many connections are open; close some, or try again in a moment";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1")
}

/// Says why it is not served, in HTTP/1.1, to whoever has not asked yet.
pub(super) async fn refuse(stream: TcpStream) -> io::Result<()> {
    let mut stream = Patient::new(stream, REFUSAL_TIME);
    // The body ends with the connection.
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{}",
        refusal().body()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
