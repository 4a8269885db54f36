//! A stream of messages from a voter on another node: first the id of its store, then messages, each behind its length.

use broadcast_session::{CallError, CallResponse, OutgoingBody, Sessions};
use bytes::{Buf as _, Bytes, BytesMut};

/// The longest message, in bytes: the changes of a transaction, with the former values.
const MAX_MESSAGE: usize = 256 << 20;

/// A stream from a voter on another node. Its drop ends the stream.
#[derive(Debug)]
pub(super) struct RemoteStream {
    name: String,
    /// The voter goes on as long as this is open.
    outgoing: OutgoingBody,
    answered: CallResponse,
    read: BytesMut,
}

/// Why a stream could not begin.
#[derive(Debug)]
pub(super) enum RemoteStreamError {
    Call(CallError),
    Broken(String),
}

impl From<CallError> for RemoteStreamError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// A message behind its length, in 4 bytes.
pub(super) fn frame(body: &[u8]) -> Bytes {
    let len = u32::try_from(body.len()).expect("a message is far shorter");
    [&len.to_be_bytes()[..], body].concat().into()
}

impl RemoteStream {
    /// Opens a stream at the voter of that name. Also returns the id of its store.
    pub(super) async fn open(
        sessions: &Sessions,
        name: &str,
        method: &str,
        question: Bytes,
    ) -> Result<(u64, Self), RemoteStreamError> {
        let mut call = sessions.open(name, method, None).await?;
        call.outgoing.send(question).await.map_err(|error| RemoteStreamError::Broken(error.to_string()))?;
        let (outgoing, answered) = call.split().await?;
        let mut stream = Self { name: name.into(), outgoing, answered, read: BytesMut::new() };
        loop {
            if let Some((store, _)) = stream.read.split_first_chunk::<8>() {
                let store = u64::from_be_bytes(*store);
                stream.read.advance(8);
                return Ok((store, stream));
            }
            stream.read_more().await.map_err(RemoteStreamError::Broken)?;
        }
    }

    /// The voter's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Sends something to the voter. If the voter is gone, [`next`](Self::next) reports it.
    pub(super) async fn send(&mut self, piece: &'static [u8]) {
        drop(self.outgoing.send(Bytes::from_static(piece)).await);
    }

    /// The next message. Drop-safe: a message that was not returned comes the next time.
    pub(super) async fn next(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some((len, rest)) = self.read.split_first_chunk::<4>() {
                let len = u32::from_be_bytes(*len) as usize;
                if len > MAX_MESSAGE {
                    return Err(format!("{} tells {len} bytes at once", self.name));
                }
                if rest.len() >= len {
                    self.read.advance(4);
                    return Ok(self.read.split_to(len).freeze());
                }
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), String> {
        match self.answered.incoming.next().await {
            Ok(Some(piece)) => {
                self.read.extend_from_slice(&piece);
                Ok(())
            }
            Ok(None) => Err(format!("{} tells no more", self.name)),
            Err(error) => Err(error.to_string()),
        }
    }
}
