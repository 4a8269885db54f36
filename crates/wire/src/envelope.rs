//! What goes around packets and streams: the label, and the encryption with the label as associated data
//! (protocol chapters "Label header" and "Encryption").
//!
//! ```text
//! packet   [ label ] [ sealed ]            label:  244 | length | bytes, in the clear
//! request  [ label ] [ frame | sealed ]    frame:   10 | length (4), which is associated data too
//! answer             [ frame | sealed ]
//! ```
//!
//! Nonces are the caller's to choose. Each is used once, whatever the key.
//!
//! # What can go wrong
//!
//! - *Another cluster on the same network*: its label is another, or it has one and this node has none, or
//!   the other way about. Its packets and streams are refused.
//! - *A rotation of keys*: whatever was sealed with any key of the ring is read.
//! - *A cluster that goes over to encryption, or from it*: with [`verify_incoming`](Envelope) off what comes
//!   in the clear is read too, and with `verify_outgoing` off what is sent is not encrypted.

use bytes::Bytes;

use super::{
    body::kind,
    keyring::{Keyring, Nonce, SEAL_OVERHEAD},
    limits,
};

/// A stream's frame, in bytes: type and length.
pub(super) const FRAME: usize = 1 + 4;
/// A label's header, in bytes: type and length.
pub(super) const LABEL_HEADER: usize = 2;

/// How a node closes what it sends, and opens what comes.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Whose cluster it is, at most [`limits::LABEL`] bytes. Only nodes of the same label hear each other;
    /// it is no secret. Empty means none.
    pub label: String,
    /// The keys. Without any, nothing is encrypted.
    pub keyring: Keyring,
    /// Whether what is not encrypted is refused, when there are keys.
    pub verify_incoming: bool,
    /// Whether what is sent is encrypted, when there are keys.
    pub verify_outgoing: bool,
    /// Whether labels are taken off by something in front of this node, so that what comes has none.
    pub skip_inbound_label_check: bool,
}

impl Default for Envelope {
    fn default() -> Self {
        Self {
            label: String::new(),
            keyring: Keyring::default(),
            verify_incoming: true,
            verify_outgoing: true,
            skip_inbound_label_check: false,
        }
    }
}

/// Why what came is not for this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The label's header is cut off or empty.
    #[error("the label's header, {len} bytes with what follows it, is cut off or names an empty label")]
    Header {
        /// What there is.
        len: usize,
    },
    /// The label is another than this node's.
    #[error("it has the label {theirs:?} where this node has {ours:?}; is it for another cluster?")]
    Label {
        /// What it has.
        theirs: String,
        /// What this node has.
        ours: String,
    },
    /// There is a label where something else was to have taken it off.
    #[error("it has a label, which skip_inbound_label_check says is removed before it arrives here")]
    DoubleLabel,
    /// No key of the ring fits.
    #[error(
        "none of the {keys} keys of this node decrypts it; it is encrypted with another key, not encrypted, or damaged"
    )]
    Sealed {
        /// How many keys were tried.
        keys: usize,
    },
    /// It is in the clear.
    #[error("it is not encrypted, and this node has keys; give the sender one of them")]
    Clear,
}

impl Envelope {
    /// What this adds to a packet, in bytes. Reserved for encryption even while nothing is encrypted on its
    /// way out.
    #[must_use]
    pub fn packet_overhead(&self) -> usize {
        self.label_header().map_or(0, |header| header.len() + self.label.len())
            + if self.keyring.is_empty() { 0 } else { SEAL_OVERHEAD }
    }

    /// Whether what is sent is encrypted.
    #[must_use]
    pub fn encrypts(&self) -> bool {
        self.verify_outgoing && !self.keyring.is_empty()
    }

    fn label_header(&self) -> Option<[u8; LABEL_HEADER]> {
        const { assert!(limits::LABEL <= u8::MAX as usize) };
        debug_assert!(self.label.len() <= limits::LABEL, "a label has {} bytes", self.label.len());
        (!self.label.is_empty()).then_some([kind::LABEL, self.label.len() as u8])
    }

