//! The UDP socket and the TCP listener of a node, on one port.
//!
//! A node that listens on all addresses, `0.0.0.0` or `[::]`, gets dual-stack IPv6 sockets, as a Go
//! node does: on them IPv4 peers appear under IPv4-mapped addresses, and must be sent to under these.
//! That is settled here: above, an IPv4 address is always IPv4 ([`canonical`]). Where the system has
//! no IPv6, `0.0.0.0` it is.
//!
//! No error on an open socket is final. A datagram that cannot be sent is lost, as datagrams are; a
//! listener that cannot accept (too many open files, say) tries again after a growing pause. Where a run of
//! datagrams is refused, they go one by one, to that destination alone, and for a while.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    select,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::segments::{self, MAX_EACH, MAX_RUN, MAX_RUN_BYTES, ReceivedRun};
use crate::node::Transmit;

/// How often a port for both TCP and UDP is looked for, when the system may choose.
const PORT_TRIES: usize = 10;
/// What the system is asked to keep of datagrams not yet read, in bytes.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Connections the system keeps until they are accepted.
const TCP_BACKLOG: i32 = 1024;
/// The longest segment of a stream, in bytes: what goes through any path that carries IPv6 (RFC 8200), whose packets may have
/// 1280.
const SEGMENT: u32 = 1220;
/// No datagram is longer, in bytes.
const MAX_DATAGRAM: usize = 65_536;
/// Datagrams that wait for the socket to become writable, at most.
const MAX_BACKLOG: usize = 4096;
/// How long datagrams go one by one to where a run of them was refused.
const ONE_BY_ONE: Duration = Duration::from_secs(60);
/// Destinations to which they do, at most.
const MAX_ONE_BY_ONE: usize = 1024;
/// The pause after a first error; each further one doubles it.
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// What a node listens on.
pub(super) struct Sockets {
    pub(super) datagrams: DatagramSocket,
    pub(super) acceptor: Acceptor,
    /// The address of both; the port is the actual one.
    pub(super) addr: SocketAddr,
}

impl Sockets {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let addr = canonical(addr);
        if !addr.ip().is_unspecified() {
            return Self::bind_to(addr);
        }
        match Self::bind_to((Ipv6Addr::UNSPECIFIED, addr.port()).into()) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                debug!(%error, "no IPv6: listening on IPv4 alone");
                Self::bind_to((Ipv4Addr::UNSPECIFIED, addr.port()).into())
            }
            bound => bound,
        }
    }

    fn bind_to(addr: SocketAddr) -> io::Result<Self> {
        let mut tries = if addr.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            match Self::bind_pair(addr) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 1 => tries -= 1,
                bound => return bound,
            }
        }
    }

    /// TCP first, then UDP on the same port.
    fn bind_pair(addr: SocketAddr) -> io::Result<Self> {
        let over = |protocol| move |error: io::Error| io::Error::new(error.kind(), format!("{protocol}: {error}"));
        let listener = listen_tcp(addr).map_err(over("TCP"))?;
        let addr = listener.local_addr()?;
        let socket = bind_udp(addr).map_err(over("UDP"))?;
        segments::prepare(&socket);
        Ok(Self {
            datagrams: DatagramSocket {
                socket,
                ipv6: addr.is_ipv6(),
                buffer: segments::buffer(),
                received: VecDeque::new(),
                backlog: VecDeque::new(),
                unbatched: 0,
                one_by_one: BTreeMap::new(),
                backoff: Backoff::default(),
            },
            acceptor: Acceptor { listener, backoff: Backoff::default() },
            addr,
        })
    }
}

fn open(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(addr, Type::STREAM, Protocol::TCP)?;
    // On Unix, lets a restarted node listen where connections of its last life linger. On a port of
    // the system's choice it would only make collisions more likely; elsewhere it lets others in.
    #[cfg(unix)]
    socket.set_reuse_address(addr.port() != 0)?;
    socket.bind(&addr.into())?;
    limit_segments(&socket);
    socket.listen(TCP_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to a node.
pub(super) async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    limit_segments(&SockRef::from(&socket));
    socket.connect(to).await
}

/// Keeps the segments of a stream, both ways, small enough for a path that drops larger packets and says so to nobody: few
/// systems look for that themselves (`net.ipv4.tcp_mtu_probing`). Where that cannot be set, it is as it would be without.
fn limit_segments(socket: &Socket) {
    #[cfg(unix)]
    if let Err(error) = socket.set_tcp_mss(SEGMENT) {
        debug!(%error, "cannot limit the segments of streams");
    }
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(addr, Type::DGRAM, Protocol::UDP)?;
    let mut size = RECEIVE_BUFFER;
    while socket.set_recv_buffer_size(size).is_err() && size > MAX_DATAGRAM {
        size /= 2;
    }
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

/// IPv4-mapped addresses become IPv4; what else an IPv6 socket address holds is kept.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, addr.port()).into(),
        IpAddr::V6(_) => addr,
    }
}

