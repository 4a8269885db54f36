//! Members that a stranger makes up: they never answer, and cost those that do next to nothing.

use super::*;
use crate::wire::Versions;

/// How many there are.
const FAKES: usize = 20_000;
/// … and how many of them one packet announces.
const IN_A_PACKET: usize = 10;
/// The versions that they announce: those of this crate's nodes, and of plain ones.
const KINDS: [Versions; 2] = [VERSIONS, [1, 5, 2, 0, 0, 0]];

/// Announces members that do not exist to each of these nodes, in 2,000 packets.
fn make_up_members(sim: &mut Sim, addrs: &[SocketAddr], versions: Versions) {
    make_up(sim, addrs, versions);
    for addr in addrs {
        assert_eq!(sim.node(*addr).records().len(), FAKES + 4, "they are let in");
    }
}

fn make_up(sim: &mut Sim, addrs: &[SocketAddr], versions: Versions) {
    let alive = |i: usize| {
        let ip = [10, 200, (i >> 8) as u8, i as u8];
        let address = SocketAddr::from((ip, 9)).into();
        packet(&Wire::Alive(Alive {
            incarnation: 1,
            node: format!("fake{i}").into(),
            address,
            meta: Bytes::new(),
            versions: Some(versions),
        }))
    };
    let stranger = SocketAddr::from(([10, 199, 0, 1], 9));
    for from in (0..FAKES).step_by(IN_A_PACKET) {
        let parts: Vec<_> = (from..from + IN_A_PACKET).map(alive).collect();
        let packet = packet::encode(&parts, false, false);
        for addr in addrs {
            sim.inject(stranger, *addr, packet.clone());
        }
    }
}

/// How long it takes until each of the others has got a message of the first, and the first knows it.
fn delivery(sim: &mut Sim, addrs: &[SocketAddr]) -> (Duration, Duration) {
    let [from, others @ ..] = addrs else { panic!("some nodes") };
    let before: Vec<_> = others.iter().map(|addr| sim.node(*addr).counters().delivered).collect();
    sim.publish(*from, "k", "\"through\"");
    let heard =
        |sim: &mut Sim| others.iter().zip(&before).all(|(addr, before)| sim.node(*addr).counters().delivered > *before);
    let begin = sim.now;
    while !heard(sim) {
        sim.run(SECOND / 100);
        assert!(sim.now - begin < 60 * SECOND, "it is not delivered");
    }
    let delivered = sim.now - begin;
    while {
        let progress = sim.node(*from).progress();
        progress.everywhere < sim.node(*from).next_id().seq
    } {
        sim.run(SECOND / 100);
        assert!(sim.now - begin < 60 * SECOND, "it is not acknowledged");
    }
    (delivered, sim.now - begin)
}

#[test]
fn who_never_answers_delays_no_message_no_receipt_and_no_failure() {
    for versions in KINDS {
        let mut sim = sim();
        let addrs = cluster(&mut sim, 4);
        delivery(&mut sim, &addrs);
        make_up_members(&mut sim, &addrs, versions);
        for _ in 0..20 {
            let (delivered, acknowledged) = delivery(&mut sim, &addrs);
            println!("delivered after {delivered:?}, acknowledged after {acknowledged:?}");
            assert!(delivered <= SECOND / 10, "{delivered:?}");
            assert!(acknowledged <= SECOND / 2, "{acknowledged:?}");
        }
        // News of members that do not exist does not delay news of a real member's failure.
        sim.kill(addrs[3]);
        let begin = sim.now;
        let sees = |sim: &Sim, addr| sim.find(addr, "node4").is_some();
        while addrs[..3].iter().any(|addr| sees(&sim, *addr)) {
            sim.run(SECOND / 10);
            assert!(sim.now - begin < 600 * SECOND, "it is not detected");
        }
        println!("detected after {:?}", sim.now - begin);
        // Within three probe intervals it is probed, and suspected for no longer than among four.
        assert!(sim.now - begin < 10 * SECOND, "{:?}", sim.now - begin);
        for addr in &addrs[..3] {
            for size in sim.node(*addr).sizes() {
                assert!(size.held <= size.bound, "{addr}: {size:?}");
            }
            assert_eq!(sim.node(*addr).metrics().gauges.health_score, 0, "they say nothing of this node's health");
        }
    }
}

#[test]
fn a_newcomer_among_made_up_ones_is_proven_and_hears_everything_at_once() {
    let mut sim = sim();
    let mut addrs = cluster(&mut sim, 4);
    make_up_members(&mut sim, &addrs, VERSIONS);
    let newcomer = sim.start("node5", 5, &["node1"]);
    let begin = sim.now;
    let proven = |sim: &mut Sim, addr: SocketAddr, name: &str| {
        sim.node(addr).records().any(|record| record.name == *name && record.is_proven())
    };
    while !(proven(&mut sim, addrs[0], "node5") && proven(&mut sim, newcomer, "node1")) {
        sim.run(SECOND / 100);
        assert!(sim.now - begin < 2 * SECOND, "they do not meet");
    }
    println!("proven after {:?}", sim.now - begin);
    // It joined through the seed. The other nodes learn of it among all the announcements of members that do not exist.
    while !addrs.iter().all(|addr| proven(&mut sim, *addr, "node5")) {
        sim.run(SECOND / 100);
        assert!(sim.now - begin < 60 * SECOND, "it is not known to all");
    }
    println!("proven to all after {:?}", sim.now - begin);
    addrs.push(newcomer);
    let (delivered, _) = delivery(&mut sim, &addrs);
    assert!(delivered < SECOND, "{delivered:?}");
}

#[test]
fn greetings_are_few_whatever_is_made_up() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 4);
    sim.run(SECOND);
    make_up_members(&mut sim, &addrs[..1], VERSIONS);
    let before = sim.node(addrs[0]).metrics();
    sim.run(10 * SECOND);
    let after = sim.node(addrs[0]).metrics();
    let probes = after.sent.probes - before.sent.probes;
    // 128 each 200 ms, of up to 100 bytes, and what probes cost otherwise.
    assert!(probes < 50 * 128 * 100 + 100_000, "{probes} bytes");
}

#[test]
fn who_answers_no_greeting_gives_way_to_a_real_newcomer() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 4);
    for addr in &addrs {
        sim.node(*addr).membership.set_max_members(1000);
    }
    make_up(&mut sim, &addrs, VERSIONS);
    assert!(addrs.iter().all(|addr| sim.node(*addr).records().len() == 1000), "the table is full");
    sim.run(30 * SECOND);
    let newcomer = sim.start("node5", 5, &["node1"]);
    let knows = |sim: &Sim, addr: SocketAddr| sim.find(addr, "node5").is_some();
    let took = sim.run_until(5 * SECOND, |sim| addrs.iter().all(|addr| knows(sim, *addr)));
    println!("let in after {took:?}");
    sim.run(SECOND);
    let mut addrs = addrs;
    addrs.push(newcomer);
    let (delivered, _) = delivery(&mut sim, &addrs);
    assert!(delivered <= SECOND / 10, "{delivered:?}");
    for addr in &addrs[..4] {
        assert!(sim.node(*addr).records().len() <= 1000);
        let told = told(&mut sim, *addr);
        assert!(!told.iter().any(|line| line.starts_with("node") && line.ends_with("failed")), "a real one gave way");
    }
}
