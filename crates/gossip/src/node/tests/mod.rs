//! The core under a virtual clock.

mod identity;
mod info;
mod leaving;
mod metrics;
mod newcomers;
mod seal;
mod views;

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    config::Profile,
    membership::{MemberState, Target},
    sim::Sim,
    wire::{Alive, Dead, Message as Wire, Suspect},
};

const SECOND: Duration = Duration::from_secs(1);

fn sim() -> Sim {
    Sim::new(1, Profile::Lan)
}

/// node1 … nodeN, which have joined through node1 and agree on who is a member.
fn cluster(sim: &mut Sim, n: u16) -> Vec<SocketAddr> {
    let addrs: Vec<_> =
        (1..=n).map(|i| sim.start(&format!("node{i}"), i, if i == 1 { &[] } else { &["node1"] })).collect();
    sim.run_until(10 * SECOND, Sim::agreed);
    for addr in &addrs {
        sim.events(*addr);
    }
    addrs
}

/// What a node's application got, as text.
fn told(sim: &mut Sim, addr: SocketAddr) -> Vec<String> {
    let words = |event| match event {
        Event::Joined(member) => format!("{} joined", member.name),
        Event::Left(member) => format!("{} left", member.name),
        Event::Failed(member) => format!("{} failed", member.name),
        Event::Updated(member) => format!("{} updated", member.name),
        Event::NameConflict { name, holder, claimant } => format!("{name} is at {holder} and {claimant}"),
        Event::Missed { origin, from, to, .. } => format!("missed {from} to {to} of {origin}"),
        Event::LagLimitExceeded(name) => format!("{name} cut loose"),
        Event::AddressMismatch { name, announced, from } => format!("{name} is at {announced}, heard from {from}"),
        Event::ReachChanged { name, reach, .. } => format!("{name} reached by {reach:?}"),
        Event::PublishReady => "room".to_owned(),
        Event::InfoReceived { name, info } => format!("{name} is {}", info.id),
        Event::IdConflict { id, names: [one, other] } => format!("{one} and {other} are {id}"),
        Event::Probed { name, .. } => format!("{name} probed"),
        Event::Ready => "ready".to_owned(),
        Event::SeedUnreachable { seed, .. } => format!("{seed} unreachable"),
        Event::Rejected { reason, .. } => format!("rejected: {reason}"),
        Event::SerfEventDropped { count, .. } => format!("{count} not told to serf"),
        Event::LeaveComplete => "leave complete".to_owned(),
    };
    let message = |message: Message| format!("{}: {}={}", message.origin(), message.key(), message.value());
    sim.events(addr).into_iter().map(|told| told.map_or_else(words, message)).collect()
}

fn packet(message: &Wire) -> Bytes {
    packet::encode_message(message)
}

#[test]
fn a_seed_that_starts_a_moment_later_is_no_matter() {
    let mut sim = sim();
    let early = sim.start("node2", 2, &["node1"]);
    sim.run(SECOND / 10);
    let seed = sim.start("node1", 1, &["node2"]);
    sim.run_until(SECOND, Sim::agreed);
    for addr in [early, seed] {
        let told = told(&mut sim, addr);
        assert!(!told.iter().any(|line| line.ends_with("unreachable")), "{told:?}");
    }
}

#[test]
fn nodes_join_in_any_order_and_hear_of_each_other_at_once() {
    let mut sim = sim();
    let late = sim.start("node2", 2, &["node1"]);
    let later = sim.start("node3", 3, &["node1", "node2"]);
    sim.run(3 * SECOND);
    assert!(told(&mut sim, late).contains(&"node1:7946 unreachable".to_owned()));
    let seed = sim.start("node1", 1, &[]);
    let took = sim.run_until(10 * SECOND, Sim::agreed);
    assert!(took < 6 * SECOND, "{took:?}");
    for (addr, others) in [(seed, ["node2", "node3"]), (later, ["node1", "node2"])] {
        let told = told(&mut sim, addr);
        for other in others {
            assert_eq!(told.iter().filter(|line| **line == format!("{other} joined")).count(), 1, "{told:?}");
        }
    }
}

