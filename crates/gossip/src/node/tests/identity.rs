//! What nodes announce about themselves, and their addresses.

use super::*;
use crate::{
    config::{Config, Seed},
    node::AdvertisedHost,
};

#[test]
fn new_metadata_is_heard_everywhere_and_outlives_a_suspicion() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 5);
    sim.update_meta(addrs[2], b"role=web");
    sim.run_until(5 * SECOND, |sim| addrs.iter().all(|addr| sim.member(*addr, "node3").meta == "role=web"));
    for addr in addrs.iter().filter(|addr| **addr != addrs[2]) {
        assert_eq!(told(&mut sim, *addr), ["node3 updated"]);
    }
    let suspect = Suspect { incarnation: 2, node: "node3".into(), from: "node2".into() };
    sim.inject(addrs[1], addrs[0], packet(&Wire::Suspect(suspect)));
    sim.run_until(10 * SECOND, |sim| sim.member(addrs[0], "node3").incarnation > 2);
    assert_eq!(sim.member(addrs[0], "node3").meta, "role=web");

    // A restarted node with other metadata and its first incarnation is known by what it announces now.
    sim.kill(addrs[2]);
    sim.start("node3", 3, &["node1"]);
    sim.run_until(10 * SECOND, |sim| addrs.iter().all(|addr| sim.member(*addr, "node3").meta.is_empty()));
}

#[test]
fn a_node_follows_the_name_it_is_reached_at() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 4);
    let host: Seed = "gateway".parse().expect("a name");
    sim.alias("gateway", &addrs[1..2]);
    let now = sim.now;
    sim.node(addrs[1]).follow(now, AdvertisedHost { host, ipv6: false });
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    assert_eq!(sim.node(addrs[1]).addr(), addrs[1]);
    for addr in &addrs {
        sim.events(*addr);
    }

    let new = sim.relocate(addrs[1], 50);
    sim.alias("gateway", &[new]);
    let others = [addrs[0], addrs[2], addrs[3]];
    let took = sim.run_until(40 * SECOND, |sim| {
        others.iter().all(|addr| sim.find(*addr, "node2").is_some_and(|member| member.addr == new))
    });
    assert!(took < 20 * SECOND, "{took:?}");
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    for addr in others {
        let told = told(&mut sim, addr);
        assert!(!told.iter().any(|line| line.contains(" is at ")), "it is no conflict of names: {told:?}");
        assert_eq!(sim.member(addr, "node2").addr, new);
    }
    let told = told(&mut sim, new);
    assert!(!told.iter().any(|line| line.contains(" is at ")), "{told:?}");
    sim.publish(new, "k", "1");
    sim.run(5 * SECOND);
    for addr in others {
        assert!(super::told(&mut sim, addr).contains(&"node2: k=1".to_owned()));
    }
}

#[test]
fn a_container_that_comes_back_at_a_new_address_is_in_before_its_old_life_is_found_dead() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 8);
    sim.kill(addrs[7]);
    let new = sim.start("node8", 88, &["node1"]);
    let took = sim.run_until(60 * SECOND, |sim| {
        addrs[..7].iter().all(|addr| sim.find(*addr, "node8").is_some_and(|member| member.addr == new))
    });
    // Found dead it would be after a probe and 4 s at the very least.
    println!("in after {took:?}");
    sim.run_until(60 * SECOND, Sim::agreed);
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    for addr in &addrs[..7] {
        assert_eq!(sim.member(*addr, "node8").addr, new);
    }
}

#[test]
fn the_only_other_node_may_come_back_at_a_new_address_at_any_time() {
    for profile in [Profile::Local, Profile::Lan] {
        for seed in 0..50 {
            let mut sim = Sim::new(seed, profile);
            let addrs = cluster(&mut sim, 2);
            sim.run(Duration::from_millis(37 * seed));
            sim.kill(addrs[1]);
            sim.run(Duration::from_millis(seed % 5));
            let new = sim.start("node2", 88, &["node1"]);
            sim.run_until(60 * SECOND, |sim| sim.find(addrs[0], "node2").is_some_and(|member| member.addr == new));
            sim.run_until(60 * SECOND, Sim::agreed);
        }
    }
}

#[test]
fn views_from_outside_the_allowed_networks_are_neither_taken_nor_answered() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 2);
    let networks = ["10.0.0.0/24".parse().expect("a network")];
    sim.node(addrs[0]).membership.set_admission(Config::new("node1").allow(networks).admission);
    let fake = wire::PushPullState {
        name: "fake".into(),
        address: SocketAddr::from(([10, 0, 0, 200], 7946)).into(),
        meta: Bytes::new(),
        incarnation: 1,
        state: wire::NodeState::Alive,
        versions: Some([1, 5, 2, 0, 0, 0]),
    };
    let view = wire::PushPull { join: true, nodes: vec![fake], user_state: Bytes::new() };
    let view = wire::stream::encode(&wire::stream::StreamMessage::PushPull(view), false);
    let before = sim.node(addrs[0]).metrics().gauges.view_sent;
    sim.inject_stream("10.9.9.9:9".parse().expect("an address"), addrs[0], &view);
    let told = told(&mut sim, addrs[0]);
    assert!(told.len() == 1 && told[0].contains("`allow`"), "{told:?}");
    let metrics = sim.node(addrs[0]).metrics();
    assert_eq!((metrics.rejected.streams, metrics.gauges.alive, metrics.gauges.view_sent), (1, 2, before));
    // The same from an allowed address is accepted, whatever else is there.
    sim.inject_stream("10.0.0.77:9".parse().expect("an address"), addrs[0], &view);
    assert_eq!(sim.node(addrs[0]).metrics().gauges.alive, 3);
}

#[test]
fn a_cluster_that_restarts_as_a_whole_agrees_whatever_was_said_before() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 20);
    // Everybody has refuted something, some of them often.
    for (i, _) in addrs.iter().enumerate() {
        let node = format!("node{}", i + 1);
        let suspect = Suspect { incarnation: 1 + 10 * i as u32, node: node.into(), from: "node1".into() };
        sim.inject(addrs[1], addrs[0], packet(&Wire::Suspect(suspect)));
    }
    sim.run(20 * SECOND);
    // All but one restart with the first incarnation, and are declared dead while they are away.
    for addr in &addrs[1..] {
        sim.kill(*addr);
    }
    sim.run(25 * SECOND);
    for i in 2..=20 {
        sim.start(&format!("node{i}"), i, &["node1"]);
    }
    let took = sim.run_until(60 * SECOND, Sim::agreed);
    assert!(took < 5 * SECOND, "{took:?}");
}
