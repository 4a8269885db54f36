use std::collections::BTreeSet;

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

fn transmit(to: SocketAddr, payload: &'static [u8]) -> Transmit {
    Transmit { to, payload: Bytes::from_static(payload) }
}

/// A fresh socket is not known to be writable yet, so this goes through the backlog, too.
async fn send(datagrams: &mut DatagramSocket, transmit: Transmit) {
    datagrams.send(transmit);
    while datagrams.has_backlog() {
        timeout(SOON, datagrams.ready()).await.expect("the socket becomes writable");
        datagrams.flush();
    }
}

async fn receive(datagrams: &mut DatagramSocket) -> (SocketAddr, Bytes) {
    loop {
        timeout(SOON, datagrams.ready()).await.expect("a datagram arrives");
        if let Ok(Some(received)) = datagrams.receive() {
            return received;
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[tokio::test]
async fn listens_on_one_port_for_both_of_the_systems_choice() {
    let sockets = Sockets::bind(loopback(0)).unwrap();
    assert_ne!(sockets.addr.port(), 0);
    assert_eq!(sockets.datagrams.socket.local_addr().unwrap(), sockets.addr);
    assert_eq!(sockets.acceptor.listener.local_addr().unwrap(), sockets.addr);
    assert!(!sockets.datagrams.ipv6);
}

#[tokio::test]
async fn unspecified_hears_and_answers_ipv4_under_its_own_address() {
    for any in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"] {
        let mut all = Sockets::bind(any.parse().unwrap()).unwrap();
        let mut one = Sockets::bind(loopback(0)).unwrap();

        send(&mut one.datagrams, transmit(loopback(all.addr.port()), b"ping")).await;
        assert_eq!(receive(&mut all.datagrams).await, (one.addr, Bytes::from_static(b"ping")));
        send(&mut all.datagrams, transmit(one.addr, b"ack")).await;
        assert_eq!(receive(&mut one.datagrams).await, (loopback(all.addr.port()), Bytes::from_static(b"ack")));

        let stream = TcpStream::connect(loopback(all.addr.port())).await.unwrap();
        let (_, from) = timeout(SOON, all.acceptor.accept()).await.expect("the connection arrives");
        assert_eq!(from, stream.local_addr().unwrap());
    }
}

#[tokio::test]
async fn unspecified_hears_ipv6_too() {
    let Ok(mut one) = Sockets::bind((Ipv6Addr::LOCALHOST, 0).into()) else {
        return eprintln!("skipped: this machine has no IPv6; enable it on the loopback interface");
    };
    let mut all = Sockets::bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
    assert!(all.datagrams.ipv6);
    send(&mut one.datagrams, transmit((Ipv6Addr::LOCALHOST, all.addr.port()).into(), b"ping")).await;
    assert_eq!(receive(&mut all.datagrams).await.0, one.addr);
    send(&mut all.datagrams, transmit(one.addr, b"ack")).await;
    assert_eq!(receive(&mut one.datagrams).await.1, b"ack"[..]);
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_protocol() {
    let tcp = std::net::TcpListener::bind(loopback(0)).unwrap();
    let error = Sockets::bind(tcp.local_addr().unwrap()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with("TCP: "), "{error}");

    // The port of a UDP socket may happen to be taken for TCP, too.
    let named = (0..PORT_TRIES).any(|_| {
        let udp = std::net::UdpSocket::bind(loopback(0)).unwrap();
        let error = Sockets::bind(udp.local_addr().unwrap()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        error.to_string().starts_with("UDP: ")
    });
    assert!(named);
}

#[tokio::test]
async fn a_datagram_that_cannot_be_sent_spoils_nothing() {
    let mut sender = Sockets::bind(loopback(0)).unwrap().datagrams;
    let mut receiver = Sockets::bind(loopback(0)).unwrap();
    let closed = std::net::UdpSocket::bind(loopback(0)).unwrap().local_addr().unwrap();
    let too_long = Bytes::from(vec![0; MAX_DATAGRAM]);
    for _ in 0..3 {
        send(&mut sender, transmit(closed, b"nobody listens")).await;
        send(&mut sender, transmit("[::1]:9".parse().unwrap(), b"no such family")).await;
        send(&mut sender, Transmit { to: receiver.addr, payload: too_long.clone() }).await;
        send(&mut sender, transmit("255.255.255.255:9".parse().unwrap(), b"forbidden")).await;
    }
    send(&mut sender, transmit(receiver.addr, b"still here")).await;
    assert_eq!(receive(&mut receiver.datagrams).await.1, b"still here"[..]);
}

#[tokio::test]
async fn of_many_that_go_at_once_only_those_are_lost_that_cannot_be_sent() {
    let mut sender = Sockets::bind(loopback(0)).unwrap().datagrams;
    let mut receivers: Vec<_> = (0..3).map(|_| Sockets::bind(loopback(0)).unwrap()).collect();
    let too_long = Bytes::from(vec![0; MAX_DATAGRAM]);
    let rounds = MAX_EACH;
    for _ in 0..rounds {
        sender.send(Transmit { to: receivers[0].addr, payload: too_long.clone() });
        for receiver in &receivers {
            sender.send(transmit(receiver.addr, b"to each of three"));
            sender.send(transmit("[::1]:9".parse().unwrap(), b"no such family"));
        }
    }
    while sender.has_backlog() {
        timeout(SOON, sender.ready()).await.expect("the socket becomes writable");
        sender.flush();
    }
    for receiver in &mut receivers {
        for _ in 0..rounds {
            assert_eq!(receive(&mut receiver.datagrams).await.1, b"to each of three"[..]);
        }
    }
}

/// How many datagrams come in the next run.
async fn receive_run(datagrams: &mut DatagramSocket) -> usize {
    loop {
        timeout(SOON, datagrams.ready()).await.expect("a datagram arrives");
        let _ = segments::receive(&datagrams.socket, &mut datagrams.buffer, &mut datagrams.received);
        if let Some(run) = datagrams.received.pop_front() {
            datagrams.received.clear();
            return (run.end - run.start).div_ceil(run.stride);
        }
    }
}

async fn send_run(datagrams: &mut DatagramSocket, to: SocketAddr) {
    for _ in 0..3 {
        datagrams.send(transmit(to, b"one of three"));
    }
    while datagrams.has_backlog() {
        timeout(SOON, datagrams.ready()).await.expect("the socket becomes writable");
        datagrams.flush();
    }
}

#[tokio::test]
async fn what_arrives_after_the_socket_was_emptied_is_heard_of() {
    let mut receiver = Sockets::bind(loopback(0)).unwrap();
    let mut senders: Vec<_> = (0..20).map(|_| Sockets::bind(loopback(0)).unwrap()).collect();
    for many in [1, 20, 8, 9, 1, 16] {
        for sender in &mut senders[..many] {
            send(&mut sender.datagrams, transmit(receiver.addr, b"from one of many")).await;
        }
        let mut heard = BTreeSet::new();
        while heard.len() < many {
            heard.insert(receive(&mut receiver.datagrams).await.0);
        }
        assert_eq!(heard, senders[..many].iter().map(|sender| sender.addr).collect());
        assert!(matches!(receiver.datagrams.receive(), Ok(None)));
    }
}

#[tokio::test]
async fn a_run_that_is_refused_changes_nothing_for_other_destinations() {
    let mut sender = Sockets::bind(loopback(0)).unwrap().datagrams;
    let mut receiver = Sockets::bind(loopback(0)).unwrap();
    send_run(&mut sender, receiver.addr).await;
    let at_once = receive_run(&mut receiver.datagrams).await;
    // Forbidden, as by a firewall: each datagram would be, and so runs are tried again.
    let forbidden: SocketAddr = "255.255.255.255:9".parse().unwrap();
    send_run(&mut sender, forbidden).await;
    assert!(sender.one_by_one.is_empty(), "{:?}", sender.one_by_one);
    // An error that may be of runs there.
    let nowhere = loopback(0);
    send_run(&mut sender, nowhere).await;
    assert!(sender.one_by_one.keys().eq([&nowhere]), "{:?}", sender.one_by_one);
    assert!(sender.goes_one_by_one(nowhere) && !sender.goes_one_by_one(receiver.addr));
    send_run(&mut sender, receiver.addr).await;
    assert_eq!(receive_run(&mut receiver.datagrams).await, at_once, "as many at once as before");
    sender.one_by_one.insert(nowhere, Instant::now());
    assert!(!sender.goes_one_by_one(nowhere), "they are tried again");
}

#[tokio::test]
async fn where_runs_are_refused_datagrams_arrive_one_by_one() {
    let mut sender = Sockets::bind(loopback(0)).unwrap().datagrams;
    let mut receiver = Sockets::bind(loopback(0)).unwrap();
    sender.send_one_by_one(receiver.addr);
    send_run(&mut sender, receiver.addr).await;
    for _ in 0..3 {
        assert_eq!(receive(&mut receiver.datagrams).await.1, b"one of three"[..]);
    }
    for i in 0..2 * MAX_ONE_BY_ONE {
        sender.send_one_by_one(loopback(u16::try_from(i + 1).unwrap()));
    }
    assert_eq!(sender.one_by_one.len(), MAX_ONE_BY_ONE);
}

#[test]
fn keeps_what_only_ipv6_has() {
    let link_local = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, 3));
    assert_eq!(canonical(link_local), link_local);
    assert_eq!(canonical("[::ffff:10.0.0.1]:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
}

#[tokio::test]
async fn a_pause_grows_to_a_second_and_ends_with_success() {
    let mut backoff = Backoff::default();
    backoff.grow();
    assert_eq!(backoff.length, MIN_BACKOFF);
    for _ in 0..20 {
        backoff.grow();
    }
    assert_eq!(backoff.length, MAX_BACKOFF);
    backoff.reset();
    backoff.grow();
    assert_eq!(backoff.length, MIN_BACKOFF);
}
