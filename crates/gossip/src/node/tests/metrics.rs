//! What nodes count.

use super::*;
use crate::membership::MembershipCounts;

fn counts(sim: &mut Sim, addr: SocketAddr) -> MembershipCounts {
    sim.node(addr).metrics().membership
}

#[test]
fn probes_suspicions_and_their_ends_are_counted() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 5);
    sim.run(30 * SECOND);
    for addr in &addrs {
        let counts = counts(&mut sim, *addr);
        assert!((25..=45).contains(&counts.probes_ok), "{counts:?}");
        assert_eq!((counts.probes_failed, counts.probes_degraded, counts.suspect, counts.dead), (0, 0, 0, 0));
        assert_eq!(counts.probe.count(), counts.probes_ok);
        assert!(counts.probe.sum() < SECOND * counts.probe.count() as u32);
        assert!(counts.pings > 0 && counts.acks >= counts.probes_ok && counts.alive >= 4, "{counts:?}");
    }

    let suspect = Suspect { incarnation: 1, node: "node5".into(), from: "node2".into() };
    sim.inject(addrs[1], addrs[0], packet(&Wire::Suspect(suspect)));
    sim.run(10 * SECOND);
    let (seen, suspected) = (counts(&mut sim, addrs[0]), counts(&mut sim, addrs[4]));
    assert_eq!((seen.suspect, seen.false_alarms, seen.dead, suspected.refutations), (1, 1, 0, 1));

    sim.kill(addrs[4]);
    sim.run_until(60 * SECOND, Sim::agreed);
    let (mut expired, mut failed) = (0, 0);
    for addr in &addrs[..4] {
        let metrics = sim.node(*addr).metrics();
        assert_eq!(metrics.membership.dead, 1);
        assert_eq!((metrics.gauges.alive, metrics.gauges.dead, metrics.gauges.suspect), (4, 1, 0));
        expired += metrics.membership.suspicions_expired;
        failed += metrics.membership.probes_failed;
    }
    assert!(expired >= 1 && failed >= 1, "{expired} expired, {failed} failed");
}

#[test]
fn traffic_is_counted_on_both_sides_and_views_are_timed() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 2);
    sim.run(60 * SECOND);
    let [a, b] = [addrs[0], addrs[1]].map(|addr| sim.node(addr).metrics());
    // A packet or two may be under way.
    assert!(a.traffic.packets_sent - b.traffic.packets_received <= 2, "{:?} {:?}", a.traffic, b.traffic);
    assert!(a.traffic.udp_sent > 0 && b.traffic.udp_received > 0);
    assert_eq!((a.traffic.tcp_accept, b.traffic.tcp_accept), (b.traffic.tcp_connect, a.traffic.tcp_connect));
    assert_eq!((a.traffic.tcp_sent, b.traffic.tcp_sent), (b.traffic.tcp_received, a.traffic.tcp_received));
    assert!(b.push_pull.count() >= 1 && b.push_pull.count() <= b.traffic.tcp_connect);
    assert!(b.push_pull.sum() > Duration::ZERO);
    assert_eq!((a.rejected, a.over_limit), Default::default());
}

#[test]
fn what_is_sent_is_counted_by_what_it_says() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    sim.run(10 * SECOND);
    let sent = |sim: &mut Sim| sim.node(addrs[0]).metrics().sent;
    let before = sent(&mut sim);
    assert!(before.probes > 0 && before.members > 0 && before.views > 0, "{before:?}");
    assert_eq!((before.messages, before.receipts, before.serf), (0, 0, 0));

    let value = format!("\"{}\"", "x".repeat(500));
    sim.publish(addrs[0], "k", &value);
    sim.run(SECOND);
    let after = sent(&mut sim).messages;
    assert!((1000..1400).contains(&after), "to two, once: {after}");
    assert!(sent(&mut sim).repair > 0, "it tells what there is");
    assert!(sim.node(addrs[1]).metrics().sent.receipts > 0);

    // Over a stream, whole.
    let value = format!("\"{}\"", "x".repeat(5000));
    sim.publish(addrs[0], "k", &value);
    sim.run(SECOND);
    assert!(sent(&mut sim).messages > after + 100, "{:?}", sent(&mut sim));

    let metrics = sim.node(addrs[0]).metrics();
    let SentBytes { probes, members, messages, receipts, repair, serf, views } = metrics.sent;
    let all = probes + members + messages + receipts + repair + serf + views;
    let traffic = metrics.traffic.udp_sent + metrics.traffic.tcp_sent;
    assert!(all <= traffic && all * 4 > traffic * 3, "{all} of {traffic} bytes: {metrics:?}");
}

