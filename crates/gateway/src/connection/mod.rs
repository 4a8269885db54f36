//! Connections: how long they last, and how they end.
//!
//! Each is served by a task of its own. It has a time limit to send a request's head, also after an earlier
//! one, and is cut off when it takes nothing of its answer for a while ([`Times`](super::Times)).

use std::{
    future::Future as _,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, http::StatusCode};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    sync::watch,
    time::{Sleep, sleep},
};
use tracing::debug;

use super::{app::App, problem::Problem};

/// What is read ahead of a request, in bytes: more than its head may be.
const BUFFER: usize = 32 << 10;
/// How long a refused client may take to read why.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// How long a client may go on sending after it was answered for good. Most read the answer only when they have sent
/// all, and a connection that is closed before that takes it back.
const LINGER: Duration = Duration::from_secs(5);

/// Serves one, to its end; or one request of it.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    app: &App,
    router: Router,
    mut stopping: watch::Receiver<()>,
    keep_alive: bool,
) {
    let super::Times { head, stall, .. } = app.config.times;
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(keep_alive)
        .header_read_timeout(head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Patient::new(stream, stall)), TowerToHyperService::new(router));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        // The server has gone, or says so.
        _ = stopping.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        if std::error::Error::source(&error).is_some_and(is_stall) {
            app.counts.cut_off(format_args!("{peer} has read nothing for {stall:?}"));
        } else {
            debug!(%peer, %error, "an HTTP connection broke");
        }
    }
}

fn is_stall(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Says why it is not served.
pub(super) async fn refuse(stream: TcpStream) -> io::Result<()> {
    let mut stream = Patient::new(stream, REFUSAL_TIME);
    let detail = "too many connections are open; close some, or try again in a moment";
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
    // The body ends with the connection.
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{}",
        problem.body()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A stream whose writes fail when nothing of them was taken for a while, and that lets the other side finish.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None, lingering: None }
    }

    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Nothing more is sent; what the other side still sends is read, and dropped.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, lingering, .. } = &mut *self;
        if lingering.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
        }
        if lingering.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut ignored = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut ignored);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
