//! Streams: the bytes of a TCP connection to messages and back.
//!
//! A connection carries one message each way, with no length in front: a type byte, a MessagePack structure and, in
//! push/pulls and user messages, more structures and raw bytes, as many as the first structure says. All of it can be inside
//! one compressed message. [`StreamReader`] goes through these parts as their bytes arrive, and parses each once it is
//! complete.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Ack, BodyError, Ping, PushPull, PushPullState, RecordError,
    body::{
        PushPullHeader, compressed_message, decode_compressed, decode_error, decode_user_header, encode_error,
        encode_user_header, kind,
    },
    compress::{self, Inflater},
    envelope::EnvelopeError,
    limits::{self, StreamLimits},
    msgpack::Scanner,
};

/// A message on a stream. [`encode`] encodes it, [`StreamReader`] reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// A ping over TCP.
    Ping(Ping),
    /// The answer to a ping.
    Ack(Ack),
    /// A view of the cluster.
    PushPull(PushPull),
    /// The application's bytes.
    User(Bytes),
    /// Instead of an answer: why the peer could not read the request.
    Error(Bytes),
}

/// Why a stream cannot be read. The text says what may be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// memberlist has no such type.
    #[error("stream begins with the unknown type {0}; is another program connecting to this port?")]
    UnknownType(u8),
    /// The type exists, but not in this place.
    #[error("stream has a message of type {0}, which is not allowed there")]
    Misplaced(&'static str),
    /// The stream is not for this node.
    #[error("stream is not read: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The stream is encrypted, and this node has no key.
    #[error(
        "stream is encrypted, and this node has no key; give this node the peer's key, or remove the key from the peer"
    )]
    Encrypted,
    /// A structure cannot be read.
    #[error("{name} in a stream cannot be used: {source}")]
    Body {
        /// The type of the message.
        name: &'static str,
        /// What is wrong with it.
        source: BodyError,
    },
    /// The peer announces more of something than the limit allows.
    #[error("stream announces {found} {what}, more than {max}, the limit")]
    LimitExceeded {
        /// What is counted.
        what: &'static str,
        /// How many are announced.
        found: u64,
        /// The limit.
        max: usize,
    },
    /// The whole message exceeds the limit.
    #[error("stream does not end within {max} bytes, the limit")]
    TooLong {
        /// The limit.
        max: usize,
    },
    /// A compressed or encrypted message has only a part of a message in it.
    #[error("stream's compressed or encrypted message holds {0} bytes, which are not a whole message; it was cut off")]
    CutOff(usize),
}

impl StreamError {
    /// Whether the stream is valid as far as it was read, but larger than a limit.
    pub fn exceeds_limit(&self) -> bool {
        match self {
            Self::LimitExceeded { .. } | Self::TooLong { .. } => true,
            Self::Body { source, .. } => source.exceeds_limit(),
            _ => false,
        }
    }
}

/// Records of a push/pull that were left out, as they describe nodes that cannot exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedRecords {
    /// How many there are.
    pub count: usize,
    /// What is wrong with the first of them.
    pub first: RecordError,
}

/// What comes next in the stream.
#[derive(Debug, Default)]
enum ReadState {
    #[default]
    Type,
    /// The structure behind the type byte.
    Struct { kind: u8, scanner: Scanner },
    /// The next record of a push/pull.
    Record { header: PushPullHeader, left: u64, nodes: Vec<PushPullState>, scanner: Scanner },
    /// The bytes behind the records.
    UserState { len: usize, push_pull: PushPull },
    /// The bytes behind a user message's header.
    User { len: usize },
    /// Nothing: the message, or an error, was given.
    Done,
}

/// How many records are parsed, and how many bytes decompressed, in one slice of work: less than a millisecond's work.
const SLICE_RECORDS: usize = 512;
const SLICE_BYTES: usize = 64 << 10;

/// A compressed message that is decompressed as it is needed.
#[derive(Debug)]
struct Compressed {
    data: Bytes,
    inflater: Inflater,
}