#[test]
fn a_joiner_is_in_a_running_cluster_within_200_ms() {
    let mut sim = sim();
    cluster(&mut sim, 3);
    let joiner = sim.start("joiner", 9, &["node1"]);
    let took = sim.run_until(SECOND, |sim| sim.view(joiner).len() == 4);
    assert!(took < Duration::from_millis(50), "{took:?}");
    assert!(told(&mut sim, joiner).contains(&"ready".to_owned()));
    let took = sim.run_until(2 * SECOND, Sim::agreed);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn a_silent_node_is_suspected_then_failed_and_comes_back() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 5);
    sim.kill(addrs[4]);
    let took = sim.run_until(60 * SECOND, Sim::agreed);
    assert!(took > 4 * SECOND, "it had no time to refute: {took:?}");
    for addr in &addrs[..4] {
        assert_eq!(told(&mut sim, *addr), ["node5 failed"]);
    }
    sim.start("node5", 5, &["node1"]);
    sim.run_until(10 * SECOND, Sim::agreed);
    assert_eq!(told(&mut sim, addrs[1]), ["node5 joined"]);
}

#[test]
fn a_wrong_suspicion_is_refuted_and_nobody_notices() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 4);
    let suspect = Suspect { incarnation: 1, node: "node4".into(), from: "node2".into() };
    sim.inject(addrs[1], addrs[0], packet(&Wire::Suspect(suspect)));
    assert_eq!(sim.member(addrs[0], "node4").state, MemberState::Suspect);
    sim.run_until(5 * SECOND, |sim| {
        let member = sim.member(addrs[0], "node4");
        member.state == MemberState::Alive && member.incarnation > 1
    });
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    for addr in addrs {
        assert_eq!(told(&mut sim, addr), Vec::<String>::new());
    }
}

#[test]
fn a_wrong_death_sentence_is_refuted() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 4);
    let dead = Dead { incarnation: 7, node: "node4".into(), from: "node2".into() };
    sim.inject(addrs[1], addrs[0], packet(&Wire::Dead(dead)));
    assert_eq!(told(&mut sim, addrs[0]), ["node4 failed"]);
    sim.run_until(10 * SECOND, Sim::agreed);
    assert!(sim.member(addrs[0], "node4").incarnation > 7);
}

#[test]
fn the_highest_incarnations_cannot_evict_a_node() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    for to in &addrs {
        for incarnation in [u32::MAX, u32::MAX - 1, u32::MAX - 2, 1 << 31] {
            let dead = Dead { incarnation, node: "node3".into(), from: "node2".into() };
            sim.inject(addrs[1], *to, packet(&Wire::Dead(dead)));
        }
    }
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    for addr in addrs {
        assert_eq!(told(&mut sim, addr), Vec::<String>::new());
    }
}

#[test]
fn the_highest_incarnation_cannot_keep_a_node_for_ever() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    for to in &addrs {
        let alive = Alive {
            incarnation: u32::MAX,
            node: "node3".into(),
            address: addrs[2].into(),
            meta: Bytes::new(),
            versions: Some([1, 5, 2, 0, 0, 0]),
        };
        sim.inject(addrs[1], *to, packet(&Wire::Alive(alive)));
    }
    sim.run(SECOND);
    sim.kill(addrs[2]);
    sim.run_until(60 * SECOND, Sim::agreed);
    assert_eq!(told(&mut sim, addrs[0]), ["node3 failed"]);
}

#[test]
fn the_sides_of_a_partition_part_and_find_each_other_again() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 6);
    sim.partition(&addrs[..3], &addrs[3..]);
    // Longer than the dead are remembered, so that both sides have forgotten each other.
    sim.run(180 * SECOND);
    assert_eq!(sim.view(addrs[0]), ["node1", "node2", "node3"]);
    assert_eq!(sim.view(addrs[5]), ["node4", "node5", "node6"]);
    sim.heal();
    let took = sim.run_until(30 * SECOND, Sim::agreed);
    assert!(took < 15 * SECOND, "{took:?}");
}

