//! Streams: the bytes of a TCP connection ⇄ messages.

use bytes::Bytes;

use super::{Ack, Ping, PushPull};

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
    /// stub
    #[error("stub")]
    Stub,
}

/// Reads one message from a stream, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct StreamReader {}

impl StreamReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }
    /// Takes the next bytes of the stream and gives the message once it is complete.
    /// Bytes behind the message are ignored.
    ///
    /// # Errors
    ///
    /// The stream is not a memberlist stream, or exceeds a limit. The reader is then of no more use.
    pub fn push(&mut self, _data: &[u8]) -> Result<Option<StreamMessage>, StreamError> {
        todo!()
    }
}

/// The bytes of one stream message, wrapped in a compress message when `compress` is set.
pub fn encode(_message: &StreamMessage, _compress: bool) -> Vec<u8> {
    todo!()
}