/// Reads one message from a stream, however it is cut into pieces.
///
/// It holds what has arrived and is not yet parsed, at most [`StreamLimits::whole`] bytes, and reserves nothing for what is
/// only announced. Its time is proportional to the bytes, not to the pieces. It decompresses slice by slice, no further than
/// the message goes.
///
/// In a push/pull it leaves out a record that can be read but describes a node that cannot exist ([`RecordError`]), so that
/// one odd node does not keep others from joining; see [`StreamReader::skipped_records`]. Any other problem ends the stream.
///
/// ```
/// use broadcast_wire::stream::{self, StreamMessage, StreamReader};
///
/// let message = StreamMessage::User("hello".into());
/// let bytes = stream::encode(&message, true);
///
/// let mut reader = StreamReader::new();
/// let mut read = None;
/// for byte in bytes {
///     read = read.or(reader.push(&[byte])?);
/// }
/// assert_eq!(read, Some(message));
/// # Ok::<(), stream::StreamError>(())
/// ```
#[derive(Debug, Default)]
pub struct StreamReader {
    limits: StreamLimits,
    /// What has arrived and is not parsed.
    buf: BytesMut,
    /// How many bytes have arrived in all.
    arrived: usize,
    /// The compressed message that `buf` comes out of.
    compressed: Option<Compressed>,
    /// Whether there is more to do with what has arrived.
    busy: bool,
    /// How many bytes the records that were parsed refer to.
    parsed: usize,
    state: ReadState,
    skipped: Option<SkippedRecords>,
}

