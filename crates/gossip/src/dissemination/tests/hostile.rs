//! Forgeries and garbage: bounded cost, a counter, no wrong delivery, and honest messages unharmed.

use bytes::Bytes;

use super::{
    super::control::{Challenge, SenderHeader, StreamDigest},
    *,
};
use crate::{
    dissemination::{Draft, MessageCounts, control::Control},
    node::Node,
    wire::{Message as Wire, packet},
};

const STRANGER: &str = "10.9.9.9:9";

/// Four nodes, each of which has published one message.
fn four() -> (Sim, Vec<SocketAddr>, SocketAddr) {
    let mut sim = Sim::new(7, Profile::Lan);
    // Epochs began before theirs.
    sim.clock = 1000 * SECOND;
    let addrs = cluster(&mut sim, 4);
    check_healthy(&mut sim, &addrs);
    (sim, addrs, STRANGER.parse().expect("an address"))
}

fn counters(sim: &mut Sim, addr: SocketAddr) -> MessageCounts {
    sim.node(addr).counters()
}

fn epoch(sim: &mut Sim, addr: SocketAddr) -> u64 {
    sim.node(addr).epoch()
}

fn forged(origin: &str, epoch: u64, seq: u64) -> Bytes {
    Draft::new("k", "\"forged\"", origin).finish(epoch, seq)
}

fn digest(origin: &[u8], epoch: u64, (base, next, floor): (u64, u64, u64)) -> StreamDigest<'_> {
    StreamDigest { origin, epoch, base, next, floor, start: None }
}

/// How many datagrams all send in 10 s.
fn datagrams(sim: &mut Sim) -> u64 {
    let before = sim.datagrams;
    sim.run(10 * SECOND);
    sim.datagrams - before
}

#[test]
fn a_forged_acknowledgement_is_counted_and_counts_for_nothing() {
    let (mut sim, addrs, stranger) = four();
    let node_epoch = epoch(&mut sim, addrs[0]);
    sim.partition(&addrs[..1], &addrs[1..]);
    sim.publish(addrs[0], "k", "\"unheard\"");
    let ack = |epoch, next| Control::Ack { epoch, receiver_epoch: 1, next: Some(next) }.encode();
    let before = counters(&mut sim, addrs[0]);
    sim.inject(stranger, addrs[0], ack(node_epoch, 2));
    assert_eq!(counters(&mut sim, addrs[0]).strangers, before.strangers + 1);
    // Nor does one count from a member's own address, or in its name, without the member's cookie.
    let by = SenderHeader { name: b"node2", echo: None };
    for next in [2, 3, 1 << 40, u64::MAX] {
        sim.inject(addrs[1], addrs[0], ack(node_epoch, next));
        let guessed = Control::CookieAck {
            epoch: node_epoch,
            receiver_epoch: 1,
            next: Some(next),
            cookie: Some(next),
            challenge: None,
        };
        sim.inject(stranger, addrs[0], guessed.encode_from(by));
    }
    assert_eq!(counters(&mut sim, addrs[0]).strangers, before.strangers + 9);
    for another in [node_epoch.wrapping_sub(2), node_epoch + 2, u64::MAX] {
        sim.inject(addrs[1], addrs[0], ack(another, 2));
    }
    assert_eq!(counters(&mut sim, addrs[0]).past_epochs, before.past_epochs + 3);
    assert_eq!(sim.node(addrs[0]).progress().stable, 1);
    assert_eq!(sim.node(addrs[0]).acked_by(1).0, 0);
    sim.heal();
    sim.run(SECOND);
    assert_eq!(sim.node(addrs[0]).progress().stable, 2);
    for addr in &addrs[1..] {
        assert_eq!(received(&mut sim, *addr), ["node1: \"unheard\""]);
    }
    check_healthy(&mut sim, &addrs);
}

