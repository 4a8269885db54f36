//! Messages of plain memberlist nodes, which have no identity.

use bytes::Bytes;

use super::*;
use crate::wire::{
    Message as Wire, packet,
    stream::{self, StreamMessage},
};

fn words(value: &str) -> Bytes {
    Bytes::from(format!("{{\"key\":\"I am go\",\"value\":{value}}}"))
}

fn say(value: &str) -> Bytes {
    packet::encode_message(&Wire::User(words(value)))
}

#[test]
fn retransmissions_to_several_are_one_message_and_the_same_words_later_another() {
    for loss in [0.0, 0.2] {
        let mut sim = Sim::new(20, Profile::Lan);
        let addrs = cluster(&mut sim, 13);
        let plain = sim.introduce_plain(&addrs);
        sim.loss = loss;
        for _ in 0..2 {
            for to in [2, 9, 4, 2, 11, 9] {
                sim.inject(plain, addrs[to], say("1"));
                sim.run(Duration::from_millis(200));
            }
            sim.run(Duration::from_millis(1800));
            for addr in &addrs {
                assert_eq!(received(&mut sim, *addr), ["go: 1"], "{addr} with loss {loss}");
            }
        }
    }
}

#[test]
fn a_message_whose_voice_dies_is_delivered_all_the_same() {
    // One of them is the voice.
    for dies in 1..5 {
        let mut sim = Sim::new(21, Profile::Lan);
        let mut addrs = cluster(&mut sim, 5);
        let plain = sim.introduce_plain(&addrs);
        sim.kill(addrs.remove(dies));
        sim.inject(plain, addrs[0], say("1"));
        sim.run(10 * SECOND);
        for addr in addrs {
            assert_eq!(received(&mut sim, addr), ["go: 1"], "{addr}, without node{}", dies + 1);
        }
    }
}

#[test]
fn a_large_message_of_a_plain_node_reaches_all() {
    // Received by its proxy, and by others.
    for hears in 0..3 {
        let mut sim = Sim::new(22, Profile::Lan);
        let addrs = cluster(&mut sim, 3);
        let mut from = sim.introduce_plain(&addrs);
        from.set_port(34_567);
        let value = format!("\"{}\"", "y".repeat(200_000));
        let data = stream::encode(&StreamMessage::User(words(&value)), false);
        sim.inject_stream(from, addrs[hears], &data);
        sim.run(5 * SECOND);
        for addr in addrs {
            assert_eq!(received(&mut sim, addr), [format!("go: {value}")], "{addr}");
        }
    }
}

#[test]
fn what_a_plain_node_says_in_another_form_reaches_all_as_it_was() {
    let raw =
        [&b"x"[..], b"", &[0, 0xff], &[super::super::control::MAGIC, 1], b"{\"key\":1}", br#"{"key":"","value":"x"}"#];
    let expected = ["\"x\"", "\"\"", "[0,255]", "[181,1]", r#""{\"key\":1}""#, "\"x\""];
    let mut sim = Sim::new(23, Profile::Lan);
    let addrs = cluster(&mut sim, 3);
    let plain = sim.introduce_plain(&addrs);
    for said in raw {
        sim.inject(plain, addrs[1], packet::encode_message(&Wire::User(Bytes::from_static(said))));
        sim.run(Duration::from_millis(100));
    }
    sim.run(SECOND);
    for addr in &addrs {
        assert_eq!(received(&mut sim, *addr), expected.map(|value| format!("go: {value}")), "{addr}");
    }
    // From others than members it is refused.
    sim.inject("10.0.9.8:7946".parse().expect("an address"), addrs[1], packet::encode_message(&Wire::User("y".into())));
    sim.run(SECOND);
    assert!(addrs.iter().all(|addr| received(&mut sim, *addr).is_empty()));
}
