//! Accepted connections that have said nothing yet.
//!
//! Who connects to a node speaks at once: members with a request, callers of another protocol with its first byte. So a
//! connection becomes a stream, or goes [there](Arrivals::divert) unread, once its first byte has come. Until then it has
//! one of a few places here, and those who say nothing take each other's: neither the streams' nor those of the other
//! protocol.
//!
//! # Bounds
//!
//! [`SILENT`] connections wait, and [`SILENT_OF_ONE`] of one [host], for [`PATIENCE`] at most. One more takes the place of
//! the one that has been silent for longest. What has said something and was not looked at yet keeps its place; while there
//! are many such, no more connections are accepted.

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

/// Connections that have said nothing, at most, and of one host.
const SILENT: usize = 256;
const SILENT_OF_ONE: usize = 32;
/// Connections that have said nothing or were not looked at since, at most.
const WAITING: usize = 2 * SILENT;
/// How long a connection may say nothing, if a stream may take as long. The first byte comes with the connection, or with
/// the second or third attempt to send it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections of another protocol that wait to be taken, at most.
const FOREIGN: usize = 64;

/// A connection of another protocol, of which nothing has been read, and where it comes from.
pub(super) type Foreign = (std::net::TcpStream, SocketAddr);

/// What has become of a connection.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It says something; nothing of that was read.
    Stream(TcpStream, SocketAddr),
    /// It said nothing for so long, and was closed.
    Silent(SocketAddr, Duration),
}

/// The connections that wait, oldest first.
pub(super) struct Arrivals {
    waiting: VecDeque<Waiting>,
    tasks: JoinSet<First>,
    patience: Duration,
    /// Who takes the connections of another protocol, and the byte that these begin with.
    foreign: Option<(u8, mpsc::Sender<Foreign>)>,
}

struct Waiting {
    stream: Arc<TcpStream>,
    from: SocketAddr,
    task: AbortHandle,
}

