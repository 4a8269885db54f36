//! What another node tells, one thing after the other: the store that it is of, and then each with its length in front.

use broadcast_session::{CallError, CallResponse, OutgoingBody, Sessions};
use bytes::{Buf as _, Bytes, BytesMut};

/// The longest thing that is told at once, in bytes: a transaction, with what was there before.
const MAX_TOLD: usize = 256 << 20;

/// A voter of another node that tells something, as long as this is kept.
#[derive(Debug)]
pub(super) struct Stream {
    name: String,
    /// As long as it is open, the voter goes on.
    outgoing: OutgoingBody,
    answered: CallResponse,
    read: BytesMut,
}

/// Why nothing more is told.
#[derive(Debug)]
pub(super) enum Ended {
    Call(CallError),
    Broken(String),
}

impl From<CallError> for Ended {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

/// Something that is told, with its length in front.
pub(super) fn framed(body: &[u8]) -> Bytes {
    let len = u32::try_from(body.len()).expect("what is told at once is far shorter");
    [&len.to_be_bytes()[..], body].concat().into()
}

impl Stream {
    /// Has the voter of that name tell what is asked for; gives also the store that it is of.
    pub(super) async fn open(
        sessions: &Sessions,
        name: &str,
        method: &str,
        question: Bytes,
    ) -> Result<(u64, Self), Ended> {
        let mut call = sessions.open(name, method, None).await?;
        call.outgoing.send(question).await.map_err(|error| Ended::Broken(error.to_string()))?;
        let (outgoing, answered) = call.split().await?;
        let mut stream = Self { name: name.into(), outgoing, answered, read: BytesMut::new() };
        loop {
            if let Some((store, _)) = stream.read.split_first_chunk::<8>() {
                let store = u64::from_be_bytes(*store);
                stream.read.advance(8);
                return Ok((store, stream));
            }
            stream.more().await.map_err(Ended::Broken)?;
        }
    }

    /// Whose it is.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Tells the voter something in return. Should it be gone, that shows when it is waited for.
    pub(super) async fn send(&mut self, piece: &'static [u8]) {
        drop(self.outgoing.send(Bytes::from_static(piece)).await);
    }

    /// What is told next. Drop-safe: what was not returned is told the next time.
    pub(super) async fn next(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some((len, rest)) = self.read.split_first_chunk::<4>() {
                let len = u32::from_be_bytes(*len) as usize;
                if len > MAX_TOLD {
                    return Err(format!("{} tells {len} bytes at once", self.name));
                }
                if rest.len() >= len {
                    self.read.advance(4);
                    return Ok(self.read.split_to(len).freeze());
                }
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), String> {
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
