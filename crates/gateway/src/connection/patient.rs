//! A client's stream: what it begins with can be looked at, and its end lets the client finish.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{LINGER, authority::Authorities};
use crate::transport::{Mover, Transport};

/// What is read ahead at most to see what is wanted, in bytes.
const AHEAD: usize = 1 << 10;

/// A stream that lets the other side finish.
pub(crate) struct Patient {
    stream: Transport,
    /// What was read before anybody asked for it.
    ahead: Vec<u8>,
    /// As long as there may be a scheme to take out of what comes.
    authorities: Option<Box<Authorities>>,
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(crate) fn new(stream: Transport) -> Self {
        Self { stream, ahead: Vec::new(), authorities: None, lingering: None }
    }

    /// From now on nothing of a write may be taken for so long.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.stream.set_patience(patience);
    }

    /// What is read from now on, from the beginning of HTTP/2, has no scheme where a host is to be.
    pub(super) fn without_schemes(&mut self) {
        self.authorities = Some(Box::new(Authorities::new()));
    }

    pub(crate) fn mover(&mut self) -> Mover {
        self.stream.mover()
    }

    /// What comes first, as far as it comes at once; nothing if it ends. It is read all the same by whoever reads next.
    pub(crate) async fn beginning(&mut self) -> io::Result<&[u8]> {
        let mut beginning = [0; AHEAD];
        let length = self.read(&mut beginning).await?;
        self.ahead = beginning[..length].to_vec();
        Ok(&self.ahead)
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
        // What is left there comes after it.
        beginning.append(&mut self.ahead);
        self.ahead = beginning;
        Ok(is_it)
    }
}

impl Patient {
    /// Reads what comes, as it comes.
    fn poll_plain(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                // A connection that stays does not keep it.
                self.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut authorities) = self.authorities.take() else { return self.poll_plain(context, buffer) };
        let read = authorities.poll_read(context, buffer, |context, chunk| self.poll_plain(context, chunk));
        self.authorities = Some(authorities).filter(|authorities| !authorities.is_done());
        read
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Nothing more is sent; what the other side still sends is read, and dropped.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if self.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut ignored = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut ignored);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
