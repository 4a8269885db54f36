//! The transport of a connection: TCP, or TLS over it. Its writes have a timeout, and it can move to another runtime.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

/// How much is buffered for reading in HTTP/1.1, and how much for writing, in bytes; with TLS as much again.
pub(crate) const BUFFER: usize = 32 << 10;

/// A TCP stream whose writes fail when nothing of them was taken for a while. When its [`RuntimeSwitch`] was set, its next use
/// registers it with the runtime of that use.
pub(crate) struct Socket {
    /// `None` while it moves to another runtime, or if that has failed.
    stream: Option<TcpStream>,
    switch_pending: RuntimeSwitch,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// How many more bytes may be read.
    read_limit: Option<usize>,
}

/// Tells a socket to register with another runtime at its next use.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuntimeSwitch(Arc<AtomicBool>);

impl RuntimeSwitch {
    pub(crate) fn switch(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, write_timeout: Duration) -> Self {
        Self {
            stream: Some(stream),
            switch_pending: RuntimeSwitch::default(),
            write_timeout,
            stalled: None,
            read_limit: None,
        }
    }

    /// Reading fails after this many more bytes, rounded up to what one read brings.
    pub(crate) fn set_read_limit(&mut self, bytes: Option<usize>) {
        self.read_limit = bytes;
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if self.switch_pending.0.swap(false, Ordering::Relaxed)
            && let Some(stream) = self.stream.take()
        {
            self.stream = Some(TcpStream::from_std(stream.into_std()?)?);
        }
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Fails if writing has stalled. What layers above buffer, as TLS does, is written here in the end: so the timeout is here.
    fn fail_if_stalled<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write_timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.stream()?.poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if let Some(limit) = &mut self.read_limit {
            *limit = limit.checked_sub(read).ok_or_else(|| io::Error::other("the client sends too much"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write(context, data);
        self.fail_if_stalled(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(context, data);
        self.fail_if_stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}

/// A plain socket, or one with TLS.
pub(crate) enum Transport {
    Plain(Socket),
    /// In a box, since it is much larger.
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }

    pub(crate) fn runtime_switch(&mut self) -> RuntimeSwitch {
        self.socket().switch_pending.clone()
    }

    pub(crate) fn set_write_timeout(&mut self, write_timeout: Duration) {
        self.socket().write_timeout = write_timeout;
    }
}

/// The same call on either.
macro_rules! dispatch {
    ($transport:expr, $stream:ident => $call:expr) => {
        match $transport.get_mut() {
            Transport::Plain(socket) => {
                let $stream = Pin::new(socket);
                $call
            }
            Transport::Tls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        dispatch!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        dispatch!(self, stream => stream.poll_write(context, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        dispatch!(self, stream => stream.poll_write_vectored(context, data))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        dispatch!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        dispatch!(self, stream => stream.poll_shutdown(context))
    }
}
