//! Acknowledgements, as others than the origin see them.

use super::{super::Acks, *};
use crate::{
    dissemination::control::Control,
    wire::{Alive, Message, packet},
};

/// The acknowledgements that a node's application got: the origin, the member, and its position.
fn seen(sim: &mut Sim, addr: SocketAddr) -> Vec<(String, String, u64)> {
    let node = sim.node(addr);
    let all = std::iter::from_fn(|| node.poll_acks());
    let each = |Acks { origin, members, .. }: Acks| {
        members.into_iter().map(move |(name, next)| (origin.to_string(), name.to_string(), next))
    };
    let mut seen: Vec<_> = all.flat_map(each).collect();
    seen.sort();
    seen
}

fn acked(of: &str, by: &[&str], next: u64) -> Vec<(String, String, u64)> {
    by.iter().map(|by| (of.to_owned(), (*by).to_owned(), next)).collect()
}

/// What introduces a node of ours, of some revision, or tells that it is back.
pub(super) fn alive(name: String, addr: SocketAddr, revision: u8) -> bytes::Bytes {
    let alive = Alive {
        incarnation: 9,
        node: name.into(),
        address: addr.into(),
        meta: bytes::Bytes::new(),
        versions: Some([1, 5, 2, 0, revision, 0]),
    };
    packet::encode_message(&Message::Alive(alive))
}

#[test]
fn who_watches_is_told_what_changes_and_all_of_it_from_time_to_time() {
    let mut sim = Sim::new(1, Profile::Lan);
    let addrs = cluster(&mut sim, 3);
    sim.publish(addrs[1], "k", "0");
    sim.run(SECOND);
    assert_eq!(seen(&mut sim, addrs[0]), [], "nobody watches");
    sim.watch(addrs[0], true);
    sim.run(SECOND);
    assert_eq!(seen(&mut sim, addrs[0]), acked("node2", &["node1", "node3"], 1));
    for value in 1..5 {
        sim.publish(addrs[1], "k", &value.to_string());
    }
    sim.publish(addrs[0], "k", "0");
    sim.run(SECOND);
    let expected = [acked("node1", &["node2", "node3"], 1), acked("node2", &["node1", "node3"], 5)].concat();
    assert_eq!(seen(&mut sim, addrs[0]), expected);
    sim.run(2 * SECOND);
    assert_eq!(seen(&mut sim, addrs[0]), [], "nothing changes");
    sim.run(2 * SECOND);
    assert_eq!(seen(&mut sim, addrs[0]), expected, "all of it again");
    assert_eq!(seen(&mut sim, addrs[2]), [], "it does not watch");

    // A node that joins is asked at once. A watcher that has lost interest is sent reports for a while, and ignores them.
    let new = sim.start("node4", 4, &["node1"]);
    sim.run(SECOND);
    sim.publish(new, "k", "0");
    sim.run(SECOND);
    let heard = seen(&mut sim, addrs[0]);
    assert!(heard.contains(&("node4".into(), "node3".into(), 1)), "{heard:?}");
    sim.watch(addrs[0], false);
    sim.publish(new, "k", "1");
    sim.run(SECOND);
    assert_eq!(seen(&mut sim, addrs[0]), []);
}

#[test]
fn who_does_not_ask_again_is_told_no_longer_and_strangers_never() {
    let mut sim = Sim::new(2, Profile::Lan);
    let addrs = cluster(&mut sim, 2);
    sim.publish(addrs[0], "k", "0");
    sim.run(SECOND);
    let stranger = SocketAddr::from(([10, 9, 9, 9], 9));
    let before = sim.node(addrs[0]).counters().strangers;
    sim.inject(stranger, addrs[0], Control::WatchAcks.encode());
    sim.inject(stranger, addrs[0], Control::AckReport { epoch: 2, members: vec![(b"node1", 1)] }.encode());
    assert_eq!(sim.node(addrs[0]).counters().strangers, before + 2);
    // How many more datagrams a message takes while node2 watches.
    let cost = |sim: &mut Sim| {
        let before = sim.datagrams;
        sim.publish(addrs[0], "k", "1");
        // No probe comes in between, and no round of gossip with something to tell.
        sim.run(SECOND / 10);
        sim.datagrams - before
    };
    sim.run(10 * SECOND);
    let quiet = (0..20).map(|_| cost(&mut sim)).sum::<u64>();
    sim.inject(addrs[1], addrs[0], Control::WatchAcks.encode());
    let watched = (0..20).map(|_| cost(&mut sim)).sum::<u64>();
    assert!(watched > quiet + 10, "{watched} datagrams, {quiet} without");
    sim.run(10 * SECOND);
    let later = (0..20).map(|_| cost(&mut sim)).sum::<u64>();
    assert!(later < quiet + 10, "{later} datagrams, {quiet} before");
}

#[test]
fn so_many_are_told_at_most_and_old_revisions_are_not_asked() {
    let mut sim = Sim::new(3, Profile::Lan);
    let addrs = cluster(&mut sim, 2);
    sim.run(SECOND);
    let made_up = |i: u8| SocketAddr::from(([10, 0, 8, i], 7946));
    for i in 0..33 {
        sim.inject(made_up(i), addrs[0], alive(format!("made up {i}"), made_up(i), 0xB1));
    }
    let before = sim.datagrams;
    sim.watch(addrs[0], true);
    assert_eq!(sim.datagrams - before, 1, "node2 is asked, and nobody else");
    let before = sim.node(addrs[0]).counters().unusable;
    for i in 0..33 {
        sim.inject(made_up(i), addrs[0], Control::WatchAcks.encode());
    }
    assert_eq!(sim.node(addrs[0]).counters().unusable, before + 1);
}
