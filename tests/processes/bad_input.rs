//! Bad input must not harm a node, let alone its cluster: names that are taken, seeds that do not exist, malformed packets and
//! streams, compression bombs. The node reports each on one clear line, and each costs little.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::support::{
    LIMIT,
    cluster::{Cluster, Node},
    program,
};
use broadcast::wire::{
    Alive, Message, NodeState, PushPull, PushPullState, compress, packet,
    stream::{StreamMessage, encode},
};
use bytes::Bytes;
use serde_json::Value;

/// How much more memory a node may take under attack, in bytes.
const PACKETS_COST: usize = 16 << 20;
const STREAMS_COST: usize = 160 << 20;

/// Protocol versions that no node has yet.
const FUTURE: [u8; 6] = [9, 9, 9, 0, 0, 0];

/// A peer that sends anything.
struct Attacker(UdpSocket);

impl Attacker {
    fn new() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports"))
    }

    fn send(&self, to: SocketAddr, packet: &[u8]) {
        self.0.send_to(packet, to).expect("loopback takes it");
    }

    /// Opens a stream and sends `bytes`. The node need not read them all.
    fn stream(to: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(to).expect("the node listens");
        let _ = stream.write_all(bytes);
        stream
    }
}

/// Waits for the line that says why something was dropped; gives the reason.
#[track_caller]
fn dropped(node: &Node, from: usize, reason: &str) -> String {
    let line = node.log().wait(&format!("{} to drop it: {reason:?}", node.name), |lines| {
        let told =
            |line: &&Value| line["event"] == "rejected" && line["reason"].as_str().expect("text").contains(reason);
        lines[from..].iter().find(told).cloned()
    });
    let words = line["message"].as_str().expect("text").to_owned();
    assert!(words.starts_with("dropped what 127.0.0.1:"), "{words}");
    words
}

/// Waits until the node closes a stream, whatever it sends before.
#[track_caller]
fn ended(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(LIMIT)).expect("a time above zero");
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the node does not end the stream: {error}"),
        }
    }
}

/// `plain`, compressed as a message.
fn compressed(plain: &[u8]) -> Vec<u8> {
    let data = compress::compress(plain);
    let mut out = b"\x09\x82\xa4Algo\x00\xa3Buf\xdb".to_vec();
    out.extend(u32::try_from(data.len()).expect("it is short").to_be_bytes());
    out.extend(data);
    out
}

fn alive(name: &'static str, versions: [u8; 6]) -> Bytes {
    let address = SocketAddr::from(([127, 0, 0, 1], 9)).into();
    let alive = Alive { incarnation: 1, node: name.into(), address, meta: Bytes::new(), versions: Some(versions) };
    packet::encode_message(&Message::Alive(alive))
}

fn view_of(name: &'static str, versions: [u8; 6]) -> Vec<u8> {
    let address = SocketAddr::from(([127, 0, 0, 1], 9)).into();
    let state = NodeState::Alive;
    let record = PushPullState {
        name: name.into(),
        address,
        meta: Bytes::new(),
        incarnation: 1,
        state,
        versions: Some(versions),
    };
    encode(&StreamMessage::PushPull(PushPull { join: true, nodes: vec![record], user_state: Bytes::new() }), true)
}

#[test]
fn a_name_taken_by_a_live_node_is_told_to_both_and_changes_nothing() {
    let cluster = Cluster::start(3);
    let seed = cluster.nodes[0].addr().to_string();
    let (holder, mut claimant) = (&cluster.nodes[1], Node::sender("node2", &[&seed], &[]));
    for node in [holder, &claimant] {
        let line = node
            .log()
            .wait("the conflict", |lines| lines.iter().find(|line| line["event"] == "name_conflict").cloned());
        let words = line["message"].as_str().expect("text");
        assert!(words.starts_with("two nodes are named node2, at 127.0.0.1:"), "{words}");
        assert!(words.ends_with(": give one of them another BROADCAST_NAME (--name)"), "{words}");
        for addr in [holder.addr(), claimant.addr()] {
            assert!(words.contains(&addr.to_string()), "{words}");
        }
    }
    // It has had its turns to send meanwhile.
    for _ in 0..10 {
        cluster.flow();
    }
    let health = program(&["health", "--bind", &claimant.addr().to_string()]).output().expect("the program runs");
    assert_eq!(health.status.code(), Some(1), "{health:?}");
    cluster.assert_unharmed();
    for node in cluster.nodes.iter().chain([&claimant]) {
        assert!(node.count("name_conflict") <= 1, "{} says it once, and not at every attempt", node.name);
        assert_eq!(node.count("not_sent") + node.count("seed_unreachable"), 0, "{}: one line is enough", node.name);
    }
    // What node2 says is what the real one says.
    let said: Vec<_> = values(holder, "send");
    for node in [&cluster.nodes[0], &cluster.nodes[2]] {
        let heard: Vec<_> = node.log().lines().into_iter().filter(|line| line["from"] == "node2").collect();
        for line in heard {
            let value = line["value"].as_u64().expect("a number");
            assert!(said.contains(&value) || value > said[said.len() - 1], "{} heard {line}", node.name);
        }
    }
    // Its good-bye is its own.
    claimant.process.signal("TERM");
    assert_eq!(claimant.process.wait().code(), Some(0));
    cluster.assert_unharmed();
}

