//! Benchmarks of the wire codec: `cargo bench --bench wire`.
//!
//! Decoding a full packet has to take less than 5 µs.

use std::net::Ipv4Addr;

use broadcast::{
    Envelope,
    wire::{
        Address, Alive, Keyring, Message, NodeState, Ping, PushPull, PushPullState, SecretKey, Source, packet,
        stream::{self, StreamMessage, StreamReader},
    },
};
use bytes::Bytes;
use divan::{
    Bencher, black_box,
    counter::{BytesCount, ItemsCount},
};

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

/// What is in a packet.
#[derive(Clone, Copy, Debug)]
enum Content {
    Ping,
    Alive,
    FullOfAlives,
    FullOfAlivesWithMetadata,
    FullOfUserMessages,
    FullOfAlivesCompressed,
    FullOfUserMessagesCompressed,
}

const CONTENTS: [Content; 7] = [
    Content::Ping,
    Content::Alive,
    Content::FullOfAlives,
    Content::FullOfAlivesWithMetadata,
    Content::FullOfUserMessages,
    Content::FullOfAlivesCompressed,
    Content::FullOfUserMessagesCompressed,
];

impl Content {
    /// The messages, and whether they are compressed.
    fn messages(self) -> (Vec<Message>, bool) {
        match self {
            Self::Ping => (vec![ping()], false),
            Self::Alive => (vec![alive(1, 64)], false),
            Self::FullOfAlives => (full(|i| alive(i, 0)), false),
            Self::FullOfAlivesWithMetadata => (full(|i| alive(i, 64)), false),
            Self::FullOfUserMessages => (full(user), false),
            Self::FullOfAlivesCompressed => (full(|i| alive(i, 0)), true),
            Self::FullOfUserMessagesCompressed => (full(user), true),
        }
    }
}

#[divan::bench(args = CONTENTS)]
fn packet_encode(bencher: Bencher<'_, '_>, content: Content) {
    let (messages, compress) = content.messages();
    bencher.counter(ItemsCount::new(messages.len())).bench_local(|| encode(black_box(&messages), compress));
}

#[divan::bench(args = CONTENTS)]
fn packet_decode(bencher: Bencher<'_, '_>, content: Content) {
    let (messages, compress) = content.messages();
    let datagram = encode(&messages, compress);
    let mut out = Vec::new();
    packet::decode(&datagram, &mut out).expect("it was encoded");
    assert_eq!(out, messages, "what was written is read");
    bencher.counter(ItemsCount::new(messages.len())).bench_local(|| {
        out.clear();
        packet::decode(black_box(&datagram), &mut out).expect("it was encoded");
        out.len()
    });
}

/// The bits of a key.
const KEYS: [usize; 3] = [128, 192, 256];

fn labelled(bits: usize) -> Envelope {
    let key = SecretKey::new(vec![0xA5; bits / 8]).expect("a key's length");
    let keyring = Keyring::new([key]).expect("one key");
    Envelope { label: "prod".into(), keyring, ..Envelope::default() }
}

/// A full packet into its envelope: what label and encryption add.
#[divan::bench(args = KEYS)]
fn envelope_seal(bencher: Bencher<'_, '_>, bits: usize) {
    let (envelope, datagram) = (labelled(bits), encode(&full(user), false));
    bencher
        .counter(BytesCount::new(datagram.len()))
        .bench_local(|| envelope.seal_packet([1; 12], black_box(&datagram).clone()));
}

#[divan::bench(args = KEYS)]
fn envelope_open(bencher: Bencher<'_, '_>, bits: usize) {
    let (envelope, datagram) = (labelled(bits), encode(&full(user), false));
    let sealed = envelope.seal_packet([1; 12], datagram.clone());
    bencher
        .counter(BytesCount::new(datagram.len()))
        .bench_local(|| envelope.open_packet(black_box(&sealed)).expect("it was sealed"));
}

/// An exchange of views of 1,000 nodes.
fn view() -> StreamMessage {
    let node = |i: usize| PushPullState {
        name: format!("node{i}").into(),
        address: address(i as u8),
        meta: Bytes::from_static(&[b'm'; 64]),
        incarnation: 3,
        state: NodeState::Alive,
        versions: Some([1, 5, 2, 0, 0, 0]),
    };
    StreamMessage::PushPull(PushPull { join: false, nodes: (0..1000).map(node).collect(), user_state: Bytes::new() })
}

#[divan::bench(args = [false, true])]
fn view_encode(bencher: Bencher<'_, '_>, compressed: bool) {
    let message = view();
    bencher.bench_local(|| stream::encode(black_box(&message), compressed));
}

#[divan::bench(args = [false, true])]
fn view_decode(bencher: Bencher<'_, '_>, compressed: bool) {
    let encoded = stream::encode(&view(), compressed);
    bencher
        .counter(BytesCount::new(encoded.len()))
        .bench_local(|| StreamReader::new().push(black_box(&encoded)).expect("it was encoded").expect("it is whole"));
}

fn main() {
    divan::main();
}
