//! An encrypted connection: a byte stream that travels in [frames](crate::frames).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::frames::{FrameError, Frames, MAX_PLAIN};

/// How many encrypted bytes may wait to be sent before writes wait.
const OUTBOUND: usize = 64 << 10;
/// How much is read at once.
const CHUNK: usize = 32 << 10;

/// See the [module](self). It holds some 128 KiB at most.
pub(crate) struct Encrypted<S> {
    stream: S,
    frames: Frames,
    /// Read, and not decrypted.
    inbound: BytesMut,
    /// Decrypted, and not read.
    plain: BytesMut,
    /// Encrypted, and not sent.
    outbound: BytesMut,
    /// Where the slices of a vectored write are joined.
    scratch: BytesMut,
    sent_end: bool,
}

impl<S> Encrypted<S> {
    pub(crate) fn new(stream: S, frames: Frames) -> Self {
        let [inbound, plain, outbound, scratch] = [(); 4].map(|()| BytesMut::new());
        Self { stream, frames, inbound, plain, outbound, scratch, sent_end: false }
    }
}

fn damaged(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncWrite + Unpin> Encrypted<S> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outbound.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outbound))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbound.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until there is room for one more frame.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbound.len() >= OUTBOUND {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.plain.has_remaining() {
                let len = this.plain.len().min(buf.remaining());
                buf.put_slice(&this.plain[..len]);
                this.plain.advance(len);
                return Poll::Ready(Ok(()));
            }
            if this.frames.open(&mut this.inbound, &mut this.plain).map_err(damaged)? {
                continue;
            }
            if this.frames.has_ended() {
                return Poll::Ready(Ok(()));
            }
            this.inbound.reserve(CHUNK);
            let read = ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.inbound))?;
            if read == 0 {
                let cut = "the connection of a session was cut";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut)));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_room(cx))?;
        let len = buf.len().min(MAX_PLAIN);
        if len > 0 {
            this.frames.seal(&buf[..len], &mut this.outbound);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_room(cx))?;
        this.scratch.clear();
        for buf in bufs {
            let len = buf.len().min(MAX_PLAIN - this.scratch.len());
            this.scratch.extend_from_slice(&buf[..len]);
        }
        if !this.scratch.is_empty() {
            this.frames.seal(&this.scratch, &mut this.outbound);
        }
        Poll::Ready(Ok(this.scratch.len()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.sent_end {
            this.sent_end = true;
            this.frames.seal(&[], &mut this.outbound);
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