fn values(node: &Node, event: &str) -> Vec<u64> {
    let lines = node.log().lines();
    lines.iter().filter(|line| line["event"] == event).map(|line| line["value"].as_u64().expect("a number")).collect()
}

#[test]
fn a_seed_that_never_resolves_is_told_once_and_keeps_nobody_from_joining() {
    let cluster = Cluster::start(2);
    let seed = cluster.nodes[0].addr().to_string();
    let joiner = Node::start("joiner", &["no-such-host.invalid:7946", &seed], &[]);
    joiner.log().wait_message(0, "broadcast nodes = 3");
    let line = joiner.log().wait("the seed that does not resolve", |lines| {
        lines.iter().find(|line| line["event"] == "seed_unreachable").cloned()
    });
    let words = line["message"].as_str().expect("text");
    assert!(words.starts_with("cannot join through no-such-host.invalid:7946 yet: "), "{words}");
    assert!(words.ends_with("still trying; check that it runs and that BROADCAST_JOIN (--join) is right"), "{words}");
    for _ in 0..20 {
        cluster.flow();
    }
    assert_eq!(joiner.count("seed_unreachable"), 1);
    cluster.flow();
}

#[test]
fn packets_that_are_none_are_dropped_with_a_word_and_cost_little() {
    let cluster = Cluster::start(3);
    let attacker = Attacker::new();
    let before: Vec<_> = cluster.nodes.iter().map(|node| node.process.peak_memory()).collect();
    let good = packet::encode(&[Bytes::from_static(b"\x08one"), Bytes::from_static(b"\x08two")], false, false);
    let lying = [&good[..2], &[0xff; 4], &good[6..]].concat();
    let mut damaged = packet::encode(&[Bytes::from_static(b"\x08hello")], false, true).to_vec();
    damaged[8] ^= 1;
    let huge = [&b"\x08"[..], &[b'x'; 65_000]].concat();
    let bomb = compressed(&vec![0; 32 << 20]);
    assert!(bomb.len() < 65_507);
    for (packet, reason, node) in [
        (&b""[..], "empty message"),
        (b"\xc8 nonsense", "unknown type 200; is another program sending to this port?"),
        (b"\x06\x80", "message of 2 bytes is of type push/pull, which is not allowed in a packet"),
        (b"\x02\x82\xa7Payload\xc0", "ack of 11 bytes cannot be used: "),
        (&good[..3], "compound of 3 bytes is too short for its header"),
        (&lying, "compound of 2 parts lacks the last 2; it was cut off"),
        (&damaged, "it was damaged on the way"),
        (b"\xf4\x04prod\x08{}", r#"it has the label "prod" where this node has """#),
        (&huge, "a user message of 65000 bytes is not a JSON object"),
        (&bomb, "it grows to more than 262144 bytes, the limit"),
        (&alive("future", FUTURE), "node \"future\" speaks protocol versions 9 to 9"),
    ]
    // Not all to one: a node tells of ten a second.
    .into_iter()
    .zip(cluster.nodes.iter().cycle())
    .map(|((packet, reason), node)| (packet, reason, node))
    {
        let from = node.log().len();
        attacker.send(node.addr(), packet);
        dropped(node, from, reason);
    }
    cluster.assert_unharmed();
    for (node, before) in cluster.nodes.iter().zip(before) {
        let now = node.process.peak_memory();
        assert!(now < before + PACKETS_COST, "{}: {before}, then {now} bytes", node.name);
    }
}

#[test]
fn a_flood_of_noise_and_bombs_is_told_in_a_few_lines() {
    let cluster = Cluster::start(3);
    let (victim, attacker) = (&cluster.nodes[1], Attacker::new());
    let before = victim.process.peak_memory();
    let bomb = compressed(&vec![0; 16 << 20]);
    // xorshift32 (Marsaglia, 2003)
    let mut x = 0x2545_f491_u32;
    let mut byte = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    for round in 0..2000 {
        let noise: Vec<u8> = (0..round % 1400).map(|_| byte()).collect();
        attacker.send(victim.addr(), &noise);
        if round % 20 == 0 {
            attacker.send(victim.addr(), &bomb);
        }
    }
    cluster.assert_unharmed();
    let lines = victim.count("rejected");
    assert!((1..100).contains(&lines), "{lines} lines");
    let now = victim.process.peak_memory();
    assert!(now < before + PACKETS_COST, "{before}, then {now} bytes");
}

#[test]
fn streams_that_are_none_are_ended_with_a_word() {
    let cluster = Cluster::start(3);
    for ((bytes, reason), node) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "unknown type 71; is another program connecting to this port?"),
        (Vec::new(), "the stream was still incomplete after 1s, with 0 bytes"),
        (b"\x06\x83\xa4Join".to_vec(), "the stream was still incomplete after 1s, with 7 bytes"),
        (b"\x06\x81\xa5Nodes\xce\x00\x10\x00\x01".to_vec(), "stream announces 1048577 records in a push/pull"),
        (b"\x08\x81\xaaUserMsgLen\xce\x7f\xff\xff\xff".to_vec(), "stream announces 2147483647 bytes of user message"),
        (b"\x00\xdf\x7f\xff\xff\xff".to_vec(), "ping in a stream cannot be used: "),
        (view_of("future", FUTURE), "node \"future\" understands protocol versions 9 to 9, but this cluster speaks 2"),
    ]
    .into_iter()
    .zip(cluster.nodes.iter().cycle())
    {
        let from = node.log().len();
        let mut stream = Attacker::stream(node.addr(), &bytes);
        dropped(node, from, reason);
        ended(&mut stream);
    }
    cluster.assert_unharmed();
}

