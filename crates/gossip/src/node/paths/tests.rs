//! Paths under a virtual clock: blocked, narrow, and well again.

use std::{net::SocketAddr, time::Duration};

use super::*;
use crate::{
    config::Profile,
    sim::{Notification, Sim},
};

const SECOND: Duration = Duration::from_secs(1);
const FULL: usize = 1400;
const ALL: usize = usize::MAX;

/// node1 … nodeN, which have joined through node1 and agree on who is a member.
fn cluster(seed: u64, n: u16) -> (Sim, Vec<SocketAddr>) {
    let mut sim = Sim::new(seed, Profile::Lan);
    let addrs: Vec<_> =
        (1..=n).map(|i| sim.start(&format!("node{i}"), i, if i == 1 { &[] } else { &["node1"] })).collect();
    sim.run_until(30 * SECOND, Sim::agreed);
    (sim, addrs)
}

/// What a node's application got of messages, and of how members are reached.
fn reported(sim: &mut Sim, addr: SocketAddr) -> Vec<String> {
    let words = |reported: Notification| match reported {
        Ok(message) => Some(message.value().chars().take(20).collect()),
        Err(Event::ReachChanged { name, reach, .. }) => Some(format!("{name}: {reach:?}")),
        Err(event @ (Event::Missed { .. } | Event::Failed(_) | Event::LagLimitExceeded(_))) => {
            Some(format!("{event:?}"))
        }
        _ => None,
    };
    sim.events(addr).into_iter().filter_map(words).collect()
}

fn said(values: std::ops::Range<u64>) -> Vec<String> {
    values.map(|value| value.to_string()).collect()
}

/// Has a node publish numbers, one every 100 ms.
fn say(sim: &mut Sim, from: SocketAddr, values: std::ops::Range<u64>) {
    for value in values {
        sim.publish(from, "k", &value.to_string());
        sim.run(SECOND / 10);
    }
}

/// Waits until all have acknowledged what a node has published.
fn acknowledged(sim: &mut Sim, from: SocketAddr, limit: Duration) -> Duration {
    let next = sim.node(from).next_id().seq;
    for tenth in 0..10 * limit.as_secs() {
        if sim.node(from).progress().stable == next {
            return SECOND / 10 * u32::try_from(tenth).expect("tests are short");
        }
        sim.run(SECOND / 10);
    }
    panic!("{:?} of {next}", sim.node(from).progress());
}

#[test]
fn with_udp_blocked_messages_arrive_and_are_acknowledged_over_tcp() {
    // In both directions; from the origin; towards the origin.
    for (there, back) in [(0, 0), (0, ALL), (ALL, 0)] {
        let (mut sim, addrs) = cluster(1, 2);
        let [one, two] = addrs[..] else { panic!("two nodes") };
        sim.narrow(one, two, there);
        sim.narrow(two, one, back);
        for node in [one, two] {
            reported(&mut sim, node);
        }
        say(&mut sim, one, 0..28);
        let took = acknowledged(&mut sim, one, 5 * SECOND);
        let heard = reported(&mut sim, two);
        let heard: Vec<_> = heard.into_iter().filter(|line| !line.starts_with("node")).collect();
        assert_eq!(heard, said(0..28), "{there} there, {back} back: after {took:?}");
        sim.run(5 * SECOND);
        let reached = (sim.node(one).reach(two), sim.node(two).reach(one));
        let reach = |max| if max == 0 { Reach::Streams } else { Reach::Datagrams };
        assert_eq!(reached, (reach(there), reach(back)), "{there} there, {back} back");

        // No member is lost, the path stays as it is, and the change is reported once.
        say(&mut sim, two, 0..10);
        sim.run(120 * SECOND);
        let gauges = sim.node(one).metrics().gauges;
        assert_eq!((gauges.over_tcp, gauges.small_datagrams), (usize::from(there == 0), 0));
        let news = reported(&mut sim, one);
        let reached: Vec<_> = news.iter().filter(|line| line.starts_with("node")).cloned().collect();
        let expected: &[&str] = if there == 0 { &["node2: Streams"] } else { &[] };
        assert_eq!(reached, expected, "{there} there, {back} back");
        let heard: Vec<_> = news.into_iter().filter(|line| !line.starts_with("node")).collect();
        assert_eq!(heard, said(0..10));

        // And when it works again, datagrams are used again.
        sim.narrow(one, two, ALL);
        sim.narrow(two, one, ALL);
        sim.run(130 * SECOND);
        assert_eq!((sim.node(one).reach(two), sim.node(two).reach(one)), (Reach::Datagrams, Reach::Datagrams));
        reported(&mut sim, two);
        let streams = sim.node(one).metrics().traffic.tcp_connect;
        say(&mut sim, one, 28..38);
        assert_eq!(reported(&mut sim, two), said(28..38));
        let streams = sim.node(one).metrics().traffic.tcp_connect - streams;
        assert!(streams < 3, "{streams} streams");
    }
}