#[test]
fn absurd_positions_cost_little_and_do_no_harm() {
    let (mut sim, addrs, stranger) = four();
    let node_epoch = epoch(&mut sim, addrs[1]);
    let quiet = datagrams(&mut sim);
    let before = counters(&mut sim, addrs[0]).strangers;
    let numbers = [0, 1, 5, 1 << 40, u64::MAX - 1, u64::MAX];
    let mut forgeries = 0;
    for base in numbers {
        for next in numbers {
            for floor in numbers {
                for epoch in [node_epoch, node_epoch - 2, node_epoch + 2, u64::MAX] {
                    let message = Control::Digest(vec![digest(b"node2", epoch, (base, next, floor))]).encode();
                    sim.inject(addrs[2], addrs[0], message.clone());
                    sim.inject(stranger, addrs[0], message);
                    forgeries += 1;
                }
            }
        }
    }
    assert!(counters(&mut sim, addrs[0]).strangers >= before + forgeries);
    assert!(counters(&mut sim, addrs[0]).unusable > 0, "an epoch in the far future is counted");
    let after = datagrams(&mut sim);
    assert!(after < quiet + 300, "{after} datagrams in 10 s, not {quiet}");
    let later = datagrams(&mut sim);
    assert!(later < quiet + 50, "{later} datagrams in 10 s, not {quiet}");
    check_bounds(&mut sim);
    check_healthy(&mut sim, &addrs);
}

#[test]
fn asking_in_a_members_name_again_and_again_floods_nobody() {
    let (mut sim, addrs, _) = four();
    let node_epoch = epoch(&mut sim, addrs[0]);
    // Kept for node4, so that node2, which has all of it, could be given it again.
    sim.pause(addrs[3]);
    let value = format!("\"{}\"", "x".repeat(1000));
    for _ in 0..64 {
        sim.publish(addrs[0], "k", &value);
    }
    sim.run(SECOND);
    let given = sim.node(addrs[0]).counters().retransmitted;
    let want = Control::RepairRequest { origin: b"node1", epoch: node_epoch, ranges: vec![(1, 64)] };
    for _ in 0..1000 {
        sim.inject(addrs[1], addrs[0], want.encode_from(SenderHeader { name: b"node2", echo: None }));
        sim.run(SECOND / 1000);
    }
    let repeated = sim.node(addrs[0]).counters().retransmitted - given;
    assert!((900..2200).contains(&repeated), "{repeated} of some 64,000 that were asked for");
    // A node that lacks something gets it all the same.
    sim.resume(addrs[3]);
    sim.run(20 * SECOND);
    assert_eq!(received(&mut sim, addrs[3]).len(), 64);
    received(&mut sim, addrs[1]);
    received(&mut sim, addrs[2]);
    check_healthy(&mut sim, &addrs);
}

#[test]
fn a_forged_floor_does_not_free_what_is_still_to_come() {
    let (mut sim, addrs, _) = four();
    let node_epoch = epoch(&mut sim, addrs[0]);
    let forged = Control::Digest(vec![digest(b"node1", node_epoch, (0, u64::MAX, u64::MAX))]).encode();
    sim.inject(addrs[2], addrs[1], forged);
    sim.run(SECOND);
    // Only node2 gets the last message of node1.
    sim.partition(&addrs[..1], &addrs[2..]);
    sim.publish(addrs[0], "k", "\"last\"");
    sim.run(SECOND / 100);
    sim.kill(addrs[0]);
    sim.run(10 * SECOND);
    for addr in &addrs[1..] {
        assert_eq!(received(&mut sim, *addr), ["node1: \"last\""]);
    }
}

#[test]
fn made_up_origins_by_the_thousand_are_counted_and_not_kept() {
    let (mut sim, addrs, stranger) = four();
    let node_epoch = epoch(&mut sim, addrs[1]);
    let quiet = datagrams(&mut sim);
    let before = counters(&mut sim, addrs[0]).strangers;
    for packet in 0..1000 {
        let names: Vec<_> = (0..20).map(|i| format!("made up {}", packet * 20 + i)).collect();
        let digests = names.iter().map(|name| digest(name.as_bytes(), node_epoch, (0, 9, 0))).collect();
        let message = Control::Digest(digests).encode();
        sim.inject(stranger, addrs[0], message.clone());
        sim.inject(addrs[2], addrs[0], message);
        sim.inject(stranger, addrs[0], forged(&names[0], node_epoch, 0));
    }
    assert_eq!(counters(&mut sim, addrs[0]).strangers, before + 1000 + 20_000 + 1000);
    let after = datagrams(&mut sim);
    assert!(after < quiet + 50, "{after} datagrams in 10 s, not {quiet}");
    check_healthy(&mut sim, &addrs);
}

