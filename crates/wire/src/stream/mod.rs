//! Streams: the bytes of a TCP connection ⇄ messages.
//!
//! A connection carries one message each way, with no length around it: a type byte, a MessagePack
//! structure, and for push/pulls and user messages more structures and raw bytes, as many as the
//! first one states. All of it may stand inside one compressed message. [`StreamReader`] goes through
//! these parts as their bytes come; each is parsed when it is complete, and not before.

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

/// Anything that travels in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// A ping over TCP.
    Ping(Ping),
    /// Its answer.
    Ack(Ack),
    /// A view of the cluster.
    PushPull(PushPull),
    /// The application's bytes.
    User(Bytes),
    /// The responder could not read the request.
    Error(Bytes),
}

/// Why a stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// memberlist has no such type.
    #[error("stream begins with the unknown type {0}; is another program connecting to this port?")]
    UnknownType(u8),
    /// The type exists, elsewhere.
    #[error("stream has a message of type {0}, which is not allowed there")]
    Misplaced(&'static str),
    /// The stream is not for this node.
    #[error("stream is not read: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The peer has encryption configured.
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
    /// The peer states a number beyond the limit.
    #[error("stream announces {found} {what}, more than {max}, the limit")]
    Announced {
        /// What is counted.
        what: &'static str,
        /// The number.
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
    /// What was compressed or encrypted is not all of a message.
    #[error("stream's compressed or encrypted message holds {0} bytes, which are not a whole message; it was cut off")]
    CutOff(usize),
}

impl StreamError {
    /// Whether it is fine as far as it was read, and more than is taken.
    pub fn exceeds_limit(&self) -> bool {
        match self {
            Self::Announced { .. } | Self::TooLong { .. } => true,
            Self::Body { source, .. } => source.exceeds_limit(),
            _ => false,
        }
    }
}

/// The records of a push/pull that were left out, as no node can be as they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub count: usize,
    /// What is wrong with the first of them.
    pub first: RecordError,
}

/// What is awaited.
#[derive(Debug, Default)]
enum Awaited {
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
    /// Nothing more: the message was given, or an error.
    Done,
}

/// What is done at once: so many records are parsed, and so many bytes are decompressed. Less than a millisecond's work.
const SLICE_RECORDS: usize = 512;
const SLICE_BYTES: usize = 64 << 10;

/// A compressed message whose content is taken out as it is needed.
#[derive(Debug)]
struct Compressed {
    data: Bytes,
    inflater: Inflater,
}

/// Reads one message from a stream, however it is cut into pieces.
///
/// Holds what has arrived and is not yet parsed, at most [`StreamLimits::whole`] bytes, and makes no room
/// for what is only announced. The time it takes is proportional to the bytes, not to the pieces. What is compressed
/// is taken out in slices, as far as the message goes.
///
/// In a push/pull, a record that can be read but describes no possible node ([`RecordError`]) is left
/// out, so that one odd node does not keep others from joining; see [`StreamReader::skipped`].
/// Anything else wrong ends the stream.
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
    /// What the records that were parsed refer to, in bytes.
    parsed: usize,
    awaited: Awaited,
    skipped: Option<Skipped>,
}

