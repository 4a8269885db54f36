//! Shows the checker wrong histories; it must object to each.

use super::*;

const STRICT: Guarantees = Guarantees { complete: true, ordered: true };
const LAX: Guarantees = Guarantees { complete: false, ordered: false };
const SECOND: VirtualTime = 1_000_000_000;

fn value(seq: u64) -> String {
    format!("\"value {seq}\"")
}

/// Three hosts that run; host 0 has published five messages of epoch 7, one each second.
fn history(guarantees: Guarantees, missing_allowed: bool) -> Checker {
    let mut checker = Checker::new(4, guarantees, missing_allowed);
    for host in 0..3 {
        checker.node_started(host);
        checker.oblige(0, host);
    }
    for seq in 0..5 {
        let at = (seq + 1) * SECOND;
        checker.published(at, 0, MessageId { epoch: 7, seq }, "k", &value(seq)).expect("it may publish");
    }
    checker
}

fn deliver(checker: &mut Checker, host: HostId, seq: u64) -> CheckResult {
    let value = value(seq);
    let id = Some(MessageId { epoch: 7, seq });
    checker.delivered(10 * SECOND, host, &DeliveryEvent { origin: 0, id, key: "k", value: &value, hops: 1 })
}

fn objects(check: CheckResult, word: &str) {
    let violation = check.expect_err("this is wrong");
    assert!(violation.contains(word), "{violation}");
}

#[test]
fn a_right_history_is_right() {
    let mut checker = history(STRICT, false);
    for host in [1, 2] {
        for seq in 0..5 {
            deliver(&mut checker, host, seq).expect("it is the next");
        }
    }
    let completeness = checker.completeness();
    assert_eq!(completeness, Completeness { expected: 10, delivered: 10, first_missing: None });
    assert_eq!(checker.last_deliveries().0.max(), Some(Duration::from_secs(9)));
}

#[test]
fn twice_is_once_too_often_whatever_is_promised() {
    for guarantees in [STRICT, LAX] {
        let mut checker = history(guarantees, true);
        deliver(&mut checker, 1, 0).expect("it is the first");
        objects(deliver(&mut checker, 1, 0), "delivered twice");
        assert_eq!(checker.counts.duplicates, 1);
    }
}

#[test]
fn order_and_gaps_matter_where_order_is_promised() {
    let mut checker = history(STRICT, false);
    deliver(&mut checker, 1, 0).expect("it is the first");
    objects(deliver(&mut checker, 1, 2), "1 was skipped in silence");
    objects(deliver(&mut checker, 1, 1), "was delivered after 7/2");

    let mut checker = history(LAX, false);
    for seq in [2, 0, 1] {
        deliver(&mut checker, 1, seq).expect("any order will do");
    }
    assert_eq!(checker.counts.disorder, 2);
}

#[test]
fn a_stream_that_goes_on_in_a_later_life_is_the_same() {
    let mut checker = history(STRICT, false);
    deliver(&mut checker, 1, 0).expect("it is the first");
    checker.set_epoch(0, 9);
    let (second, at) = (value(1), 10 * SECOND);
    let id = Some(MessageId { epoch: 9, seq: 1 });
    let again = DeliveryEvent { origin: 0, id, key: "k", value: &second, hops: 1 };
    checker.delivered(at, 1, &again).expect("it is the next");
    objects(checker.delivered(at, 1, &again), "delivered twice");
    objects(deliver(&mut checker, 1, 1), "delivered twice");
    checker.published(at, 0, MessageId { epoch: 9, seq: 5 }, "k", "1").expect("it goes on");
}

#[test]
fn what_is_altered_or_invented_is_found() {
    let mut checker = history(LAX, false);
    let first = DeliveryEvent { origin: 0, id: Some(MessageId { epoch: 7, seq: 0 }), key: "k", value: "1", hops: 0 };
    let mut check = |delivery: DeliveryEvent<'_>| checker.delivered(SECOND, 1, &delivery);
    objects(check(first), "altered");
    objects(check(DeliveryEvent { key: "\"value", value: "0\"", ..first }), "altered");
    objects(check(DeliveryEvent { id: None, ..first }), "without an identity");
    for (origin, epoch, seq) in [(1, 7, 0), (0, 8, 0), (0, 7, 5), (0, 7, u64::MAX)] {
        let id = Some(MessageId { epoch, seq });
        objects(check(DeliveryEvent { origin, id, ..first }), "never published");
    }
    objects(deliver(&mut checker, 0, 0), "to its origin");
    objects(deliver(&mut checker, 3, 0), "does not run");
}

