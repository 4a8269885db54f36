use std::time::Duration;

use super::{Error, LeaseTimers, Leases, Outcome};

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn leading(leases: &[(i64, i64)]) -> LeaseTimers {
    let mut granted = Leases::default();
    for (lease, ttl) in leases {
        granted.grant(*lease, *ttl).expect("a lease as good as any");
    }
    let mut timers = LeaseTimers::new();
    timers.lead(at(100), 7, &granted);
    timers
}

#[test]
fn a_new_leader_starts_all_in_full() {
    let mut timers = leading(&[(1, 10), (2, 5)]);
    assert_eq!(timers.term(), Some(7));
    assert_eq!(timers.next_deadline(), Some(at(105)));
    assert!(timers.due(at(104), 10).is_empty());
    assert_eq!(timers.due(at(105), 10), [2]);
    assert_eq!(timers.due(at(200), 10), [1]);
    assert_eq!(timers.next_deadline(), None);
}

#[test]
fn who_does_not_lead_times_nothing() {
    let mut timers = leading(&[(1, 10)]);
    timers.follow();
    timers.granted(at(100), 2, 3);
    assert_eq!((timers.term(), timers.next_deadline()), (None, None));
    assert_eq!(timers.keep_alive(at(100), 1), None);
    assert_eq!(timers.remaining(at(100), 1), None);
    assert!(timers.due(at(1000), 10).is_empty());
}

#[test]
fn a_keepalive_gives_the_full_time_from_when_it_is_confirmed() {
    let mut timers = leading(&[(1, 10), (2, 12)]);
    assert_eq!(timers.remaining(at(109), 1), Some(at(1)));
    assert_eq!(timers.keep_alive(at(109), 1), Some(at(10)));
    assert_eq!(timers.remaining(at(109), 1), Some(at(10)));
    assert_eq!(timers.due(at(118), 10), [2]);
    assert_eq!(timers.due(at(119), 10), [1]);
    assert_eq!(timers.keep_alive(at(119), 3), None);
}

#[test]
fn a_lease_with_an_expiry_under_way_cannot_be_kept_alive() {
    let mut timers = leading(&[(1, 10)]);
    assert_eq!(timers.due(at(110), 10), [1]);
    assert_eq!(timers.keep_alive(at(110), 1), None);
    assert_eq!(timers.remaining(at(110), 1), Some(Duration::ZERO));
    assert!(timers.due(at(110), 10).is_empty(), "it is proposed once");
    timers.retry(at(115), 1);
    assert_eq!(timers.keep_alive(at(111), 1), None);
    assert_eq!(timers.next_deadline(), Some(at(115)));
    assert!(timers.due(at(114), 10).is_empty());
    assert_eq!(timers.due(at(115), 10), [1]);
    timers.ended(1);
    timers.retry(at(116), 1);
    assert!(timers.due(at(1000), 10).is_empty());
    assert_eq!(timers.remaining(at(116), 1), None);
}

#[test]
fn a_retry_does_not_touch_what_is_not_expiring() {
    let mut timers = leading(&[(1, 10)]);
    timers.retry(at(101), 1);
    assert_eq!(timers.next_deadline(), Some(at(110)));
}

#[test]
fn those_that_ran_out_longest_ago_come_first_and_not_too_many() {
    let mut timers = leading(&[(1, 30), (2, 10), (3, 20), (4, 40)]);
    assert_eq!(timers.due(at(1000), 2), [2, 3]);
    assert_eq!(timers.due(at(1000), 2), [1, 4]);
}

#[test]
fn what_is_granted_or_ended_meanwhile_counts() {
    let mut timers = leading(&[(1, 10)]);
    timers.granted(at(103), 2, 4);
    timers.ended(1);
    assert_eq!(timers.next_deadline(), Some(at(107)));
    timers.granted(at(105), 2, 4);
    assert_eq!(timers.next_deadline(), Some(at(109)));
    assert_eq!(timers.due(at(109), 10), [2]);
}

#[test]
fn the_longest_time_to_live_does_not_overflow() {
    let mut timers = leading(&[(1, super::super::MAX_TTL)]);
    assert!(timers.due(Duration::from_secs(1_000_000_000), 10).is_empty());
    timers.granted(Duration::MAX, 2, super::super::MAX_TTL);
    assert_eq!(timers.remaining(Duration::MAX, 2), Some(Duration::ZERO));
}

#[test]
fn an_expiry_of_an_earlier_term_does_not_touch_a_lease_that_runs_anew() {
    let mut timers = leading(&[(1, 10), (2, 10)]);
    assert_eq!(timers.due(at(110), 10), [1, 2]);
    let mut leases = Leases::default();
    leases.grant(1, 10).expect("a lease as good as any");
    timers.lead(at(111), 9, &leases);
    let refused = Outcome::Refused(Error::TermPassed { lease: 1, named: 7, term: 9 });
    timers.expiry_outcome(at(112), 7, 1, Some(&refused));
    assert_eq!(timers.keep_alive(at(113), 1), Some(at(10)), "it can be kept alive");
    timers.expiry_outcome(at(114), 7, 1, None);
    assert_eq!(timers.due(at(123), 10), [1], "and it ends");
    // In the same term it is tried again, until it is gone.
    timers.expiry_outcome(at(125), 9, 1, None);
    assert!(timers.due(at(124), 10).is_empty());
    assert_eq!(timers.due(at(125), 10), [1]);
    timers.expiry_outcome(at(126), 9, 1, Some(&Outcome::Refused(Error::LeaseNotFound { lease: 1 })));
    assert_eq!(timers.remaining(at(126), 1), None);
}

#[test]
fn a_lease_that_nobody_told_of_is_timed_as_well() {
    let mut timers = leading(&[(1, 10), (2, 10)]);
    let mut leases = Leases::default();
    for lease in [1, 3, 4] {
        leases.grant(lease, 20).expect("a lease as good as any");
    }
    assert!(timers.is_behind(&leases));
    timers.reconcile(at(105), &leases);
    assert!(!timers.is_behind(&leases) && !LeaseTimers::new().is_behind(&leases), "who does not lead times nothing");
    assert_eq!(timers.remaining(at(105), 2), None);
    assert_eq!(timers.due(at(110), 10), [1], "what runs goes on as it did");
    assert_eq!(timers.due(at(125), 10), [3, 4]);
    timers.follow();
    timers.reconcile(at(126), &leases);
    assert_eq!(timers.next_deadline(), None, "who does not lead times nothing");
}

/// The request was repeated, and its answer came after the lease had run out.
#[test]
fn a_grant_that_is_answered_again_stops_no_expiry() {
    let mut timers = leading(&[(1, 10)]);
    timers.granted(at(103), 1, 10);
    assert_eq!(timers.due(at(113), 10), [1], "while it runs, it runs anew");
    timers.granted(at(114), 1, 10);
    assert_eq!(timers.keep_alive(at(114), 1), None);
    // It was ended, and granted again.
    timers.expiry_outcome(at(115), 7, 1, Some(&Outcome::LeaseEnded { revision: 3, lease: 1 }));
    timers.granted(at(116), 1, 10);
    assert_eq!(timers.keep_alive(at(117), 1), Some(at(10)));
}