impl Waiting {
    /// Whether it has said nothing, though its task may not know yet what it said.
    fn is_silent(&self) -> bool {
        let peeked = SockRef::from(&*self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What came first.
enum First {
    Byte(u8),
    Nothing,
    /// The end, as of port checks.
    End,
}

impl Arrivals {
    /// `limit` is how long a stream may make no progress.
    pub(super) fn new(limit: Duration) -> Self {
        Self { waiting: VecDeque::new(), tasks: JoinSet::new(), patience: PATIENCE.min(limit), foreign: None }
    }

    /// From now on, connections whose first byte is `first` are another protocol's, and go there. Those that find no room
    /// are closed.
    pub(super) fn divert(&mut self, first: u8) -> mpsc::Receiver<Foreign> {
        let (to, received) = mpsc::channel(FOREIGN);
        self.foreign = Some((first, to));
        received
    }

    /// Whether another connection may be accepted.
    pub(super) fn has_room(&self) -> bool {
        self.tasks.len() < WAITING
    }

    /// Waits for what a connection says. Gives where the silent one came from that was closed to make room, if one was.
    pub(super) fn take(&mut self, stream: TcpStream, from: SocketAddr) -> Option<SocketAddr> {
        let closed = self.crowded(from.ip()).and_then(|at| self.waiting.remove(at)).map(|oldest| {
            oldest.task.abort();
            oldest.from
        });
        let stream = Arc::new(stream);
        let task = self.tasks.spawn(first(Arc::clone(&stream), self.patience));
        self.waiting.push_back(Waiting { stream, from, task });
        closed
    }

    /// Which connection has to make room for one from there, if one has.
    fn crowded(&self, ip: IpAddr) -> Option<usize> {
        let host_of_it = host(ip);
        let is_of_it = |waiting: &Waiting| host(waiting.from.ip()) == host_of_it;
        let of_it = self.waiting.iter().filter(|waiting| is_of_it(waiting)).count();
        if of_it >= SILENT_OF_ONE {
            self.waiting.iter().position(|waiting| is_of_it(waiting) && waiting.is_silent())
        } else if self.waiting.len() >= SILENT {
            self.waiting.iter().position(Waiting::is_silent)
        } else {
            None
        }
    }

    /// What becomes of the next one. `None` when none waits. Nothing is lost when this is given up.
    pub(super) async fn next(&mut self) -> Option<Arrival> {
        loop {
            // One that was closed to make room has no place any more.
            let Ok((id, first)) = self.tasks.join_next_with_id().await? else { continue };
            let place = self.waiting.iter().position(|waiting| waiting.task.id() == id);
            let Some(Waiting { stream, from, .. }) = place.and_then(|at| self.waiting.remove(at)) else { continue };
            match (first, Arc::into_inner(stream)) {
                (First::Nothing, _) => return Some(Arrival::Silent(from, self.patience)),
                (First::End, _) | (_, None) => {}
                (First::Byte(byte), Some(stream)) => match &self.foreign {
                    Some((wanted, to)) if byte == *wanted => pass_on(stream, from, to),
                    _ => return Some(Arrival::Stream(stream, from)),
                },
            }
        }
    }
}

async fn first(stream: Arc<TcpStream>, patience: Duration) -> First {
    let mut byte = [0];
    match timeout(patience, stream.peek(&mut byte)).await {
        Ok(Ok(1)) => First::Byte(byte[0]),
        Ok(_) => First::End,
        Err(_) => First::Nothing,
    }
}

fn pass_on(stream: TcpStream, from: SocketAddr, to: &mpsc::Sender<Foreign>) {
    match stream.into_std().map(|stream| to.try_send((stream, from))) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => debug!(%from, "refused a connection of another protocol: too many wait"),
        Err(error) => debug!(%from, %error, "a connection of another protocol cannot be passed on"),
    }
}

/// Whom an address counts as, where there are bounds for each: itself, or in IPv6 its network of 64 bits, all of whose
/// addresses one machine may have.
pub fn host(ip: IpAddr) -> IpAddr {
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

    struct Door {
        listener: TcpListener,
        arrivals: Arrivals,
    }

    impl Door {
        async fn open(limit: Duration) -> Self {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has free ports");
            Self { listener, arrivals: Arrivals::new(limit) }
        }

        /// A connection from 127.0.0.`host` that has said this when it is taken in; and where the one that it replaced
        /// came from.
        async fn knock(&mut self, host: u8, said: &[u8]) -> (TcpStream, Option<SocketAddr>) {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).expect("loopback has this address");
            let mut peer = soon(socket.connect(self.listener.local_addr().expect("bound"))).await.expect("it listens");
            peer.write_all(said).await.expect("it is sent");
            let (stream, from) = soon(self.listener.accept()).await.expect("a connection");
            let replaced = self.arrivals.take(stream, from);
            (peer, replaced)
        }

        async fn stream(&mut self) -> SocketAddr {
            match soon(self.arrivals.next()).await {
                Some(Arrival::Stream(_, from)) => from,
                other => panic!("{other:?}"),
            }
        }
    }

    fn addr(peer: &TcpStream) -> SocketAddr {
        peer.local_addr().expect("connected")
    }

    #[tokio::test]
    async fn whoever_says_nothing_takes_the_place_of_those_who_say_nothing() {
        let mut door = Door::open(SOON).await;
        let mut silent = Vec::new();
        for _ in 0..SILENT_OF_ONE {
            let (peer, replaced) = door.knock(2, b"").await;
            assert_eq!(replaced, None);
            silent.push(peer);
        }
        // Many from there, and one that speaks, of whom none keeps out the others.
        let (peer, replaced) = door.knock(2, b"\x07").await;
        assert_eq!(replaced, Some(addr(&silent[0])));
        assert_eq!(door.stream().await, addr(&peer));
        assert_eq!(soon(silent[0].read(&mut [0])).await.expect("it is closed"), 0);

        // From everywhere, until all places are taken.
        let rest = SILENT - (SILENT_OF_ONE - 1);
        for number in 0..rest {
            let (peer, replaced) = door.knock(3 + (number / SILENT_OF_ONE) as u8, b"").await;
            assert_eq!(replaced, None);
            silent.push(peer);
        }
        let (peer, replaced) = door.knock(100, b"\x07").await;
        assert_eq!(replaced, Some(addr(&silent[1])), "the oldest of all");
        assert_eq!(door.stream().await, addr(&peer));
    }

    #[tokio::test]
    async fn those_who_have_spoken_are_not_closed_for_others() {
        let mut door = Door::open(SOON).await;
        let mut expected = Vec::new();
        // Nobody has looked yet at what they say.
        for _ in 0..3 * SILENT_OF_ONE {
            let (peer, replaced) = door.knock(2, b"\x07").await;
            assert_eq!(replaced, None);
            expected.push(peer);
        }
        let mut told = Vec::new();
        for _ in &expected {
            told.push(door.stream().await);
        }
        let mut expected: Vec<_> = expected.iter().map(addr).collect();
        expected.sort();
        told.sort();
        assert_eq!(told, expected);

        // While as many wait as may, no more are accepted.
        let mut peers = Vec::new();
        while door.arrivals.has_room() {
            peers.push(door.knock(2, b"\x07").await);
        }
        assert_eq!(peers.len(), WAITING);
        door.stream().await;
        assert!(door.arrivals.has_room());
    }

    #[tokio::test]
    async fn silence_ends_in_time_and_port_checks_are_no_matter() {
        let limit = Duration::from_millis(50);
        let mut door = Door::open(limit).await;
        let (mut silent, _) = door.knock(2, b"").await;
        let (check, _) = door.knock(2, b"").await;
        drop(check);
        let arrival = soon(door.arrivals.next()).await;
        assert!(matches!(arrival, Some(Arrival::Silent(from, after)) if from == addr(&silent) && after == limit));
        assert_eq!(soon(silent.read(&mut [0])).await.expect("it is closed"), 0);
        assert!(soon(door.arrivals.next()).await.is_none() && door.arrivals.waiting.is_empty());
    }

    #[tokio::test]
    async fn only_what_begins_with_the_byte_of_another_protocol_goes_there() {
        let mut door = Door::open(SOON).await;
        let mut foreign = door.arrivals.divert(0xb5);
        let (theirs, _) = door.knock(2, b"\xb5 and more").await;
        let (ours, _) = door.knock(2, b"\x07 and more").await;
        assert_eq!(door.stream().await, addr(&ours));
        let (stream, from) = soon(async {
            loop {
                tokio::select! {
                    stream = foreign.recv() => return stream.expect("it goes on"),
                    Some(arrival) = door.arrivals.next() => panic!("{arrival:?}"),
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
        assert!(host(one) == host(other) && host(one) != host(third));
        let [mapped, plain] = ["::ffff:192.0.2.1", "192.0.2.1"].map(|ip| ip.parse().expect("an address"));
        assert_eq!(host(mapped), plain);
    }
}
