//! Hostile peers on real sockets, beside a cluster that sends all the while. A peer without the key changes nothing; replayed
//! packets change nothing; invented members cost bounded memory.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use crate::support::{
    Process,
    cluster::{Cluster, Node, ask_view},
};
use broadcast::{
    Envelope,
    wire::{
        Alive, Dead, Keyring, Message, NodeState, PushPull, PushPullState, SecretKey, Suspect,
        compress::compress,
        envelope::Direction,
        packet,
        stream::{StreamMessage, encode},
    },
};
use bytes::Bytes;
use serde_json::Value;

/// What an attack may cost a node, in bytes: all that its streams may hold that is not complete (64 MiB),
/// what the largest of them is copied to when it is opened, and the allocator's share.
const COST: usize = 160 << 20;
/// How much memory it may cost to know 10,000 invented members, and to tell others of them, in bytes.
const FAKES_COST: usize = 96 << 20;
/// How long each attack lasts.
const ATTACK: Duration = Duration::from_secs(5);
const VERSIONS: [u8; 6] = [1, 5, 2, 0, 0, 0];
const KEY: [u8; 32] = [0x5a; 32];

fn envelope(label: &str, key: [u8; 32]) -> Envelope {
    let keyring = Keyring::new([SecretKey::new(key).expect("32 bytes are a key")]).expect("it is one key");
    Envelope { label: label.into(), keyring, ..Envelope::default() }
}

/// `node1`, a receiver, and senders `node2` to `node4`.
fn cluster(args: &[&str], env: &[(&str, &str)]) -> Cluster {
    let start = |name: &str, role: &str, seed: &str| {
        let own = ["--name", name, "--role", role, "--interval", "200ms", "--join", seed];
        Node { name: name.into(), process: Process::node_with(&[&own, args].concat(), env) }
    };
    let mut nodes = vec![start("node1", "receiver", "")];
    let seed = nodes[0].addr().to_string();
    nodes.extend((2..=4).map(|i| start(&format!("node{i}"), "sender", &seed)));
    let cluster = Cluster { nodes };
    cluster.agree();
    cluster
}

fn peaks(cluster: &Cluster) -> Vec<usize> {
    cluster.nodes.iter().map(|node| node.process.peak_memory()).collect()
}

#[track_caller]
fn assert_cost(cluster: &Cluster, before: &[usize], bound: usize) {
    for (node, before) in cluster.nodes.iter().zip(before) {
        let now = node.process.peak_memory();
        assert!(now < before + bound, "{}: {before}, then {now} bytes", node.name);
    }
}

/// Every node has received each sender's messages once and in order, from the first one that it received.
#[track_caller]
fn assert_once_and_in_order(cluster: &Cluster) {
    for node in &cluster.nodes {
        let mut next = BTreeMap::new();
        for line in node.log().lines().iter().filter(|line| line["event"] == "received") {
            let from = line["from"].as_str().expect("text").to_owned();
            let seq = line["seq"].as_u64().expect("a number");
            let expected = next.insert(from, seq + 1).unwrap_or(seq);
            assert_eq!(seq, expected, "{}: {line}", node.name);
        }
    }
}

/// No node ever saw anybody but the real members.
#[track_caller]
fn assert_no_strangers(cluster: &Cluster) {
    for node in &cluster.nodes {
        for line in node.log().lines().iter().filter(|line| line["event"] == "joined") {
            let member = line["member"].as_str().expect("text");
            assert!(cluster.nodes.iter().any(|node| node.name == member), "{}: {line}", node.name);
        }
    }
}

fn alive(name: &str, incarnation: u32) -> Message {
    let address = SocketAddr::from(([127, 0, 0, 1], 9)).into();
    let node = Bytes::copy_from_slice(name.as_bytes());
    Message::Alive(Alive { incarnation, node, address, meta: Bytes::new(), versions: Some(VERSIONS) })
}

fn dead(name: &'static str, incarnation: u32, from: &'static str) -> Message {
    Message::Dead(Dead { incarnation, node: name.into(), from: from.into() })
}

fn suspect(name: &'static str, incarnation: u32) -> Message {
    Message::Suspect(Suspect { incarnation, node: name.into(), from: "node1".into() })
}

