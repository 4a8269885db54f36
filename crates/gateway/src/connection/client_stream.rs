//! A client's stream: its first bytes can be looked at before they are read, and its end lets the client finish.

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

use super::{LINGER, scheme_stripper::SchemeStripper};
use crate::transport::{RuntimeSwitch, Transport};

/// How much is read ahead at most to see what a client wants, in bytes.
const MAX_READ_AHEAD: usize = 1 << 10;

/// The stream of a client's connection.
pub(crate) struct ClientStream {
    stream: Transport,
    /// Bytes that were looked at, and not read yet.
    read_ahead: Vec<u8>,
    /// Set as long as there may be a scheme to strip.
    scheme_stripper: Option<Box<SchemeStripper>>,
    linger: Option<Pin<Box<Sleep>>>,
}

impl ClientStream {
    pub(crate) fn new(stream: Transport) -> Self {
        Self { stream, read_ahead: Vec::new(), scheme_stripper: None, linger: None }
    }

    /// From now on, a write fails when nothing of it was taken for so long.
    pub(super) fn set_write_timeout(&mut self, write_timeout: Duration) {
        self.stream.set_write_timeout(write_timeout);
    }

    /// From now on, strips schemes from hosts. To be called at the beginning of HTTP/2.
    pub(super) fn strip_schemes(&mut self) {
        self.scheme_stripper = Some(Box::new(SchemeStripper::new()));
    }

    pub(crate) fn runtime_switch(&mut self) -> RuntimeSwitch {
        self.stream.runtime_switch()
    }

    /// The first bytes, as many as come at once; none if the client closes the connection. They stay to be read.
    pub(crate) async fn peek(&mut self) -> io::Result<&[u8]> {
        let mut first_bytes = [0; MAX_READ_AHEAD];
        let length = self.read(&mut first_bytes).await?;
        self.read_ahead = first_bytes[..length].to_vec();
        Ok(&self.read_ahead)
    }

    /// Whether the stream begins with these bytes. They stay to be read.
    pub(super) async fn begins_with(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut first_bytes = vec![0; expected.len()];
        let mut length = 0;
        while length < expected.len() && first_bytes[..length] == expected[..length] {
            match self.read(&mut first_bytes[length..]).await? {
                0 => break,
                count => length += count,
            }
        }
        first_bytes.truncate(length);
        let is_it = first_bytes == expected;
        // Bytes that were looked at before come behind those that were read now.
        first_bytes.append(&mut self.read_ahead);
        self.read_ahead = first_bytes;
        Ok(is_it)
    }
}

impl ClientStream {
    /// Reads without stripping anything.
    fn poll_unstripped(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let count = self.read_ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.read_ahead[..count]);
            self.read_ahead.drain(..count);
            if self.read_ahead.is_empty() {
                // Frees the buffer: the connection may live long.
                self.read_ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut scheme_stripper) = self.scheme_stripper.take() else {
            return self.poll_unstripped(context, buffer);
        };
        let read = scheme_stripper.poll_read(context, buffer, |context, chunk| self.poll_unstripped(context, chunk));
        self.scheme_stripper = Some(scheme_stripper).filter(|scheme_stripper| !scheme_stripper.is_finished());
        read
    }
}

impl AsyncWrite for ClientStream {
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

    /// Closes the sending side. Then reads and drops what the client still sends, until it closes its side, or for [`LINGER`].
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(context).is_ready() {
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