#[test]
fn a_head_that_is_made_up_for_one_who_is_gone_is_neither_asked_for_for_ever_nor_told_as_missed() {
    let (mut sim, addrs, _) = four();
    let node_epoch = epoch(&mut sim, addrs[3]);
    sim.kill(addrs[3]);
    sim.run_until(60 * SECOND, Sim::agreed);
    let quiet = datagrams(&mut sim);
    let forged = Control::Digest(vec![digest(b"node4", node_epoch, (0, u64::MAX, 0))]).encode();
    sim.inject(addrs[1], addrs[0], forged);
    let after = datagrams(&mut sim);
    assert!(after < quiet + 60, "{after} datagrams in 10 s, not {quiet}");
    sim.run(150 * SECOND);
    let later = datagrams(&mut sim);
    assert!(later < quiet + 10, "{later} datagrams in 10 s, not {quiet}");
    check_healthy(&mut sim, &addrs[..3]);
}

#[test]
fn what_only_the_dead_had_is_told_as_missed() {
    let (mut sim, addrs, _) = four();
    // Only node3 gets the last message of node4. It tells node1 so, and both die before they can retransmit it.
    sim.partition(&addrs[3..], &addrs[..2]);
    sim.publish(addrs[3], "k", "\"last\"");
    sim.run(SECOND / 100);
    let node_epoch = epoch(&mut sim, addrs[3]);
    let true_word = Control::Digest(vec![digest(b"node4", node_epoch, (1, 2, 0))]).encode();
    sim.kill(addrs[3]);
    sim.kill(addrs[2]);
    sim.inject(addrs[2], addrs[0], true_word);
    sim.run(300 * SECOND);
    assert_eq!(received(&mut sim, addrs[0]), ["missed 1 to 2 of node4"]);
    assert_eq!(sim.node(addrs[0]).counters().missed, 1);
}

#[test]
fn a_forged_request_is_answered_to_members_only_and_within_bounds() {
    let (mut sim, addrs, stranger) = four();
    let node_epoch = epoch(&mut sim, addrs[0]);
    sim.partition(&addrs[..1], &addrs[1..]);
    for _ in 0..200 {
        sim.publish(addrs[0], "k", &format!("\"{}\"", "x".repeat(900)));
    }
    let ranges = vec![(0, u64::MAX), (u64::MAX, u64::MAX), (1 << 40, 1 << 40), (1, u64::MAX - 1)];
    let want = |origin: &[u8], epoch| Control::RepairRequest { origin, epoch, ranges: ranges.clone() }.encode();
    let (before, strangers) = (sim.datagrams, counters(&mut sim, addrs[0]).strangers);
    for _ in 0..100 {
        sim.inject(stranger, addrs[0], want(b"node1", node_epoch));
        sim.inject(stranger, addrs[0], want(b"node2", node_epoch));
    }
    assert_eq!(sim.datagrams, before, "nothing is reflected");
    assert_eq!(counters(&mut sim, addrs[0]).strangers, strangers + 200);
    for (origin, epoch) in [("node1", node_epoch), ("node1", node_epoch + 2), ("node2", node_epoch), ("nobody", 7)] {
        let before = sim.datagrams;
        sim.inject(addrs[1], addrs[0], want(origin.as_bytes(), epoch));
        assert!(sim.datagrams - before < 80, "{} datagrams for one", sim.datagrams - before);
    }
    sim.heal();
    sim.run(10 * SECOND);
    for addr in &addrs[1..] {
        assert_eq!(received(&mut sim, *addr).len(), 200);
    }
    check_healthy(&mut sim, &addrs);
}

