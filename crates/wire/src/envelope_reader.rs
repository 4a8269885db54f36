//! Reading a stream in its [envelope](super::envelope): checks the label, decrypts, and reads the message.

use bytes::BytesMut;

use super::{
    body::kind,
    envelope::{Direction, Envelope, EnvelopeError, FRAME, LABEL_HEADER, label_of},
    limits::{self, StreamLimits},
    stream::{SkippedRecords, StreamError, StreamMessage, StreamReader},
};

/// What comes next in the stream.
#[derive(Debug)]
enum State {
    Label,
    Frame,
    Sealed {
        frame: [u8; FRAME],
        len: usize,
    },
    /// The envelope is open: the rest is the message.
    Message,
}

/// Opens the envelope of a stream as its bytes arrive, and reads the message in it.
///
/// Of an encrypted message it holds only what has arrived: at most [`limits::ENCRYPTED_STREAM`] bytes, or
/// [`StreamLimits::whole`] if that is less.
///
/// ```
/// use broadcast_wire::{
///     envelope::{Direction, Envelope},
///     envelope_reader::EnvelopeReader,
///     stream::{self, StreamMessage},
/// };
///
/// let envelope = Envelope { label: "staging".into(), ..Envelope::default() };
/// let message = StreamMessage::User("hello".into());
/// // Without keys, nothing is encrypted, and the nonce is not used.
/// let sent = envelope.seal_stream([0; 12], stream::encode(&message, false), Direction::Request);
///
/// let mut reader = EnvelopeReader::new(Direction::Request);
/// let (first, rest) = sent.split_at(5);
/// assert_eq!(reader.push(&envelope, first)?, None);
/// assert_eq!(reader.push(&envelope, rest)?, Some(message));
/// # Ok::<(), stream::StreamError>(())
/// ```
#[derive(Debug)]
pub struct EnvelopeReader {
    state: State,
    held: BytesMut,
    max_sealed: usize,
    /// The length of the decrypted message, if it was encrypted: the message is then complete, or cut off.
    opened: Option<usize>,
    reader: StreamReader,
}

impl EnvelopeReader {
    /// A reader of a stream in this direction.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self::with_limits(direction, StreamLimits::default())
    }

    /// A reader that accepts no more than `limits`.
    #[must_use]
    pub fn with_limits(direction: Direction, limits: StreamLimits) -> Self {
        let state = match direction {
            Direction::Request => State::Label,
            Direction::Answer => State::Frame,
        };
        let (max_sealed, reader) = (limits::ENCRYPTED_STREAM.min(limits.whole), StreamReader::with_limits(limits));
        Self { state, held: BytesMut::new(), max_sealed, opened: None, reader }
    }

    /// The records of the push/pull that were left out; `None` if there were none.
    #[must_use]
    pub fn skipped_records(&self) -> Option<&SkippedRecords> {
        self.reader.skipped_records()
    }

    /// Takes the next bytes of the stream, and gives the message once it is complete.
    ///
    /// # Errors
    ///
    /// The stream is not for this node, or not memberlist's, or exceeds a limit. The reader is then of no more use.
    pub fn push(&mut self, envelope: &Envelope, data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        let mut result = self.feed(envelope, data);
        while self.is_busy() {
            result = self.work();
        }
        result
    }

    /// Whether there is more work to do with what has arrived.
    pub fn is_busy(&self) -> bool {
        self.reader.is_busy()
    }

    /// Does the next slice of the work, while the reader [is busy](Self::is_busy). So a long message does not keep a thread
    /// from everything else.
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn work(&mut self) -> Result<Option<StreamMessage>, StreamError> {
        let result = self.reader.work();
        self.check_complete(result)
    }

    /// How many bytes are held of a message that is not complete.
    pub fn held(&self) -> usize {
        self.held.len() + self.reader.held()
    }

    /// Refuses an encrypted message that is only a part of one.
    fn check_complete(
        &self,
        result: Result<Option<StreamMessage>, StreamError>,
    ) -> Result<Option<StreamMessage>, StreamError> {
        match (result, self.opened) {
            (Ok(None), Some(len)) if !self.is_busy() => Err(StreamError::CutOff(len)),
            (result, _) => result,
        }
    }

    /// Takes the next bytes of the stream, and does one slice of the work. See [`work`](Self::work).
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn feed(&mut self, envelope: &Envelope, data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        if let State::Message = self.state {
            // Bytes behind an encrypted message are ignored.
            return if self.opened.is_none() { self.reader.feed(data) } else { Ok(None) };
        }
        self.held.extend_from_slice(data);
        loop {
            match self.state {
                State::Label => {
                    if !self.open_label(envelope)? {
                        return Ok(None);
                    }
                    self.state = State::Frame;
                }
                State::Frame => {
                    let Some(&kind) = self.held.first() else { return Ok(None) };
                    if kind != kind::ENCRYPT || envelope.keyring.is_empty() {
                        if envelope.verify_incoming && !envelope.keyring.is_empty() {
                            return Err(EnvelopeError::NotEncrypted.into());
                        }
                        self.state = State::Message;
                        return self.reader.feed(&std::mem::take(&mut self.held));
                    }
                    let Some(&frame) = self.held.first_chunk::<FRAME>() else { return Ok(None) };
                    let [_, len @ ..] = frame;
                    let (len, max) = (u32::from_be_bytes(len) as usize, self.max_sealed);
                    if len > max {
                        let what = "bytes of encrypted message";
                        return Err(StreamError::LimitExceeded { what, found: len as u64, max });
                    }
                    self.state = State::Sealed { frame, len };
                }
                State::Sealed { frame, len } => {
                    let Some(sealed) = self.held.get(FRAME..FRAME + len) else { return Ok(None) };
                    let plain = envelope.keyring.open(&envelope.frame_aad(frame), sealed);
                    let plain = plain.ok_or_else(|| envelope.undecryptable())?;
                    self.held = BytesMut::new();
                    self.state = State::Message;
                    self.opened = Some(plain.len());
                    let result = self.reader.feed(&plain);
                    return self.check_complete(result);
                }
                State::Message => return Ok(None),
            }
        }
    }

    /// Takes the label off the front. Gives `false` if more has to arrive first.
    fn open_label(&mut self, envelope: &Envelope) -> Result<bool, EnvelopeError> {
        let whole = match self.held[..] {
            [] | [kind::LABEL] => return Ok(false),
            [kind::LABEL, len, ..] if usize::from(len) > self.held.len() - LABEL_HEADER => return Ok(false),
            [kind::LABEL, len, ..] => LABEL_HEADER + usize::from(len),
            _ => 0,
        };
        envelope.check_label(label_of(&self.held[..whole])?)?;
        let _ = self.held.split_to(whole);
        Ok(true)
    }
}
