//! More streams than a digest has room for.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::*;
use crate::dissemination::{
    Dissemination,
    control::{Control, MAX_DIGESTS},
    revision::target_of_ours,
};

/// A node that knows these many origins, with so many rounds of gossip to tell of each.
fn node(origins: usize, rounds: u32) -> (Dissemination, BTreeSet<String>) {
    let (now, tuning) = (Instant::now(), Profile::Lan.tuning());
    let mut node = Dissemination::new(now, "me".into(), 1, &tuning, Retention::default(), false, 7);
    let names: BTreeSet<_> = (0..origins).map(|number| format!("node{number}")).collect();
    for name in &names {
        let inbound = &mut node.receiver.inbound;
        inbound.open(now, name.as_bytes(), 2, Some(5), u64::MAX).expect("there is room");
        inbound.stream(name.as_bytes(), 2).expect("it was opened").0.rounds = rounds;
    }
    (node, names)
}

/// The origins that a digest tells of.
fn origins(message: &[u8]) -> Vec<String> {
    let from_magic = message.iter().position(|byte| *byte == super::super::MAGIC).expect("it is one of ours");
    let mut control = Control::decode(&message[from_magic + 1..]).expect("it is well-formed");
    if let Control::Sender { control: inner, .. } = control {
        control = Control::decode(inner).expect("it is well-formed");
    }
    let Control::Digest(digests) = control else { panic!("{control:?}") };
    digests.iter().map(|digest| String::from_utf8_lossy(digest.origin).into_owned()).collect()
}

#[test]
fn each_origin_is_told_in_exchanges_however_many_there_are() {
    let (mut node, names) = node(3 * MAX_DIGESTS - 1, 0);
    let mut told = BTreeSet::new();
    for _ in 0..3 {
        let state = origins(&node.state());
        assert!(state.len() <= MAX_DIGESTS);
        told.extend(state);
    }
    assert_eq!(told, names);
}

#[test]
fn each_origin_is_told_by_gossip_for_as_many_rounds_however_many_there_are() {
    const ROUNDS: u32 = 3;
    let (mut node, names) = node(200, ROUNDS);
    let mut told: BTreeMap<String, u32> = BTreeMap::new();
    let mut rounds = 0;
    while node.has_gossip() {
        rounds += 1;
        assert!(rounds < 200, "it comes to an end; told so far: {told:?}");
        // All members that are told in a round are told the same.
        let packets = [(), ()].map(|()| {
            let mut packet: Vec<Bytes> = Vec::new();
            assert!(node.fill(target_of_ours("127.0.0.1:7946".parse().expect("an address")), 400, &mut packet) <= 400);
            origins(&packet[0])
        });
        assert_eq!(packets[0], packets[1]);
        packets[0].iter().for_each(|name| *told.entry(name.clone()).or_default() += 1);
        node.after_gossip();
    }
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), names);
    assert!(told.values().all(|times| *times == ROUNDS), "{told:?}");
}

#[test]
fn gossip_rests_after_its_rounds_where_nobody_can_be_told() {
    let (mut node, _) = node(200, 3);
    for _ in 0..3 {
        assert!(node.has_gossip());
        node.after_gossip();
    }
    assert!(!node.has_gossip());
}
