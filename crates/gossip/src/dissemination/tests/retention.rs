//! What is kept, for whom and for how long; and how fast an origin may publish.

use super::*;
use crate::dissemination::PublishError;

/// Runs, and checks the bounds all along.
fn run(sim: &mut Sim, time: Duration) {
    for _ in 0..time.as_millis().div_ceil(20) {
        sim.run(Duration::from_millis(20));
        check_bounds(sim);
    }
}

fn numbers(sim: &mut Sim, addr: SocketAddr, numbers: std::ops::Range<u64>) {
    for number in numbers {
        sim.publish(addr, "k", &number.to_string());
        sim.run(Duration::from_millis(10));
    }
}

#[test]
fn who_joins_begins_with_what_is_said_then_or_with_what_is_retained() {
    let mut sim = Sim::new(3, Profile::Lan);
    let addrs = cluster(&mut sim, 4);
    numbers(&mut sim, addrs[0], 0..10);
    sim.run(5 * SECOND);
    sim.kill(addrs[3]);
    sim.run_until(60 * SECOND, Sim::agreed);
    // Retained for node4, which might be back.
    numbers(&mut sim, addrs[0], 10..30);
    let newcomer = sim.start("node5", 5, &["node2"]);
    sim.replay = true;
    let collector = sim.start("node6", 6, &["node3"]);
    sim.run_until(10 * SECOND, Sim::agreed);
    sim.run(SECOND);
    numbers(&mut sim, addrs[0], 30..50);
    sim.run(5 * SECOND);
    let heard = received(&mut sim, newcomer);
    assert_eq!(heard, messages_of("node1", 30..50), "without it");
    assert_eq!(received(&mut sim, collector), messages_of("node1", 10..50), "with it");
    assert_eq!(received(&mut sim, addrs[1]), messages_of("node1", 0..50), "as ever");
}

#[test]
fn what_is_retained_is_replayed_also_while_much_is_said_and_lost() {
    let mut sim = Sim::new(4, Profile::Lan);
    let addrs = cluster(&mut sim, 4);
    numbers(&mut sim, addrs[0], 0..5);
    sim.run(5 * SECOND);
    sim.kill(addrs[3]);
    sim.run_until(60 * SECOND, Sim::agreed);
    sim.loss = 0.2;
    sim.replay = true;
    numbers(&mut sim, addrs[0], 5..105);
    let collector = sim.start("node6", 6, &["node3"]);
    numbers(&mut sim, addrs[0], 105..305);
    sim.run(20 * SECOND);
    assert_eq!(received(&mut sim, collector), messages_of("node1", 5..305));
}

/// Four nodes that keep little. The last one is cut off once all have got ten numbers of the first.
fn one_cut_off() -> (Sim, Vec<SocketAddr>) {
    let mut sim = Sim::new(5, Profile::Lan);
    sim.limits = Retention { retain_messages: 64, lag_limit: SECOND, ..Retention::default() };
    let addrs = cluster(&mut sim, 4);
    numbers(&mut sim, addrs[0], 0..10);
    sim.run(SECOND);
    sim.partition(&addrs[3..], &addrs[..3]);
    (sim, addrs)
}

#[test]
fn one_that_is_stuck_holds_the_others_back_for_the_lag_limit_and_is_told_what_it_missed() {
    let (mut sim, addrs) = one_cut_off();
    let mut next = 10;
    let begin = sim.now;
    let blocked = loop {
        match sim.try_publish(addrs[0], "k", &next.to_string()) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
        sim.run(Duration::from_millis(2));
    };
    assert_eq!((blocked, next), (PublishError::WouldBlock, 74), "the log is full of what node4 needs");
    sim.run(Duration::from_millis(50));
    let (_, missing) = sim.node(addrs[0]).acked_by(73);
    assert_eq!(missing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["node4"]);
    while received(&mut sim, addrs[0]) != ["node4 cut loose", "room"] {
        assert_eq!(sim.node(addrs[0]).progress().everywhere, 10);
        assert!(sim.now - begin < 4 * SECOND, "it holds them back for ever");
        run(&mut sim, Duration::from_millis(20));
    }
    assert!(sim.now - begin >= SECOND, "it was given the time to catch up");
    let progress = sim.node(addrs[0]).progress();
    assert_eq!((progress.stable, progress.everywhere), (74, 10), "all have it but the one that is not waited for");
    let (_, missing) = sim.node(addrs[0]).acked_by(73);
    assert_eq!(missing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["node4"], "which is live all the same");
    while next < 274 {
        if sim.try_publish(addrs[0], "k", &next.to_string()).is_ok() {
            next += 1;
        }
        run(&mut sim, Duration::from_millis(20) / 2);
        if next % 4 == 0 {
            run(&mut sim, Duration::from_millis(20));
        }
        assert!(sim.now - begin < 60 * SECOND);
    }
    sim.heal();
    run(&mut sim, 30 * SECOND);
    numbers(&mut sim, addrs[0], 274..300);
    run(&mut sim, 10 * SECOND);
    for addr in &addrs[1..3] {
        assert_eq!(received(&mut sim, *addr), messages_of("node1", 0..300));
    }
    let heard = received(&mut sim, addrs[3]);
    let lost: Vec<_> = heard.iter().filter(|line| line.starts_with("missed")).collect();
    let [lost] = lost[..] else { panic!("one gap, told once: {heard:?}") };
    let words: Vec<_> = lost.split(' ').collect();
    let (from, to) = (words[1].parse().expect("a number"), words[3].parse().expect("a number"));
    assert_eq!(from, 10);
    let expected = [messages_of("node1", 0..from), vec![lost.clone()], messages_of("node1", to..300)].concat();
    assert_eq!(heard, expected);
}

