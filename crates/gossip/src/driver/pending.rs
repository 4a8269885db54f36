//! Accepted connections whose first byte has not come yet.
//!
//! A client speaks first: a member sends a request, and a client of another protocol sends that protocol's first byte. The
//! first byte decides where a connection goes: to the node, as a stream, or to the [other protocol](PendingConnections::divert).
//! It is only peeked at, so whoever gets the connection reads all of it. Silent clients compete with each other for the few
//! slots here, and take none from streams or from the other protocol.
//!
//! # Bounds
//!
//! At most [`MAX_SILENT`] connections wait here, and at most [`MAX_SILENT_PER_HOST`] of one [host](host_network), each for
//! [`FIRST_BYTE_TIMEOUT`]. A further one evicts the one that has been silent for longest. A connection whose first byte has
//! come is never evicted; while many of these wait for the event loop, no more connections are accepted.

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::debug;

/// Silent connections in all, and from one host, at most.
const MAX_SILENT: usize = 256;
const MAX_SILENT_PER_HOST: usize = 32;
/// Connections here at most: silent ones, and those whose first byte the event loop has not seen yet.
const MAX_PENDING: usize = 2 * MAX_SILENT;
/// How long a connection may be silent, unless the TCP timeout is shorter. The first byte comes right after the handshake,
/// or when it was lost, with the second or third attempt to send it.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of the other protocol that wait until they are accepted, at most.
const MAX_FOREIGN: usize = 64;

/// A connection of another protocol, of which nothing has been read, and the peer's address.
pub(super) type ForeignConnection = (std::net::TcpStream, SocketAddr);

/// How the wait for a connection's first byte ended.
#[derive(Debug)]
pub(super) enum PendingOutcome {
    /// The byte has come, and is still to be read.
    Stream(TcpStream, SocketAddr),
    /// The peer was silent for so long, and the connection was closed.
    Silent(SocketAddr, Duration),
}

/// See the [module](self). The oldest connection comes first.
pub(super) struct PendingConnections {
    connections: VecDeque<PendingConnection>,
    tasks: JoinSet<FirstByte>,
    first_byte_timeout: Duration,
    /// The first byte of the other protocol, and where its connections go.
    foreign: Option<(u8, mpsc::Sender<ForeignConnection>)>,
}

struct PendingConnection {
    stream: Arc<TcpStream>,
    from: SocketAddr,
    task: AbortHandle,
}