/// The UDP socket, with what waits to be sent and to be handed out.
pub(super) struct DatagramSocket {
    socket: UdpSocket,
    ipv6: bool,
    buffer: Box<[u8]>,
    /// What is in the buffer and not handed out yet.
    received: VecDeque<ReceivedRun>,
    /// What waits for the socket to become writable, or for more that goes with it.
    backlog: VecDeque<Transmit>,
    /// How many datagrams, from the first on, are sent one by one because a run of them was refused.
    unbatched: usize,
    /// Where runs are not taken, and until when each datagram goes there by itself.
    one_by_one: BTreeMap<SocketAddr, Instant>,
    backoff: Backoff,
}

impl DatagramSocket {
    /// Waits until [`DatagramSocket::flush`] or [`DatagramSocket::receive`] is worth a try.
    pub(super) async fn ready(&mut self) {
        if !self.received.is_empty() {
            return;
        }
        let readable = async {
            self.backoff.wait().await;
            self.socket.readable().await
        };
        let ready = select! {
            ready = readable => ready,
            ready = self.socket.writable(), if !self.backlog.is_empty() => ready,
        };
        if let Err(error) = ready {
            self.backoff.grow();
            debug!(%error, "cannot wait for datagrams");
        }
    }

    /// A datagram that has arrived, as long as it is; `Ok(None)` when none is left. An error may be
    /// of a datagram sent earlier, and says nothing of the next.
    pub(super) fn receive(&mut self) -> io::Result<Option<(SocketAddr, Bytes)>> {
        if self.received.is_empty() {
            match segments::receive(&self.socket, &mut self.buffer, &mut self.received) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ if !self.received.is_empty() => self.backoff.reset(),
                _ => return Ok(None),
            }
        }
        let Some(run) = self.received.front_mut() else { return Ok(None) };
        let (from, start, end) = (run.from, run.start, run.end.min(run.start + run.stride));
        run.start = end;
        if end == run.end {
            self.received.pop_front();
        }
        Ok(Some((canonical(from), Bytes::copy_from_slice(&self.buffer[start..end]))))
    }

    /// Waits a little before the next try, as nothing but errors came.
    pub(super) fn back_off(&mut self) {
        self.backoff.grow();
    }

    /// Sends a datagram with the next [`flush`](Self::flush), or when the socket takes it.
    pub(super) fn send(&mut self, transmit: Transmit) {
        if self.backlog.len() == MAX_BACKLOG {
            self.flush();
        }
        if self.backlog.len() == MAX_BACKLOG {
            debug!(to = %transmit.to, bytes = transmit.payload.len(), "lost a datagram: the socket takes no more");
            return;
        }
        self.backlog.push_back(transmit);
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Sends of what waits as much as the socket takes.
    pub(super) fn flush(&mut self) {
        while let Some(first) = self.backlog.front() {
            let (to, stride) = (first.to, first.payload.len());
            let run = self.run_length(0);
            let sent = if run > 1 {
                let mut payloads = self.backlog.iter().take(run).map(|transmit| &transmit.payload);
                segments::send_run(&self.socket, as_socket_addr(to, self.ipv6), &mut payloads, stride).map(|()| run)
            } else {
                self.send_each()
            };
            let gone = match sent {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if run > 1 => {
                    let lasting = !is_per_datagram(&error);
                    debug!(%to, %error, lasting, "a run of datagrams was refused: they are sent one by one");
                    self.unbatched = run;
                    if lasting {
                        self.send_one_by_one(to);
                    }
                    continue;
                }
                // Only this datagram is affected: nobody listens there, no route, too long for the path, forbidden
                // by a firewall.
                Err(error) => {
                    debug!(%to, bytes = stride, %error, "lost a datagram");
                    1
                }
            };
            self.unbatched = self.unbatched.saturating_sub(gone);
            self.backlog.drain(..gone);
        }
    }

    /// Sends what goes by itself, from the first on; gives how many of them the system took.
    fn send_each(&mut self) -> io::Result<usize> {
        let mut count = 1;
        while count < self.backlog.len().min(MAX_EACH) && self.run_length(count) == 1 {
            count += 1;
        }
        let each = self.backlog.iter().take(count);
        if let (Some(only), 1) = (each.clone().next(), count) {
            // As good as always: what it takes to send many would be in its way.
            return self.socket.try_send_to(&only.payload, as_socket_addr(only.to, self.ipv6)).map(|_| 1);
        }
        segments::send_each(&self.socket, each.map(|each| (as_socket_addr(each.to, self.ipv6), &each.payload)))
    }

    /// How many datagrams go in one run, from this one on; 1 if it goes by itself.
    fn run_length(&mut self, at: usize) -> usize {
        match self.backlog.get(at).map(|first| first.to) {
            Some(to) if at >= self.unbatched && !self.goes_one_by_one(to) => run_length(self.backlog.range(at..)),
            _ => 1,
        }
    }

    /// Whether runs are not tried there, for now.
    fn goes_one_by_one(&mut self, to: SocketAddr) -> bool {
        // As good as always nothing is remembered.
        if self.one_by_one.is_empty() {
            return false;
        }
        match self.one_by_one.get(&to) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                self.one_by_one.remove(&to);
                false
            }
            None => false,
        }
    }

    fn send_one_by_one(&mut self, to: SocketAddr) {
        if self.one_by_one.len() == MAX_ONE_BY_ONE {
            self.one_by_one.pop_first();
        }
        self.one_by_one.insert(to, Instant::now() + ONE_BY_ONE);
    }
}

