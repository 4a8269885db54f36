//! Reads, limits, compaction.

use std::time::Duration;

use broadcast_store::{
    Error,
    keys::{self, Compactor, DEFAULT_QUOTA, KV_BYTES, KeyRange, MAX_REQUEST, Range, SortOrder, SortTarget},
    machine::{Command, Outcome},
};
use bytes::Bytes;

use crate::support::{Member, key_range, put};

fn filled() -> Member {
    let mut member = Member::new();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("a", "4"), ("d", "0")] {
        member.put(key, value);
    }
    member
}

fn names(member: &Member, range: Range) -> String {
    member.read(range).into_iter().map(|(key, _)| key).collect()
}

#[test]
fn revisions_and_versions_count_as_in_etcd() {
    let mut member = Member::new();
    assert_eq!(member.state.keys().revision(), 1);
    assert_eq!((member.put("a", "1"), member.put("a", "2"), member.put("b", "1")), (2, 3, 4));
    let kv = |member: &Member, key: &'static str| member.state.keys().range(&Range::of(key)).expect("it is there");
    let a = kv(&member, "a").kvs.remove(0);
    assert_eq!((a.create_revision, a.mod_revision, a.version), (2, 3, 2));
    assert_eq!(member.delete(KeyRange::one("nothing")), 4, "what changes nothing has no revision");
    assert_eq!(member.delete(KeyRange::all()), 5);
    assert_eq!(kv(&member, "a").count, 0);
    assert_eq!(member.put("a", "3"), 6);
    let a = kv(&member, "a").kvs.remove(0);
    assert_eq!((a.create_revision, a.mod_revision, a.version), (6, 6, 1));
}

#[test]
fn ranges_are_those_of_etcd() {
    let member = filled();
    let all = |keys| names(&member, Range::in_range(keys));
    assert_eq!(all(KeyRange::one("b")), "b");
    assert_eq!(all(key_range("b", "d")), "bc");
    assert_eq!(all(key_range("d", "b")), "");
    assert_eq!(all(KeyRange::from("b")), "bcd");
    assert_eq!(all(KeyRange::all()), "abcd");
    assert_eq!(all(KeyRange::prefix("")), "abcd");
    assert_eq!(all(KeyRange::prefix("c")), "c");
    assert_eq!(KeyRange::prefix(&b"a\xff"[..]).end, Bytes::from_static(b"b"));
    assert!(KeyRange::prefix(&b"\xff\xff"[..]).contains(b"\xff\xff\xff"));
    assert_eq!(member.state.keys().range(&Range::of("")), Err(Error::KeyNotProvided));
}

#[test]
fn answers_are_ordered_limited_and_filtered() {
    let member = filled();
    let all = Range::in_range(KeyRange::all());
    let by = |target, order| names(&member, Range { target, order, ..all.clone() });
    assert_eq!(by(SortTarget::Value, SortOrder::Ascend), "dbca");
    assert_eq!(by(SortTarget::Mod, SortOrder::Descend), "dacb");
    assert_eq!(by(SortTarget::Create, SortOrder::None), "abcd");
    assert_eq!(by(SortTarget::Version, SortOrder::Descend), "abcd");
    assert_eq!(by(SortTarget::Key, SortOrder::Descend), "dcba");

    let found = member.state.keys().range(&Range { limit: 2, ..all.clone() }).expect("it is there");
    assert_eq!((found.kvs.len(), found.count, found.more, found.revision), (2, 4, true, 6));
    let found = member.state.keys().range(&Range { limit: 4, ..all.clone() }).expect("it is there");
    assert_eq!((found.kvs.len(), found.more), (4, false));
    assert_eq!(names(&member, Range { min_mod_revision: 4, max_mod_revision: 5, ..all.clone() }), "ac");
    assert_eq!(names(&member, Range { max_create_revision: 3, ..all.clone() }), "ab");
    let found = member.state.keys().range(&Range { count_only: true, ..all.clone() }).expect("it is there");
    assert_eq!((found.kvs.len(), found.count), (0, 4));
    let found = member.state.keys().range(&Range { keys_only: true, ..all }).expect("it is there");
    assert!(found.kvs.iter().all(|kv| kv.value.is_empty() && kv.mod_revision > 1));
}

#[test]
fn the_past_can_be_read_until_it_is_compacted() {
    let mut member = filled();
    member.delete(KeyRange::one("b"));
    let at = |revision| Range { revision, ..Range::in_range(KeyRange::all()) };
    assert_eq!(names(&member, at(3)), "ab");
    assert_eq!(member.read(at(4))[0], ("a".to_owned(), "3".to_owned()));
    assert_eq!(member.state.keys().range(&at(8)), Err(Error::FutureRevision { requested: 8, current: 7 }));

    let before = member.state.keys().bytes();
    assert_eq!(member.compact(5), Ok(7));
    assert!(member.state.keys().bytes() < before);
    assert_eq!(member.state.keys().range(&at(4)), Err(Error::Compacted { requested: 4, compacted: 5 }));
    assert_eq!(names(&member, at(5)), "abc");
    assert_eq!(names(&member, at(0)), "acd");
    assert_eq!(member.compact(5), Err(Error::Compacted { requested: 5, compacted: 5 }));
    assert_eq!(member.compact(8), Err(Error::FutureRevision { requested: 8, current: 7 }));
    assert_eq!(member.state.keys().hash_at(4), Err(Error::Compacted { requested: 4, compacted: 5 }));

    member.compact(7).expect("it is the newest");
    member.delete(KeyRange::all());
    member.compact(8).expect("it is the newest");
    assert_eq!(member.state.keys().bytes(), 0, "nothing is left of what was deleted");
}

