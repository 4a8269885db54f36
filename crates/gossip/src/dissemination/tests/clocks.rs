//! Clocks are only a first guess: a member is heard whatever its clock says.

use super::{
    super::control::{Challenge, SenderHeader, StreamDigest, StreamStart},
    *,
};
use crate::{
    dissemination::{Draft, control::Control},
    node::Node,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Four nodes whose clocks show the tenth day.
fn four(seed: u64) -> (Sim, Vec<SocketAddr>) {
    let mut sim = Sim::new(seed, Profile::Lan);
    sim.clock = 10 * DAY;
    let addrs = cluster(&mut sim, 4);
    (sim, addrs)
}

/// Has the last node publish five numbers from `from` on, and checks that all others receive them at once, once. Where packets
/// get lost, one in fifty takes longer than a second.
fn check_heard(sim: &mut Sim, addrs: &[SocketAddr], from: u64, what: &str) -> u64 {
    let by = addrs.len() - 1;
    for number in from..from + 5 {
        sim.publish(addrs[by], "k", &number.to_string());
        sim.run(SECOND / 10);
    }
    sim.run(if sim.loss > 0.0 { 5 * SECOND } else { SECOND });
    for addr in &addrs[..by] {
        assert_eq!(received(sim, *addr), messages_of(&format!("node{}", by + 1), from..from + 5), "{what}, at {addr}");
    }
    from + 5
}

#[test]
fn who_is_days_ahead_or_behind_is_heard_and_stays_heard_when_its_clock_is_mended() {
    for (seed, loss) in [(1, 0.0), (2, 0.2), (3, 0.2)] {
        for days in [[12, 10, 10], [8, 10, 8], [12, 8, 12], [1, 400, 1]] {
            let (mut sim, addrs) = four(seed);
            sim.loss = loss;
            let mut next = check_heard(&mut sim, &addrs, 0, "before");
            for day in days {
                sim.kill(addrs[3]);
                sim.clock = day * DAY;
                sim.start("node4", 4, &["node1"]);
                sim.run_until(60 * SECOND, Sim::agreed);
                sim.run(SECOND / 2);
                next = check_heard(&mut sim, &addrs, next, &format!("day {day} of {days:?}, seed {seed}"));
            }
            // It hears the others, whose epochs are in its past or future.
            received(&mut sim, addrs[3]);
            sim.publish(addrs[0], "k", "0");
            sim.run(2 * SECOND);
            assert_eq!(received(&mut sim, addrs[3]), messages_of("node1", 0..1), "{days:?}, seed {seed}");
        }
    }
}

#[test]
fn who_restarts_at_once_with_an_earlier_clock_is_heard_once() {
    for seed in 1..5 {
        let (mut sim, addrs) = four(seed);
        sim.loss = 0.1;
        check_heard(&mut sim, &addrs, 0, "before");
        sim.kill(addrs[3]);
        sim.clock = 7 * DAY;
        sim.start("node4", 4, &["node1"]);
        // It speaks as soon as it is up, maybe before it has heard of its previous epoch.
        for number in 5..10 {
            sim.run(SECOND / 20);
            sim.publish(addrs[3], "k", &number.to_string());
        }
        sim.run_until(60 * SECOND, Sim::agreed);
        sim.run(2 * SECOND);
        check_at_most_once(&mut sim, &addrs[..3], 10);
        check_heard(&mut sim, &addrs, 10, "after");
    }
}

#[test]
fn a_short_life_by_a_wrong_clock_is_heard_by_who_was_cut_off() {
    for (seed, day) in [(1, 7), (2, 13), (3, 7), (4, 13)] {
        let (mut sim, addrs) = four(seed);
        let mut next = check_heard(&mut sim, &addrs, 0, "before");
        // Longer than anything is kept of an epoch that has ended.
        sim.run(140 * SECOND);
        for restarted in [day, 10] {
            sim.partition(&addrs[..1], &addrs[1..]);
            sim.kill(addrs[3]);
            sim.clock = restarted * DAY;
            sim.start("node4", 4, &["node2"]);
            sim.partition(&addrs[..1], &addrs[1..]);
            sim.run_until(60 * SECOND, |sim| sim.view(addrs[3]).len() >= 3);
            for number in next..next + 5 {
                sim.publish(addrs[3], "k", &number.to_string());
                sim.run(SECOND / 10);
            }
            next += 5;
        }
        sim.run(SECOND);
        for addr in &addrs[1..3] {
            assert_eq!(received(&mut sim, *addr), messages_of("node4", 5..next), "seed {seed}, day {day}");
        }
        sim.heal();
        sim.run(20 * SECOND);
        sim.publish(addrs[3], "k", &next.to_string());
        // It hears of the epoch in push/pull exchanges, twice a minute.
        sim.run(90 * SECOND);
        let mut heard = received(&mut sim, addrs[0]);
        heard.sort_by_key(|line| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()));
        assert_eq!(heard, messages_of("node4", 5..next + 1), "seed {seed}, day {day}");
    }
}