#[test]
fn a_number_far_ahead_is_refused_or_forgotten() {
    let (mut sim, addrs, stranger) = four();
    let node_epoch = epoch(&mut sim, addrs[1]);
    let quiet = datagrams(&mut sim);
    let before = counters(&mut sim, addrs[0]).unusable;
    for seq in [u64::MAX, u64::MAX - 1, 1 << 40, (1 << 16) + 2] {
        sim.inject(stranger, addrs[0], forged("node2", node_epoch, seq));
        sim.inject(addrs[1], addrs[0], forged("node2", node_epoch, seq));
    }
    assert_eq!(counters(&mut sim, addrs[0]).unusable, before + 8);
    // These could exist: the gap is requested until the origin says that it has no such messages.
    for seq in [5, 1000, 60_000] {
        sim.inject(addrs[1], addrs[0], forged("node2", node_epoch, seq));
    }
    let after = datagrams(&mut sim);
    assert!(after < quiet + 150, "{after} datagrams in 10 s, not {quiet}");
    let later = datagrams(&mut sim);
    assert!(later < quiet + 10, "{later} datagrams in 10 s, not {quiet}");
    for number in 0..10 {
        sim.publish(addrs[1], "k", &number.to_string());
    }
    sim.run(SECOND);
    for addr in [addrs[0], addrs[2], addrs[3]] {
        assert_eq!(received(&mut sim, addr), messages_of("node2", 0..10));
    }
    check_healthy(&mut sim, &addrs);
}

#[test]
fn a_life_that_is_over_or_cannot_have_begun_is_not_listened_to() {
    let (mut sim, addrs, _) = four();
    let node_epoch = epoch(&mut sim, addrs[1]);
    let before = counters(&mut sim, addrs[0]);
    for former in [0, 2, node_epoch - 2] {
        sim.inject(addrs[1], addrs[0], forged("node2", former, 0));
    }
    let days = 3 * 24 * 60 * 60 * 1_000_000;
    for future in [node_epoch + 2 * days, u64::MAX - 1] {
        sim.inject(addrs[1], addrs[0], forged("node2", future, 0));
    }
    let after = counters(&mut sim, addrs[0]);
    assert_eq!((after.past_epochs - before.past_epochs, after.unusable - before.unusable), (3, 2));
    assert_eq!(received(&mut sim, addrs[0]), [""; 0]);
    sim.run(SECOND);
    check_healthy(&mut sim, &addrs);
}

#[test]
fn a_later_life_that_is_made_up_ends_with_the_origin_in_a_later_one_still() {
    let (mut sim, addrs, _) = four();
    let node_epoch = epoch(&mut sim, addrs[1]);
    for later in [node_epoch + 2, node_epoch + 1000] {
        let made_up = Control::Digest(vec![digest(b"node2", later, (0, 7, 0))]).encode();
        sim.inject(addrs[2], addrs[0], made_up);
    }
    sim.run(5 * SECOND);
    check_healthy(&mut sim, &addrs);
    sim.run(30 * SECOND);
    check_healthy(&mut sim, &addrs);
}

#[test]
fn garbage_is_counted() {
    let (mut sim, addrs, _) = four();
    let user = |payload: &[u8]| packet::encode_message(&Wire::User(Bytes::copy_from_slice(payload)));
    let count = |node: &mut Node| node.counters().unusable;
    for garbage in
        [&b"no JSON"[..], b"[1]", b"{\"key\":1,\"value\":1}", b"{\"value\":1}", b"\xff\xfe{}", b"{\"key\":\"\xc3\"}"]
    {
        let before = count(sim.node(addrs[0]));
        sim.inject(addrs[1], addrs[0], user(garbage));
        assert_eq!(count(sim.node(addrs[0])), before + 1, "{garbage:?}");
    }
    let node_epoch = epoch(&mut sim, addrs[0]);
    for whole in [
        Control::Ack { epoch: node_epoch, receiver_epoch: 1 << 40, next: Some(1 << 40) }.encode(),
        Control::Digest(vec![digest(b"node2", node_epoch, (1, 1, 1))]).encode(),
        Control::RepairRequest { origin: b"node1", epoch: node_epoch, ranges: vec![(0, 1 << 30)] }.encode(),
    ] {
        let before = count(sim.node(addrs[0]));
        for end in 2..whole.len() {
            sim.inject(addrs[1], addrs[0], whole.slice(..end));
        }
        assert!(count(sim.node(addrs[0])) >= before + 4, "{whole:?}");
    }
    sim.run(SECOND);
    check_healthy(&mut sim, &addrs);
}