#[test]
fn what_nobody_has_any_more_is_told_also_while_more_is_said() {
    let (mut sim, addrs) = one_cut_off();
    let begin = sim.now;
    let mut next = 10;
    while next < 200 {
        next += u64::from(sim.try_publish(addrs[0], "k", &next.to_string()).is_ok());
        sim.run(Duration::from_millis(5));
        assert!(sim.now - begin < 4 * SECOND, "it holds them back for ever");
    }
    sim.heal();
    // New messages always come before the missing ones have been requested often enough to be given up.
    numbers(&mut sim, addrs[0], 200..1000);
    let heard = received(&mut sim, addrs[3]);
    let missed = heard.iter().filter(|line| line.starts_with("missed")).count();
    assert!((1..10).contains(&missed), "told {missed} times");
    let first = 10 + missed;
    let (_, to) = heard[first - 1].split_once(" to ").expect("a range was missed");
    let to: u64 = to.strip_suffix(" of node1").and_then(|to| to.parse().ok()).expect("a number");
    assert!((100..=200).contains(&to), "what has been kept for it is here: {:?}", &heard[9..=first]);
    assert!(heard.len() > first + 790, "what came after it is here, all but the last few");
    assert_eq!(heard[first..], messages_of("node1", to..to + (heard.len() - first) as u64));
}

#[test]
fn one_that_is_slow_for_less_than_the_limit_misses_nothing() {
    let mut sim = Sim::new(6, Profile::Lan);
    sim.limits = Retention { retain_messages: 64, lag_limit: 5 * SECOND, ..Retention::default() };
    let addrs = cluster(&mut sim, 4);
    sim.pause(addrs[3]);
    let mut next = 0;
    let begin = sim.now;
    while next < 500 {
        if sim.try_publish(addrs[0], "k", &next.to_string()).is_ok() {
            next += 1;
        } else if sim.now - begin > 2 * SECOND {
            sim.resume(addrs[3]);
        }
        run(&mut sim, Duration::from_millis(20));
        assert!(sim.now - begin < 60 * SECOND);
    }
    run(&mut sim, 5 * SECOND);
    for addr in &addrs[1..] {
        assert_eq!(received(&mut sim, *addr), messages_of("node1", 0..500));
    }
    assert_eq!(received(&mut sim, addrs[0]).iter().filter(|line| *line != "room").count(), 0);
}

#[test]
fn what_all_have_is_freed_everywhere() {
    // Gossip tells nearly all nodes within seconds, and push/pull exchanges tell the rest.
    for (n, loss, limit) in [(5, 0.0, 3), (40, 0.0, 70), (13, 0.2, 60)] {
        let mut sim = Sim::new(8, Profile::Lan);
        let addrs = cluster(&mut sim, n);
        sim.loss = loss;
        for turn in 0..20 {
            for addr in &addrs {
                sim.publish(*addr, "k", &turn.to_string());
            }
            sim.run(Duration::from_millis(50));
            check_bounds(&mut sim);
        }
        sim.run(limit * SECOND);
        for addr in addrs {
            assert_eq!(retained(&mut sim, addr), 0, "at {addr} of {n}");
        }
    }
}

#[test]
fn what_is_kept_for_one_that_failed_is_freed_after_two_minutes() {
    let mut sim = Sim::new(9, Profile::Lan);
    let addrs = cluster(&mut sim, 5);
    numbers(&mut sim, addrs[0], 0..1);
    sim.kill(addrs[4]);
    numbers(&mut sim, addrs[0], 1..20);
    sim.run_until(60 * SECOND, Sim::agreed);
    sim.run(100 * SECOND);
    assert!(retained(&mut sim, addrs[0]) >= 19, "it might be back");
    sim.run(40 * SECOND);
    for addr in &addrs[..4] {
        assert_eq!(retained(&mut sim, *addr), 0, "at {addr}");
    }
}

#[test]
fn what_is_kept_is_freed_soon_when_the_one_who_lacks_it_leaves() {
    let mut sim = Sim::new(9, Profile::Lan);
    let addrs = cluster(&mut sim, 5);
    numbers(&mut sim, addrs[0], 0..1);
    sim.partition(&addrs[..1], &addrs[4..]);
    for between in &addrs[1..4] {
        sim.partition(&[*between], &addrs[4..]);
    }
    numbers(&mut sim, addrs[0], 1..20);
    sim.heal();
    sim.leave(addrs[4]);
    sim.run(45 * SECOND);
    for addr in &addrs[..4] {
        assert_eq!(retained(&mut sim, *addr), 0, "at {addr}");
    }
}

#[test]
fn who_fails_meanwhile_is_counted_out_and_plain_nodes_apart() {
    let mut sim = Sim::new(10, Profile::Lan);
    let addrs = cluster(&mut sim, 5);
    sim.introduce_plain(&addrs);
    sim.kill(addrs[4]);
    sim.publish(addrs[0], "k", "0");
    sim.run(SECOND / 2);
    let node = sim.node(addrs[0]);
    let progress = node.progress();
    assert_eq!((progress.stable, progress.everywhere, progress.plain), (0, 0, 1));
    let (with, without) = node.acked_by(0);
    assert_eq!((with, without.len()), (3, 1));
    assert_eq!(without[0].to_string(), "node5");
    sim.run_until(60 * SECOND, |sim| sim.find(addrs[0], "node5").is_none());
    sim.run(SECOND / 10);
    let node = sim.node(addrs[0]);
    assert_eq!((node.progress().stable, node.progress().everywhere), (1, 1));
    assert_eq!(node.acked_by(0), (3, vec![]));
    let (failed, left) = node.departed_without(0);
    assert_eq!((failed.len(), failed[0].to_string(), left), (1, "node5".into(), vec![]));
}