#[test]
fn one_name_for_nodes_on_both_sides_of_a_partition_is_enough() {
    let mut sim = sim();
    let host = |i: u16| SocketAddr::from(([10, 0, 0, i as u8], 7946));
    // The last one never runs, which concerns no other.
    sim.alias("nodes", &(1..=7).map(host).collect::<Vec<_>>());
    let addrs: Vec<_> = (1..=6).map(|i| sim.start(&format!("node{i}"), i, &["nodes"])).collect();
    sim.run_until(10 * SECOND, Sim::agreed);
    sim.run(10 * SECOND);
    for addr in &addrs {
        sim.events(*addr);
    }
    sim.run(120 * SECOND);
    for addr in &addrs {
        assert_eq!(told(&mut sim, *addr), Vec::<String>::new());
    }

    sim.partition(&addrs[..3], &addrs[3..]);
    sim.run(180 * SECOND);
    assert_eq!(sim.view(addrs[0]), ["node1", "node2", "node3"]);
    sim.heal();
    let took = sim.run_until(60 * SECOND, Sim::agreed);
    assert!(took < 45 * SECOND, "{took:?}");
}

#[test]
fn a_seed_restarted_at_a_new_address_is_found_by_its_name() {
    for leaves in [true, false] {
        let mut sim = sim();
        let addrs = cluster(&mut sim, 3);
        if leaves {
            sim.leave(addrs[0]);
            sim.run(SECOND);
        }
        sim.kill(addrs[0]);
        sim.run(if leaves { SECOND } else { 30 * SECOND });
        // It knows no other node; the others have to find it.
        let moved = sim.start("node1", 77, &[]);
        let took = sim.run_until(30 * SECOND, Sim::agreed);
        assert!(took < 10 * SECOND, "{took:?}");
        assert_eq!(sim.member(addrs[1], "node1").addr, moved);
        sim.run(60 * SECOND);
        assert!(sim.agreed());
    }
}

#[test]
fn a_restart_too_quick_to_be_noticed_is_taken_for_the_new_life() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    sim.kill(addrs[2]);
    sim.start("node3", 3, &["node1"]);
    sim.run_until(10 * SECOND, Sim::agreed);
    sim.run(60 * SECOND);
    assert!(sim.agreed());
    for addr in &addrs[..2] {
        assert_eq!(told(&mut sim, *addr), Vec::<String>::new());
    }
}

#[test]
fn a_name_at_two_addresses_is_reported_on_both_and_the_first_keeps_it() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    let second = sim.start("node2", 9, &["node1"]);
    sim.run(5 * SECOND);
    let conflict = "node2 is at 10.0.0.2:7946 and 10.0.0.9:7946".to_owned();
    assert!(told(&mut sim, addrs[1]).contains(&conflict));
    let told = told(&mut sim, second);
    assert!(told.contains(&"node2 is at 10.0.0.9:7946 and 10.0.0.2:7946".to_owned()), "{told:?}");
    assert!(!told.contains(&"ready".to_owned()), "{told:?}");
    assert!(!told.iter().any(|line| line.ends_with("unreachable")), "one reason is enough: {told:?}");
    assert_eq!(sim.member(addrs[0], "node2").addr, addrs[1]);

    // It was never let in, so its goodbye is ignored.
    let third = sim.start("node2", 10, &["node1"]);
    sim.run(5 * SECOND);
    sim.leave(third);
    sim.kill(third);
    sim.run(SECOND);
    assert_eq!(sim.member(addrs[0], "node2").addr, addrs[1]);
    assert_eq!(sim.member(addrs[2], "node2").addr, addrs[1]);

    sim.kill(addrs[1]);
    sim.run_until(60 * SECOND, |sim| sim.find(addrs[0], "node2").is_some_and(|m| m.addr == second));
    sim.run_until(30 * SECOND, Sim::agreed);
}