#[test]
fn a_stream_that_never_ends_is_cut_off_in_time_and_costs_bounded_memory() {
    let cluster = Cluster::start(3);
    let victim = &cluster.nodes[1];
    let before = victim.process.peak_memory();
    // A byte now and then does not buy it more time.
    let mut slow = Attacker::stream(victim.addr(), b"\x06\x81\xa5Nodes\x01");
    slow.set_nodelay(true).expect("a TCP option");
    let began = Instant::now();
    while slow.write_all(b"\xc0").is_ok() {
        assert!(began.elapsed() < LIMIT, "it is never cut off");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Records without end, as fast as they go, on several streams at once.
    let mut flood = b"\x06\x81\xa5Nodes\xce\x00\x10\x00\x00".to_vec();
    flood.extend([&b"\x81\xa1x\xc5\xee\x00"[..], &[0; 0xee00]].concat().repeat(8));
    let chunk = [&b"\x81\xa1x\xc5\xee\x00"[..], &[0; 0xee00]].concat();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut stream = Attacker::stream(victim.addr(), &flood);
                let mut sent = 0;
                while stream.write_all(&chunk).is_ok() {
                    sent += chunk.len();
                    assert!(sent < 256 << 20, "it takes everything");
                }
            });
        }
    });
    cluster.assert_unharmed();
    let now = victim.process.peak_memory();
    assert!(now < before + STREAMS_COST, "{before}, then {now} bytes");
}

#[test]
fn a_bomb_in_a_stream_is_defused() {
    let cluster = Cluster::start(3);
    let victim = &cluster.nodes[1];
    let before = victim.process.peak_memory();
    // What is no message is refused at its first bytes, whatever follows; so this is a view, of records with too
    // much metadata.
    let record =
        [&b"\x97\xa1x\xa4\x7f\x00\x00\x01\x09\xc5\xe0\x00"[..], &[0; 0xe000], b"\x01\x02\xa6\x01\x05\x02\x00\x00\x00"];
    let view = [&b"\x06\x81\xa5Nodes\xcd\x27\x10"[..], &record.concat().repeat(1000)].concat();
    let mut stream = Attacker::stream(victim.addr(), &compressed(&view));
    dropped(victim, 0, "it grows to more than 41943040 bytes, the limit");
    ended(&mut stream);
    cluster.assert_unharmed();
    let now = victim.process.peak_memory();
    assert!(now < before + STREAMS_COST, "{before}, then {now} bytes");
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let cluster = Cluster::start(2);
    let victim = &cluster.nodes[0];
    let before = victim.process.peak_memory();
    let mut silent: Vec<_> = (0..300).map(|_| Attacker::stream(victim.addr(), b"")).collect();
    dropped(victim, 0, "too many connections say nothing; the oldest was closed");
    let joiner = Node::start("joiner", &[&victim.addr().to_string()], &[]);
    joiner.log().wait_message(0, "broadcast nodes = 3");
    silent.iter_mut().for_each(ended);
    victim.wait_event(0, "joined", "joiner");
    cluster.flow();
    let now = victim.process.peak_memory();
    assert!(now < before + PACKETS_COST, "{before}, then {now} bytes");
}
