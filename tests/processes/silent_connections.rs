//! Connections that send nothing, as many as a stranger likes, from as many addresses as it has.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    store::{Cluster, put},
    support::{Process, http::ask},
};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// More than a node keeps open.
const CONNECTIONS: u16 = 400;
/// From so many addresses. Each may have its share of connections.
const HOSTS: u16 = 16;

fn connect(to: SocketAddr, number: u16) -> TcpStream {
    let host = 9 + (number % HOSTS) as u8;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0)).into()).expect("loopback has it");
    socket.connect(&to.into()).expect("the node listens");
    socket.set_nonblocking(true).expect("it can be set");
    socket.into()
}

/// Whether the node still waits for its first byte.
fn stands(connection: &TcpStream) -> bool {
    let peeked = SockRef::from(connection).peek(&mut [std::mem::MaybeUninit::uninit()]);
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn strangers_that_say_nothing_stop_neither_an_election_nor_a_newcomer() {
    let secret = [("BROADCAST_SECRET_KEYS", KEY)];
    let mut cluster = Cluster::start_with(&["--profile", "lan"], &secret);
    let leader = cluster.wait_led(3);
    let members = ask(cluster.other.http(), "GET", "/v1/members", &[], b"").json();
    let members = members["members"].as_array().expect("a list").iter();
    let victims = members.filter(|member| member["name"] != format!("node{}", leader + 1));
    let victims: Vec<SocketAddr> =
        victims.map(|member| member["addr"].as_str().expect("text").parse().expect("an address")).collect();
    assert_eq!(victims.len(), 3);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Whatever fails, the strangers go home.
        struct Ends<'a>(&'a AtomicBool);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _ends = Ends(&over);
        let (began, over) = (Instant::now(), &over);
        for victim in &victims {
            let mut silent: Vec<_> = (0..CONNECTIONS).map(|number| connect(*victim, number)).collect();
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Those that are closed come again.
                    for (connection, number) in silent.iter_mut().zip(0..) {
                        if !stands(connection) {
                            *connection = connect(*victim, number);
                        }
                    }
                    thread::sleep(Duration::from_millis(200));
                }
            });
        }
        cluster.voters[leader].kill();
        cluster.wait_led(2);
        assert_eq!(put(cluster.other.http(), "color", b"green").0, 200);
        let seed = cluster.other.addr().to_string();
        let newcomer = Process::node_with(&["--name", "newcomer", "--profile", "lan", "--join", &seed], &secret);
        newcomer.log.wait_message(0, "broadcast nodes = 4");
        // As long as a stream may say nothing, which is how long they would hold all places.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(9), "{took:?}");
    });
}
