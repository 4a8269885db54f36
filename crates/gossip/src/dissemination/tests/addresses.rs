//! Packets that leave from another address than their node announces.

use super::{
    super::control::{SenderHeader, StreamDigest, StreamStart},
    *,
};
use crate::dissemination::control::Control;

/// The reported members whose packets come from another address: name, announced address, and that address.
fn elsewhere(sim: &mut Sim, addr: SocketAddr) -> Vec<(String, SocketAddr, SocketAddr)> {
    let told = |told| match told {
        Err(Event::AddressMismatch { name, announced, from }) => Some((name.to_string(), announced, from)),
        _ => None,
    };
    sim.events(addr).into_iter().filter_map(told).collect()
}

#[test]
fn who_is_heard_from_elsewhere_is_told_of_once_and_answered_where_it_says() {
    let mut sim = Sim::new(1, Profile::Lan);
    let addrs = cluster(&mut sim, 3);
    sim.publish(addrs[1], "k", "0");
    sim.run(SECOND);
    assert_eq!(received(&mut sim, addrs[0]), messages_of("node2", 0..1));
    let from = SocketAddr::from(([10, 9, 9, 9], 9));
    let by = SenderHeader { name: b"node2", echo: None };
    let epoch = sim.node(addrs[1]).epoch();
    // Where this node starts, and what cannot be had any more, is verified by a challenge before it counts.
    let start = Some(StreamStart { seq: 900, receiver_epoch: 0, cookie: Some(1) });
    let digest = StreamDigest { origin: b"node2", epoch, base: 900, next: 1000, floor: 900, start };
    for _ in 0..20 {
        sim.inject(from, addrs[0], Control::Digest(vec![digest.clone()]).encode_from(by));
        sim.inject(
            from,
            addrs[0],
            Control::RepairRequest { origin: b"node1", epoch: 2, ranges: vec![(0, 9)] }.encode_from(by),
        );
        sim.run(SECOND / 10);
    }
    assert_eq!(elsewhere(&mut sim, addrs[0]), [("node2".to_owned(), addrs[1], from)]);
    assert_eq!(sim.node(addrs[0]).counters().address_mismatches, 1);
    for number in 1..6 {
        sim.publish(addrs[1], "k", &number.to_string());
    }
    sim.run(2 * SECOND);
    assert_eq!(received(&mut sim, addrs[0]), messages_of("node2", 1..6));
    assert_eq!(sim.node(addrs[1]).progress().stable, 6, "its acknowledgements count");
}

#[test]
fn who_does_not_say_who_it_is_yet_is_known_by_its_address_as_ever() {
    let mut sim = Sim::new(2, Profile::Lan);
    let addrs = cluster(&mut sim, 2);
    let old = SocketAddr::from(([10, 0, 8, 1], 7946));
    sim.inject(old, addrs[0], super::watch::alive("old".into(), old, 0xB2));
    sim.publish(addrs[0], "k", "0");
    sim.run(SECOND / 10);
    assert_eq!(sim.node(addrs[0]).acked_by(0), (1, vec!["old".into()]));
    let epoch = sim.node(addrs[0]).epoch();
    let ack = Control::Ack { epoch, receiver_epoch: 3, next: Some(1) }.encode();
    sim.inject(SocketAddr::from(([10, 9, 9, 9], 9)), addrs[0], ack.clone());
    assert_eq!(sim.node(addrs[0]).acked_by(0).0, 1);
    sim.inject(old, addrs[0], ack);
    assert_eq!(sim.node(addrs[0]).acked_by(0), (2, vec![]));
}

/// As when a node is replaced by one of an earlier release, which asks where it starts before it is known to be back.
#[test]
fn who_has_left_is_answered_once_it_says_of_which_release_it_is() {
    let mut sim = Sim::new(3, Profile::Lan);
    let addrs = cluster(&mut sim, 2);
    sim.publish(addrs[0], "k", "0");
    sim.run(SECOND);
    assert_eq!(sim.node(addrs[0]).acked_by(0), (1, vec![]));
    sim.leave(addrs[1]);
    sim.run_until(30 * SECOND, |sim| sim.view(addrs[0]).len() == 1);
    sim.kill(addrs[1]);
    sim.run(SECOND);
    let epoch = sim.node(addrs[0]).epoch();
    let ask = Control::Ack { epoch, receiver_epoch: epoch + 2, next: None }.encode();
    let (sent, strangers) = (sim.datagrams, sim.node(addrs[0]).counters().strangers);
    sim.inject(addrs[1], addrs[0], ask.clone());
    assert_eq!(sim.datagrams, sent);
    assert_eq!(sim.node(addrs[0]).counters().strangers, strangers + 1);
    sim.inject(addrs[1], addrs[0], super::watch::alive("node2".into(), addrs[1], 0xB2));
    let sent = sim.datagrams;
    sim.inject(addrs[1], addrs[0], ask);
    assert_eq!(sim.datagrams, sent + 1);
}