#[test]
fn space_runs_out_with_an_alarm_and_comes_back() {
    let mut member = Member::new();
    assert_eq!(member.state.keys().quota(), DEFAULT_QUOTA);
    assert_eq!(member.apply(&Command::set_quota("keys", 10_000)), Outcome::QuotaSet);
    let long = "x".repeat(3000);
    let full = |member: &mut Member| member.put_with(put("k", &long));
    while full(&mut member).is_ok() {}
    let keys = member.state.keys();
    assert!(keys.alarm() && keys.bytes() <= 10_000 && keys.bytes() > 6000, "{}", keys.bytes());
    let error = Error::NoSpace { machine: "keys".to_owned(), quota: 10_000, bytes: keys.bytes() };
    assert_eq!(full(&mut member), Err(error.clone()));
    assert_eq!(member.put_with(put("small", "")), Err(error), "until the alarm is disarmed nothing is put");

    // What frees space, and leases, go on.
    let revision = member.delete(KeyRange::all());
    member.grant(1);
    member.compact(revision).expect("it is the newest");
    assert_eq!(member.state.keys().bytes(), 0);
    assert!(full(&mut member).is_err());
    member.restart();
    assert!(full(&mut member).is_err(), "the alarm is in the snapshot");
    member.keys(&keys::KeysCommand::Disarm).expect("it is no put");
    assert!(full(&mut member).is_ok() && !member.state.keys().alarm());
}

#[test]
fn requests_have_a_size() {
    let mut member = Member::new();
    let with = |len: usize| put("k", &"x".repeat(len));
    let largest = member.put_with(with(MAX_REQUEST - 64));
    assert_eq!(largest, Ok(2));
    member.restart();
    let refused = member.put_with(with(MAX_REQUEST));
    assert!(matches!(refused, Err(Error::RequestTooLarge { size }) if size > MAX_REQUEST as u64), "{refused:?}");
}

#[test]
fn history_is_compacted_by_count_and_by_age() {
    let second = Duration::from_secs;
    let mut member = Member::new();
    let mut by_count = Compactor::new(100, second(1_000_000));
    for _ in 0..109 {
        member.put("k", "v");
        assert_eq!(by_count.due(second(1), member.state.keys()), None);
    }
    // 110 revisions since the empty store, which has the first.
    assert_eq!(member.put("k", "v"), 111);
    assert_eq!(by_count.due(second(1), member.state.keys()), Some(11));
    member.compact(11).expect("it is due");
    assert_eq!(by_count.due(second(1), member.state.keys()), None);

    let mut by_age = Compactor::new(1_000_000, second(160));
    assert_eq!(by_age.interval(), second(10));
    for now in 0..160 {
        assert_eq!(by_age.due(second(now), member.state.keys()), None, "{now}");
        member.put("k", "v");
    }
    // What was the newest at the start is 160 s old.
    assert_eq!(by_age.due(second(160), member.state.keys()), Some(111));
    member.compact(111).expect("it is due");
    assert_eq!(by_age.due(second(165), member.state.keys()), None);
    assert_eq!(by_age.due(second(170), member.state.keys()), Some(121));
    // Long after, all but the newest state is old; and once that is compacted, there is nothing to do.
    let newest = member.state.keys().revision();
    assert_eq!(by_age.due(second(10_000), member.state.keys()), Some(newest));
    member.compact(newest).expect("it is due");
    assert_eq!(by_age.due(second(20_000), member.state.keys()), None);

    // What is far away is reached in steps.
    let mut far = Compactor::new(10, second(1_000_000));
    (0..15_000).for_each(|_| assert!(member.put("k", "v") > newest));
    let mut steps = Vec::new();
    while let Some(revision) = far.due(second(0), member.state.keys()) {
        member.compact(revision).expect("it is due");
        steps.push(revision - newest);
    }
    assert_eq!(steps, [10_000, 14_990]);
}

#[test]
fn what_is_read_is_bounded_by_bytes_but_for_one_key() {
    let mut member = Member::new();
    for key in ["a", "b", "c"] {
        member.put(key, &"x".repeat(99));
    }
    let found = member.state.keys().range(&Range::in_range(KeyRange::all())).expect("it is there");
    let each = 100 + KV_BYTES;
    for (most, fits) in [(0, 1), (each, 1), (2 * each - 1, 1), (2 * each, 2), (3 * each, 3), (usize::MAX, 3)] {
        let within = found.clone().within(most);
        assert_eq!((within.kvs.len(), within.more, within.count), (fits, fits < 3, 3), "{most}");
    }
    let none = member.state.keys().range(&Range::of("d")).expect("it is read").within(0);
    assert_eq!((none.kvs.len(), none.more), (0, false));
}
