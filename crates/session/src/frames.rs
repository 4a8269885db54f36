//! The transport of a session after its handshake: encrypted frames (Noise's transport messages). Pure: bytes in, bytes out.
//!
//! A frame is a length in two bytes, and that many bytes of ciphertext with its tag. Its nonce is its number in its direction,
//! so a frame that was changed, left out, repeated, reordered or reflected cannot be decrypted, and ends the session. Each
//! frame carries at most [`MAX_PLAIN`] bytes. An empty frame ends its direction: a connection that ends without it was cut.
//!
//! After [`REKEY_AFTER`] frames, a direction's key is replaced (Noise, section 11.3). That is long before AES-GCM has
//! encrypted more with one key than it should (2^32 blocks; here at most 2^30).

use bytes::{Buf as _, BufMut as _, BytesMut};
use snow::TransportState;

use crate::noise::TAG;

/// The longest plaintext of a frame, in bytes: an HTTP/2 frame of the usual size with its header fits into one.
pub(crate) const MAX_PLAIN: usize = (16 << 10) + 9;
/// The longest ciphertext of a frame, in bytes.
const MAX_FRAME: usize = MAX_PLAIN + TAG;
/// How many frames of one direction a key encrypts.
const REKEY_AFTER: u64 = 1 << 20;

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of the session cannot be read: it was changed, left out, repeated or moved on its way")]
    Unreadable,
    #[error("a frame of {len} bytes cannot be: it has {TAG} to {MAX_FRAME}")]
    Length { len: usize },
    #[error("the session goes on behind its end")]
    BehindEnd,
}

/// One side's state of a session: encrypts what it sends, and decrypts what it receives.
pub(crate) struct Frames {
    state: TransportState,
    /// The peer has sent its last frame.
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

    /// Whether the peer has sent its last frame.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Appends a frame with this plaintext, of at most [`MAX_PLAIN`] bytes. An empty one is the last.
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

    /// Takes the first frame off `from` and appends its plaintext; `false` while the frame is incomplete.
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