#[test]
fn who_has_anothers_name_says_nothing_in_it() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    let second = sim.start("node2", 9, &["node1"]);
    // Before it knows, and after.
    sim.publish(second, "k", "\"early\"");
    sim.run(5 * SECOND);
    let now = sim.now;
    assert_eq!(sim.node(second).publish(now, "k", "\"late\""), Err(PublishError::NameTaken));
    sim.publish(addrs[1], "k", "\"mine\"");
    sim.run(5 * SECOND);
    for addr in [addrs[0], addrs[2]] {
        let told = told(&mut sim, addr);
        assert_eq!(told.iter().filter(|line| line.contains(": k=")).collect::<Vec<_>>(), ["node2: k=\"mine\""]);
    }
}

#[test]
fn a_version_that_would_keep_members_from_exchanging_views_is_not_let_in() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    let stranger: SocketAddr = "10.9.9.9:9".parse().expect("an address");
    for (versions, word) in [
        ([3, 5, 3, 0, 0, 0], "understands protocol versions 3 to 5, but this cluster speaks 2"),
        ([1, 1, 1, 0, 0, 0], "understands protocol versions 1 to 1, but this cluster speaks 2"),
        ([1, 5, 2, 2, 5, 4], "understands delegate protocol versions 2 to 5, but this cluster speaks 0"),
        ([1, 5, 2, 0, 0, 200], "has delegate protocol version 200, but this cluster needs 0 to 0"),
    ] {
        let alive = Alive {
            incarnation: 1,
            node: "odd".into(),
            address: stranger.into(),
            meta: Bytes::new(),
            versions: Some(versions),
        };
        sim.inject(stranger, addrs[0], packet(&Wire::Alive(alive)));
        let told = told(&mut sim, addrs[0]);
        assert!(told.len() == 1 && told[0].contains(word), "{told:?}");
    }
    sim.run(120 * SECOND);
    for addr in addrs {
        assert_eq!(told(&mut sim, addr), Vec::<String>::new(), "views are exchanged as before");
    }
}

#[test]
fn strangers_do_not_use_up_what_is_told_to_members() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    sim.run(10 * SECOND);
    let stranger: SocketAddr = "10.9.9.9:9".parse().expect("an address");
    let ping = |source| packet(&Wire::Ping(wire::Ping { seq: 1, node: "node1".into(), source }));
    let indirect = |node: &'static str, target: SocketAddr| {
        let (target, node) = (target.into(), node.into());
        packet(&Wire::IndirectPing(wire::IndirectPing { seq: 1, target, node, nack: false, source: None }))
    };
    let forged = wire::Source { address: stranger.into(), node: "node2".into() };
    let now = Instant::now();
    let node = sim.node(addrs[0]);
    node.publish(now, "k", "1").expect("it fits");
    while node.poll_transmit().is_some() {}
    let sent = |node: &mut Node| std::iter::from_fn(|| node.poll_transmit()).collect::<Vec<_>>();
    for packet in [ping(None), ping(Some(forged)), indirect("node9", stranger), indirect("node2", stranger)] {
        for _ in 0..20 {
            node.handle_datagram(now, stranger, &packet);
        }
        for Transmit { to, payload } in sent(node) {
            assert_eq!(to, stranger);
            assert!(payload.len() < 100, "{} bytes to a stranger", payload.len());
        }
    }
    let member = wire::Source { address: addrs[1].into(), node: "node2".into() };
    node.handle_datagram(now, addrs[1], &ping(Some(member)));
    let [answer] = &sent(node)[..] else { panic!("one answer") };
    assert_eq!(answer.to, addrs[1]);
    assert!(answer.payload.windows(7).any(|bytes| bytes == b"\x02\x05node1"), "a member is told what there is");
}

#[test]
fn large_clusters_agree_and_notice_a_failure_everywhere() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 60);
    sim.kill(addrs[30]);
    sim.run_until(60 * SECOND, Sim::agreed);
    for addr in addrs.iter().filter(|addr| **addr != addrs[30]) {
        assert_eq!(told(&mut sim, *addr), ["node31 failed"]);
    }
}

#[test]
fn loss_alone_makes_nobody_fail() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 10);
    sim.loss = 0.1;
    sim.run(300 * SECOND);
    for addr in addrs {
        assert_eq!(told(&mut sim, addr), Vec::<String>::new());
    }
}

