//! Asking a node from outside how it is, by memberlist's ping over TCP.
//!
//! A node of this crate answers with an ack that carries its [`Health`] as JSON. Other memberlist
//! nodes answer with nothing in it, which [`HealthError::Silent`] tells apart from no answer.

use std::{io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use crate::wire::{
    Ping,
    envelope::{Direction, Envelope, Opener},
    stream::{StreamError, StreamMessage, encode},
};

/// An ack is read no further than this.
const ANSWER: usize = 64 << 10;

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// Whether it is in the cluster: a seed has answered it, or it has none to ask.
    pub joined: bool,
    /// How many members it sees, itself included.
    pub members: usize,
}

/// Why a node's health is not known.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nothing answers.
    #[error("nothing answers at {addr}: {source}; is the node running?")]
    Connect {
        /// The address asked.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The connection stood, and broke before the answer was complete.
    #[error("{addr} broke off: {source}; ask again, and see the node's log")]
    Broken {
        /// The address asked.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no numbers that are used once.
    #[error("the system has no source of randomness, which encryption cannot do without")]
    Randomness,
    /// The answer took too long.
    #[error("{addr} did not answer within {timeout:?}; the node hangs, or something else listens there")]
    Timeout {
        /// The address asked.
        addr: SocketAddr,
        /// How long it had.
        timeout: Duration,
    },
    /// The answer is none of memberlist's.
    #[error("what listens at {addr} is not a node: {problem}; give the node's own address")]
    NotANode {
        /// The address asked.
        addr: SocketAddr,
        /// What was wrong with the answer.
        problem: String,
    },
    /// A memberlist node that does not tell its health.
    #[error("the node at {addr} answers, but does not tell how it is: it is not one of broadcast's")]
    Silent {
        /// The address asked.
        addr: SocketAddr,
    },
}

/// Asks the node that listens at `addr` how it is. `envelope` has its label and one of its keys.
///
/// # Errors
///
/// See [`HealthError`]; one comes no later than `timeout`.
pub async fn probe(addr: SocketAddr, envelope: &Envelope, timeout: Duration) -> Result<Health, HealthError> {
    match time::timeout(timeout, ask(addr, envelope)).await {
        Ok(answer) => answer,
        Err(_) => Err(HealthError::Timeout { addr, timeout }),
    }
}

async fn ask(addr: SocketAddr, envelope: &Envelope) -> Result<Health, HealthError> {
    const SEQ: u32 = 1;
    let broken = |source| HealthError::Broken { addr, source };

    let mut stream = TcpStream::connect(addr).await.map_err(|source| HealthError::Connect { addr, source })?;
    // An empty name means whoever listens here.
    let ping = StreamMessage::Ping(Ping { seq: SEQ, node: "".into(), source: None });
    let nonce = super::nonce().ok_or(HealthError::Randomness)?;
    let ping = envelope.seal_stream(nonce, encode(&ping, false), Direction::Request);
    stream.write_all(&ping).await.map_err(broken)?;

    match read(&mut stream, envelope, Direction::Answer).await.map_err(broken)? {
        Ok(StreamMessage::Ack(ack)) if ack.seq == SEQ => {
            serde_json::from_slice(&ack.payload).map_err(|_| HealthError::Silent { addr })
        }
        Ok(_) => Err(HealthError::NotANode { addr, problem: "it answers a ping with something else".into() }),
        Err(error) => Err(HealthError::NotANode { addr, problem: error.to_string() }),
    }
}

async fn read(
    stream: &mut TcpStream,
    envelope: &Envelope,
    direction: Direction,
) -> io::Result<Result<StreamMessage, StreamError>> {
    let mut opener = Opener::new(direction);
    let mut chunk = [0; 1024];
    let mut rest = stream.take(ANSWER as u64);
    loop {
        let length = rest.read(&mut chunk).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match opener.push(envelope, &chunk[..length]) {
            Ok(None) => {}
            Ok(Some(message)) => return Ok(Ok(message)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::net::TcpListener;

    use super::*;
    use crate::wire::Ack;

    /// Asks a listener that answers the ping it reads with `answer`, and then closes or hangs.
    async fn probe_what_answers(answer: Vec<u8>, hang: bool) -> Result<Health, HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("the probe connects");
            let ping = read(&mut stream, &Envelope::default(), Direction::Request)
                .await
                .expect("it sends")
                .expect("it speaks memberlist");
            assert_eq!(ping, StreamMessage::Ping(Ping { seq: 1, node: "".into(), source: None }));
            stream.write_all(&answer).await.expect("it listens");
            if hang {
                std::future::pending::<()>().await;
            }
        };
        both(probe(addr, &Envelope::default(), Duration::from_millis(if hang { 50 } else { 10_000 })), serve).await
    }

    async fn both<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> T {
        let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
        tokio::select! {
            result = &mut first => result,
            () = &mut second => first.await,
        }
    }

    fn ack(seq: u32, payload: &'static str) -> Vec<u8> {
        encode(&StreamMessage::Ack(Ack { seq, payload: payload.into() }), false)
    }

    #[tokio::test]
    async fn a_node_tells_how_it_is() {
        let health = probe_what_answers(ack(1, r#"{"joined":true,"members":3}"#), false).await;
        assert_eq!(health.expect("a node"), Health { joined: true, members: 3 });
    }

    #[tokio::test]
    async fn what_is_not_an_answer_is_told_apart() {
        use HealthError::{Broken, Connect, NotANode, Silent, Timeout};

        assert!(matches!(probe_what_answers(ack(1, ""), false).await, Err(Silent { .. })));
        assert!(matches!(probe_what_answers(ack(2, ""), false).await, Err(NotANode { .. })));
        assert!(matches!(probe_what_answers(b"HTTP/1.1 400 Bad Request".into(), false).await, Err(NotANode { .. })));
        assert!(matches!(probe_what_answers(Vec::new(), false).await, Err(Broken { .. })));
        assert!(matches!(probe_what_answers(Vec::new(), true).await, Err(Timeout { .. })));

        let free = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports").local_addr();
        let free = free.expect("a bound socket has an address");
        assert!(matches!(probe(free, &Envelope::default(), Duration::from_secs(10)).await, Err(Connect { .. })));
    }
}