/// A view with so many invented members.
fn fakes(count: usize) -> Vec<u8> {
    let record = |i: usize| PushPullState {
        name: format!("fake{i}").into(),
        address: SocketAddr::from(([127, 0, 0, 1], 9)).into(),
        meta: Bytes::from_static(&[b'm'; 64]),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Some(VERSIONS),
    };
    let view = PushPull { join: true, nodes: (0..count).map(record).collect(), user_state: Bytes::new() };
    encode(&StreamMessage::PushPull(view), true)
}

fn connect(to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("the node listens");
    // Whether it reads all of it is the node's matter.
    let _ = stream.write_all(bytes);
    stream
}

/// Sends packets to every node again and again, as long as an attack lasts.
fn flood(cluster: &Cluster, packets: &[Bytes]) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let until = Instant::now() + ATTACK;
    while Instant::now() < until {
        for packet in packets {
            for node in &cluster.nodes {
                socket.send_to(packet, node.addr()).expect("loopback takes it");
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_has_no_key_changes_nothing() {
    let key = SecretKey::new(KEY).expect("32 bytes are a key").reveal();
    let cluster = cluster(&["--label", "prod"], &[("BROADCAST_SECRET_KEYS", &key)]);
    let before = peaks(&cluster);
    let harm = [alive("fake", 1), dead("node2", 1, "node2"), dead("node3", 99, "node1"), suspect("node4", 99)];
    let harm: Vec<Bytes> = harm.iter().map(packet::encode_message).collect();
    let ours = envelope("prod", KEY);

    let mut packets = harm.clone();
    for (place, plain) in harm.iter().enumerate() {
        let nonce = [place as u8; 12];
        for stranger in [
            envelope("prod", [1; 32]),
            envelope("staging", KEY),
            envelope("", KEY),
            Envelope { keyring: Keyring::default(), ..envelope("prod", KEY) },
        ] {
            packets.push(stranger.seal_packet(nonce, plain.clone()));
        }
        // Sealed well, and then altered in one bit, wherever.
        let sealed = ours.seal_packet(nonce, plain.clone());
        for bit in (0..sealed.len() * 8).step_by(7) {
            let mut altered = sealed.to_vec();
            altered[bit / 8] ^= 1 << (bit % 8);
            packets.push(altered.into());
        }
    }
    packets.push(Bytes::from_static(&[0xf4; 65_000]));

    std::thread::scope(|scope| {
        scope.spawn(|| flood(&cluster, &packets));
        let victim = cluster.nodes[1].addr();
        let clear = fakes(10_000);
        let foreign = envelope("prod", [1; 32]).seal_stream([1; 12], clear.clone(), Direction::Request);
        let unlabelled = envelope("", KEY).seal_stream([2; 12], clear.clone(), Direction::Request);
        let huge = [&b"\xf4\x04prod\x0a\xff\xff\xff\xff"[..], &[0; 1000]].concat();
        // 20 MiB, announced as such, of which all but the last comes.
        let endless = [&b"\xf4\x04prod\x0a\x01\x40\x00\x00"[..], &vec![0; (20 << 20) - 1]].concat();
        let _half_open: Vec<_> = (0..100).map(|_| connect(victim, b"\xf4\x04pro")).collect();
        for stream in [&clear, &foreign, &unlabelled, &huge, &endless, &endless, &endless, &endless, &endless] {
            connect(victim, stream);
        }
    });
    cluster.assert_unharmed();
    assert_no_strangers(&cluster);
    assert_once_and_in_order(&cluster);
    assert_cost(&cluster, &before, COST);
    for node in &cluster.nodes {
        // Ten a second are told, and the attack has lasted for some.
        let told = node.count("rejected");
        assert!((1..200).contains(&told), "{}: {told}", node.name);
        let lines = node.log().lines();
        let words = r#"it has the label "" where this node has "prod""#;
        let is = |line: &Value| line["reason"].as_str().is_some_and(|reason| reason.contains(words));
        assert!(lines.iter().any(is), "{} tells what is wrong", node.name);
    }
}

#[test]
fn what_was_recorded_and_is_sent_again_changes_nothing() {
    let key = SecretKey::new(KEY).expect("32 bytes are a key").reveal();
    let cluster = cluster(&["--label", "prod"], &[("BROADCAST_SECRET_KEYS", &key)]);
    for sender in &cluster.nodes[1..] {
        cluster.nodes[0].wait_received(0, &sender.name);
    }
    let before = peaks(&cluster);
    // What the senders have said, in the very bytes, is what a recorder of the network would have.
    let lines = cluster.nodes[0].log().lines();
    let said = lines.iter().filter(|line| line["event"] == "received").map(|line| {
        let text = |name: &str| line[name].as_str().expect("text").to_owned();
        let identity = format!(r#"{{"origin":"{}","epoch":{},"seq":{}}}"#, text("from"), line["epoch"], line["seq"]);
        format!(r#"{{"key":"{}","value":{},"broadcast":{identity}}}"#, text("key"), line["value"])
    });
    let mut recorded: Vec<Message> = said.map(|said| Message::User(said.into())).collect();
    assert!(recorded.len() >= 3);
    // What was said of members: that each came, and was suspected of old.
    recorded.extend([suspect("node2", 0), dead("node3", 0, "node1"), dead("node4", 0, "node4")]);
    let ours = envelope("prod", KEY);
    let seal =
        |(place, message): (usize, &Message)| ours.seal_packet([place as u8; 12], packet::encode_message(message));
    let packets: Vec<_> = recorded.iter().enumerate().map(seal).collect();
    flood(&cluster, &packets);
    cluster.assert_unharmed();
    assert_no_strangers(&cluster);
    assert_once_and_in_order(&cluster);
    assert_cost(&cluster, &before, COST);
}

#[test]
fn ten_thousand_made_up_members_cost_bounded_memory_and_no_message() {
    let cluster = cluster(&[], &[]);
    let before = peaks(&cluster);
    let _answer = connect(cluster.nodes[1].addr(), &fakes(10_000));
    cluster.nodes[1].wait_event(0, "joined", "fake9999");
    for _ in 0..10 {
        cluster.flow();
    }
    let real = |line: &&Value| {
        (line["event"] == "failed" || line["event"] == "left")
            && !line["member"].as_str().is_some_and(|member| member.starts_with("fake"))
    };
    for node in &cluster.nodes {
        let lines = node.log().lines();
        assert!(!lines.iter().any(|line| real(&line)), "{} lost a member", node.name);
    }
    assert_once_and_in_order(&cluster);
    assert_cost(&cluster, &before, FAKES_COST);
}

/// Each node is told of invented members, which never answer, in 2,000 packets.
#[test]
fn members_made_up_in_packets_delay_neither_messages_nor_the_news_of_a_failure() {
    const FAKES: usize = 20_000;
    let mut cluster = cluster(&[], &[]);
    let before = peaks(&cluster);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
    let fakes: Vec<Bytes> = (0..FAKES).map(|i| packet::encode_message(&alive(&format!("fake{i}"), 1))).collect();
    let packets: Vec<Bytes> = fakes.chunks(10).map(|fakes| packet::encode(fakes, false, false)).collect();
    // The system drops what a busy node does not take: again, until each knows most of them.
    let until = Instant::now() + Duration::from_secs(60);
    while cluster.nodes.iter().any(|node| ask_view(node.addr()).len() < FAKES * 9 / 10) {
        assert!(Instant::now() < until, "the nodes do not take in what they are told");
        for packet in &packets {
            for node in &cluster.nodes {
                socket.send_to(packet, node.addr()).expect("loopback takes it");
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    let told = Instant::now();
    for _ in 0..20 {
        let begin = Instant::now();
        cluster.flow();
        let took = begin.elapsed();
        // Each says something every 200 ms.
        assert!(took < Duration::from_secs(5), "it took {took:?} until everybody had heard all others");
    }
    println!("20 rounds of messages took {:?}", told.elapsed());
    for node in &cluster.nodes {
        for real in ["node1", "node2", "node3", "node4"] {
            let gone = |line: &Value| (line["event"] == "failed" || line["event"] == "left") && line["member"] == real;
            assert!(!node.log().lines().iter().any(gone), "{} lost {real}", node.name);
        }
    }
    let from: Vec<_> = cluster.nodes.iter().map(|node| node.log().len()).collect();
    let killed = Instant::now();
    cluster.nodes[3].process.kill();
    for (node, from) in cluster.nodes[..3].iter().zip(from) {
        node.wait_event(from, "failed", "node4");
    }
    let took = killed.elapsed();
    println!("the failure was known to all after {took:?}");
    // Among four it takes 5 to 9 s.
    assert!(took < Duration::from_secs(15), "it took {took:?} until all knew");
    cluster.nodes.pop();
    cluster.flow();
    println!("memory, before and after: {before:?}, {:?}", peaks(&cluster));
    assert_once_and_in_order(&cluster);
    assert_cost(&cluster, &before[..3], FAKES_COST);
}

#[test]
fn a_cluster_that_knows_its_size_lets_in_no_more_and_is_rid_of_them_soon() {
    let cluster = cluster(&["--max-members", "12"], &[]);
    let rejected = |words: &str| {
        let line = cluster.nodes[1].log().wait(words, |lines| {
            lines.iter().find(|line| line["reason"].as_str().is_some_and(|reason| reason.contains(words))).cloned()
        });
        line["reason"].as_str().expect("text").to_owned()
    };
    // What names more than that is not read at all, …
    let _answer = connect(cluster.nodes[1].addr(), &fakes(10_000));
    let told = rejected("stream announces 10000 records");
    assert!(told.contains("more than 12, the limit; is BROADCAST_MAX_MEMBERS (--max-members) too small?"), "{told}");
    // … and what names fewer, as far as there is room.
    let _answer = connect(cluster.nodes[1].addr(), &fakes(12));
    rejected("12 members are known already");
    let real = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    for node in &cluster.nodes {
        node.wait_view(&real);
    }
    cluster.flow();
    assert_once_and_in_order(&cluster);
}

/// 2^20 records of one member that there is not, and as many as are read, again and again.
#[test]
fn views_of_one_record_a_million_times_cost_no_memory_and_fail_nobody() {
    let cluster = cluster(&[], &[]);
    let before = peaks(&cluster);
    // As short as a record can be, in the order of its fields: name, address, port, metadata, incarnation, state
    // (dead), versions.
    let record = b"\x97\xa1x\xa4\x7f\x00\x00\x01\x09\xc0\x01\x02\xa6\x01\x05\x02\x00\x00\x00";
    let view = |count: u32| {
        let header = [&b"\x06\x81\xa5Nodes\xce"[..], &count.to_be_bytes()].concat();
        let packed = compress(&[&header, &record.repeat(count as usize)[..]].concat());
        let len = u32::try_from(packed.len()).expect("it is short").to_be_bytes();
        [&b"\x09\x82\xa4Algo\x00\xa3Buf\xc6"[..], &len, &packed].concat()
    };
    let (million, most) = (view(1 << 20), view(100_000));
    assert!(million.len() < 600_000, "{} bytes", million.len());
    let victim = &cluster.nodes[1];
    let until = Instant::now() + ATTACK;
    let mut sent = 0;
    while Instant::now() < until {
        for bytes in [&million, &most] {
            // One after the other: each is answered, or refused.
            let mut stream = connect(victim.addr(), bytes);
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let mut answer = Vec::new();
            let begin = Instant::now();
            let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
            sent += 1;
            println!("{} bytes were answered after {:?}", bytes.len(), begin.elapsed());
        }
    }
    assert!(sent >= 4, "{sent}");
    cluster.assert_unharmed();
    assert_no_strangers(&cluster);
    assert_once_and_in_order(&cluster);
    assert_cost(&cluster, &before, 64 << 20);
}

#[test]
fn what_each_attacker_costs_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("it is there");
    let section = text.split("## What an attacker can cost a node").nth(1).and_then(|rest| rest.split("\n## ").next());
    let lines = section.expect("it is a section").lines();
    let mut tests = 0;
    for line in lines.filter(|line| line.starts_with(|first: char| first.is_ascii_digit())) {
        tests += 1;
        let parts: Vec<_> = line.split('`').collect();
        let [number, name, _, file, _] = parts[..] else { panic!("a test and its file: {line}") };
        assert_eq!(number, format!("{tests}. "));
        let code = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(code.contains(&format!("fn {name}()")), "{name} is not in {file}");
    }
    assert!(tests > 20, "{tests}");
}
