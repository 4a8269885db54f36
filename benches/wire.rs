//! How fast messages are written and read: `cargo bench --bench wire`.
//!
//! A full packet has to be decoded in less than 5 µs.

use std::{hint::black_box, net::Ipv4Addr};

use broadcast::{
    Envelope,
    wire::{
        Address, Alive, Keyring, Message, NodeState, Ping, PushPull, PushPullState, SecretKey, Source, packet,
        stream::{self, StreamMessage, StreamReader},
    },
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A packet's size, as memberlist has it by default.
const PACKET: usize = 1400;

fn address(i: u8) -> Address {
    Address { ip: Ipv4Addr::new(10, 0, 0, i).into(), port: 7946 }
}

fn ping() -> Message {
    let source = Source { address: address(1), node: "node1".into() };
    Message::Ping(Ping { seq: 1000, node: "node2".into(), source: Some(source) })
}

fn alive(i: usize, meta: usize) -> Message {
    Message::Alive(Alive {
        incarnation: 3,
        node: format!("node{i}").into(),
        address: address(i as u8),
        meta: vec![b'm'; meta].into(),
        versions: Some([1, 5, 2, 0, 0, 0]),
    })
}

fn user(i: usize) -> Message {
    let identity = format!(r#"{{"origin":"node1","epoch":1764000000000000,"seq":{i}}}"#);
    Message::User(format!(r#"{{"key":"I am node1","value":{i},"broadcast":{identity}}}"#).into())
}

/// As many messages as fit in a packet.
fn full(message: impl Fn(usize) -> Message) -> Vec<Message> {
    let mut used = packet::COMPOUND_OVERHEAD;
    let fits = |message: &Message| {
        used += packet::encode_message(message).len() + packet::PART_OVERHEAD;
        used <= PACKET
    };
    (0..packet::COMPOUND_PARTS).map(message).take_while(fits).collect()
}

fn encode(messages: &[Message], compress: bool) -> Bytes {
    let parts: Vec<_> = messages.iter().map(packet::encode_message).collect();
    packet::encode(&parts, compress, true)
}

fn packets(c: &mut Criterion) {
    let small = |i| alive(i, 0);
    let large = |i| alive(i, 64);
    for (name, messages, compress) in [
        ("ping", vec![ping()], false),
        ("alive", vec![large(1)], false),
        ("full of alives", full(small), false),
        ("full of alives with 64 B of metadata", full(large), false),
        ("full of user messages", full(user), false),
        ("full of alives, compressed", full(small), true),
        ("full of user messages, compressed", full(user), true),
    ] {
        let datagram = encode(&messages, compress);
        let mut group = c.benchmark_group(format!("packet/{name}"));
        group.throughput(Throughput::Elements(messages.len() as u64));
        group.bench_function("encode", |b| b.iter(|| encode(black_box(&messages), compress)));
        let mut out = Vec::new();
        packet::decode(&datagram, &mut out).expect("it was encoded");
        assert_eq!(out, messages, "what was written is read");
        group.bench_function("decode", |b| {
            b.iter(|| {
                out.clear();
                packet::decode(black_box(&datagram), &mut out).expect("it was encoded");
                out.len()
            });
        });
        group.finish();
    }
}

/// A full packet in its envelope: what label and encryption add.
fn envelopes(c: &mut Criterion) {
    let datagram = encode(&full(user), false);
    for bits in [128, 192, 256] {
        let key = SecretKey::new(vec![0xA5; bits / 8]).expect("a key's length");
        let keyring = Keyring::new([key]).expect("one key");
        let envelope = Envelope { label: "prod".into(), keyring, ..Envelope::default() };
        let sealed = envelope.seal_packet([1; 12], datagram.clone());
        let mut group = c.benchmark_group(format!("envelope/AES-{bits}, labelled"));
        group.throughput(Throughput::Bytes(datagram.len() as u64));
        group.bench_function("seal", |b| b.iter(|| envelope.seal_packet([1; 12], black_box(&datagram).clone())));
        group.bench_function("open", |b| b.iter(|| envelope.open_packet(black_box(&sealed)).expect("it was sealed")));
        group.finish();
    }
}

fn views(c: &mut Criterion) {
    let node = |i: usize| PushPullState {
        name: format!("node{i}").into(),
        address: address(i as u8),
        meta: Bytes::from_static(&[b'm'; 64]),
        incarnation: 3,
        state: NodeState::Alive,
        versions: Some([1, 5, 2, 0, 0, 0]),
    };
    let view = PushPull { join: false, nodes: (0..1000).map(node).collect(), user_state: Bytes::new() };
    let message = StreamMessage::PushPull(view);
    for (name, compress) in [("plain", false), ("compressed", true)] {
        let encoded = stream::encode(&message, compress);
        let mut group = c.benchmark_group(format!("push-pull of 1000 nodes/{name}"));
        group.throughput(Throughput::Bytes(encoded.len() as u64));
        group.bench_function("encode", |b| b.iter(|| stream::encode(black_box(&message), compress)));
        group.bench_function("decode", |b| {
            b.iter(|| StreamReader::new().push(black_box(&encoded)).expect("it was encoded").expect("it is whole"));
        });
        group.finish();
    }
}

criterion_group!(benches, packets, envelopes, views);
criterion_main!(benches);
