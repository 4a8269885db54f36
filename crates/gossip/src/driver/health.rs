//! A health check from outside, by memberlist's ping over TCP.
//!
//! The ack of a node of this crate carries its [`Health`] as JSON. The ack of another memberlist node is empty:
//! [`HealthError::Silent`].

use std::{net::SocketAddr, time::Duration};

use super::exchange::{self, ExchangeTraffic, RequestError};
use crate::{
    Health,
    wire::{Ping, envelope::Envelope, limits::StreamLimits, stream::StreamMessage},
};

/// The longest ack, in bytes.
const ANSWER: usize = 64 << 10;

/// Why a node's health is unknown. See [`probe`].
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The node does not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The node is a memberlist node that does not report its health.
    #[error("the node at {addr} answers, but does not report its health: it is not a broadcast node")]
    Silent {
        /// The node's address.
        addr: SocketAddr,
    },
}

/// Asks the node at `addr` for its health. `envelope` has its cluster's label and one of its keys.
///
/// # Errors
///
/// See [`HealthError`]; it is returned within `timeout`.
///
/// ```
/// use std::time::Duration;
///
/// use broadcast::{Config, Envelope, Profile, probe, start};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::new("node1").bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
/// let node = start(config).await?;
/// let health = probe(node.addr(), &Envelope::default(), Duration::from_secs(5)).await?;
/// assert!(health.joined);
/// # Ok(()) }
/// ```
pub async fn probe(addr: SocketAddr, envelope: &Envelope, timeout: Duration) -> Result<Health, HealthError> {
    const SEQ: u32 = 1;
    // An empty name addresses whatever node listens there.
    let ping = StreamMessage::Ping(Ping { seq: SEQ, node: "".into(), source: None });
    let limits = StreamLimits { whole: ANSWER, decompressed: ANSWER, ..StreamLimits::default() };
    match exchange::request(addr, envelope, limits, timeout, &ping, &mut ExchangeTraffic::default()).await? {
        StreamMessage::Ack(ack) if ack.seq == SEQ => {
            serde_json::from_slice(&ack.payload).map_err(|_| HealthError::Silent { addr })
        }
        _ => Err(RequestError::NotANode { addr, problem: "it answers a ping with something else".into() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::wire::{Ack, stream::encode};

    /// Asks a listener that answers the ping it reads with `answer`, and then closes or hangs.
    async fn probe_what_answers(answer: Vec<u8>, hang: bool) -> Result<Health, HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("the probe connects");
            let ping = encode(&StreamMessage::Ping(Ping { seq: 1, node: "".into(), source: None }), false);
            let mut asked = vec![0; ping.len()];
            stream.read_exact(&mut asked).await.expect("it sends");
            assert_eq!(asked, ping);
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
        assert_eq!(health.expect("a node"), Health { joined: true, leaving: false, members: 3 });
    }

    #[tokio::test]
    async fn what_is_not_an_answer_is_told_apart() {
        use HealthError::{Request, Silent};
        use RequestError::{Broken, Connect, NotANode, Timeout};

        assert!(matches!(probe_what_answers(ack(1, ""), false).await, Err(Silent { .. })));
        assert!(matches!(probe_what_answers(ack(2, ""), false).await, Err(Request(NotANode { .. }))));
        assert!(matches!(
            probe_what_answers(b"HTTP/1.1 400 Bad Request".into(), false).await,
            Err(Request(NotANode { .. }))
        ));
        assert!(matches!(probe_what_answers(Vec::new(), false).await, Err(Request(Broken { .. }))));
        assert!(matches!(probe_what_answers(Vec::new(), true).await, Err(Request(Timeout { .. }))));

        let free = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports").local_addr();
        let free = free.expect("a bound socket has an address");
        assert!(matches!(
            probe(free, &Envelope::default(), Duration::from_secs(10)).await,
            Err(Request(Connect { .. }))
        ));
    }
}
