//! One request to a node and its response, over a TCP connection of their own, as memberlist does it for push/pull and for
//! pings over TCP.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time,
};

use super::sockets;
use crate::wire::{
    envelope::{Direction, Envelope},
    envelope_reader::EnvelopeReader,
    limits::StreamLimits,
    stream::{StreamMessage, encode},
};

/// How much of a response is read at once, in bytes.
const CHUNK: usize = 16 << 10;

/// Why there is no response to a request to a node. [`probe`](crate::probe) and
/// [`Handle::view_of`](crate::Handle::view_of) make such requests.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Cannot connect.
    #[error("nothing answers at {addr}: {source}; is the node running?")]
    Connect {
        /// The node's address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The connection broke before the response was complete.
    #[error("{addr} broke off the connection: {source}; try again, and check the node's log")]
    Broken {
        /// The node's address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system has no source of randomness, and encryption needs a nonce.
    #[error("the system has no source of randomness, which encryption needs")]
    Randomness,
    /// The response took too long.
    #[error("{addr} did not answer within {timeout:?}; the node hangs, or something else listens there")]
    Timeout {
        /// The node's address.
        addr: SocketAddr,
        /// How long it had.
        timeout: Duration,
    },
    /// The response exceeds a limit.
    #[error(
        "{addr} sent more than this node accepts: {problem}; if the cluster is that large, raise max_members and max_stream_bytes"
    )]
    TooLarge {
        /// The node's address.
        addr: SocketAddr,
        /// The limit that it exceeds.
        problem: String,
    },
    /// The response is not memberlist's.
    #[error("what listens at {addr} is not a node: {problem}; give the address of a node")]
    NotANode {
        /// The node's address.
        addr: SocketAddr,
        /// What is wrong with the response.
        problem: String,
    },
}

/// The bytes that went over the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExchangeTraffic {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// Sends `message` to the node at `addr` and returns its response, which has to keep to `limits`. `traffic` counts the bytes
/// of failed exchanges, too.
pub(super) async fn request(
    addr: SocketAddr,
    envelope: &Envelope,
    limits: StreamLimits,
    timeout: Duration,
    message: &StreamMessage,
    traffic: &mut ExchangeTraffic,
) -> Result<StreamMessage, RequestError> {
    let answer = async {
        let mut stream = sockets::connect(addr).await.map_err(|source| RequestError::Connect { addr, source })?;
        let nonce = super::nonce().ok_or(RequestError::Randomness)?;
        let request = envelope.seal_stream(nonce, encode(message, false), Direction::Request);
        stream.write_all(&request).await.map_err(|source| RequestError::Broken { addr, source })?;
        traffic.sent += request.len() as u64;
        let mut reader = EnvelopeReader::with_limits(Direction::Answer, limits);
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = match stream.read(&mut chunk).await {
                Ok(0) => return Err(RequestError::Broken { addr, source: io::ErrorKind::UnexpectedEof.into() }),
                Ok(length) => length,
                Err(source) => return Err(RequestError::Broken { addr, source }),
            };
            traffic.received += length as u64;
            match reader.push(envelope, &chunk[..length]) {
                Ok(None) => {}
                Ok(Some(message)) => return Ok(message),
                Err(error) if error.exceeds_limit() => {
                    return Err(RequestError::TooLarge { addr, problem: error.to_string() });
                }
                Err(error) => return Err(RequestError::NotANode { addr, problem: error.to_string() }),
            }
        }
    };
    time::timeout(timeout, answer).await.unwrap_or(Err(RequestError::Timeout { addr, timeout }))
}