#[test]
fn what_is_dropped_is_counted_by_what_it_was() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 2);
    let stranger: SocketAddr = "10.9.9.9:9".parse().expect("an address");
    for _ in 0..100 {
        sim.inject(stranger, addrs[0], Bytes::from_static(&[200, 1, 2, 3]));
        sim.inject(stranger, addrs[0], packet(&Wire::User(Bytes::from_static(b"not JSON"))));
    }
    let odd = Alive {
        incarnation: 1,
        node: "odd".into(),
        address: stranger.into(),
        meta: Bytes::new(),
        versions: Some([9, 9, 9, 0, 0, 0]),
    };
    sim.inject(stranger, addrs[0], packet(&Wire::Alive(odd)));
    // A stream that announces more records than allowed, and one that is no stream of memberlist's.
    let too_many = b"\x06\x83\xa4Join\xc2\xa5Nodes\xce\x7f\xff\xff\xff\xacUserStateLen\x00";
    sim.inject_stream(stranger, addrs[0], too_many);
    sim.inject_stream(stranger, addrs[0], &[99]);
    let metrics = sim.node(addrs[0]).metrics();
    assert_eq!((metrics.rejected.packets, metrics.rejected.messages), (100, 100));
    assert_eq!((metrics.rejected.members, metrics.rejected.streams), (1, 2));
    assert_eq!((metrics.over_limit.stream_sizes, metrics.messages.unusable), (1, 100));
}

#[test]
fn streams_beyond_the_limit_and_beyond_their_time_are_counted() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 2);
    let stranger: SocketAddr = "10.9.9.9:9".parse().expect("an address");
    let now = sim.now;
    let node = sim.node(addrs[0]);
    let max = node.resource_limits.max_streams;
    let before = node.streams.len();
    let accepted = (0..max + 10).filter(|_| node.handle_accept(now, stranger).is_some()).count();
    assert_eq!((accepted, node.metrics().over_limit.streams), (max, 10));
    assert_eq!(node.metrics().gauges.streams, before + max);
    node.handle_timeout(now + 11 * SECOND);
    let metrics = node.metrics();
    assert_eq!((metrics.over_limit.stream_times, metrics.gauges.streams), (max as u64, before));
}

#[test]
fn streams_of_made_up_members_fill_the_table_and_no_more() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 3);
    let stranger: SocketAddr = "10.9.9.9:9".parse().expect("an address");
    // As many as a table that is set for this cluster has room for.
    let max = 64;
    sim.node(addrs[0]).membership.set_max_members(max);
    sim.node(addrs[0]).resource_limits.max_members = max;
    let record = |i: u16| wire::PushPullState {
        name: format!("fake{i}").into(),
        address: SocketAddr::from(([10, 200, (i >> 8) as u8, i as u8], 7946)).into(),
        meta: Bytes::from(vec![7; 500]),
        incarnation: 1,
        state: wire::NodeState::Alive,
        versions: Some([1, 5, 2, 0, 0, 0]),
    };
    let send = |sim: &mut Sim, numbers: std::ops::Range<u16>| {
        let view = wire::PushPull { join: true, nodes: numbers.map(record).collect(), user_state: Bytes::new() };
        let view = wire::stream::StreamMessage::PushPull(view);
        sim.inject_stream(stranger, addrs[0], &wire::stream::encode(&view, true));
        sim.node(addrs[0]).metrics()
    };
    let metrics = send(&mut sim, 0..10_000);
    assert_eq!((metrics.over_limit.stream_sizes, sim.node(addrs[0]).records().len()), (1, 3), "it is not read");
    // What is read fills the table.
    for view in 0..10 {
        send(&mut sim, view * 64..(view + 1) * 64);
    }
    let metrics = sim.node(addrs[0]).metrics();
    assert_eq!(metrics.over_limit.members, 640 - (max as u64 - 3));
    assert_eq!((metrics.rejected.views, sim.node(addrs[0]).records().len()), (10, max));
    // They are declared dead and forgotten; no real member is.
    sim.run(600 * SECOND);
    assert_eq!(sim.view(addrs[0]), ["node1", "node2", "node3"]);
    for addr in &addrs {
        let told = told(&mut sim, *addr);
        assert!(!told.iter().any(|line| line.starts_with("node") && line.ends_with("failed")), "{told:?}");
    }
}