    /// Closes a packet.
    #[must_use]
    pub fn seal_packet(&self, nonce: Nonce, plain: Bytes) -> Bytes {
        let header = self.label_header();
        if header.is_none() && !self.encrypts() {
            return plain;
        }
        let mut out = Vec::with_capacity(LABEL_HEADER + self.label.len() + SEAL_OVERHEAD + plain.len());
        if let Some(header) = header {
            out.extend_from_slice(&header);
            out.extend_from_slice(self.label.as_bytes());
        }
        if self.encrypts() {
            self.keyring.seal(nonce, self.label.as_bytes(), &plain, &mut out);
        } else {
            out.extend_from_slice(&plain);
        }
        Bytes::from(out)
    }

    /// Opens a packet.
    ///
    /// # Errors
    ///
    /// It is not for this node.
    pub fn open_packet(&self, packet: &Bytes) -> Result<Bytes, EnvelopeError> {
        let label = label_of(packet)?;
        self.check_label(label)?;
        let sealed = packet.slice(label.map_or(0, |label| LABEL_HEADER + label.len())..);
        if self.keyring.is_empty() {
            return Ok(sealed);
        }
        match self.keyring.open(self.label.as_bytes(), &sealed) {
            Some(plain) => Ok(Bytes::from(plain)),
            None if self.verify_incoming => Err(self.sealed()),
            None => Ok(sealed),
        }
    }

    /// Closes a stream's message. A request has the label in front, an answer has not.
    #[must_use]
    pub fn seal_stream(&self, nonce: Nonce, plain: Vec<u8>, direction: Direction) -> Vec<u8> {
        let header = self.label_header().filter(|_| direction == Direction::Request);
        if header.is_none() && !self.encrypts() {
            return plain;
        }
        let mut out = Vec::with_capacity(LABEL_HEADER + self.label.len() + FRAME + SEAL_OVERHEAD + plain.len());
        if let Some(header) = header {
            out.extend_from_slice(&header);
            out.extend_from_slice(self.label.as_bytes());
        }
        if !self.encrypts() {
            out.extend_from_slice(&plain);
            return out;
        }
        // No message comes near 4 GiB; one beyond the limit is refused by who reads it.
        let len = u32::try_from(plain.len() + SEAL_OVERHEAD).unwrap_or(u32::MAX);
        let frame = frame(len);
        out.extend_from_slice(&frame);
        self.keyring.seal(nonce, &self.frame_aad(frame), &plain, &mut out);
        out
    }

    pub(super) fn frame_aad(&self, frame: [u8; FRAME]) -> Vec<u8> {
        [&frame, self.label.as_bytes()].concat()
    }

    pub(super) fn check_label(&self, theirs: Option<&[u8]>) -> Result<(), EnvelopeError> {
        if self.skip_inbound_label_check {
            return if theirs.is_some() { Err(EnvelopeError::DoubleLabel) } else { Ok(()) };
        }
        let theirs = theirs.unwrap_or_default();
        if theirs == self.label.as_bytes() {
            return Ok(());
        }
        let theirs = String::from_utf8_lossy(theirs).into_owned();
        Err(EnvelopeError::Label { theirs, ours: self.label.clone() })
    }

    pub(super) fn sealed(&self) -> EnvelopeError {
        EnvelopeError::Sealed { keys: self.keyring.keys().count() }
    }
}

fn frame(len: u32) -> [u8; FRAME] {
    let [a, b, c, d] = len.to_be_bytes();
    [kind::ENCRYPT, a, b, c, d]
}

/// The label a packet begins with.
pub(super) fn label_of(packet: &[u8]) -> Result<Option<&[u8]>, EnvelopeError> {
    match packet {
        [kind::LABEL, len, rest @ ..] if (1..=rest.len()).contains(&usize::from(*len)) => {
            Ok(Some(&rest[..usize::from(*len)]))
        }
        [kind::LABEL, ..] => Err(EnvelopeError::Header { len: packet.len() }),
        _ => Ok(None),
    }
}

/// Which way a stream's message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever opened the stream.
    Request,
    /// Back to it.
    Answer,
}