#[test]
fn what_is_lacking_is_found() {
    let mut checker = history(STRICT, false);
    for seq in 0..5 {
        deliver(&mut checker, 1, seq).expect("it is the next");
    }
    for seq in 0..3 {
        deliver(&mut checker, 2, seq).expect("it is the next");
    }
    let completeness = checker.completeness();
    assert_eq!((completeness.expected, completeness.delivered), (10, 8));
    assert!(completeness.first_missing.expect("it lacks two").contains("host 2 lacks 7/3 of host 0"));
    // One that ends is owed nothing.
    checker.node_ended(2);
    assert_eq!(checker.completeness(), Completeness { expected: 5, delivered: 5, first_missing: None });
}

#[test]
fn a_late_joiner_is_owed_what_is_published_after() {
    let mut checker = history(STRICT, false);
    checker.node_started(3);
    checker.oblige(4 * SECOND, 3);
    deliver(&mut checker, 3, 3).expect("it may start anywhere");
    objects(deliver(&mut checker, 3, 2), "was delivered after");
    let lacks = checker.completeness().first_missing.expect("hosts 1 and 2 lack everything");
    assert!(lacks.contains("host 1 lacks 7/0"), "{lacks}");
    checker.node_ended(1);
    checker.node_ended(2);
    assert_eq!(checker.completeness().expected, 2);
    assert!(checker.completeness().first_missing.expect("it lacks the last").contains("host 3 lacks 7/4"));
}

#[test]
fn of_an_origin_that_ended_only_what_somebody_has_is_owed() {
    let mut checker = history(STRICT, false);
    deliver(&mut checker, 1, 0).expect("it is the first");
    deliver(&mut checker, 1, 1).expect("it is the next");
    checker.node_ended(0);
    let completeness = checker.completeness();
    assert_eq!((completeness.expected, completeness.delivered), (4, 2));
    assert!(completeness.first_missing.expect("host 2 lacks both").contains("host 2 lacks 7/0"));
    objects(checker.clone().missed(109 * SECOND, 2, 0, 7, (0, 0)), "but host 1 had them lately");
    checker.missed(111 * SECOND, 2, 0, 7, (0, 0)).expect("its origin is gone, and nobody keeps them that long");
    deliver(&mut checker, 2, 1).expect("it is the next");
    assert_eq!(checker.completeness().first_missing, None);
}

#[test]
fn who_was_known_once_is_owed_what_follows_even_if_it_is_forgotten() {
    let mut checker = history(STRICT, false);
    let lacks = |checker: &Checker| checker.completeness().first_missing;
    let publish = |checker: &mut Checker, seq: u64, known: &[HostId]| {
        let id = MessageId { epoch: 7, seq };
        checker.published(11 * SECOND, 0, id, "k", &value(seq)).expect("it may publish");
        checker.members_known(0, |host| known.contains(&host));
    };
    publish(&mut checker, 5, &[1]);
    for seq in 0..6 {
        deliver(&mut checker, 1, seq).expect("it is the next");
    }
    assert_eq!(lacks(&checker), None, "host 2 was unknown to all of it");
    publish(&mut checker, 6, &[1, 2]);
    deliver(&mut checker, 1, 6).expect("it is the next");
    deliver(&mut checker, 2, 6).expect("it may start there");
    publish(&mut checker, 7, &[]);
    assert!(lacks(&checker).expect("both lack it").contains("host 1 lacks 7/7"));
    deliver(&mut checker, 1, 7).expect("it is the next");
    assert!(lacks(&checker).expect("it lacks it").contains("host 2 lacks 7/7"));
}

