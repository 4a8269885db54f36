//! Packets: messages to bytes and back, and what encryption adds. For each packet of full size.

use std::hint::black_box;

use broadcast::{
    Envelope,
    wire::{Keyring, Message, SecretKey, packet},
};
use bytes::Bytes;

use super::counted;

/// A packet's size, as memberlist has it by default.
const PACKET: usize = 1400;
const ROUNDS: u64 = 200;

/// As many messages as fit in a packet.
fn full() -> Vec<Message> {
    let message = |n: usize| {
        let identity = format!(r#"{{"origin":"node1","epoch":1764000000000000,"seq":{n}}}"#);
        Message::User(format!(r#"{{"key":"I am node1","value":{n},"broadcast":{identity}}}"#).into())
    };
    let mut used = packet::COMPOUND_OVERHEAD;
    let fits = |message: &Message| {
        used += packet::encode_message(message).len() + packet::PART_OVERHEAD;
        used <= PACKET
    };
    (1..=packet::COMPOUND_PARTS).map(message).take_while(fits).collect()
}

fn encoded(messages: &[Message]) -> Bytes {
    let parts: Vec<_> = messages.iter().map(packet::encode_message).collect();
    packet::encode(&parts, false, true)
}

fn envelope() -> Envelope {
    let key = SecretKey::new(vec![0xA5; 32]).expect("a key's length");
    let keyring = Keyring::new([key]).expect("one key");
    Envelope { label: "prod".into(), keyring, ..Envelope::default() }
}

/// Does it once before it counts, for what is only done the first time.
fn repeat<R>(mut operation: impl FnMut() -> R) -> u64 {
    black_box(operation());
    for _ in 0..ROUNDS {
        // What is freed afterwards is freed by whoever uses it.
        drop(counted(&mut operation));
    }
    ROUNDS
}

pub fn encode() -> u64 {
    let messages = full();
    repeat(|| encoded(black_box(&messages)))
}

pub fn decode() -> u64 {
    let (messages, mut out) = (full(), Vec::new());
    let datagram = encoded(&messages);
    let done = repeat(|| {
        out.clear();
        packet::decode(black_box(&datagram), &mut out).expect("it was encoded");
    });
    assert_eq!(out, messages, "what was written is read");
    done
}

pub fn encrypt() -> u64 {
    let (envelope, datagram) = (envelope(), encoded(&full()));
    repeat(|| envelope.seal_packet([1; 12], black_box(&datagram).clone()))
}

pub fn decrypt() -> u64 {
    let (envelope, datagram) = (envelope(), encoded(&full()));
    let sealed = envelope.seal_packet([1; 12], datagram);
    repeat(|| envelope.open_packet(black_box(&sealed)).expect("it was sealed"))
}
