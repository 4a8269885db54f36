//! What nodes of ours know of each other's identity, roles and endpoints.

use proptest::prelude::*;

use super::{super::info, *};
use crate::{
    config::{Config, NodeId, NodeInfo},
    dissemination::DELEGATE_MAX,
    wire::Versions,
};

/// The longest pause between questions, and one more for what was just being asked; and what it takes to find each other
/// after a partition.
const BOUND: Duration = Duration::from_secs(240);

fn info(id: u64) -> NodeInfo {
    let http = SocketAddr::from(([0, 0, 0, 0], 8946));
    NodeInfo::new(NodeId::from(id))
        .role(if id.is_multiple_of(2) { "sender" } else { "receiver" })
        .endpoint("http", http)
}

fn set(sim: &mut Sim, addr: SocketAddr, info: NodeInfo) {
    assert!(sim.with(addr, |node, now| node.update_info(now, info)), "it has left");
}

/// Whether each running node knows the present infos of all.
fn all_know(sim: &Sim) -> bool {
    let addrs = sim.addrs();
    let told: Vec<_> = addrs.iter().map(|addr| (sim.look(*addr).me().name.clone(), sim.look(*addr).info())).collect();
    let knows = |addr| told.iter().all(|(name, info)| sim.look(addr).info_of(name).as_ref() == *info);
    addrs.into_iter().all(knows)
}

/// node1 … nodeN, each of which has its number as id, and knows those of all.
fn introduced(sim: &mut Sim, n: u16) -> Vec<SocketAddr> {
    let addrs = cluster(sim, n);
    for (addr, id) in addrs.iter().zip(1..) {
        set(sim, *addr, info(id));
    }
    sim.run_until(5 * SECOND, all_know);
    addrs
}

#[test]
fn everybody_knows_everybody_and_then_nothing_is_sent_for_it() {
    let mut sim = sim();
    let addrs = introduced(&mut sim, 20);
    let told = told(&mut sim, addrs[0]);
    for id in 2..=20 {
        assert_eq!(told.iter().filter(|line| **line == format!("node{id} is {:016x}", id)).count(), 1, "{told:?}");
    }
    sim.run(60 * SECOND);
    let sent = |sim: &mut Sim| addrs.iter().map(|addr| sim.node(*addr).metrics().sent.members).sum::<u64>();
    let before = sent(&mut sim);
    sim.run(600 * SECOND);
    assert_eq!(sent(&mut sim), before);
}

#[test]
fn what_is_new_is_known_everywhere_though_packets_are_lost() {
    let mut sim = sim();
    let addrs = introduced(&mut sim, 8);
    sim.loss = 0.3;
    set(&mut sim, addrs[3], info(77));
    let took = sim.run_until(BOUND, all_know);
    assert!(took > Duration::ZERO);
    assert_eq!(told(&mut sim, addrs[0]).iter().filter(|line| line.starts_with("node4 is ")).count(), 2);
}

#[test]
fn who_starts_anew_before_anybody_notices_is_known_as_who_it_is_now() {
    let mut sim = sim();
    let addrs = introduced(&mut sim, 5);
    sim.kill(addrs[4]);
    let again = sim.start("node5", 5, &["node1"]);
    set(&mut sim, again, info(55));
    sim.run_until(BOUND, |sim| sim.agreed() && all_know(sim));
    assert!(!told(&mut sim, addrs[1]).contains(&"node5 failed".to_owned()));
}

#[test]
fn who_is_gone_is_forgotten() {
    let mut sim = sim();
    let addrs = introduced(&mut sim, 4);
    sim.leave(addrs[3]);
    sim.run(5 * SECOND);
    assert_eq!(sim.look(addrs[0]).info_of(&"node4".into()), None);
    sim.kill(addrs[2]);
    sim.run_until(60 * SECOND, |sim| sim.view(addrs[0]).len() == 2);
    assert_eq!(sim.look(addrs[0]).info_of(&"node3".into()), None);
    assert_eq!(sim.look(addrs[0]).info_of(&"node2".into()), Some(info(2)));
    assert_eq!(sim.look(addrs[0]).info_exchange.poll_timeout(), None, "nobody is asked any more");
}

#[test]
fn two_nodes_with_one_identity_are_told_with_both_names() {
    let mut sim = sim();
    let addrs = introduced(&mut sim, 4);
    addrs.iter().for_each(|addr| drop(sim.events(*addr)));
    set(&mut sim, addrs[3], info(2));
    sim.run_until(BOUND, all_know);
    // Node 2 gets a request, to see whether it still runs.
    sim.run(SECOND);
    for (addr, names) in addrs.iter().zip(["node2 and node4", "node2 and node4", "node2 and node4"]) {
        let conflicts: Vec<_> = told(&mut sim, *addr).into_iter().filter(|line| line.contains(" are ")).collect();
        assert_eq!(conflicts, [format!("{names} are {:016x}", 2)], "{addr}");
    }
    let own = told(&mut sim, addrs[3]);
    assert!(own.is_empty(), "it knew node2 already: {own:?}");
}

