//! A stream as it comes: the [envelope](super::envelope) is opened, and the message in it read.

use bytes::BytesMut;

use super::{
    body::kind,
    envelope::{Direction, Envelope, EnvelopeError, FRAME, LABEL_HEADER, label_of},
    limits::{self, StreamLimits},
    stream::{Skipped, StreamError, StreamMessage, StreamReader},
};

/// What is awaited of a stream's envelope.
#[derive(Debug)]
enum Awaited {
    Label,
    Frame,
    Sealed {
        frame: [u8; FRAME],
        len: usize,
    },
    /// It is open: the rest is the message.
    Message,
}

/// Opens a stream as its bytes come, and reads the message in it.
///
/// Of an encrypted message it holds no more than has come, at most [`limits::SEALED`] bytes, or
/// [`StreamLimits::whole`] if that is less.
#[derive(Debug)]
pub struct Opener {
    awaited: Awaited,
    held: BytesMut,
    max_sealed: usize,
    /// How long the message was that was encrypted: it is complete, or cut off.
    opened: Option<usize>,
    reader: StreamReader,
}

impl Opener {
    /// For what comes in that direction.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self::with_limits(direction, StreamLimits::default())
    }

    /// One that takes no more than this.
    #[must_use]
    pub fn with_limits(direction: Direction, limits: StreamLimits) -> Self {
        let awaited = match direction {
            Direction::Request => Awaited::Label,
            Direction::Answer => Awaited::Frame,
        };
        let (max_sealed, reader) = (limits::SEALED.min(limits.whole), StreamReader::with_limits(limits));
        Self { awaited, held: BytesMut::new(), max_sealed, opened: None, reader }
    }

    /// The records of the push/pull that were left out; `None` when there were none.
    #[must_use]
    pub fn skipped(&self) -> Option<&Skipped> {
        self.reader.skipped()
    }

    /// Takes the next bytes of the stream and gives the message once it is complete.
    ///
    /// # Errors
    ///
    /// The stream is not for this node, or not memberlist's, or exceeds a limit. The opener is then of no
    /// more use.
    pub fn push(&mut self, envelope: &Envelope, data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        let mut result = self.feed(envelope, data);
        while self.is_busy() {
            result = self.work();
        }
        result
    }

    /// Whether there is more to do with what has arrived.
    pub fn is_busy(&self) -> bool {
        self.reader.is_busy()
    }

    /// Does the next slice of the work, as long as the opener [is busy](Self::is_busy).
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn work(&mut self) -> Result<Option<StreamMessage>, StreamError> {
        let result = self.reader.work();
        self.whole(result)
    }

    /// How much is held of a message that is not complete, in bytes.
    pub fn held(&self) -> usize {
        self.held.len() + self.reader.held()
    }

    /// What was encrypted is all of a message.
    fn whole(&self, result: Result<Option<StreamMessage>, StreamError>) -> Result<Option<StreamMessage>, StreamError> {
        match (result, self.opened) {
            (Ok(None), Some(len)) if !self.is_busy() => Err(StreamError::CutOff(len)),
            (result, _) => result,
        }
    }

    /// Takes the next bytes of the stream, and does one slice of the work.
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn feed(&mut self, envelope: &Envelope, data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        if let Awaited::Message = self.awaited {
            // Bytes behind what was encrypted are ignored.
            return if self.opened.is_none() { self.reader.feed(data) } else { Ok(None) };
        }
        self.held.extend_from_slice(data);
        loop {
            match self.awaited {
                Awaited::Label => {
                    if !self.open_label(envelope)? {
                        return Ok(None);
                    }
                    self.awaited = Awaited::Frame;
                }
                Awaited::Frame => {
                    let Some(&kind) = self.held.first() else { return Ok(None) };
                    if kind != kind::ENCRYPT || envelope.keyring.is_empty() {
                        if envelope.verify_incoming && !envelope.keyring.is_empty() {
                            return Err(EnvelopeError::Clear.into());
                        }
                        self.awaited = Awaited::Message;
                        return self.reader.feed(&std::mem::take(&mut self.held));
                    }
                    let Some(&frame) = self.held.first_chunk::<FRAME>() else { return Ok(None) };
                    let [_, len @ ..] = frame;
                    let (len, max) = (u32::from_be_bytes(len) as usize, self.max_sealed);
                    if len > max {
                        let what = "bytes of encrypted message";
                        return Err(StreamError::Announced { what, found: len as u64, max });
                    }
                    self.awaited = Awaited::Sealed { frame, len };
                }
                Awaited::Sealed { frame, len } => {
                    let Some(sealed) = self.held.get(FRAME..FRAME + len) else { return Ok(None) };
                    let plain = envelope.keyring.open(&envelope.frame_aad(frame), sealed);
                    let plain = plain.ok_or_else(|| envelope.sealed())?;
                    self.held = BytesMut::new();
                    self.awaited = Awaited::Message;
                    self.opened = Some(plain.len());
                    let result = self.reader.feed(&plain);
                    return self.whole(result);
                }
                Awaited::Message => return Ok(None),
            }
        }
    }

    /// Takes the label off the front; `false` when more has to come first.
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