/// Whether a single datagram would fail in the same way, because of its content or its destination. Any other error may be
/// due to the run: the system, or the path (its MTU, or a network card), does not take runs.
fn is_per_datagram(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;

    let kinds = [
        Kind::ConnectionRefused,
        Kind::PermissionDenied,
        Kind::NetworkUnreachable,
        Kind::HostUnreachable,
        Kind::NetworkDown,
        Kind::AddrNotAvailable,
    ];
    kinds.contains(&error.kind())
}

/// The address in the form that the socket takes: a dual-stack socket takes IPv4 addresses mapped into IPv6.
fn as_socket_addr(addr: SocketAddr, ipv6: bool) -> SocketAddr {
    match addr {
        SocketAddr::V4(to) if ipv6 => SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0).into(),
        to => to,
    }
}

/// How many datagrams from the first on can go in one run: to the same place, of the same length, the last of which may
/// be shorter.
fn run_length<'a>(mut waiting: impl Iterator<Item = &'a Transmit>) -> usize {
    let Some(first) = waiting.next() else { return 0 };
    let stride = first.payload.len();
    let (mut count, mut bytes, mut last) = (1, stride, stride);
    for next in waiting.take(MAX_RUN - 1) {
        bytes += next.payload.len();
        if next.to != first.to || last < stride || next.payload.len() > stride || bytes > MAX_RUN_BYTES {
            break;
        }
        last = next.payload.len();
        count += 1;
    }
    count
}

/// Accepts connections, for ever.
pub(super) struct Acceptor {
    listener: TcpListener,
    backoff: Backoff,
}

impl Acceptor {
    /// The next connection, and who opened it. May be dropped at any await without losing one.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            self.backoff.wait().await;
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    self.backoff.reset();
                    return (stream, canonical(from));
                }
                Err(error) => {
                    self.backoff.grow();
                    debug!(%error, pause = ?self.backoff.length, "cannot accept a connection");
                }
            }
        }
    }
}

/// A growing pause after each error in a row, so that a lasting error does not become a busy loop.
#[derive(Default)]
struct Backoff {
    length: Duration,
    until: Option<Instant>,
}

impl Backoff {
    fn grow(&mut self) {
        self.length = (self.length * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
        self.until = Some(Instant::now() + self.length);
    }

    fn reset(&mut self) {
        self.length = Duration::ZERO;
    }

    async fn wait(&mut self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
            self.until = None;
        }
    }
}
