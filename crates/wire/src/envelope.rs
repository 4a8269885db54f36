//! The envelope of packets and streams: the label, and the encryption (AES-GCM) with the label as associated data.
//!
//! ```text
//! packet   [ label ] [ sealed ]            label:  244 | length | bytes, in the clear
//! request  [ label ] [ frame | sealed ]    frame:   10 | length (4), which is associated data too
//! answer             [ frame | sealed ]
//! ```
//!
//! The caller chooses the nonces. Each may be used only once.
//!
//! # What can go wrong
//!
//! - *Another cluster on the same network*: it has another label, or only one of the two has any. Its packets and streams are
//!   refused.
//! - *A rotation of keys*: a message is read if any key of the ring decrypts it.
//! - *A cluster that begins to encrypt, or ceases to*: without [`verify_incoming`](Envelope::verify_incoming), nodes also read
//!   what is not encrypted; without [`verify_outgoing`](Envelope::verify_outgoing), they do not encrypt what they send.

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

/// The label and the keys of a cluster, which seal what a node sends, and open what it gets.
///
/// ```
/// use broadcast_wire::{Keyring, envelope::Envelope};
///
/// let envelope = Envelope {
///     label: "staging".into(),
///     keyring: Keyring::new(["MDEyMzQ1Njc4OWFiY2RlZg==".parse()?])?,
///     ..Envelope::default()
/// };
/// let nonce = [0; 12]; // Never use one twice with the same key.
/// let packet = envelope.seal_packet(nonce, "hello".into());
/// assert_eq!(envelope.open_packet(&packet).as_deref(), Ok(&b"hello"[..]));
/// assert!(Envelope::default().open_packet(&packet).is_err());
/// # Ok::<(), broadcast_wire::KeyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The cluster's label, at most [`limits::LABEL`] bytes; empty, and so none, by default.
    ///
    /// Nodes with different labels ignore each other. It keeps clusters apart that could reach each other, but is no secret:
    /// it travels in the clear, in each packet, which is as much longer.
    pub label: String,
    /// The keys; none by default, so that nothing is encrypted.
    ///
    /// With keys, outsiders can neither read nor forge anything. Each packet is 29 bytes longer, and takes more processor
    /// time; each key beside the one in use costs another try on what it does not decrypt.
    pub keyring: Keyring,
    /// Whether a node with keys refuses what is not encrypted; `true` by default.
    ///
    /// `false` lets a running cluster begin to encrypt node by node; meanwhile, anybody can still forge.
    pub verify_incoming: bool,
    /// Whether a node with keys encrypts what it sends; `true` by default.
    ///
    /// `false` lets nodes without keys read it, while a cluster begins to encrypt; so can everybody else.
    pub verify_outgoing: bool,
    /// Whether something in front of this node takes the labels off, so that what arrives has none; `false` by default.
    ///
    /// `true` makes a node behind such a proxy work. Without the proxy, it then refuses all that has a label.
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

/// Why a packet or a stream is not for this node. The text says what may be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The label's header is cut off or empty.
    #[error("the label's header, {len} bytes with what follows it, is cut off or names an empty label")]
    LabelHeader {
        /// How many bytes there are.
        len: usize,
    },
    /// The label is not this node's.
    #[error("it has the label {theirs:?} where this node has {ours:?}; is it for another cluster?")]
    WrongLabel {
        /// The label that it has.
        theirs: String,
        /// The label that this node has.
        ours: String,
    },
    /// There is a label, which something else should have taken off.
    #[error("it has a label, which skip_inbound_label_check says is removed before it arrives here")]
    DoubleLabel,
    /// No key of the ring decrypts it.
    #[error(
        "none of the {keys} keys of this node decrypts it; it is encrypted with another key, not encrypted, or damaged"
    )]
    Undecryptable {
        /// How many keys were tried.
        keys: usize,
    },
    /// It is not encrypted, and this node has keys.
    #[error("it is not encrypted, and this node has keys; give the sender one of them")]
    NotEncrypted,
}

impl Envelope {
    /// How many bytes this adds to a packet. If there are keys, this includes encryption even if nothing is encrypted on its
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

    /// Seals a packet: puts the label in front, and encrypts. See [`Envelope`] for an example.
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

    /// Opens a packet: checks the label, and decrypts. See [`Envelope`] for an example.
    ///
    /// # Errors
    ///
    /// The packet is not for this node.
    pub fn open_packet(&self, packet: &Bytes) -> Result<Bytes, EnvelopeError> {
        let label = label_of(packet)?;
        self.check_label(label)?;
        let sealed = packet.slice(label.map_or(0, |label| LABEL_HEADER + label.len())..);
        if self.keyring.is_empty() {
            return Ok(sealed);
        }
        match self.keyring.open(self.label.as_bytes(), &sealed) {
            Some(plain) => Ok(Bytes::from(plain)),
            None if self.verify_incoming => Err(self.undecryptable()),
            None => Ok(sealed),
        }
    }

    /// Seals a message on a stream. A request gets the label in front, an answer does not.
    /// [`EnvelopeReader`](super::envelope_reader::EnvelopeReader) opens it, and has an example.
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
        // No message comes near 4 GiB; readers refuse one beyond the limit.
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
        Err(EnvelopeError::WrongLabel { theirs, ours: self.label.clone() })
    }

    pub(super) fn undecryptable(&self) -> EnvelopeError {
        EnvelopeError::Undecryptable { keys: self.keyring.keys().count() }
    }
}

fn frame(len: u32) -> [u8; FRAME] {
    let [a, b, c, d] = len.to_be_bytes();
    [kind::ENCRYPT, a, b, c, d]
}

/// The label in front of a packet or a request.
pub(super) fn label_of(packet: &[u8]) -> Result<Option<&[u8]>, EnvelopeError> {
    match packet {
        [kind::LABEL, len, rest @ ..] if (1..=rest.len()).contains(&usize::from(*len)) => {
            Ok(Some(&rest[..usize::from(*len)]))
        }
        [kind::LABEL, ..] => Err(EnvelopeError::LabelHeader { len: packet.len() }),
        _ => Ok(None),
    }
}

/// The direction of a message on a stream. See [`Envelope::seal_stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the node that opened the stream.
    Request,
    /// Back to that node.
    Answer,
}
