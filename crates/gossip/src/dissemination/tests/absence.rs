//! A node that was away, for however long, continues from where it was, and is told what nobody keeps any more.

use super::{super::outbound::OutboundLog, *};
use crate::{
    config::Seed,
    node::AdvertisedHost,
    wire::{Dead, Message as Wire, packet},
};

/// Checks what a node was told of an origin that published the numbers from 0 to `end`: each was delivered or reported as
/// missed, once, in order. Gives how many were missed.
fn check_unbroken(sim: &mut Sim, addr: SocketAddr, origin: &str, end: u64) -> u64 {
    let (mut next, mut missed) = (0, 0);
    for told in sim.events(addr) {
        match told {
            Ok(message) if *message.origin() == *origin => {
                let number: u64 = message.value().parse().expect("a number");
                assert_eq!(number, next, "{addr} skipped some of {origin} in silence, or heard them twice");
                next += 1;
            }
            Err(Event::Missed { origin: of, from, to, .. }) if of == *origin => {
                assert_eq!(from, next, "{addr} skipped some of {origin} in silence");
                (next, missed) = (to, missed + to - from);
            }
            _ => {}
        }
    }
    assert_eq!(next, end, "{addr} lacks the last ones of {origin}");
    missed
}

fn say(sim: &mut Sim, addr: SocketAddr, numbers: std::ops::Range<u64>, every: Duration) {
    for number in numbers {
        sim.publish(addr, "k", &number.to_string());
        sim.run(every);
    }
}

#[test]
fn who_was_away_for_longer_than_it_is_kept_for_is_told_what_it_missed() {
    for (seed, paused) in [(1, false), (2, true)] {
        let mut sim = Sim::new(seed, Profile::Lan);
        let addrs = cluster(&mut sim, 5);
        say(&mut sim, addrs[0], 0..5, TURN);
        if paused {
            sim.pause(addrs[4]);
        } else {
            sim.partition(&addrs[4..], &addrs[..4]);
        }
        say(&mut sim, addrs[0], 5..200, SECOND);
        if paused {
            sim.resume(addrs[4]);
        } else {
            sim.heal();
        }
        sim.run_until(60 * SECOND, Sim::agreed);
        say(&mut sim, addrs[0], 200..210, TURN);
        sim.run(10 * SECOND);
        let missed = check_unbroken(&mut sim, addrs[4], "node1", 210);
        assert!(missed > 0, "nobody has kept all of it");
        for addr in &addrs[1..4] {
            assert_eq!(check_unbroken(&mut sim, *addr, "node1", 210), 0);
        }
    }
}

#[test]
fn who_was_away_before_it_had_heard_anything_is_told_what_it_missed_too() {
    let mut sim = Sim::new(4, Profile::Lan);
    let addrs = cluster(&mut sim, 5);
    sim.partition(&addrs[4..], &addrs[..4]);
    say(&mut sim, addrs[0], 0..200, SECOND);
    sim.heal();
    sim.run_until(60 * SECOND, Sim::agreed);
    say(&mut sim, addrs[0], 200..210, TURN);
    sim.run(10 * SECOND);
    assert!(check_unbroken(&mut sim, addrs[4], "node1", 210) > 0, "nobody has kept all of it");
}

#[test]
fn who_is_said_to_have_left_and_has_not_loses_nothing() {
    for seed in 1..6 {
        let mut sim = Sim::new(seed, Profile::Lan);
        let addrs = cluster(&mut sim, 4);
        sim.loss = 0.3;
        for turn in 0..60 {
            sim.publish(addrs[0], "k", &turn.to_string());
            if turn % 12 == 6 {
                let incarnation = sim.member(addrs[3], "node4").incarnation;
                let left = Dead { incarnation, node: "node4".into(), from: "node4".into() };
                for addr in &addrs[..3] {
                    sim.inject(addrs[3], *addr, packet::encode_message(&Wire::Dead(left.clone())));
                }
            }
            sim.run(TURN / 2);
        }
        sim.run(30 * SECOND);
        assert_eq!(check_unbroken(&mut sim, addrs[3], "node1", 60), 0, "seed {seed}");
    }
}

#[test]
fn who_moves_goes_on_where_it_was() {
    let mut sim = Sim::new(3, Profile::Lan);
    let mut addrs = cluster(&mut sim, 4);
    say(&mut sim, addrs[0], 0..5, TURN);
    let host: Seed = "gateway".parse().expect("a name");
    sim.alias("gateway", &addrs[3..]);
    let now = sim.now;
    sim.node(addrs[3]).follow(now, AdvertisedHost { host, ipv6: false });
    addrs[3] = sim.relocate(addrs[3], 9);
    sim.alias("gateway", &addrs[3..]);
    // It receives nothing until it has noticed the move.
    say(&mut sim, addrs[0], 5..15, TURN);
    let new = addrs[3];
    sim.run_until(40 * SECOND, |sim| sim.find(addrs[0], "node4").is_some_and(|member| member.addr == new));
    say(&mut sim, addrs[0], 15..20, TURN);
    sim.run(10 * SECOND);
    assert_eq!(check_unbroken(&mut sim, addrs[3], "node1", 20), 0);
}

