//! Sequences of what can happen to a state, at random.

use broadcast_store::keys::{
    Compare, CompareOp, CompareTarget, Delete, KeyRange, KeysCommand, Op, Put, Range, SortOrder, SortTarget, Txn, Watch,
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*};

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Command(KeysCommand),
    Read(Range),
    Grant(i64, i64),
    Revoke(i64),
    /// In a term that is so far behind.
    Expire(i64, u64),
    NewTerm,
    Watch(Watch),
    /// The watcher that is so far among them.
    Poll(usize),
    Progress(usize),
    CancelWatch(usize),
    /// The hub is told, or not before later.
    Applied,
    Restart,
}

/// Few keys, so that they meet often.
fn key() -> impl Strategy<Value = Bytes> {
    let keys: [&[u8]; 7] = [b"a", b"b", b"c", b"ab", b"b\0", b"\xff", b"\0"];
    proptest::sample::select(keys.map(Bytes::from_static).to_vec())
}

fn keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        8 => key().prop_map(KeyRange::one),
        2 => key().prop_map(KeyRange::prefix),
        1 => key().prop_map(KeyRange::from),
        3 => (key(), key()).prop_map(|(key, end)| KeyRange { key, end }),
        1 => Just(KeyRange::all()),
    ]
}

fn any_keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![30 => keys(), 1 => Just(KeyRange::default())]
}

fn value() -> impl Strategy<Value = Bytes> {
    proptest::sample::select(["", "1", "2", "3"].map(Bytes::from).to_vec())
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0), 2 => 1i64..5]
}

fn revision() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 2 => 1u64..60]
}

fn put() -> impl Strategy<Value = Put> {
    let flags = (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (key(), value(), lease(), flags).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease, contradicts))| Put {
            key,
            value: if ignore_value && !contradicts { Bytes::new() } else { value },
            lease: if ignore_lease && !contradicts { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = Delete> {
    (any_keys(), any::<bool>()).prop_map(|(keys, prev_kv)| Delete { keys, prev_kv })
}

fn range() -> impl Strategy<Value = Range> {
    let order = proptest::sample::select(vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
    let targets = [SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
    let target = proptest::sample::select(targets.to_vec());
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.3));
    (any_keys(), 0u64..4, revision(), order, target, flags, [revision(), revision(), revision(), revision()]).prop_map(
        |(keys, limit, revision, order, target, (keys_only, count_only, bounded), bounds)| {
            let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] =
                if bounded { bounds } else { [0; 4] };
            Range {
                keys,
                limit,
                revision,
                order,
                target,
                keys_only,
                count_only,
                min_mod_revision,
                max_mod_revision,
                min_create_revision,
                max_create_revision,
            }
        },
    )
}

fn compare() -> impl Strategy<Value = Compare> {
    let ops = [CompareOp::Equal, CompareOp::NotEqual, CompareOp::Greater, CompareOp::Less];
    let target = prop_oneof![
        (0u64..4).prop_map(CompareTarget::Version),
        revision().prop_map(CompareTarget::Create),
        revision().prop_map(CompareTarget::Mod),
        value().prop_map(CompareTarget::Value),
        lease().prop_map(CompareTarget::Lease),
    ];
    (keys(), proptest::sample::select(ops.to_vec()), target).prop_map(|(keys, op, target)| Compare { keys, op, target })
}

pub(crate) fn txn() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![
        2 => range().prop_map(Op::Range),
        4 => put().prop_map(Op::Put),
        2 => delete().prop_map(Op::Delete),
    ];
    let op = op.prop_recursive(3, 16, 3, |op| branches(op).prop_map(Op::Txn));
    branches(op)
}

fn branches(op: impl Strategy<Value = Op> + Clone) -> impl Strategy<Value = Txn> {
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..3)).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

pub(crate) fn command() -> impl Strategy<Value = KeysCommand> {
    prop_oneof![
        10 => put().prop_map(KeysCommand::Put),
        4 => delete().prop_map(KeysCommand::Delete),
        8 => txn().prop_map(KeysCommand::Txn),
        1 => (1u64..50).prop_map(|revision| KeysCommand::Compact { revision }),
        1 => Just(KeysCommand::Disarm),
    ]
}

fn watch() -> impl Strategy<Value = Watch> {
    (any_keys(), revision(), any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(
        |(keys, start_revision, prev_kv, no_put, no_delete)| Watch { keys, start_revision, prev_kv, no_put, no_delete },
    )
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => command().prop_map(Step::Command),
        6 => range().prop_map(Step::Read),
        3 => (0i64..5, -1i64..20).prop_map(|(lease, ttl)| Step::Grant(lease, ttl)),
        1 => (1i64..5).prop_map(Step::Revoke),
        1 => (1i64..5, 0u64..2).prop_map(|(lease, behind)| Step::Expire(lease, behind)),
        1 => Just(Step::NewTerm),
        2 => watch().prop_map(Step::Watch),
        5 => any::<usize>().prop_map(Step::Poll),
        1 => any::<usize>().prop_map(Step::Progress),
        1 => any::<usize>().prop_map(Step::CancelWatch),
        6 => Just(Step::Applied),
        1 => Just(Step::Restart),
    ]
}
