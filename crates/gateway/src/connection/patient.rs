//! A client's stream: its writes have a time limit, and its end lets the client finish.

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
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::LINGER;

/// A stream whose writes fail when nothing of them was taken for a while, and that lets the other side finish.
pub(super) struct Patient {
    /// Nothing while it moves, or after that has failed.
    stream: Option<TcpStream>,
    /// What was read before anybody asked for it.
    ahead: Vec<u8>,
    moved: Mover,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

/// Has a stream wait for its socket where it is used next, in another runtime.
#[derive(Clone, Debug, Default)]
pub(super) struct Mover(Arc<AtomicBool>);

impl Mover {
    pub(super) fn move_on(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Patient {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        let (stream, ahead, moved) = (Some(stream), Vec::new(), Mover::default());
        Self { stream, ahead, moved, patience, stalled: None, lingering: None }
    }

    pub(super) fn mover(&self) -> Mover {
        self.moved.clone()
    }

    /// Whether these bytes come first. What comes is read all the same by whoever reads next.
    pub(super) async fn begins_with(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut beginning = vec![0; expected.len()];
        let mut length = 0;
        while length < expected.len() && beginning[..length] == expected[..length] {
            match self.read(&mut beginning[length..]).await? {
                0 => break,
                count => length += count,
            }
        }
        beginning.truncate(length);
        let is_it = beginning == expected;
        self.ahead = beginning;
        Ok(is_it)
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if self.moved.0.swap(false, Ordering::Relaxed)
            && let Some(stream) = self.stream.take()
        {
            self.stream = Some(TcpStream::from_std(stream.into_std()?)?);
        }
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
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
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        self.stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write(context, data);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream()?.poll_write_vectored(context, data);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    /// Nothing more is sent; what the other side still sends is read, and dropped.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.stream()?.poll_shutdown(context))?;
        }
        if self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut ignored = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut ignored);
            let read = ready!(self.stream()?.poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