impl StreamReader {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader that accepts no more than `limits`.
    #[must_use]
    pub fn with_limits(limits: StreamLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next bytes of the stream, and gives the message once it is complete. Ignores bytes behind the message.
    ///
    /// # Errors
    ///
    /// The stream is not a memberlist stream, or exceeds a limit. The reader is then of no more use.
    pub fn push(&mut self, data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        let mut result = self.feed(data);
        while self.busy {
            result = self.work();
        }
        result
    }

    /// Takes the next bytes of the stream, and does one slice of the work. While the reader [is
    /// busy](Self::is_busy), more of it is to be done with [`work`](Self::work).
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn feed(&mut self, data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        if matches!(self.state, ReadState::Done) {
            return Ok(None);
        }
        let taken = data.len().min(self.limits.whole - self.arrived);
        self.arrived += taken;
        // Bytes behind a compressed message are ignored.
        if self.compressed.is_none() {
            self.buf.extend_from_slice(&data[..taken]);
        }
        let result = match if self.busy { Ok(None) } else { self.advance() } {
            Ok(None) if taken < data.len() => Err(StreamError::TooLong { max: self.limits.whole }),
            result => result,
        };
        self.end_with(result)
    }

    /// Whether there is more work to do with what has arrived.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Does the next slice of the work, so that a long message does not keep a thread from everything else.
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn work(&mut self) -> Result<Option<StreamMessage>, StreamError> {
        let result = self.advance();
        self.end_with(result)
    }

    /// How many bytes are held of a message that is not complete.
    pub fn held(&self) -> usize {
        let records = match &self.state {
            ReadState::Record { nodes, .. } => nodes.capacity(),
            ReadState::UserState { push_pull, .. } => push_pull.nodes.capacity(),
            _ => 0,
        };
        let compressed = self.compressed.as_ref().map_or(0, |compressed| compressed.data.len());
        self.buf.len() + compressed + self.parsed + records * size_of::<PushPullState>()
    }

    fn end_with(
        &mut self,
        result: Result<Option<StreamMessage>, StreamError>,
    ) -> Result<Option<StreamMessage>, StreamError> {
        if !matches!(result, Ok(None)) {
            self.state = ReadState::Done;
            (self.buf, self.compressed, self.busy, self.parsed) = (BytesMut::new(), None, false, 0);
        }
        result
    }

    /// The records of the push/pull that were left out; `None` if there were none.
    #[must_use]
    pub fn skipped_records(&self) -> Option<&SkippedRecords> {
        self.skipped.as_ref()
    }

    /// Parses as far as the bytes and this slice of work go.
    fn advance(&mut self) -> Result<Option<StreamMessage>, StreamError> {
        let (mut records, mut inflated) = (SLICE_RECORDS, 0);
        loop {
            if let Some(message) = self.parse(&mut records)? {
                return Ok(Some(message));
            }
            self.busy = records == 0;
            let Some(Compressed { data, inflater }) = self.compressed.as_mut().filter(|_| !self.busy) else {
                return Ok(None);
            };
            if inflater.is_done() {
                return Err(StreamError::CutOff(inflater.written()));
            }
            if inflated >= SLICE_BYTES {
                self.busy = true;
                return Ok(None);
            }
            let before = inflater.written();
            let read = inflater.inflate(data, SLICE_BYTES, &mut self.buf);
            let read = read.map_err(|error| body_error(kind::COMPRESS)(error.into()))?;
            inflated += inflater.written() - before;
            data.advance(read);
        }
    }

    /// Parses as far as the bytes go, but no more than so many records.
    fn parse(&mut self, records: &mut usize) -> Result<Option<StreamMessage>, StreamError> {
        loop {
            match &mut self.state {
                ReadState::Type => {
                    let Ok(kind) = self.buf.try_get_u8() else { return Ok(None) };
                    check_type(kind, self.compressed.is_some())?;
                    self.state = ReadState::Struct { kind, scanner: Scanner::default() };
                }
                ReadState::Struct { kind, scanner } => {
                    let kind = *kind;
                    let max = if kind == kind::COMPRESS { self.limits.whole } else { limits::STREAM_STRUCT };
                    let Some(body) = next_struct(&mut self.buf, scanner, max).map_err(body_error(kind))? else {
                        return Ok(None);
                    };
                    let message = match kind {
                        kind::PING => Ping::decode(&body, 0..body.len()).map(StreamMessage::Ping),
                        kind::ACK => Ack::decode(&body, 0..body.len()).map(StreamMessage::Ack),
                        kind::ERROR => decode_error(&body).map(StreamMessage::Error),
                        kind::COMPRESS => {
                            let data = decode_compressed(&body, 0..body.len()).map_err(body_error(kind))?;
                            let inflater = Inflater::new(self.limits.decompressed);
                            self.compressed = Some(Compressed { data, inflater });
                            (self.buf, self.state) = (BytesMut::new(), ReadState::Type);
                            continue;
                        }
                        kind::PUSH_PULL => {
                            self.state =
                                push_pull(PushPullHeader::decode(&body).map_err(body_error(kind))?, &self.limits)?;
                            continue;
                        }
                        _ => {
                            let len = decode_user_header(&body).map_err(body_error(kind))?;
                            let len = announced("bytes of user message", len, self.limits.user_message)?;
                            self.state = ReadState::User { len };
                            continue;
                        }
                    };
                    return message.map(Some).map_err(body_error(kind));
                }
                ReadState::Record { header, left: 0, nodes, .. } => {
                    // Within its limit, as checked when the header came.
                    let len = header.user_state as usize;
                    let nodes = std::mem::take(nodes);
                    let push_pull = PushPull { join: header.join, nodes, user_state: Bytes::new() };
                    self.state = ReadState::UserState { len, push_pull };
                }
                ReadState::Record { .. } if *records == 0 => return Ok(None),
                ReadState::Record { left, nodes, scanner, .. } => {
                    let body = next_struct(&mut self.buf, scanner, limits::STREAM_STRUCT);
                    let Some(body) = body.map_err(body_error(kind::PUSH_PULL))? else { return Ok(None) };
                    match PushPullState::decode(&body) {
                        Ok(node) => {
                            self.parsed += body.len();
                            nodes.push(node);
                        }
                        Err(BodyError::Record(first)) => {
                            self.skipped.get_or_insert(SkippedRecords { count: 0, first }).count += 1;
                        }
                        Err(error) => return Err(body_error(kind::PUSH_PULL)(error)),
                    }
                    *left -= 1;
                    *records -= 1;
                    *scanner = Scanner::default();
                }
                ReadState::UserState { len, push_pull } => {
                    if self.buf.len() < *len {
                        return Ok(None);
                    }
                    let user_state = self.buf.split_to(*len).freeze();
                    let push_pull = PushPull { user_state, ..std::mem::take(push_pull) };
                    return Ok(Some(StreamMessage::PushPull(push_pull)));
                }
                ReadState::User { len } => {
                    let ready = self.buf.len() >= *len;
                    return Ok(ready.then(|| StreamMessage::User(self.buf.split_to(*len).freeze())));
                }
                ReadState::Done => return Ok(None),
            }
        }
    }
}

/// Takes the structure at the start of `buf` once it is complete.
fn next_struct(buf: &mut BytesMut, scanner: &mut Scanner, max: usize) -> Result<Option<Bytes>, BodyError> {
    Ok(scanner.advance(buf, max)?.map(|len| buf.split_to(len).freeze()))
}

fn check_type(kind: u8, decompressed: bool) -> Result<(), StreamError> {
    match kind {
        kind::PING | kind::ACK | kind::PUSH_PULL | kind::USER | kind::ERROR => Ok(()),
        kind::COMPRESS if !decompressed => Ok(()),
        kind::ENCRYPT => Err(StreamError::Encrypted),
        _ => Err(kind::name(kind).map_or(StreamError::UnknownType(kind), StreamError::Misplaced)),
    }
}

/// Begins to read the records of a push/pull.
fn push_pull(header: PushPullHeader, limits: &StreamLimits) -> Result<ReadState, StreamError> {
    announced("records in a push/pull", header.nodes, limits.push_pull_nodes)?;
    announced("bytes of user state", header.user_state, limits.user_state)?;
    Ok(ReadState::Record { header, left: header.nodes, nodes: Vec::new(), scanner: Scanner::default() })
}

/// Checks an announced number.
fn announced(what: &'static str, found: u64, max: usize) -> Result<usize, StreamError> {
    usize::try_from(found).ok().filter(|len| *len <= max).ok_or(StreamError::LimitExceeded { what, found, max })
}

fn body_error(kind: u8) -> impl Fn(BodyError) -> StreamError {
    let name = kind::name(kind).unwrap_or("message");
    move |source| StreamError::Body { name, source }
}

/// Encodes one message for a stream. `compress` compresses it even if that makes it longer, as memberlist does.
/// [`StreamReader`] has an example.
#[must_use]
pub fn encode(message: &StreamMessage, compress: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        StreamMessage::Ping(ping) => {
            out.push(kind::PING);
            ping.encode(&mut out);
        }
        StreamMessage::Ack(ack) => {
            out.push(kind::ACK);
            ack.encode(&mut out);
        }
        StreamMessage::PushPull(PushPull { join, nodes, user_state }) => {
            out.push(kind::PUSH_PULL);
            let (nodes_len, user_state_len) = (nodes.len() as u64, user_state.len() as u64);
            PushPullHeader { nodes: nodes_len, user_state: user_state_len, join: *join }.encode(&mut out);
            for node in nodes {
                node.encode(&mut out);
            }
            out.extend_from_slice(user_state);
        }
        StreamMessage::User(data) => {
            out.push(kind::USER);
            encode_user_header(&mut out, data.len() as u64);
            out.extend_from_slice(data);
        }
        StreamMessage::Error(text) => {
            out.push(kind::ERROR);
            encode_error(&mut out, text);
        }
    }
    if compress { compressed_message(&compress::compress(&out)) } else { out }
}

#[cfg(test)]
mod tests;