/// What happens to a cluster.
#[derive(Clone, Copy, Debug)]
enum Op {
    Change(usize),
    Restart(usize),
    Pause(usize),
    Resume(usize),
    Cut(usize),
    Heal,
    Wait(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let host = 0..SIZE;
    prop_oneof![
        host.clone().prop_map(Op::Change),
        host.clone().prop_map(Op::Restart),
        host.clone().prop_map(Op::Pause),
        host.clone().prop_map(Op::Resume),
        host.prop_map(Op::Cut),
        Just(Op::Heal),
        (1_u32..20).prop_map(Op::Wait),
    ]
}

const SIZE: usize = 6;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_all_know_all_once_it_is_over(seed: u64, loss in 0.0..0.4, ops in prop::collection::vec(op(), 0..25)) {
        let mut sim = Sim::new(seed, Profile::Lan);
        let addrs = introduced(&mut sim, SIZE as u16);
        sim.loss = loss;
        let mut paused = [false; SIZE];
        for (id, op) in (100..).zip(ops) {
            match op {
                Op::Change(host) if !paused[host] => set(&mut sim, addrs[host], info(id)),
                Op::Restart(host) => {
                    sim.kill(addrs[host]);
                    paused[host] = false;
                    let seeds: Vec<_> = (1..=SIZE).filter(|i| *i != host + 1).map(|i| format!("node{i}")).collect();
                    let seeds: Vec<_> = seeds.iter().map(String::as_str).collect();
                    sim.start(&format!("node{}", host + 1), host as u16 + 1, &seeds);
                    set(&mut sim, addrs[host], info(id));
                }
                Op::Pause(host) if !paused[host] => {
                    paused[host] = true;
                    sim.pause(addrs[host]);
                }
                Op::Resume(host) if paused[host] => {
                    paused[host] = false;
                    sim.resume(addrs[host]);
                }
                Op::Cut(at) => sim.partition(&addrs[..at], &addrs[at..]),
                Op::Heal => sim.heal(),
                Op::Wait(seconds) => sim.run(SECOND * seconds),
                Op::Change(_) | Op::Pause(_) | Op::Resume(_) => {}
            }
        }
        sim.heal();
        (0..SIZE).filter(|host| paused[*host]).for_each(|host| sim.resume(addrs[host]));
        sim.loss = 0.05;
        sim.run_until(BOUND, |sim| sim.agreed() && all_know(sim));
    }
}

const MEMBER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 7946);

/// A node alone in the test.
fn alone(now: Instant) -> Node {
    Node::new(now, NodeConfig::new(Config::new("me").info(info(1)), SocketAddr::from(([10, 0, 0, 1], 7946))))
}

/// Announces a member of these versions to a node. The member has not answered it.
fn announce(node: &mut Node, now: Instant, name: &'static str, addr: SocketAddr, versions: Versions) {
    let (incarnation, address, meta) = (1, addr.into(), Bytes::new());
    let alive = Alive { incarnation, node: name.into(), address, meta, versions: Some(versions) };
    node.handle_datagram(now, addr, &packet(&Wire::Alive(alive)));
}

/// A node alone in the test, and a member of these versions, "other", that has answered it.
fn acquainted(now: Instant, versions: Versions) -> Node {
    let mut node = alone(now);
    announce(&mut node, now, "other", MEMBER, versions);
    node.membership.mark_proven_at(MEMBER);
    node.process_outputs(now);
    node
}

/// The questions and answers that it sends, as it goes on until then.
fn sent(node: &mut Node, until: Instant) -> Vec<Bytes> {
    let mut sent = Vec::new();
    while let Some(at) = node.poll_timeout().filter(|at| *at <= until) {
        node.handle_timeout(at);
        while let Some(transmit) = node.poll_transmit() {
            let mut messages = Vec::new();
            packet::decode(&transmit.payload, &mut messages).expect("it is one");
            sent.extend(messages.into_iter().filter_map(|message| match message {
                Wire::User(payload) if info::is_info_message(&payload) => Some(payload),
                _ => None,
            }));
        }
    }
    sent
}

