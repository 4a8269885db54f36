//! What travels once the handshake is done: frames, each encrypted, numbered by where it stands, and not longer than
//! [`MAX_PLAIN`] bytes. Pure.
//!
//! A frame is its length in two bytes, and so many bytes of ciphertext with its tag. One without any text says that its side
//! has no more to say: a connection that ends without it was cut. A frame that was changed, left out, doubled, sent back or
//! moved cannot be read, and ends the session.
//!
//! After [`REKEY_AFTER`] frames of a direction its key is replaced (Noise, section 11.3), long before AES-GCM has
//! encrypted more with one key than it should (2^32 blocks; here at most 2^30).

use bytes::{Buf as _, BufMut as _, BytesMut};
use snow::TransportState;

use crate::noise::TAG;

/// The most that a frame carries, in bytes: as much as one of HTTP/2 with its head, which so takes one of ours.
pub(crate) const MAX_PLAIN: usize = (16 << 10) + 9;
/// The longest frame, without its length.
const MAX_FRAME: usize = MAX_PLAIN + TAG;
/// Frames of one direction that one key encrypts.
const REKEY_AFTER: u64 = 1 << 20;

/// Why nothing that comes is read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of the session cannot be read: it was changed, left out, repeated or moved on its way")]
    Unreadable,
    #[error("a frame of {len} bytes cannot be: it has {TAG} to {MAX_FRAME}")]
    Length { len: usize },
    #[error("the session goes on behind its end")]
    BehindEnd,
}

/// Both directions of one session, as one side has them.
pub(crate) struct Frames {
    state: TransportState,
    /// The peer has said that it is done.
    ended: bool,
    rekey_after: u64,
}

impl Frames {
    pub(crate) fn new(state: TransportState) -> Self {
        Self { state, ended: false, rekey_after: REKEY_AFTER }
    }

    /// The same, with keys that are replaced sooner.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn rekeying(state: TransportState, rekey_after: u64) -> Self {
        Self { rekey_after, ..Self::new(state) }
    }

    /// Whether the peer has said that it is done.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Appends a frame with this text, of [`MAX_PLAIN`] bytes at most. Without text it is the last one.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut BytesMut) {
        debug_assert!(plain.len() <= MAX_PLAIN);
        let len = plain.len() + TAG;
        out.put_u16(u16::try_from(len).expect("a frame is short"));
        let start = out.len();
        out.put_bytes(0, len);
        self.state.write_message(plain, &mut out[start..]).expect("there is room for the text and its tag");
        if self.state.sending_nonce().is_multiple_of(self.rekey_after) {
            self.state.rekey_outgoing();
        }
    }

    /// Takes the first frame from what has come and appends its text; `false` while it is not whole.
    pub(crate) fn open(&mut self, from: &mut BytesMut, plain: &mut BytesMut) -> Result<bool, FrameError> {
        if self.ended && from.has_remaining() {
            return Err(FrameError::BehindEnd);
        }
        let Some((len, _)) = from.split_first_chunk::<2>() else { return Ok(false) };
        let len = usize::from(u16::from_be_bytes(*len));
        if !(TAG..=MAX_FRAME).contains(&len) {
            return Err(FrameError::Length { len });
        }
        let Some(frame) = from.get(2..2 + len) else { return Ok(false) };
        let start = plain.len();
        plain.put_bytes(0, len - TAG);
        let opened = self.state.read_message(frame, &mut plain[start..]);
        if opened.is_err() {
            plain.truncate(start);
            return Err(FrameError::Unreadable);
        }
        from.advance(2 + len);
        self.ended = len == TAG;
        if self.state.receiving_nonce().is_multiple_of(self.rekey_after) {
            self.state.rekey_incoming();
        }
        Ok(true)
    }
}
