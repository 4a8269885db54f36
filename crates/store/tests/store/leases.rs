//! Leases, and what ends with them.

use broadcast_store::{
    Error,
    keys::{KeyRange, Put, Range},
    machine::{Command, MAX_TTL, MIN_TTL, Outcome},
};

use crate::support::{Member, put};

fn attach(member: &mut Member, key: &str, lease: i64) -> Result<u64, Error> {
    member.put_with(Put { lease, ..put(key, "v") })
}

#[test]
fn a_lease_is_granted_once_within_bounds() {
    let mut member = Member::new();
    let granted = |lease, ttl| Outcome::Granted { revision: 1, lease, ttl };
    assert_eq!(member.apply(&Command::grant(7, 60)), granted(7, 60));
    assert_eq!(member.apply(&Command::grant(7, 60)), Outcome::Refused(Error::LeaseExists { lease: 7 }));
    assert_eq!(member.apply(&Command::grant(8, -1)), granted(8, MIN_TTL));
    assert_eq!(member.apply(&Command::grant(-9, MAX_TTL)), granted(-9, MAX_TTL));
    let ttl = MAX_TTL + 1;
    assert_eq!(member.apply(&Command::grant(10, ttl)), Outcome::Refused(Error::LeaseTtlTooLarge { ttl }));
    assert_eq!(member.apply(&Command::grant(0, 60)), Outcome::Refused(Error::LeaseNotFound { lease: 0 }));
    assert!(member.state.leases().iter().eq([(-9, MAX_TTL), (7, 60), (8, MIN_TTL)]));
    assert_eq!((member.state.leases().ttl(7), member.state.leases().ttl(6)), (Some(60), None));
    member.restart();
    assert_eq!(member.state.leases().len(), 3);
}

#[test]
fn its_keys_end_with_it_at_one_revision() {
    let mut member = Member::new();
    member.grant(1);
    member.grant(2);
    for (key, lease) in [("b", 1), ("a", 1), ("c", 2), ("moved", 1), ("freed", 1)] {
        attach(&mut member, key, lease).expect("the lease is there");
    }
    attach(&mut member, "moved", 2).expect("the lease is there");
    member.put("freed", "v");
    assert!(member.state.keys().attached(1).eq(["a", "b"]));
    member.restart();
    assert_eq!(member.apply(&Command::revoke(1)), Outcome::LeaseEnded { revision: 9, lease: 1 });
    let left: Vec<_> = member.read(Range::in_range(KeyRange::all())).into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, ["c", "freed", "moved"]);
    assert_eq!(member.state.keys().attached(1).count(), 0);
    assert_eq!(member.apply(&Command::revoke(1)), Outcome::Refused(Error::LeaseNotFound { lease: 1 }));
    assert_eq!(attach(&mut member, "d", 1), Err(Error::LeaseNotFound { lease: 1 }));
}

#[test]
fn one_without_keys_ends_without_a_revision() {
    let mut member = Member::new();
    member.grant(1);
    assert_eq!(member.apply(&Command::revoke(1)), Outcome::LeaseEnded { revision: 1, lease: 1 });
}

#[test]
fn an_expiry_counts_in_the_term_of_who_measured_it() {
    let mut member = Member::new();
    member.grant(1);
    attach(&mut member, "a", 1).expect("the lease is there");
    member.at.term = 4;
    for named in [3, 5] {
        let refused = Error::TermPassed { lease: 1, named, term: 4 };
        assert_eq!(member.apply(&Command::expire(1, named)), Outcome::Refused(refused));
    }
    assert!(member.state.leases().contains(1));
    assert_eq!(member.apply(&Command::expire(1, 4)), Outcome::LeaseEnded { revision: 3, lease: 1 });
    assert!(member.read(Range::of("a")).is_empty());
}