/// Every number that a stranger can send, at its limits and beyond all that can be, in a member's name and from its
/// address.
const FAR: [u64; 8] = [0, 1, (1 << 16) + 1, 1 << 32, 1 << 40, 1 << 63, u64::MAX - 1, u64::MAX];

#[test]
fn no_number_in_what_is_said_besides_messages_stops_anything() {
    let (mut sim, addrs, stranger) = four();
    let node_epoch = epoch(&mut sim, addrs[0]);
    for one in FAR {
        for other in FAR {
            let challenge = Some(Challenge { nonce: one, age: other });
            let members = vec![(&b"node3"[..], one), (b"nobody", other)];
            for epoch in [node_epoch, node_epoch + 1, one] {
                let said = [
                    Control::CookieAck {
                        epoch,
                        receiver_epoch: other,
                        next: Some(one),
                        cookie: Some(other),
                        challenge,
                    },
                    Control::CookieAck { epoch, receiver_epoch: one, next: None, cookie: None, challenge },
                    Control::Ack { epoch, receiver_epoch: one, next: Some(other) },
                    Control::Ack { epoch, receiver_epoch: one, next: None },
                    Control::RepairRequest { origin: b"node1", epoch, ranges: vec![(one, other); 3] },
                    Control::RepairRequest { origin: b"node3", epoch, ranges: vec![(one, other)] },
                    Control::AckReport { epoch, members: members.clone() },
                    Control::Digest(vec![StreamDigest {
                        start: Some(StreamStart { seq: one, receiver_epoch: other, cookie: Some(one) }),
                        ..digest(b"node2", epoch, (0, other, 0))
                    }]),
                ];
                for said in said {
                    sim.inject(addrs[1], addrs[0], said.encode());
                    sim.inject(stranger, addrs[0], said.encode_from(SenderHeader { name: b"node2", echo: challenge }));
                }
            }
        }
    }
    sim.run(30 * SECOND);
    check_bounds(&mut sim);
    for addr in &addrs {
        received(&mut sim, *addr);
    }
    check_healthy(&mut sim, &addrs);
}

#[test]
fn whatever_is_made_up_before_a_node_says_anything_it_is_heard_from_its_first_word_on() {
    for far in [1 << 32, 1 << 63, u64::MAX - 1, u64::MAX] {
        let (mut sim, mut addrs, stranger) = four();
        let silent = sim.start("node5", 5, &["node1"]);
        sim.run_until(30 * SECOND, Sim::agreed);
        let node_epoch = epoch(&mut sim, silent);
        for addr in &addrs {
            let made_up = Control::Digest(vec![digest(b"node5", node_epoch, (far, far, far))]);
            sim.inject(addrs[1], *addr, made_up.encode());
            sim.inject(stranger, *addr, made_up.encode_from(SenderHeader { name: b"node5", echo: None }));
            sim.inject(stranger, *addr, forged("node5", node_epoch, far));
        }
        // It is taken for the node's own message while that publishes nothing.
        sim.run(60 * SECOND);
        for addr in &addrs {
            received(&mut sim, *addr);
        }
        for number in 0..10 {
            sim.publish(silent, "k", &number.to_string());
            sim.run(SECOND);
        }
        sim.run(10 * SECOND);
        for addr in &addrs {
            let told = received(&mut sim, *addr);
            let heard: Vec<_> = told.iter().filter(|line| line.starts_with("node5: ")).cloned().collect();
            assert_eq!(heard, messages_of("node5", 0..10), "{far}, at {addr}: {told:?}");
        }
        check_bounds(&mut sim);
        addrs.push(silent);
        check_healthy(&mut sim, &addrs);
    }
}