#[test]
fn everybody_hears_a_message_once_and_its_sender_never() {
    for n in [3, 13, 60] {
        let mut sim = sim();
        let addrs = cluster(&mut sim, n);
        for i in 0..20 {
            sim.publish(addrs[usize::from(i % n)], "k", &i.to_string());
            sim.run(Duration::from_millis(50));
        }
        sim.run(10 * SECOND);
        for (place, addr) in addrs.iter().enumerate() {
            let mut heard = told(&mut sim, *addr);
            let mut said: Vec<_> =
                (0..20).filter(|i| usize::from(i % n) != place).map(|i| format!("node{}: k={i}", i % n + 1)).collect();
            heard.sort();
            said.sort();
            assert_eq!(heard, said, "at node{} of {n}", place + 1);
        }
    }
}

#[test]
fn gossip_fills_in_what_is_lost_on_the_direct_way() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 5);
    // node1 and node5 do not reach each other; the others pass on their messages.
    sim.partition(&addrs[..1], &addrs[4..]);
    sim.publish(addrs[0], "k", "1");
    sim.run(2 * SECOND);
    assert_eq!(told(&mut sim, addrs[4]), ["node1: k=1"]);
}

#[test]
fn a_plain_nodes_message_reaches_all_of_ours_once_and_again_when_said_again() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 13);
    let plain = sim.introduce_plain(&addrs);
    for addr in &addrs {
        assert_eq!(told(&mut sim, *addr), ["go joined"]);
    }
    let said = packet(&Wire::User(Bytes::from_static(br#"{"key":"I am go","value":2,"more":[1]}"#)));
    for _ in 0..2 {
        // Two of our nodes receive it, one of them twice, as memberlist retransmits.
        for to in [3, 7, 3] {
            sim.inject(plain, addrs[to], said.clone());
            sim.run(Duration::from_millis(100));
        }
        sim.run(2700 * Duration::from_millis(1));
        for addr in &addrs {
            let heard: Vec<_> =
                told(&mut sim, *addr).into_iter().filter(|line| !line.starts_with("go failed")).collect();
            assert_eq!(heard, ["go: I am go=2"], "at {addr}");
        }
    }
}

#[test]
fn what_cannot_be_used_is_told_a_few_times_a_second_and_changes_nothing() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    let stranger: SocketAddr = "10.9.9.9:9".parse().expect("an address");
    let incompatible = Alive {
        incarnation: 1,
        node: "future".into(),
        address: stranger.into(),
        meta: Bytes::new(),
        versions: Some([9, 9, 9, 0, 0, 0]),
    };
    let nowhere = Alive {
        versions: Some([1, 5, 2, 0, 0, 0]),
        address: SocketAddr::from(([0, 0, 0, 0], 7946)).into(),
        ..incompatible.clone()
    };
    for (payload, word) in [
        (packet(&Wire::Alive(incompatible)), "protocol versions 9 to 9"),
        (packet(&Wire::Alive(nowhere)), "no usable address"),
        (packet(&Wire::User(Bytes::from_static(b"not JSON"))), "not a JSON object"),
        (packet(&Wire::User(Bytes::from_static(br#"{"value":1}"#))), "\"key\""),
    ] {
        sim.inject(stranger, addrs[0], payload);
        let told = told(&mut sim, addrs[0]);
        assert!(told.len() == 1 && told[0].contains(word), "{told:?}");
    }
    sim.run(2 * SECOND);
    for _ in 0..1000 {
        sim.inject(stranger, addrs[0], Bytes::from_static(&[200, 1, 2, 3]));
    }
    assert_eq!(told(&mut sim, addrs[0]).len(), rejections::REJECTIONS_PER_SECOND as usize);
    sim.run(2 * SECOND);
    sim.inject(stranger, addrs[0], Bytes::from_static(&[200, 1, 2, 3]));
    assert!(matches!(&sim.events(addrs[0])[..], [Err(Event::Rejected { suppressed: 990, .. })]));
    sim.run(30 * SECOND);
    assert!(sim.agreed());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut sim = sim();
        sim.loss = 0.2;
        let addrs = cluster(&mut sim, 8);
        sim.publish(addrs[0], "k", "1");
        sim.run(30 * SECOND);
        (sim.datagrams, addrs.iter().map(|addr| told(&mut sim, *addr)).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

#[test]
fn neither_membership_nor_messages_starve_the_other() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    let now = sim.now;
    let node = sim.node(addrs[0]);
    // Members that do not understand our control messages, and receive by gossip.
    let alive = |i: usize| Alive {
        incarnation: 1,
        node: format!("go{i}").into(),
        address: SocketAddr::from(([10, 1, (i / 256) as u8, (i % 256) as u8], 7946)).into(),
        meta: Bytes::from(vec![7; 400]),
        versions: Some([1, 5, 2, 0, 0, 0]),
    };
    for i in 0..1000 {
        node.handle_datagram(now, addrs[1], &packet(&Wire::Alive(alive(i))));
    }
    let value = format!("\"{}\"", "x".repeat(1000));
    for _ in 0..1000 {
        node.publish(now, "k", &value).expect("it fits");
    }
    while node.poll_transmit().is_some() {}
    let target = Target::from(node.membership.get(b"go7").expect("it was let in"));
    let mut parts = Vec::new();
    for _ in 0..100 {
        node.fill(target, 1398, &mut parts);
    }
    let messages = parts.iter().filter(|part| part[0] == 8).count();
    assert!(messages >= 45, "{messages} messages in 100 packets");
    assert!(parts.len() - messages >= 45, "{} of the membership in 100 packets", parts.len() - messages);
}

/// It may be back, and of an earlier release: that says so in what follows its first ping.
#[test]
fn who_has_left_is_sent_digests_that_any_release_understands() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 2);
    let digests = |sim: &mut Sim| {
        sim.publish(addrs[0], "k", "1");
        let node = sim.node(addrs[0]);
        let target = Target::from(node.membership.get(b"node2").expect("it is remembered"));
        let mut parts = Vec::new();
        node.fill(target, 1398, &mut parts);
        let kinds = parts.iter().filter(|part| part.starts_with(&[8, crate::dissemination::MAGIC])).map(|part| part[2]);
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(digests(&mut sim), [8], "behind a header");
    sim.leave(addrs[1]);
    sim.run_until(30 * SECOND, |sim| sim.view(addrs[0]).len() == 1);
    assert_eq!(digests(&mut sim), [2], "by itself");
}

#[test]
fn strangers_are_answered_sparingly() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 2);
    let stranger = SocketAddr::from(([10, 9, 9, 9], 7946));
    let before = sim.node(addrs[0]).metrics();
    let ping = |seq| packet(&Wire::Ping(crate::wire::Ping { seq, node: Bytes::new(), source: None }));
    let pings: Vec<_> = (0..200).map(ping).collect();
    sim.inject(stranger, addrs[0], packet::encode(&pings, false, false));
    let after = sim.node(addrs[0]).metrics();
    assert_eq!(after.over_limit.pings - before.over_limit.pings, 197);
    assert_eq!(after.traffic.packets_sent - before.traffic.packets_sent, 3);

    // A member is pinged for anybody, and anybody is pinged for a member; a stranger is not pinged for a stranger.
    let ask = |target: SocketAddr| crate::wire::IndirectPing {
        seq: 1,
        target: target.into(),
        node: if target == addrs[1] { "node2".into() } else { "victim".into() },
        nack: false,
        source: None,
    };
    for (target, sent) in [(addrs[1], 1), (SocketAddr::from(([10, 8, 8, 8], 53)), 0)] {
        let before = sim.node(addrs[0]).metrics().traffic.packets_sent;
        sim.inject(stranger, addrs[0], packet(&Wire::IndirectPing(ask(target))));
        assert_eq!(sim.node(addrs[0]).metrics().traffic.packets_sent - before, sent, "{target}");
    }
    let told = told(&mut sim, addrs[0]);
    assert!(told.iter().any(|line| line.contains("asked for a ping to 10.8.8.8:53")), "{told:?}");
}
