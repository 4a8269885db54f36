//! Transactions: all or nothing, at one revision.

use broadcast_store::{
    Error,
    keys::{
        Compare, CompareOp, CompareTarget, KeyRange, KeyValue, KeysCommand, MAX_OPS, Op, OpOutcome, Put, Range, Txn,
        WatchEvent, WatchHub,
    },
};
use bytes::Bytes;
use proptest::prelude::*;

use crate::{
    model::Model,
    steps::txn,
    support::{Member, delete_op, key_range, put, put_op, success},
};

fn compare(key: &'static str, op: CompareOp, target: CompareTarget) -> Compare {
    Compare { keys: KeyRange::one(key), op, target }
}

fn is_absent(key: &'static str) -> Compare {
    compare(key, CompareOp::Equal, CompareTarget::Create(0))
}

fn duplicate(key: &'static str) -> Result<(bool, Vec<OpOutcome>), Error> {
    Err(Error::DuplicateKey { key: key.into() })
}

#[test]
fn the_lock_of_etcds_recipe() {
    let mut member = Member::new();
    member.grant(7);
    let lock = |lease: i64| Txn {
        compare: vec![is_absent("lock")],
        success: vec![Op::Put(Put { lease, ..put("lock", "held") })],
        failure: vec![Op::Range(Range::of("lock"))],
    };
    let (first, outcomes) = member.txn(lock(7)).expect("it is carried out");
    assert!(first && matches!(&outcomes[..], [OpOutcome::Put(put)] if put.revision == 2), "{outcomes:?}");
    let (second, outcomes) = member.txn(lock(7)).expect("it is carried out");
    let [OpOutcome::Range(found)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(!second && found.revision == 2 && found.kvs[0].create_revision == 2);
    assert_eq!(member.state.keys().revision(), 2);
}

#[test]
fn operations_see_those_before_them_and_share_a_revision() {
    let mut member = Member::new();
    member.put("a", "1");
    let read = |revision| Op::Range(Range { revision, ..Range::in_range(KeyRange::all()) });
    let ops = [read(0), put_op("b", "1"), read(0), read(2), delete_op(KeyRange::one("a")), read(0)];
    let (_, outcomes) = member.txn(success(ops)).expect("it is carried out");
    let counts: Vec<_> = outcomes
        .iter()
        .filter_map(|outcome| match outcome {
            OpOutcome::Range(range) => Some((range.revision, range.count)),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [(2, 1), (3, 2), (3, 1), (3, 1)]);
    assert_eq!(member.state.keys().revision(), 3);
}

#[test]
fn a_watcher_has_all_changes_of_a_transaction_at_once_and_in_order() {
    let mut member = Member::new();
    member.put("z", "1");
    let mut hub = WatchHub::new(1, member.state.keys());
    let watch = broadcast_store::keys::Watch { keys: KeyRange::all(), ..Default::default() };
    let id = hub.watch(watch, member.state.keys()).expect("there is room");
    member.txn(success([put_op("y", "1"), delete_op(KeyRange::one("z")), put_op("x", "1")])).expect("it is done");
    hub.observe(member.state.keys());
    let broadcast_store::keys::WatchPoll::Ready(WatchEvent::Changes { revision, events }) =
        hub.poll(id, member.state.keys())
    else {
        panic!("nothing came")
    };
    let keys: Vec<_> = events.iter().map(|event| (&*event.kv.key, event.kv.is_tombstone())).collect();
    assert_eq!((revision, keys), (3, vec![(&b"y"[..], false), (b"z", true), (b"x", false)]));
}

#[test]
fn comparisons_are_those_of_etcd() {
    let mut member = Member::new();
    member.grant(5);
    member.put_with(Put { lease: 5, ..put("a", "m") }).expect("there is space");
    member.put("a2", "m");
    let mut holds = |keys: KeyRange, op, target| {
        let txn = Txn { compare: vec![Compare { keys, op, target }], ..Txn::default() };
        member.txn(txn).expect("it is carried out").0
    };
    let one = || KeyRange::one("a");
    assert!(holds(one(), CompareOp::Equal, CompareTarget::Version(1)));
    assert!(holds(one(), CompareOp::Less, CompareTarget::Mod(3)));
    assert!(holds(one(), CompareOp::Greater, CompareTarget::Create(1)));
    assert!(holds(one(), CompareOp::NotEqual, CompareTarget::Lease(0)));
    assert!(holds(one(), CompareOp::Greater, CompareTarget::Value("l".into())));
    assert!(!holds(one(), CompareOp::Greater, CompareTarget::Value("m".into())));
    // All of a range have to; of an empty one, what is not there; and that has no value to compare.
    assert!(!holds(KeyRange::prefix("a"), CompareOp::Equal, CompareTarget::Lease(5)));
    assert!(holds(KeyRange::prefix("a"), CompareOp::Equal, CompareTarget::Value("m".into())));
    assert!(holds(KeyRange::prefix("b"), CompareOp::Equal, CompareTarget::Version(0)));
    assert!(!holds(KeyRange::one("b"), CompareOp::NotEqual, CompareTarget::Value("m".into())));
}

#[test]
fn nested_branches_are_chosen_before_anything_is_changed() {
    let mut member = Member::new();
    let nested = Txn { compare: vec![is_absent("a")], success: vec![put_op("b", "absent")], ..Txn::default() };
    member.txn(success([put_op("a", "1"), Op::Txn(nested)])).expect("it is carried out");
    assert_eq!(member.read(Range::of("b")), [("b".to_owned(), "absent".to_owned())]);
}

#[test]
fn a_key_changes_once() {
    let mut member = Member::new();
    let mut refused = |ops: Vec<Op>, key| assert_eq!(member.txn(success(ops)), duplicate(key));
    let nest = |then: Vec<Op>, other: Vec<Op>| Op::Txn(Txn { compare: vec![], success: then, failure: other });
    refused(vec![put_op("a", "1"), put_op("a", "2")], "a");
    refused(vec![put_op("a", "1"), delete_op(KeyRange::one("a"))], "a");
    refused(vec![delete_op(key_range("a", "c")), put_op("b", "1")], "b");
    refused(vec![put_op("z", "1"), delete_op(KeyRange::from("b"))], "z");
    refused(vec![put_op("a", "1"), nest(vec![], vec![put_op("a", "1")])], "a");
    refused(vec![nest(vec![put_op("a", "1")], vec![]), nest(vec![delete_op(KeyRange::all())], vec![])], "a");
    assert_eq!(member.state.keys().revision(), 1);
    let fine = vec![
        nest(vec![put_op("a", "1")], vec![put_op("a", "2"), delete_op(KeyRange::one("b"))]),
        delete_op(key_range("b", "d")),
        delete_op(key_range("c", "e")),
        put_op("e", "1"),
    ];
    assert!(member.txn(success(fine)).is_ok());
}

#[test]
fn operations_are_counted() {
    let mut member = Member::new();
    let reads = |count| vec![Op::Range(Range::of("a")); count];
    assert!(member.txn(success(reads(MAX_OPS))).is_ok());
    assert_eq!(member.txn(success(reads(MAX_OPS + 1))), Err(Error::TooManyOps));
    let compares = Txn { compare: vec![is_absent("a"); MAX_OPS + 1], ..Txn::default() };
    assert_eq!(member.txn(compares), Err(Error::TooManyOps));
    let nested = |count| success([Op::Txn(success(reads(count)))]);
    assert!(member.txn(nested(MAX_OPS - 1)).is_ok());
    assert_eq!(member.txn(nested(MAX_OPS)), Err(Error::TooManyOps));

    let deep = |depth| (0..depth).fold(Txn::default(), |txn, _| success([Op::Txn(txn)]));
    assert!(member.txn(deep(MAX_OPS)).is_ok());
    assert_eq!(member.txn(deep(MAX_OPS + 1)), Err(Error::TooManyOps));
}

#[test]
fn what_is_refused_half_way_leaves_nothing_behind() {
    let mut member = Member::new();
    member.grant(1);
    member.put_with(Put { lease: 1, ..put("a", &"x".repeat(1 << 20)) }).expect("there is space");
    let before = member.snapshot();
    // Each reads a megabyte, and the last of them is too much.
    let mut ops = vec![put_op("b", "1"), Op::Put(Put { lease: 1, ..put("c", "1") })];
    ops.extend(vec![Op::Range(Range::of("a")); 40]);
    assert_eq!(member.txn(success(ops.clone())), Err(Error::ResponseTooLarge));
    ops.insert(0, delete_op(KeyRange::one("a")));
    ops.truncate(3);
    ops.push(Op::Put(Put { ignore_value: true, ..put("d", "") }));
    assert_eq!(member.txn(success(ops)), Err(Error::KeyNotFound { key: "d".into() }));
    let lease = Op::Put(Put { lease: 2, ..put("e", "1") });
    assert_eq!(member.txn(success([put_op("b", "1"), lease])), Err(Error::LeaseNotFound { lease: 2 }));
    let future = Op::Range(Range { revision: 9, ..Range::of("a") });
    let refused = member.txn(success([put_op("b", "1"), future]));
    assert_eq!(refused, Err(Error::FutureRevision { requested: 9, current: 2 }));

    member.state.keys().assert_invariants();
    let keys = |bytes: &[u8]| {
        let state = crate::support::read(bytes).expect("a snapshot");
        let found = state.keys().range(&Range::in_range(KeyRange::all())).expect("it is there");
        (state.keys().hash_at(0), found, state.keys().bytes())
    };
    assert_eq!(keys(&member.snapshot()), keys(&before));
}

#[test]
fn space_is_counted_over_the_branch_that_is_taken() {
    let mut member = Member::new();
    member.apply(&broadcast_store::machine::Command::set_quota("keys", 5000));
    let long = "x".repeat(2000);
    let txn = |count| Txn {
        compare: vec![compare("none", CompareOp::Greater, CompareTarget::Version(0))],
        success: vec![put_op("a", &long), put_op("b", &long), put_op("c", &long)],
        failure: ["a", "b", "c"][..count].iter().map(|key| put_op(key, &long)).collect(),
    };
    assert!(member.txn(txn(2)).is_ok());
    assert!(matches!(member.txn(txn(3)), Err(Error::NoSpace { .. })));
    assert_eq!(member.state.keys().revision(), 2);
}

#[test]
fn a_kept_value_and_a_kept_lease_stay() {
    let mut member = Member::new();
    member.grant(1);
    member.put_with(Put { lease: 1, ..put("a", "1") }).expect("there is space");
    member.put_with(Put { ignore_lease: true, ..put("a", "2") }).expect("there is space");
    member.put_with(Put { ignore_value: true, lease: 1, ..put("a", "") }).expect("there is space");
    let kv = member.state.keys().range(&Range::of("a")).expect("it is there").kvs.remove(0);
    let expected =
        KeyValue { key: "a".into(), value: "2".into(), create_revision: 2, mod_revision: 4, version: 3, lease: 1 };
    assert_eq!(*kv, expected);
    assert_eq!(member.put_with(Put { ignore_value: true, ..put("a", "3") }), Err(Error::ValueProvided));
    assert_eq!(member.put_with(Put { ignore_lease: true, lease: 1, ..put("a", "3") }), Err(Error::LeaseProvided));
    assert_eq!(member.put_with(put("", "3")), Err(Error::KeyNotProvided));
}

/// Thirty thousand operations in one request: that no two of them meet is found at once.
#[test]
fn a_request_full_of_small_operations_is_checked_quickly() {
    let width = 80;
    let nested = |at: usize| {
        let put = |which: usize| Op::Put(Put { key: Bytes::from(format!("{at}-{which}")), ..Put::default() });
        let delete = |which: usize| delete_op(key_range(&format!("{at}x{which}"), &format!("{at}x{which}y")));
        Op::Txn(success((0..width / 2).flat_map(|which| [put(which), delete(which)]).collect::<Vec<_>>()))
    };
    let level = |start: usize| Op::Txn(success((0..20).map(|at| nested(start * 20 + at)).collect::<Vec<_>>()));
    let txn = KeysCommand::Txn(success((0..20).map(level).collect::<Vec<_>>()));
    let start = std::time::Instant::now();
    assert_eq!(txn.check(), Ok(()));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn duplicates_are_found_as_by_comparing_all(txn in txn()) {
        let refused = matches!(KeysCommand::Txn(txn.clone()).check(), Err(Error::DuplicateKey { .. }));
        let is_wrong = matches!(
            KeysCommand::Txn(txn.clone()).check(),
            Err(Error::KeyNotProvided | Error::ValueProvided | Error::LeaseProvided)
        );
        prop_assert_eq!(refused, Model::has_duplicate(&txn) && !is_wrong);
    }
}