#[test]
fn only_nodes_that_understand_it_are_asked() {
    let now = Instant::now();
    for (versions, asked) in [
        (VERSIONS, true),
        // A later revision.
        ([1, 5, 2, 0, DELEGATE_MAX + 1, 0], true),
        // The last revision without infos, and a plain memberlist node.
        ([1, 5, 2, 0, 0xB3, 0], false),
        ([1, 5, 2, 0, 0, 0], false),
    ] {
        let mut node = acquainted(now, versions);
        let sent = sent(&mut node, now + 3 * SECOND);
        assert_eq!(!sent.is_empty(), asked, "{versions:?}: {sent:?}");
    }
}

/// The message as `other` would send it.
fn answer(nonce: u64, told: &NodeInfo) -> Bytes {
    info::test_response(nonce, "other", told)
}

#[test]
fn an_answer_counts_only_with_the_number_that_was_asked_with() {
    let now = Instant::now();
    let mut node = acquainted(now, VERSIONS);
    let asked = sent(&mut node, now);
    let nonce = u64::from_be_bytes(asked[0][2..10].try_into().expect("8 bytes"));
    let user = |payload: Bytes| packet(&Wire::User(payload));
    for wrong in [nonce ^ 1, 0, u64::MAX] {
        node.handle_datagram(now, MEMBER, &user(answer(wrong, &info(9))));
        assert_eq!(node.info_of(&"other".into()), None);
    }
    // Wherever it comes from.
    let elsewhere = SocketAddr::from(([10, 9, 9, 9], 1));
    node.handle_datagram(now, elsewhere, &user(answer(nonce, &info(2))));
    assert_eq!(node.info_of(&"other".into()), Some(info(2)));
    node.handle_datagram(now, MEMBER, &user(answer(nonce, &info(9))));
    assert_eq!(node.info_of(&"other".into()), Some(info(2)), "once");
    assert_eq!(node.metrics().rejected, Default::default());
}

#[test]
fn who_is_only_announced_is_answered_seldom() {
    let now = Instant::now();
    let mut node = alone(now);
    let names: Vec<_> = (0..1000).map(|i| &*format!("made-up-{i}").leak()).collect();
    for (i, name) in names.iter().enumerate() {
        announce(&mut node, now, name, SocketAddr::from(([10, 1, 0, 1], 1000 + i as u16)), VERSIONS);
        node.handle_datagram(now, MEMBER, &packet(&Wire::User(info::test_request(7, (1, 0), name))));
    }
    let answered = node.info_exchange.held().2;
    assert!((1..=21).contains(&answered), "{answered}");
}

/// Takes the one request that the node sends now, and has that member respond.
fn answered(node: &mut Node, now: Instant, name: &'static str, told: &NodeInfo) {
    let asked = sent(node, now);
    let nonce = u64::from_be_bytes(asked[0][2..10].try_into().expect("8 bytes"));
    node.handle_datagram(now, MEMBER, &packet(&Wire::User(info::test_response(nonce, name, told))));
}

/// The pairs of members with the same identity, as the node reports them.
fn conflicts(node: &mut Node) -> Vec<[NodeName; 2]> {
    let events = std::iter::from_fn(|| node.poll_event());
    let names = events.filter_map(|event| if let Event::IdConflict { names, .. } = event { Some(names) } else { None });
    names.collect()
}

#[test]
fn an_identity_is_taken_for_copied_only_when_both_answer() {
    let now = Instant::now();
    for both_answer in [false, true] {
        let mut node = acquainted(now, VERSIONS);
        answered(&mut node, now, "other", &info(2));
        let elsewhere = SocketAddr::from(([10, 0, 0, 3], 7946));
        announce(&mut node, now, "new", elsewhere, VERSIONS);
        node.membership.mark_proven_at(elsewhere);
        node.process_outputs(now);
        answered(&mut node, now, "new", &info(2));
        assert!(conflicts(&mut node).is_empty(), "the other one may have been killed");
        if both_answer {
            answered(&mut node, now, "other", &info(2));
            assert_eq!(conflicts(&mut node), [["other", "new"].map(NodeName::from)]);
        }
    }
}

#[test]
fn forged_questions_are_answered_seldom_however_many_there_are() {
    let now = Instant::now();
    let mut node = acquainted(now, VERSIONS);
    sent(&mut node, now);
    for i in 0..1000 {
        for name in ["other", "nobody", "me"] {
            let ask = info::test_request(i, (i + 1, 0), name);
            node.handle_datagram(now, MEMBER, &packet(&Wire::User(ask)));
        }
    }
    let mut sent = Vec::new();
    while let Some(transmit) = node.poll_transmit() {
        sent.push(transmit);
    }
    assert_eq!(sent.len(), 1, "{sent:?}");
    // One is sent a request, and remembered as responded to.
    assert_eq!(node.info_exchange.held(), (0, 1, 1));
}
