//! Invented members that somebody looks at over HTTP. What they say of themselves, and answer when a node asks them, costs
//! bounded memory, however many they are and however slowly the client reads.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::support::{LIMIT, Process, http};
use broadcast::wire::{
    Alive, Message, NodeState, PushPull, PushPullState, packet,
    stream::{StreamMessage, encode},
};
use bytes::Bytes;
use serde_json::Value;

/// What it costs to be told the views of any number of members, in bytes: those of 16 that are small, and of one of 2 MiB.
const VIEWS_COST: usize = 64 << 20;
/// What it costs to be told of 5,000 members, in bytes.
const MEMBERS_COST: usize = 64 << 20;
/// How long an empty view is at most, in bytes.
const ASKED: usize = 64;
const VERSIONS: [u8; 6] = [1, 5, 2, 0, 0, 0];

/// A node that serves its HTTP API, and takes long to declare a member dead that answers no probe.
fn node(args: &[&str]) -> Process {
    Process::node(&[&["--name", "node1", "--http", "127.0.0.1:0", "--profile", "wan"], args].concat())
}

/// How many members a node knows.
#[track_caller]
fn known(at: SocketAddr) -> usize {
    // Over HTTP/1.0, whose answers have no chunks.
    let members = http::raw(at, b"GET /v1/members HTTP/1.0\r\n\r\n").json();
    members["members"].as_array().expect("members").len()
}

/// Invented members. They answer every request for their view with the same bytes.
struct InventedMembers {
    addrs: Vec<SocketAddr>,
}

impl InventedMembers {
    /// So many, each at an address of its own. They answer until the test process ends.
    fn new(count: u8, answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("there are free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let answer: Arc<[u8]> = answer.into();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = Arc::clone(&answer);
                thread::spawn(move || {
                    let mut stream = stream;
                    let mut asked = [0; 4096];
                    // Who only asks has an empty view; what others tell of themselves is not answered.
                    if stream.read(&mut asked).is_ok_and(|length| length <= ASKED) {
                        // Whether it is read is the node's matter.
                        let _ = stream.write_all(&answer);
                        let _ = stream.read(&mut [0]);
                    }
                });
            }
        });
        Self { addrs: (1..=count).map(|i| SocketAddr::from(([127, 0, 1, i], port))).collect() }
    }

    /// Announces them to a node, until it believes in them all.
    #[track_caller]
    fn wait_believed(&self, node: &Process, at: SocketAddr) {
        let deadline = Instant::now() + LIMIT;
        while known(at) != 1 + self.addrs.len() {
            assert!(Instant::now() < deadline, "all are believed");
            self.announce(node.addr());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Announces them to a node.
    fn announce(&self, to: SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        for (i, addr) in self.addrs.iter().enumerate() {
            let node = Bytes::from(format!("fake{i}"));
            let address = (*addr).into();
            let alive = Alive { incarnation: 1, node, address, meta: Bytes::new(), versions: Some(VERSIONS) };
            socket.send_to(&packet::encode_message(&Message::Alive(alive)), to).expect("loopback takes it");
        }
    }
}

/// A view of 2 MiB, whose names take six times as much in JSON.
fn large_view(records: usize) -> Vec<u8> {
    let record = |i: usize| PushPullState {
        name: format!("{}{i:07}", "\u{1}".repeat(240)).into(),
        address: SocketAddr::from(([127, 0, 0, 1], 9)).into(),
        meta: Bytes::new(),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Some(VERSIONS),
    };
    let view = PushPull { join: false, nodes: (0..records).map(record).collect(), user_state: Bytes::new() };
    encode(&StreamMessage::PushPull(view), false)
}

/// Reads `/v1/views` to its end and keeps nothing of it but its length and how it ends; nothing if it breaks off.
fn read_views(at: SocketAddr) -> Option<(usize, String)> {
    let mut stream = http::connect(at);
    stream.write_all(b"GET /v1/views HTTP/1.0\r\n\r\n").expect("it is taken");
    let (mut length, mut end, mut buffer) = (0, Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer).ok()? {
            0 => break,
            read => {
                length += read;
                end.extend_from_slice(&buffer[..read]);
                end.drain(..end.len().saturating_sub(64));
            }
        }
    }
    Some((length, String::from_utf8_lossy(&end).into_owned()))
}