#[test]
fn one_of_many_that_udp_does_not_reach_hears_all_and_is_heard() {
    let (mut sim, addrs) = cluster(2, 6);
    let blocked = addrs[3];
    for other in addrs.iter().filter(|addr| **addr != blocked) {
        sim.narrow(*other, blocked, 0);
        sim.narrow(blocked, *other, 0);
    }
    for node in &addrs {
        reported(&mut sim, *node);
    }
    say(&mut sim, addrs[1], 0..20);
    say(&mut sim, blocked, 20..40);
    sim.run(10 * SECOND);
    for node in &addrs {
        let heard: Vec<_> = reported(&mut sim, *node).into_iter().filter(|line| !line.starts_with("node")).collect();
        let wanted = match *node {
            node if node == addrs[1] => said(20..40),
            node if node == blocked => said(0..20),
            _ => said(0..40),
        };
        assert_eq!(heard, wanted, "{node}");
    }
    for node in [addrs[1], blocked] {
        acknowledged(&mut sim, node, SECOND);
    }
}

#[test]
fn what_does_not_fit_through_a_hole_goes_over_tcp() {
    let (mut sim, addrs) = cluster(3, 2);
    let [one, two] = addrs[..] else { panic!("two nodes") };
    for (from, to) in [(one, two), (two, one)] {
        sim.narrow(from, to, 1252);
    }
    reported(&mut sim, two);
    say(&mut sim, one, 0..5);
    let large = format!("\"{}\"", "x".repeat(1250));
    sim.publish(one, "k", &large);
    say(&mut sim, one, 5..10);
    acknowledged(&mut sim, one, 5 * SECOND);
    let heard = reported(&mut sim, two);
    let expected: Vec<_> = said(0..5).into_iter().chain([large[..20].to_owned()]).chain(said(5..10)).collect();
    assert_eq!(heard, expected);
    sim.run(3 * SECOND);
    let Reach::SmallDatagrams(max) = sim.node(one).reach(two) else { panic!("{:?}", sim.node(one).reach(two)) };
    assert!((1132..=1252).contains(&max), "{max}");
    assert_eq!(sim.node(one).metrics().gauges.small_datagrams, 1);

    // Messages that fit still go in datagrams, many in one.
    let streams = sim.node(one).metrics().traffic.tcp_connect;
    for value in 0..200_u64 {
        sim.publish(one, "k", &value.to_string());
    }
    sim.run(2 * SECOND);
    let streams = sim.node(one).metrics().traffic.tcp_connect - streams;
    assert!(streams < 4, "{streams} streams");
    let heard: Vec<_> = reported(&mut sim, two).into_iter().filter(|line| !line.starts_with("node")).collect();
    assert_eq!(heard, said(0..200));

    // It gets narrower, and is wide again.
    sim.narrow(one, two, 700);
    let larger = format!("\"{}\"", "y".repeat(900));
    sim.publish(one, "k", &larger);
    acknowledged(&mut sim, one, 10 * SECOND);
    assert_eq!(reported(&mut sim, two), [larger[..20].to_owned()]);
    sim.narrow(one, two, ALL);
    sim.run(130 * SECOND);
    assert_eq!(sim.node(one).reach(two), Reach::Datagrams);
}

#[test]
fn who_restarts_or_is_stopped_is_not_taken_for_one_that_udp_does_not_reach() {
    let (mut sim, addrs) = cluster(4, 3);
    let [one, two, three] = addrs[..] else { panic!("three nodes") };
    reported(&mut sim, one);
    say(&mut sim, one, 0..5);
    sim.pause(two);
    say(&mut sim, one, 5..45);
    sim.resume(two);
    acknowledged(&mut sim, one, 20 * SECOND);
    sim.kill(three);
    say(&mut sim, one, 45..55);
    sim.start("node3", 3, &["node1"]);
    say(&mut sim, one, 55..60);
    acknowledged(&mut sim, one, 20 * SECOND);
    let reached: Vec<_> = reported(&mut sim, one).into_iter().filter(|line| line.contains(": ")).collect();
    assert!(!reached.iter().any(|line| line.contains("Streams") || line.contains("Small")), "{reached:?}");

    // One that is blocked, and restarts so, is found out anew.
    for node in [one, three] {
        sim.narrow(node, two, 0);
        sim.narrow(two, node, 0);
    }
    say(&mut sim, one, 60..70);
    acknowledged(&mut sim, one, 10 * SECOND);
    assert_eq!(sim.node(one).reach(two), Reach::Streams);
    sim.kill(two);
    sim.run(SECOND);
    // It can refute its death in a push/pull exchange only.
    let two = sim.start("node2", 2, &["node1"]);
    sim.run(60 * SECOND);
    reported(&mut sim, two);
    say(&mut sim, one, 70..80);
    acknowledged(&mut sim, one, 10 * SECOND);
    let heard: Vec<_> = reported(&mut sim, two).into_iter().filter(|line| !line.contains(": ")).collect();
    assert_eq!(heard, said(70..80));
}

#[test]
fn nothing_is_probed_where_all_is_well() {
    let (mut sim, addrs) = cluster(5, 5);
    say(&mut sim, addrs[0], 0..50);
    sim.run(60 * SECOND);
    for addr in addrs {
        assert!(sim.node(addr).paths.0.is_empty());
        assert_eq!(sim.node(addr).metrics().traffic.tcp_connect, sim.node(addr).metrics().push_pull.count());
    }
}

