//! Nodes, and what stands between them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broadcast::{
    Envelope, Handle, Profile, start,
    wire::{Keyring, SecretKey},
};
use broadcast_session::{Refusal, Request, Response, SessionConfig, Sessions};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn key(number: u8) -> SecretKey {
    SecretKey::new([number; 32]).expect("a key")
}

/// How a node is to be.
#[derive(Clone, Debug)]
pub(crate) struct NodeOptions {
    pub(crate) ip: IpAddr,
    pub(crate) keys: Vec<SecretKey>,
    pub(crate) label: &'static str,
    pub(crate) config: SessionConfig,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self { ip: Ipv4Addr::LOCALHOST.into(), keys: vec![key(1)], label: "", config: SessionConfig::default() }
    }
}

impl NodeOptions {
    pub(crate) async fn node(&self, name: &str, seeds: &[&Handle]) -> Handle {
        let keyring = Keyring::new(self.keys.clone()).expect("few keys");
        let envelope = Envelope { label: self.label.into(), keyring, ..Envelope::default() };
        let config = broadcast::Config::new(name)
            .bind(SocketAddr::new(self.ip, 0))
            .envelope(envelope)
            .tuning(Profile::Local.tuning())
            .join(seeds.iter().map(|seed| seed.addr().to_string().parse().expect("an address")).collect::<Vec<_>>());
        start(config).await.expect("the node starts")
    }

    pub(crate) async fn sessions(&self, name: &str, seeds: &[&Handle]) -> Sessions {
        let sessions = Sessions::start(&self.node(name, seeds).await, self.config).await.expect("it runs");
        sessions.serve("echo", echo);
        sessions.serve("who", async |request: Request| Ok(request.caller.name.to_string().into()));
        sessions
    }

    /// Two that know each other.
    pub(crate) async fn pair(&self) -> (Sessions, Sessions) {
        let one = self.sessions("one", &[]).await;
        let other = self.sessions("other", &[one.node()]).await;
        acquainted(&one, &other).await;
        (one, other)
    }
}

async fn echo(mut request: Request) -> Result<Response, Refusal> {
    let body = request.bytes(8 << 20).await.map_err(|error| Refusal::new(1, error.to_string()))?;
    Ok(body.into())
}

/// Waits until both know of each other that they take calls.
pub(crate) async fn acquainted(one: &Sessions, other: &Sessions) {
    for (a, b) in [(one, other), (other, one)] {
        until("they know each other", async || {
            let found = a.node().find(&b.node().name().into()).await;
            found.is_some_and(|(_, info)| info.is_some_and(|info| !info.endpoints.is_empty()))
        })
        .await;
    }
}

pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn echoes(from: &Sessions, to: &Sessions, text: &'static str) {
    let answer = from.call(to.node().name(), "echo", Bytes::from_static(text.as_bytes()), SOON).await;
    assert_eq!(answer, Ok(Bytes::from_static(text.as_bytes())));
}

/// An address of this host that is not loopback, if it has one.
pub(crate) fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: the system only looks for the way.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

/// What a man in the middle does with the bytes of one direction, from this place on.
pub(crate) type Tamper = Arc<dyn Fn(Direction, usize, &mut Vec<u8>) + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    There,
    Back,
}

/// What was said, in the order in which it came.
type Recording = Arc<Mutex<Vec<(Direction, Vec<u8>)>>>;

/// Passes connections on to a node, and keeps all that is said.
pub(crate) struct ManInTheMiddle {
    pub(crate) addr: SocketAddr,
    pub(crate) recording: Recording,
    /// From now on nothing passes, not even the end of a connection.
    pub(crate) holds: Arc<AtomicBool>,
}

impl ManInTheMiddle {
    pub(crate) async fn before(node: SocketAddr, tamper: Tamper) -> Self {
        let listener = TcpListener::bind((node.ip(), 0)).await.expect("a port");
        let addr = listener.local_addr().expect("it is bound");
        let recording = Recording::default();
        let recorded = Arc::clone(&recording);
        let holds = Arc::new(AtomicBool::new(false));
        let holding = Arc::clone(&holds);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let Ok(callee) = TcpStream::connect(node).await else { continue };
                let ((read, write), (back_read, back_write)) = (caller.into_split(), callee.into_split());
                for (direction, mut read, mut write) in
                    [(Direction::There, read, back_write), (Direction::Back, back_read, write)]
                {
                    let (tamper, recorded, holds) = (Arc::clone(&tamper), Arc::clone(&recorded), Arc::clone(&holding));
                    tokio::spawn(async move {
                        let mut at = 0;
                        let mut buffer = vec![0; 16 << 10];
                        while let Ok(len @ 1..) = read.read(&mut buffer).await {
                            if holds.load(Ordering::SeqCst) {
                                continue;
                            }
                            let mut bytes = buffer[..len].to_vec();
                            recorded.lock().expect("nobody panics").push((direction, bytes.clone()));
                            tamper(direction, at, &mut bytes);
                            at += len;
                            if write.write_all(&bytes).await.is_err() {
                                break;
                            }
                        }
                        if holds.load(Ordering::SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        let _ = write.shutdown().await;
                    });
                }
            }
        });
        Self { addr, recording, holds }
    }
}