#[test]
fn the_views_of_made_up_members_cost_bounded_memory_however_many_there_are() {
    const FAKES: u8 = 220;
    let node = node(&[]);
    let at = node.http();
    let view = large_view(6700);
    assert!((2_000_000..2_200_000).contains(&view.len()), "{} bytes", view.len());
    let made_up = InventedMembers::new(FAKES, view);
    made_up.wait_believed(&node, at);
    let before = node.peak_memory();
    let (length, end) = read_views(at).expect("it is told to its end");
    let (_, not_asked) = end.rsplit_once("\"not_asked\":").expect("it ends with how many were not asked");
    let not_asked: usize = not_asked.trim_end_matches('}').parse().expect("a number");
    let grown = node.peak_memory() - before;
    println!("{} MiB of views, {not_asked} members not asked, cost {} MiB", length >> 20, grown >> 20);
    // Many times what they may cost.
    assert!(length > 2 * VIEWS_COST, "{length} bytes were told, to {end}");
    assert!(grown < VIEWS_COST, "{grown} bytes");
}

#[test]
fn a_view_of_more_members_than_are_remembered_is_refused_and_told() {
    let node = node(&["--max-members", "2000"]);
    let made_up = InventedMembers::new(1, large_view(2001));
    made_up.announce(node.addr());
    let deadline = Instant::now() + LIMIT;
    let views = loop {
        // Whose answers have no chunks.
        let views = http::raw(node.http(), b"GET /v1/views HTTP/1.0\r\n\r\n").json();
        if views["views"].as_array().is_some_and(|views| views.len() == 2) {
            break views;
        }
        assert!(Instant::now() < deadline, "it is believed");
        made_up.announce(node.addr());
        thread::sleep(Duration::from_millis(50));
    };
    let error = views["views"][1]["error"].as_str().expect("an error").to_owned();
    assert!(error.contains("more than this node accepts") && error.contains("more than 2000"), "{error}");
}

#[test]
fn who_reads_views_slowly_keeps_nobody_from_them_for_long_and_little_memory() {
    let node = node(&[]);
    let at = node.http();
    let made_up = InventedMembers::new(20, large_view(6700));
    made_up.wait_believed(&node, at);
    let before = node.peak_memory();
    let mut slow: Vec<_> = (0..20).map(|_| http::connect(at)).collect();
    let ask = |stream: &mut TcpStream| stream.write_all(b"GET /v1/views HTTP/1.0\r\n\r\n").expect("it is taken");
    // The first has its turn, and does not use it.
    ask(&mut slow[0]);
    let (status, _) = http::read_head(&mut BufReader::new(&slow[0])).expect("it answers");
    assert_eq!(status, 200);
    slow[1..].iter_mut().for_each(ask);
    let began = Instant::now();
    let waiting = http::ask(at, "GET", "/v1/views", &[], b"");
    assert!(matches!(waiting.status, 200 | 503), "{}", waiting.status);
    assert!(waiting.status == 200 || waiting.header("retry-after") == Some("1"), "{:?}", waiting.head);
    println!("one more was answered {} after {:?}", waiting.status, began.elapsed());
    node.log.wait("the slow one is cut off", |lines| {
        let is_cut_off = |line: &Value| line["message"].as_str().is_some_and(|words| words.contains("clients cut off"));
        lines.iter().any(is_cut_off).then_some(())
    });
    assert!(node.peak_memory() - before < VIEWS_COST, "{} bytes", node.peak_memory() - before);
}

#[test]
fn members_cost_bounded_memory_also_where_nobody_reads_what_is_told_of_them() {
    const FAKES: usize = 5000;
    let node = node(&[]);
    let at = node.http();
    let record = |i: usize| PushPullState {
        name: format!("{}{i:07}", "\u{1}".repeat(240)).into(),
        address: SocketAddr::from(([127, 0, 0, 1], 9)).into(),
        meta: Bytes::from_static(&[1; 500]),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Some(VERSIONS),
    };
    let view = PushPull { join: true, nodes: (0..FAKES).map(record).collect(), user_state: Bytes::new() };
    let mut stream = TcpStream::connect(node.addr()).expect("the node listens");
    stream.write_all(&encode(&StreamMessage::PushPull(view), true)).expect("it is taken");
    let deadline = Instant::now() + LIMIT;
    while known(at) != 1 + FAKES {
        assert!(Instant::now() < deadline, "all are believed");
        thread::sleep(Duration::from_millis(50));
    }
    let before = node.peak_memory();
    let ask = |path: &str| {
        let mut stream = http::connect(at);
        stream.write_all(&http::request("GET", path, &[], b"")).expect("it is taken");
        stream
    };
    let followers: Vec<_> = (0..50).map(|_| ask("/v1/events")).collect();
    let slow: Vec<_> = (0..20).map(|_| ask("/v1/members")).collect();
    for stream in followers.iter().chain(&slow[..4]) {
        let (status, _) = http::read_head(&mut BufReader::new(stream)).expect("it answers");
        assert_eq!(status, 200);
    }
    assert_eq!(http::ask(at, "GET", "/healthz", &[], b"").status, 200);
    let grown = node.peak_memory() - before;
    println!("{} who do not read cost {} MiB", followers.len() + slow.len(), grown >> 20);
    assert!(grown < MEMBERS_COST, "{grown} bytes");
}