#[test]
fn a_search_tries_the_sizes_between_what_arrives_and_what_may_not() {
    let now = Instant::now();
    let round = SECOND / 10;
    let mut path = Path::search(now, SearchReason::Silence, FULL, 1);
    assert_eq!(path.step(now, FULL, round).probes, [FULL, 508]);
    path.handle_reply(508);
    let step = path.step(now + round, FULL, round);
    assert_eq!(step.probes, [FULL, 1392, 1352, 1232, 1132, 1006]);
    path.handle_reply(1132);
    path.handle_reply(1006);
    for i in 2..=ROUNDS {
        let step = path.step(now + i * round, FULL, round);
        assert_eq!((step.probes, step.by_stream), (vec![FULL, 1392, 1352, 1232], false));
    }
    let step = path.step(now + (ROUNDS + 1) * round, FULL, round);
    assert_eq!(step.reported, Some(Reach::SmallDatagrams(1132)));
    assert_eq!(path.max, 1132);
    path.handle_reply(FULL);
    assert_eq!(path.step(now, FULL, round), PathStep { reported: Some(Reach::Datagrams), ..PathStep::default() });
    path.reconsider(now, SearchReason::Silence, FULL, 2);
    assert_eq!(path.step(now, FULL, round), PathStep::default(), "it was looked at just now");
    // Another search soon after is followed by a longer pause. After a pause without a search, the path is forgotten.
    let again = path.due() - SECOND / 100;
    assert_eq!(path.step(again, FULL, round), PathStep::default());
    path.reconsider(again, SearchReason::Silence, FULL, 3);
    assert_eq!(path.step(again, FULL, round).probes, [FULL, 508]);
    path.handle_reply(FULL);
    assert_eq!(path.step(again, FULL, round), PathStep::default());
    path.reconsider(again + WELL_PAUSE, SearchReason::Silence, FULL, 4);
    assert_eq!(path.step(again + WELL_PAUSE, FULL, round), PathStep::default());
    assert_eq!(path.step(path.due(), FULL, round), PathStep { done: true, ..PathStep::default() });
}

#[test]
fn only_one_that_answers_over_a_stream_is_reached_so() {
    for answers in [false, true] {
        let (mut now, round) = (Instant::now(), SECOND / 10);
        let mut path = Path::search(now, SearchReason::Silence, FULL, 1);
        let mut steps = Vec::new();
        for _ in 0..=ROUNDS {
            let step = path.step(now, FULL, round);
            if step.stream_probe && answers {
                path.handle_reply(0);
            }
            steps.push(step);
            now += round;
        }
        let asked: Vec<_> = steps.iter().map(|step| (step.by_stream, step.stream_probe)).collect();
        assert_eq!(asked, [(false, false), (false, false), (true, true), (true, !answers), (false, false)]);
        let reported = answers.then_some(Reach::Streams);
        assert_eq!(steps[ROUNDS as usize].reported, reported);
        assert_eq!(path.max, if answers { 0 } else { FULL });
        // The pause grows, up to a limit.
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let PathPhase::Resting { until: due } = path.phase else { panic!("{path:?}") };
            pauses.push(due - now + round);
            path.search_again(due, 2);
            for i in 0..=ROUNDS {
                now = due + i * round;
                let step = path.step(now, FULL, round);
                if answers {
                    path.handle_reply(0);
                }
                assert_eq!(step.reported, None);
            }
            now += round;
        }
        let last = *pauses.last().expect("there are some");
        assert_eq!((pauses[0], last), (FIRST_PAUSE, if answers { MAX_PAUSE } else { DOUBT_PAUSE }), "{pauses:?}");
    }
}

#[test]
fn a_bundle_in_the_name_of_another_is_a_strangers() {
    let (mut sim, addrs) = cluster(6, 2);
    let [one, two] = addrs[..] else { panic!("two nodes") };
    reported(&mut sim, one);
    let elsewhere = SocketAddr::from(([10, 9, 9, 9], 4711));
    let probe = PathMessage::Probe { nonce: 1, size: 0, by_stream: false, from: b"stranger" }.encode();
    let parts = vec![&probe[..], b"\x08{\"key\":\"k\",\"value\":1}"];
    for from in [&b"node2"[..], b"node1", b"stranger", b""] {
        let bundle = PathMessage::Bundle { from, parts: parts.clone() }.encode();
        let now = sim.now;
        sim.node(one).handle_stream_user_message(now, elsewhere, &bundle.slice(1..));
        assert_eq!(sim.node(one).reach(two), Reach::Datagrams);
        assert!(sim.node(one).paths.0.is_empty());
    }
    let nested = PathMessage::Bundle { from: b"node2", parts: vec![] }.encode();
    let bundle = PathMessage::Bundle { from: b"node2", parts: vec![&nested[..]] }.encode();
    let now = sim.now;
    sim.node(one).handle_stream_user_message(now, two, &bundle.slice(1..));
    let rejected = sim.node(one).metrics().rejected.messages;
    assert_eq!(rejected, 1);
}