/// Checks that nothing is delivered twice, and all in order up to `end`. What was published before the node had joined may be
/// reported as missed.
fn check_at_most_once(sim: &mut Sim, addrs: &[SocketAddr], end: u64) {
    for addr in addrs {
        let mut heard = received(sim, *addr);
        if heard.first().is_some_and(|first| first.starts_with("missed 0 to ")) {
            heard.remove(0);
        }
        let first = end - heard.len() as u64;
        assert_eq!(heard, messages_of("node4", first..end), "at {addr}");
    }
}

#[test]
fn a_life_that_is_made_up_does_not_leave_the_name_without_a_next_one() {
    for epoch in [u64::MAX, u64::MAX - 1, u64::MAX / 2, 1 << 62] {
        let (mut sim, addrs) = four(4);
        let mut next = check_heard(&mut sim, &addrs, 0, "before");
        let made_up = epoch & !1;
        let message = Draft::new("k", "\"made up\"", "node4").finish(made_up, 0);
        let start = Some(StreamStart { seq: 7, receiver_epoch: 0, cookie: Some(1) });
        let digest = StreamDigest { origin: b"node4", epoch: made_up, base: 0, next: 7, floor: 0, start };
        let by = SenderHeader { name: b"node4", echo: Some(Challenge { nonce: 1, age: u64::MAX }) };
        for addr in &addrs {
            sim.inject(addrs[3], *addr, message.clone());
            sim.inject(addrs[3], *addr, Control::Digest(vec![digest.clone()]).encode_from(by));
            sim.inject(addrs[1], *addr, Control::Digest(vec![digest.clone()]).encode());
        }
        sim.run(SECOND);
        next = check_heard(&mut sim, &addrs, next, "while it is said to be in another epoch");
        sim.kill(addrs[3]);
        sim.start("node4", 4, &["node1"]);
        sim.run_until(60 * SECOND, Sim::agreed);
        sim.run(SECOND / 2);
        check_heard(&mut sim, &addrs, next, "in its next epoch");
    }
}

#[test]
fn a_clock_that_was_mended_before_a_restart_makes_nobody_hear_twice_also_who_joined_meanwhile() {
    let (mut sim, addrs) = four(5);
    sim.kill(addrs[3]);
    sim.clock = 12 * DAY;
    sim.start("node4", 4, &["node1"]);
    sim.run_until(60 * SECOND, Sim::agreed);
    check_heard(&mut sim, &addrs, 0, "ahead");
    sim.kill(addrs[3]);
    sim.clock = 10 * DAY;
    // One that knows nothing of the epoch that is ahead.
    sim.kill(addrs[2]);
    sim.start("node3", 3, &["node1"]);
    sim.start("node4", 4, &["node3"]);
    sim.run_until(60 * SECOND, Sim::agreed);
    sim.run(SECOND);
    let next = check_heard(&mut sim, &addrs, 5, "mended");
    // Push/pull exchanges tell of the epoch that was ahead.
    sim.run(120 * SECOND);
    check_heard(&mut sim, &addrs, next, "later");
    assert!(sim.addrs().iter().all(|addr| Node::counters(sim.node(*addr)).missed == 0));
}
