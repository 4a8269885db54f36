//! What a connection runs over: TCP, or TLS over it. Its writes have a time limit, and it can move to another runtime.

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

/// What is read ahead of a request in HTTP/1.1, and written ahead of a client, in bytes; with TLS as much again.
pub(crate) const BUFFER: usize = 32 << 10;

/// A TCP stream whose writes fail when nothing of them was taken for a while. It waits where it is used next once its
/// [`RuntimeSwitch`] was told so.
pub(crate) struct Socket {
    /// Nothing while it moves, or after that has failed.
    stream: Option<TcpStream>,
    switch_pending: RuntimeSwitch,
    write_timeout: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// How many bytes more may be read.
    read_limit: Option<usize>,
}

/// Has a stream wait for its socket where it is used next, in another runtime.
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

    /// No more than so many bytes are read from now on, and those that one read more brings: then it fails.
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

    /// What is kept above it, as TLS does, is written through here in the end: so this is where patience is.
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

/// One of the two.
pub(crate) enum Transport {
    Plain(Socket),
    /// Much larger than the other one.
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

/// The same call on whichever it is.
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