#[test]
fn a_short_life_in_between_is_heard_in_whole() {
    for seed in 1..5 {
        let mut sim = Sim::new(seed, Profile::Lan);
        let addrs = cluster(&mut sim, 5);
        say(&mut sim, addrs[0], 0..3, TURN);
        sim.run(SECOND);
        sim.partition(&addrs[4..], &addrs[..4]);
        sim.kill(addrs[0]);
        sim.start("node1", 1, &["node2"]);
        sim.run(SECOND / 2);
        say(&mut sim, addrs[0], 3..12, SECOND / 20);
        sim.run(SECOND / 2);
        sim.kill(addrs[0]);
        sim.start("node1", 1, &["node2"]);
        sim.run(SECOND / 2);
        sim.heal();
        sim.run(2 * SECOND);
        say(&mut sim, addrs[0], 12..15, TURN);
        sim.run(20 * SECOND);
        for addr in &addrs[1..4] {
            assert_eq!(received(&mut sim, *addr), messages_of("node1", 0..15), "{addr}, seed {seed}");
        }
        let mut heard = received(&mut sim, addrs[4]);
        heard.sort_by_key(|line| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()));
        assert_eq!(heard, messages_of("node1", 0..15), "seed {seed}");
    }
}

#[test]
fn what_a_dead_origin_said_is_kept_for_two_minutes_however_soon_it_is_forgotten() {
    for profile in [Profile::Local, Profile::Lan] {
        let mut sim = Sim::new(4, profile);
        let addrs = cluster(&mut sim, 4);
        say(&mut sim, addrs[1], 0..5, TURN);
        sim.partition(&addrs[3..], &addrs[..3]);
        say(&mut sim, addrs[1], 5..15, TURN);
        sim.kill(addrs[1]);
        sim.run(90 * SECOND);
        sim.heal();
        sim.run(30 * SECOND);
        assert_eq!(check_unbroken(&mut sim, addrs[3], "node2", 15), 0, "{profile:?}");
    }
}

#[test]
fn who_is_said_to_have_left_when_an_origin_first_speaks_hears_it_all_the_same() {
    let mut sim = Sim::new(23, Profile::Lan);
    let addrs = cluster(&mut sim, 4);
    let incarnation = sim.member(addrs[0], "node4").incarnation;
    let left = Dead { incarnation, node: "node4".into(), from: "node4".into() };
    sim.inject(addrs[3], addrs[0], packet::encode_message(&Wire::Dead(left)));
    assert!(sim.find(addrs[0], "node4").is_none());
    say(&mut sim, addrs[0], 0..5, TURN / 100);
    sim.run_until(60 * SECOND, Sim::agreed);
    say(&mut sim, addrs[0], 5..10, TURN);
    sim.run(5 * SECOND);
    assert_eq!(check_unbroken(&mut sim, addrs[3], "node1", 10), 0);
}

#[test]
fn what_is_offered_to_one_that_was_there_before_is_kept_until_it_has_it() {
    let now = Instant::now();
    let mut outbound = OutboundLog::new(now, 100, Retention::default());
    let add = |outbound: &mut OutboundLog, i: u16| {
        outbound.add_peer(
            SocketAddr::from(([10, 0, 0, 1], i)),
            &format!("node{i}").as_str().into(),
            Some(i.into()),
            true,
        );
    };
    add(&mut outbound, 2);
    for message in [&b"zero"[..], b"one"] {
        outbound.push(message.to_vec().into());
    }
    assert_eq!(outbound.take_unsent().len(), 2);
    add(&mut outbound, 3);
    let start = outbound.start_for(b"node3", 7, -1).expect("it is a peer");
    assert_eq!(start.seq, 0, "it was running before this node");
    outbound.ack(b"node2", 5, 2).expect("it is a peer");
    assert_eq!((outbound.floor(), outbound.base()), (0, 0), "of what was offered nothing is gone");
    outbound.ack(b"node3", 7, 2).expect("it is a peer");
    assert_eq!((outbound.floor(), outbound.base()), (2, 2));
    // A peer that came later is offered nothing of it.
    add(&mut outbound, 4);
    assert_eq!(outbound.start_for(b"node4", 9, 1).map(|start| start.seq), Some(2));
}

#[test]
fn who_was_held_for_failed_when_an_origin_restarted_is_told_what_it_missed() {
    for (seed, spoke) in [(31, false), (32, true), (33, false), (34, true)] {
        let mut sim = Sim::new(seed, Profile::Lan);
        let addrs = cluster(&mut sim, 4);
        if spoke {
            say(&mut sim, addrs[0], 0..3, TURN);
            assert_eq!(check_unbroken(&mut sim, addrs[3], "node1", 3), 0);
        }
        sim.partition(&addrs[3..], &addrs[..3]);
        sim.run_until(60 * SECOND, |sim| sim.find(addrs[1], "node4").is_none());
        sim.kill(addrs[0]);
        sim.start("node1", 1, &["node2"]);
        sim.partition(&addrs[3..], &addrs[..3]);
        sim.run_until(60 * SECOND, |sim| sim.view(addrs[0]).len() == 3 && sim.view(addrs[1]).len() == 3);
        say(&mut sim, addrs[0], 0..5, TURN);
        sim.run(SECOND);
        sim.heal();
        sim.run_until(60 * SECOND, Sim::agreed);
        say(&mut sim, addrs[0], 5..8, TURN);
        sim.run(10 * SECOND);
        assert_eq!(check_unbroken(&mut sim, addrs[3], "node1", 8), 5, "seed {seed}");
        // A newcomer starts with what is published then, and misses nothing.
        let new = sim.start("node5", 5, &["node2"]);
        sim.run_until(60 * SECOND, Sim::agreed);
        sim.run(10 * SECOND);
        say(&mut sim, addrs[0], 8..10, TURN);
        sim.run(SECOND);
        assert_eq!(received(&mut sim, new), messages_of("node1", 8..10));
    }
}