#[test]
fn a_receipt_counts_only_who_has_the_message_or_was_told() {
    let mut checker = history(STRICT, true);
    checker.members_known(0, |_| true);
    checker.check_receipt(0, 0, 0).expect("nobody has it");
    objects(checker.check_receipt(0, 0, 1), "says that 1 nodes have message 0, but 0 have");
    deliver(&mut checker, 1, 0).expect("it is the first");
    checker.missed(10 * SECOND, 2, 0, 7, (0, 1)).expect("loss is allowed");
    checker.check_receipt(0, 0, 2).expect("one has it, one was told");
    objects(checker.check_receipt(0, 1, 2), "but 1 have");
    assert_eq!([0, 1, 2].map(|seq| checker.delivered_count(0, seq)), [2, 1, 0]);
}

#[test]
fn a_reported_loss_counts_only_where_it_is_allowed_and_true() {
    let mut checker = history(STRICT, false);
    objects(checker.missed(10 * SECOND, 1, 0, 7, (0, 1)), "allows for no loss");

    let mut checker = history(STRICT, true);
    deliver(&mut checker, 1, 0).expect("it is the first");
    objects(checker.missed(10 * SECOND, 1, 0, 7, (0, 1)), "delivered or reported before");
    checker.missed(10 * SECOND, 1, 0, 7, (1, 2)).expect("loss is allowed");
    objects(checker.missed(10 * SECOND, 1, 0, 7, (2, 3)), "delivered or reported before");
    objects(deliver(&mut checker, 1, 1), "after it had been reported");
    deliver(&mut checker, 1, 3).expect("it follows what is missed");
    for (from, to) in [(4, 5), (4, 3), (9, 9)] {
        objects(checker.missed(10 * SECOND, 1, 0, 7, (from, to)), "never published");
    }
    assert_eq!(checker.counts.missed, 2);
}

#[test]
fn a_node_publishes_in_its_own_order() {
    let mut checker = history(STRICT, false);
    for (epoch, seq) in [(7, 4), (7, 6), (8, 5)] {
        objects(checker.published(SECOND, 0, MessageId { epoch, seq }, "k", "1"), "after 5 messages");
    }
    objects(checker.published(SECOND, 3, MessageId { epoch: 1, seq: 0 }, "k", "1"), "does not run");
}

#[test]
fn a_node_that_gives_itself_up_is_found() {
    let mut checker = history(LAX, false);
    checker.check_own_state(1, MemberState::Alive, 3, false).expect("it is well");
    checker.check_own_state(1, MemberState::Left, 3, true).expect("it leaves");
    objects(checker.check_own_state(1, MemberState::Dead, 3, false), "declares itself Dead");
    objects(checker.check_own_state(1, MemberState::Left, 3, false), "declares itself Left");
    objects(checker.check_own_state(1, MemberState::Alive, 2, false), "falls from 3 to 2");
    checker.node_started(1);
    checker.check_own_state(1, MemberState::Alive, 1, false).expect("another life");
}

#[test]
fn an_incarnation_that_falls_in_a_view_is_found() {
    let at = |port| SocketAddr::from(([10, 0, 0, 2], port));
    let mut checker = history(LAX, false);
    checker.check_view(1, [(2, at(1), 5)].into_iter()).expect("it is new");
    checker.check_view(1, [(2, at(2), 1)].into_iter()).expect("it has moved");
    checker.check_view(1, [(2, at(2), 3)].into_iter()).expect("it rises");
    objects(checker.check_view(1, [(2, at(2), 2)].into_iter()), "falls from 3 to 2");
    checker.check_view(1, [].into_iter()).expect("it is forgotten");
    checker.check_view(1, [(2, at(2), 1)].into_iter()).expect("it is new again");
}

#[test]
fn more_than_the_bound_is_too_much() {
    let mut checker = history(LAX, false);
    let size = |held| Size { what: "messages", held, bound: 10 };
    checker.check_sizes([size(10)]).expect("it is within its bound");
    checker.check_sizes([size(3)]).expect("it is within its bound");
    assert_eq!(checker.counts.sizes, [size(10)]);
    objects(checker.check_sizes([size(11)]), "11 messages, more than its bound of 10");
}
