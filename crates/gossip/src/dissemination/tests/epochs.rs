//! Origins that crash and come back.

use super::*;

#[test]
fn a_restart_is_a_new_life_with_numbers_of_its_own() {
    let mut sim = Sim::new(13, Profile::Lan);
    let addrs = cluster(&mut sim, 4);
    for number in ["0", "1", "2"] {
        sim.publish(addrs[3], "k", number);
    }
    sim.run(SECOND);
    let first = sim.node(addrs[3]).epoch();
    sim.kill(addrs[3]);
    sim.start("node4", 4, &["node1"]);
    sim.run_until(10 * SECOND, Sim::agreed);
    assert!(sim.node(addrs[3]).epoch() > first);
    for number in ["3", "4"] {
        sim.publish(addrs[3], "k", number);
    }
    sim.run(5 * SECOND);
    assert_eq!(sim.node(addrs[3]).next_id().seq, 2);
    for addr in &addrs[..3] {
        assert_eq!(received(&mut sim, *addr), messages_of("node4", 0..5));
    }
    assert_eq!(received(&mut sim, addrs[3]), [""; 0], "it hears nothing that was said before it joined");
}

#[test]
fn who_restarts_with_its_clock_set_back_is_heard_once() {
    for (seed, loss) in [(14, 0.0), (15, 0.2), (16, 0.2)] {
        let mut sim = Sim::new(seed, Profile::Lan);
        sim.clock = 3600 * SECOND;
        let addrs = cluster(&mut sim, 4);
        sim.loss = loss;
        sim.publish(addrs[3], "k", "0");
        sim.run(5 * SECOND);
        let first = sim.node(addrs[3]).epoch();
        sim.kill(addrs[3]);
        sim.clock = Duration::ZERO;
        sim.start("node4", 4, &["node1"]);
        sim.run_until(20 * SECOND, Sim::agreed);
        for number in 1..6_u32 {
            sim.publish(addrs[3], "k", &number.to_string());
            sim.run(Duration::from_millis(30));
        }
        sim.run(20 * SECOND);
        assert!(sim.node(addrs[3]).epoch() > first);
        for addr in &addrs[..3] {
            assert_eq!(received(&mut sim, *addr), messages_of("node4", 0..6), "{addr}, seed {seed}");
        }
    }
}

#[test]
fn a_clock_set_back_repeats_nothing_to_who_knows_nothing_of_it() {
    let mut sim = Sim::new(17, Profile::Lan);
    sim.clock = 3600 * SECOND;
    let addrs = cluster(&mut sim, 3);
    sim.publish(addrs[2], "k", "0");
    sim.run(SECOND);
    sim.kill(addrs[2]);
    sim.clock = Duration::ZERO;
    sim.kill(addrs[1]);
    // The first knows the previous epoch. The others do not, and hear of the new one at once.
    sim.start("node3", 3, &[]);
    sim.start("node2", 2, &["node3"]);
    sim.partition(&addrs[..1], &addrs[1..]);
    sim.run_until(10 * SECOND, |sim| sim.view(addrs[1]).len() == 2);
    for number in ["1", "2", "3"] {
        sim.publish(addrs[2], "k", number);
    }
    sim.run(SECOND);
    assert_eq!(received(&mut sim, addrs[1]), messages_of("node3", 1..4));
    sim.heal();
    sim.run_until(60 * SECOND, Sim::agreed);
    sim.publish(addrs[2], "k", "4");
    sim.run(10 * SECOND);
    assert_eq!(received(&mut sim, addrs[1]), messages_of("node3", 4..5), "nothing twice");
    let heard = received(&mut sim, addrs[0]);
    assert_eq!(heard.last(), Some(&"node3: 4".to_owned()), "{heard:?}");
}

#[test]
fn the_first_words_after_a_clock_was_set_back_are_not_repeated_to_who_took_them() {
    let mut sim = Sim::new(101, Profile::Lan);
    sim.clock = 3600 * SECOND;
    let addrs = cluster(&mut sim, 3);
    sim.publish(addrs[2], "k", "0");
    sim.run(SECOND);
    assert_eq!(received(&mut sim, addrs[0]), messages_of("node3", 0..1));
    sim.clock = Duration::ZERO;
    sim.kill(addrs[1]);
    sim.kill(addrs[2]);
    sim.start("node3", 3, &["node1"]);
    sim.start("node2", 2, &["node3"]);
    sim.run_until(10 * SECOND, |sim| sim.view(addrs[2]).len() == 3 && sim.view(addrs[1]).len() >= 2);
    // node1, which knows the previous epoch, does not hear this before node2 has.
    sim.partition(&addrs[..1], &addrs[1..]);
    sim.publish(addrs[2], "k", "1");
    sim.run(Duration::from_millis(100));
    sim.heal();
    sim.run(10 * SECOND);
    assert_eq!(received(&mut sim, addrs[0]), messages_of("node3", 1..2), "those of the previous epoch, too");
    assert_eq!(received(&mut sim, addrs[1]), messages_of("node3", 1..2));
}

#[test]
fn what_reached_one_before_its_origin_crashed_reaches_all() {
    // Its very first message, and a later one.
    for before in [0, 5] {
        let mut sim = Sim::new(18, Profile::Lan);
        let addrs = cluster(&mut sim, 5);
        for number in 0..before {
            sim.publish(addrs[0], "k", &number.to_string());
        }
        sim.run(SECOND);
        sim.partition(&addrs[..1], &addrs[2..]);
        sim.publish(addrs[0], "k", &before.to_string());
        sim.run(Duration::from_millis(5));
        assert_eq!(received(&mut sim, addrs[1]), messages_of("node1", 0..before + 1), "it reached one");
        assert_eq!(received(&mut sim, addrs[4]), messages_of("node1", 0..before), "and no other");
        sim.kill(addrs[0]);
        sim.run(30 * SECOND);
        for addr in &addrs[2..] {
            let heard = received(&mut sim, *addr);
            assert_eq!(heard.last(), Some(&format!("node1: {before}")), "{addr}: {heard:?}");
        }
    }
}

#[test]
fn the_only_words_of_a_life_reach_who_had_heard_nothing_of_their_origin_yet() {
    // Also where the origin's clock is days ahead.
    for ahead in [0, 2 * 24 * 3600] {
        let mut sim = Sim::new(19, Profile::Lan);
        let mut addrs = vec![sim.start("node1", 1, &[]), sim.start("node2", 2, &["node1"])];
        sim.clock = ahead * SECOND;
        addrs.push(sim.start("node3", 3, &["node1"]));
        sim.run_until(30 * SECOND, Sim::agreed);
        sim.run(10 * SECOND);
        sim.partition(&addrs[1..2], &[addrs[0], addrs[2]]);
        sim.publish(addrs[2], "k", "0");
        sim.run(SECOND / 2);
        sim.kill(addrs[2]);
        sim.start("node3", 3, &["node1"]);
        sim.run(SECOND / 2);
        sim.heal();
        sim.publish(addrs[2], "k", "1");
        sim.run(90 * SECOND);
        let mut heard = received(&mut sim, addrs[1]);
        heard.sort();
        assert_eq!(heard, messages_of("node3", 0..2), "ahead by {ahead} s");
        // A node that joins now is owed nothing of the ended epoch.
        let newcomer = sim.start("node4", 4, &["node1"]);
        sim.run_until(30 * SECOND, Sim::agreed);
        sim.publish(addrs[2], "k", "2");
        sim.run(90 * SECOND);
        assert_eq!(received(&mut sim, newcomer), messages_of("node3", 2..3));
    }
}