impl StreamReader {
    /// A reader at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that takes no more than this.
    #[must_use]
    pub fn with_limits(limits: StreamLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes the next bytes of the stream and gives the message once it is complete.
    /// Bytes behind the message are ignored.
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
        if matches!(self.awaited, Awaited::Done) {
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

    /// Whether there is more to do with what has arrived.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Does the next slice of the work.
    ///
    /// # Errors
    ///
    /// See [`push`](Self::push).
    pub fn work(&mut self) -> Result<Option<StreamMessage>, StreamError> {
        let result = self.advance();
        self.end_with(result)
    }

    /// How much is held of a message that is not complete, in bytes.
    pub fn held(&self) -> usize {
        let records = match &self.awaited {
            Awaited::Record { nodes, .. } => nodes.capacity(),
            Awaited::UserState { push_pull, .. } => push_pull.nodes.capacity(),
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
            self.awaited = Awaited::Done;
            (self.buf, self.compressed, self.busy, self.parsed) = (BytesMut::new(), None, false, 0);
        }
        result
    }

    /// The records of the push/pull that were left out; `None` when there were none.
    #[must_use]
    pub fn skipped(&self) -> Option<&Skipped> {
        self.skipped.as_ref()
    }

    /// Parses as far as the bytes go, and this slice of the work.
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

    /// Parses as far as the bytes go, and no more than so many records.
    fn parse(&mut self, records: &mut usize) -> Result<Option<StreamMessage>, StreamError> {
        loop {
            match &mut self.awaited {
                Awaited::Type => {
                    let Ok(kind) = self.buf.try_get_u8() else { return Ok(None) };
                    check_type(kind, self.compressed.is_some())?;
                    self.awaited = Awaited::Struct { kind, scanner: Scanner::default() };
                }
                Awaited::Struct { kind, scanner } => {
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
                            (self.buf, self.awaited) = (BytesMut::new(), Awaited::Type);
                            continue;
                        }
                        kind::PUSH_PULL => {
                            self.awaited =
                                push_pull(PushPullHeader::decode(&body).map_err(body_error(kind))?, &self.limits)?;
                            continue;
                        }
                        _ => {
                            let len = decode_user_header(&body).map_err(body_error(kind))?;
                            let len = announced("bytes of user message", len, self.limits.user_message)?;
                            self.awaited = Awaited::User { len };
                            continue;
                        }
                    };
                    return message.map(Some).map_err(body_error(kind));
                }
                Awaited::Record { header, left: 0, nodes, .. } => {
                    // Within its limit, as checked when the header came.
                    let len = header.user_state as usize;
                    let nodes = std::mem::take(nodes);
                    let push_pull = PushPull { join: header.join, nodes, user_state: Bytes::new() };
                    self.awaited = Awaited::UserState { len, push_pull };
                }
                Awaited::Record { .. } if *records == 0 => return Ok(None),
                Awaited::Record { left, nodes, scanner, .. } => {
                    let body = next_struct(&mut self.buf, scanner, limits::STREAM_STRUCT);
                    let Some(body) = body.map_err(body_error(kind::PUSH_PULL))? else { return Ok(None) };
                    match PushPullState::decode(&body) {
                        Ok(node) => {
                            self.parsed += body.len();
                            nodes.push(node);
                        }
                        Err(BodyError::Record(first)) => {
                            self.skipped.get_or_insert(Skipped { count: 0, first }).count += 1;
                        }
                        Err(error) => return Err(body_error(kind::PUSH_PULL)(error)),
                    }
                    *left -= 1;
                    *records -= 1;
                    *scanner = Scanner::default();
                }
                Awaited::UserState { len, push_pull } => {
                    if self.buf.len() < *len {
                        return Ok(None);
                    }
                    let user_state = self.buf.split_to(*len).freeze();
                    let push_pull = PushPull { user_state, ..std::mem::take(push_pull) };
                    return Ok(Some(StreamMessage::PushPull(push_pull)));
                }
                Awaited::User { len } => {
                    let ready = self.buf.len() >= *len;
                    return Ok(ready.then(|| StreamMessage::User(self.buf.split_to(*len).freeze())));
                }
                Awaited::Done => return Ok(None),
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

fn push_pull(header: PushPullHeader, limits: &StreamLimits) -> Result<Awaited, StreamError> {
    announced("records in a push/pull", header.nodes, limits.push_pull_nodes)?;
    announced("bytes of user state", header.user_state, limits.user_state)?;
    Ok(Awaited::Record { header, left: header.nodes, nodes: Vec::new(), scanner: Scanner::default() })
}

fn announced(what: &'static str, found: u64, max: usize) -> Result<usize, StreamError> {
    usize::try_from(found).ok().filter(|len| *len <= max).ok_or(StreamError::Announced { what, found, max })
}

fn body_error(kind: u8) -> impl Fn(BodyError) -> StreamError {
    let name = kind::name(kind).unwrap_or("message");
    move |source| StreamError::Body { name, source }
}

/// The bytes of one stream message, wrapped in a compress message when `compress` is set, even if
/// that makes them more, as memberlist does.
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
