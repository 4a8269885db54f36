//! Asking a node something from outside, as one of memberlist's exchanges over TCP: a connection of its own,
//! one message there and one back.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use super::sockets;
use crate::wire::{
    envelope::{Direction, Envelope},
    limits::StreamLimits,
    opener::Opener,
    stream::{StreamMessage, encode},
};

/// How much of an answer is read at once, in bytes.
const CHUNK: usize = 16 << 10;

/// Why a node that was asked something has not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing answers.
    #[error("nothing answers at {addr}: {source}; is the node running?")]
    Connect {
        /// The address asked.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The connection stood, and broke before the answer was complete.
    #[error("{addr} broke off the connection: {source}; try again, and check the node's log")]
    Broken {
        /// The address asked.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no numbers that are used once.
    #[error("the system has no source of randomness, which encryption needs")]
    Randomness,
    /// The answer took too long.
    #[error("{addr} did not answer within {timeout:?}; the node hangs, or something else listens there")]
    Timeout {
        /// The address asked.
        addr: SocketAddr,
        /// How long it had.
        timeout: Duration,
    },
    /// The answer is more than is taken.
    #[error(
        "{addr} sent more than this node accepts: {problem}; if the cluster is that large, raise max_members and max_stream_bytes"
    )]
    TooLarge {
        /// The address asked.
        addr: SocketAddr,
        /// Which limit it exceeds.
        problem: String,
    },
    /// The answer is none of memberlist's.
    #[error("what listens at {addr} is not a node: {problem}; give the address of a node")]
    NotANode {
        /// The address asked.
        addr: SocketAddr,
        /// What was wrong with the answer.
        problem: String,
    },
}

/// What went over the connection, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// Asks the node that listens at `addr`, and gives what it answers within these limits. What went there and back is
/// counted, also if that is not all.
pub(super) async fn ask(
    addr: SocketAddr,
    envelope: &Envelope,
    limits: StreamLimits,
    timeout: Duration,
    request: &StreamMessage,
    passed: &mut Passed,
) -> Result<StreamMessage, AskError> {
    let answer = async {
        let mut stream = sockets::connect(addr).await.map_err(|source| AskError::Connect { addr, source })?;
        let nonce = super::nonce().ok_or(AskError::Randomness)?;
        let request = envelope.seal_stream(nonce, encode(request, false), Direction::Request);
        stream.write_all(&request).await.map_err(|source| AskError::Broken { addr, source })?;
        passed.sent += request.len() as u64;
        let mut opener = Opener::with_limits(Direction::Answer, limits);
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = match stream.read(&mut chunk).await {
                Ok(0) => return Err(AskError::Broken { addr, source: io::ErrorKind::UnexpectedEof.into() }),
                Ok(length) => length,
                Err(source) => return Err(AskError::Broken { addr, source }),
            };
            passed.received += length as u64;
            match opener.push(envelope, &chunk[..length]) {
                Ok(None) => {}
                Ok(Some(message)) => return Ok(message),
                Err(error) if error.exceeds_limit() => {
                    return Err(AskError::TooLarge { addr, problem: error.to_string() });
                }
                Err(error) => return Err(AskError::NotANode { addr, problem: error.to_string() }),
            }
        }
    };
    time::timeout(timeout, answer).await.unwrap_or(Err(AskError::Timeout { addr, timeout }))
}