impl PendingConnection {
    /// Whether no byte has come. Asks the system, as the task that waits for it may not have run yet.
    fn is_silent(&self) -> bool {
        let peeked = SockRef::from(&*self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What a connection's task has waited for.
enum FirstByte {
    Received(u8),
    TimedOut,
    /// The peer has closed the connection, as port checks do.
    Closed,
}

impl PendingConnections {
    pub(super) fn new(tcp_timeout: Duration) -> Self {
        Self {
            connections: VecDeque::new(),
            tasks: JoinSet::new(),
            first_byte_timeout: FIRST_BYTE_TIMEOUT.min(tcp_timeout),
            foreign: None,
        }
    }

    /// From now on, connections whose first byte is `first` go to the receiver. Those that find no room there are closed.
    pub(super) fn divert(&mut self, first: u8) -> mpsc::Receiver<ForeignConnection> {
        let (to, received) = mpsc::channel(MAX_FOREIGN);
        self.foreign = Some((first, to));
        received
    }

    /// Whether another connection may be accepted.
    pub(super) fn has_room(&self) -> bool {
        self.tasks.len() < MAX_PENDING
    }

    /// Adds a connection. Returns the peer of the one that was evicted for it, if any.
    pub(super) fn push(&mut self, stream: TcpStream, from: SocketAddr) -> Option<SocketAddr> {
        let evicted = self.to_evict(from.ip()).and_then(|at| self.connections.remove(at)).map(|oldest| {
            oldest.task.abort();
            oldest.from
        });
        let stream = Arc::new(stream);
        let task = self.tasks.spawn(first_byte(Arc::clone(&stream), self.first_byte_timeout));
        self.connections.push_back(PendingConnection { stream, from, task });
        evicted
    }

    /// The index of the connection that has to make room for one from `ip`, if there is no room.
    fn to_evict(&self, ip: IpAddr) -> Option<usize> {
        let network = host_network(ip);
        let is_from_there = |connection: &PendingConnection| host_network(connection.from.ip()) == network;
        let from_there = self.connections.iter().filter(|connection| is_from_there(connection)).count();
        if from_there >= MAX_SILENT_PER_HOST {
            self.connections.iter().position(|connection| is_from_there(connection) && connection.is_silent())
        } else if self.connections.len() >= MAX_SILENT {
            self.connections.iter().position(PendingConnection::is_silent)
        } else {
            None
        }
    }

    /// The outcome of the next connection, or `None` if there are none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<PendingOutcome> {
        loop {
            // One that was evicted is no longer in the list.
            let Ok((id, first)) = self.tasks.join_next_with_id().await? else { continue };
            let index = self.connections.iter().position(|connection| connection.task.id() == id);
            let Some(PendingConnection { stream, from, .. }) = index.and_then(|at| self.connections.remove(at)) else {
                continue;
            };
            match (first, Arc::into_inner(stream)) {
                (FirstByte::TimedOut, _) => return Some(PendingOutcome::Silent(from, self.first_byte_timeout)),
                (FirstByte::Closed, _) | (_, None) => {}
                (FirstByte::Received(byte), Some(stream)) => match &self.foreign {
                    Some((wanted, to)) if byte == *wanted => hand_over(stream, from, to),
                    _ => return Some(PendingOutcome::Stream(stream, from)),
                },
            }
        }
    }
}

async fn first_byte(stream: Arc<TcpStream>, first_byte_timeout: Duration) -> FirstByte {
    let mut byte = [0];
    match timeout(first_byte_timeout, stream.peek(&mut byte)).await {
        Ok(Ok(1)) => FirstByte::Received(byte[0]),
        Ok(_) => FirstByte::Closed,
        Err(_) => FirstByte::TimedOut,
    }
}

fn hand_over(stream: TcpStream, from: SocketAddr, to: &mpsc::Sender<ForeignConnection>) {
    match stream.into_std().map(|stream| to.try_send((stream, from))) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => debug!(%from, "refused a connection of another protocol: too many wait"),
        Err(error) => debug!(%from, %error, "a connection of another protocol cannot be passed on"),
    }
}

/// What limits per host count by: an IPv4 address itself, and of an IPv6 address its /64 network, all of whose addresses one
/// machine may have.
///
/// ```
/// use std::net::IpAddr;
///
/// let host = |ip: &str| broadcast::host_network(ip.parse::<IpAddr>().expect("an address"));
/// assert_eq!(host("2001:db8::1"), host("2001:db8::2"));
/// assert_ne!(host("192.0.2.1"), host("192.0.2.2"));
/// ```
pub fn host_network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(SOON, future).await.expect("it happens soon")
    }

    struct PendingListener {
        listener: TcpListener,
        pending: PendingConnections,
    }

    impl PendingListener {
        async fn open(limit: Duration) -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
            Self { listener, pending: PendingConnections::new(limit) }
        }

        /// A connection from 127.0.0.`host` that has said this when it is taken in; and where the one that it replaced
        /// came from.
        async fn connect(&mut self, host: u8, said: &[u8]) -> (TcpStream, Option<SocketAddr>) {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).expect("loopback has this address");
            let mut peer = soon(socket.connect(self.listener.local_addr().expect("bound"))).await.expect("it listens");
            peer.write_all(said).await.expect("it is sent");
            let (stream, from) = soon(self.listener.accept()).await.expect("a connection");
            let replaced = self.pending.push(stream, from);
            (peer, replaced)
        }

        async fn stream(&mut self) -> SocketAddr {
            match soon(self.pending.next()).await {
                Some(PendingOutcome::Stream(_, from)) => from,
                other => panic!("{other:?}"),
            }
        }
    }

    fn addr(peer: &TcpStream) -> SocketAddr {
        peer.local_addr().expect("connected")
    }

    #[tokio::test]
    async fn whoever_says_nothing_takes_the_place_of_those_who_say_nothing() {
        let mut pending_listener = PendingListener::open(SOON).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_SILENT_PER_HOST {
            let (peer, replaced) = pending_listener.connect(2, b"").await;
            assert_eq!(replaced, None);
            silent.push(peer);
        }
        // Many from there, and one that speaks, of whom none keeps out the others.
        let (peer, replaced) = pending_listener.connect(2, b"\x07").await;
        assert_eq!(replaced, Some(addr(&silent[0])));
        assert_eq!(pending_listener.stream().await, addr(&peer));
        assert_eq!(soon(silent[0].read(&mut [0])).await.expect("it is closed"), 0);

        // From everywhere, until all places are taken.
        let rest = MAX_SILENT - (MAX_SILENT_PER_HOST - 1);
        for number in 0..rest {
            let (peer, replaced) = pending_listener.connect(3 + (number / MAX_SILENT_PER_HOST) as u8, b"").await;
            assert_eq!(replaced, None);
            silent.push(peer);
        }
        let (peer, replaced) = pending_listener.connect(100, b"\x07").await;
        assert_eq!(replaced, Some(addr(&silent[1])), "the oldest of all");
        assert_eq!(pending_listener.stream().await, addr(&peer));
    }

    #[tokio::test]
    async fn those_who_have_spoken_are_not_closed_for_others() {
        let mut pending_listener = PendingListener::open(SOON).await;
        let mut expected = Vec::new();
        // Nobody has looked yet at what they say.
        for _ in 0..3 * MAX_SILENT_PER_HOST {
            let (peer, replaced) = pending_listener.connect(2, b"\x07").await;
            assert_eq!(replaced, None);
            expected.push(peer);
        }
        let mut told = Vec::new();
        for _ in &expected {
            told.push(pending_listener.stream().await);
        }
        let mut expected: Vec<_> = expected.iter().map(addr).collect();
        expected.sort();
        told.sort();
        assert_eq!(told, expected);

        // While as many wait as may, no more are accepted.
        let mut peers = Vec::new();
        while pending_listener.pending.has_room() {
            peers.push(pending_listener.connect(2, b"\x07").await);
        }
        assert_eq!(peers.len(), MAX_PENDING);
        pending_listener.stream().await;
        assert!(pending_listener.pending.has_room());
    }

    #[tokio::test]
    async fn silence_ends_in_time_and_port_checks_are_no_matter() {
        let limit = Duration::from_millis(50);
        let mut pending_listener = PendingListener::open(limit).await;
        let (mut silent, _) = pending_listener.connect(2, b"").await;
        let (check, _) = pending_listener.connect(2, b"").await;
        drop(check);
        let arrival = soon(pending_listener.pending.next()).await;
        assert!(
            matches!(arrival, Some(PendingOutcome::Silent(from, after)) if from == addr(&silent) && after == limit)
        );
        assert_eq!(soon(silent.read(&mut [0])).await.expect("it is closed"), 0);
        assert!(
            soon(pending_listener.pending.next()).await.is_none() && pending_listener.pending.connections.is_empty()
        );
    }

    #[tokio::test]
    async fn only_what_begins_with_the_byte_of_another_protocol_goes_there() {
        let mut pending_listener = PendingListener::open(SOON).await;
        let mut foreign = pending_listener.pending.divert(0xb5);
        let (theirs, _) = pending_listener.connect(2, b"\xb5 and more").await;
        let (ours, _) = pending_listener.connect(2, b"\x07 and more").await;
        assert_eq!(pending_listener.stream().await, addr(&ours));
        let (stream, from) = soon(async {
            loop {
                tokio::select! {
                    stream = foreign.recv() => return stream.expect("it goes on"),
                    Some(arrival) = pending_listener.pending.next() => panic!("{arrival:?}"),
                    else => {}
                }
            }
        })
        .await;
        assert_eq!(from, addr(&theirs));
        let mut stream = TcpStream::from_std(stream).expect("it can be used");
        let mut said = [0; 10];
        soon(stream.read_exact(&mut said)).await.expect("nothing was read");
        assert_eq!(&said, b"\xb5 and more");
    }

    #[test]
    fn a_host_is_an_address_or_a_network_of_ipv6() {
        let [one, other, third] =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|ip| ip.parse().expect("an address"));
        assert!(host_network(one) == host_network(other) && host_network(one) != host_network(third));
        let [mapped, plain] = ["::ffff:192.0.2.1", "192.0.2.1"].map(|ip| ip.parse().expect("an address"));
        assert_eq!(host_network(mapped), plain);
    }
}
