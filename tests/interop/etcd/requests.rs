//! Random requests over few keys, revisions and leases, so that they often concern the same ones.

use broadcast_etcd::messages::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use bytes::Bytes;
use rand::{Rng, RngExt as _, seq::IndexedRandom as _};

/// What is known of both stores, which have the same content.
#[derive(Default)]
pub struct World {
    pub revision: i64,
    pub compacted: i64,
    pub leases: Vec<i64>,
}

const KEYS: [&str; 9] = ["a", "a/1", "a/2", "a/3", "b", "b/1", "c", "d", "\u{0}"];

fn key(rng: &mut impl Rng) -> Bytes {
    if rng.random_ratio(1, 60) {
        return Bytes::new();
    }
    Bytes::from_static(KEYS.choose(rng).expect("there are some").as_bytes())
}

/// A key, or a range: of a prefix, of any two keys, or from a key on.
fn keys(rng: &mut impl Rng) -> (Bytes, Bytes) {
    let first = key(rng);
    let end = match rng.random_range(0..10) {
        0..=4 => Bytes::new(),
        5 | 6 => {
            let mut end = first.to_vec();
            end.last_mut().into_iter().for_each(|last| *last += 1);
            end.into()
        }
        7 | 8 => key(rng),
        _ => Bytes::from_static(&[0]),
    };
    (first, end)
}

fn revision(rng: &mut impl Rng, world: &World) -> i64 {
    match rng.random_range(0..20) {
        0..=10 => 0,
        11..=16 => world.revision - rng.random_range(0..20).min(world.revision),
        17 => world.revision + 1,
        18 => world.compacted + rng.random_range(-1..=1),
        _ => rng.random_range(-1..5),
    }
}

/// A bound of revisions: mostly none.
fn bound(rng: &mut impl Rng, world: &World) -> i64 {
    if rng.random_ratio(4, 5) { 0 } else { (world.revision - rng.random_range(0..30)).max(-1) }
}

pub fn range(rng: &mut impl Rng, world: &World) -> RangeRequest {
    let (key, range_end) = keys(rng);
    RangeRequest {
        key,
        range_end,
        limit: if rng.random() { 0 } else { rng.random_range(-1..4) },
        revision: revision(rng, world),
        sort_order: rng.random_range(0..3),
        sort_target: rng.random_range(0..5),
        serializable: rng.random_ratio(1, 10),
        keys_only: rng.random_ratio(1, 6),
        count_only: rng.random_ratio(1, 8),
        min_mod_revision: bound(rng, world),
        max_mod_revision: bound(rng, world),
        min_create_revision: bound(rng, world),
        max_create_revision: bound(rng, world),
    }
}

fn lease(rng: &mut impl Rng, world: &World) -> i64 {
    match rng.random_range(0..8) {
        0 | 1 => world.leases.choose(rng).copied().unwrap_or_default(),
        2 if rng.random_ratio(1, 5) => 987_654,
        _ => 0,
    }
}

pub fn put(rng: &mut impl Rng, world: &World) -> PutRequest {
    let (ignore_value, ignore_lease) = (rng.random_ratio(1, 8), rng.random_ratio(1, 8));
    // Now and then something is said that is to be ignored.
    let says = |rng: &mut _, ignored: bool| !ignored || Rng::next_u32(rng).is_multiple_of(10);
    let value = format!("value {}", rng.random_range(0..1000));
    PutRequest {
        key: key(rng),
        value: if says(rng, ignore_value) { value.into() } else { Bytes::new() },
        lease: if says(rng, ignore_lease) { lease(rng, world) } else { 0 },
        prev_kv: rng.random(),
        ignore_value,
        ignore_lease,
    }
}

pub fn delete(rng: &mut impl Rng) -> DeleteRangeRequest {
    let (key, range_end) = keys(rng);
    DeleteRangeRequest { key, range_end, prev_kv: rng.random() }
}

fn compare(rng: &mut impl Rng, world: &World) -> Compare {
    let (key, range_end) = if rng.random_ratio(4, 5) { (key(rng), Bytes::new()) } else { keys(rng) };
    let mut compare = Compare {
        result: rng.random_range(0..4),
        target: rng.random_range(0..5),
        key,
        range_end,
        ..Compare::default()
    };
    let near = (world.revision - rng.random_range(0..20)).max(-1);
    match compare.target {
        0 => compare.version = Some(rng.random_range(-1..4)),
        1 => compare.create_revision = Some(if rng.random() { 0 } else { near }),
        2 => compare.mod_revision = Some(near),
        3 => compare.value = Some(format!("value {}", rng.random_range(0..1000)).into()),
        _ => compare.lease = Some(lease(rng, world)),
    }
    compare
}

/// etcd overlooks some keys that a transaction would change twice: those deleted from a key on, and those deleted within
/// another transaction, behind the put. The store refuses all of them, and these are not asked for.
fn op(rng: &mut impl Rng, world: &World, depth: u32) -> RequestOp {
    match rng.random_range(0..10) {
        0..=3 => range_op(rng, world),
        4..=6 => RequestOp { request_put: Some(put(rng, world)), ..RequestOp::default() },
        7 if depth == 0 => {
            let mut delete = delete(rng);
            if *delete.range_end == [0] {
                delete.range_end = Bytes::new();
            }
            RequestOp { request_delete_range: Some(delete), ..RequestOp::default() }
        }
        8 if depth < 2 => RequestOp { request_txn: Some(txn(rng, world, depth + 1)), ..RequestOp::default() },
        9 if rng.random_ratio(1, 20) => RequestOp::default(),
        _ => range_op(rng, world),
    }
}

/// Within a transaction etcd takes a revision below 0 for one that is compacted, and else for the newest.
fn range_op(rng: &mut impl Rng, world: &World) -> RequestOp {
    let mut range = range(rng, world);
    range.revision = range.revision.max(0);
    RequestOp { request_range: Some(range), ..RequestOp::default() }
}

pub fn txn(rng: &mut impl Rng, world: &World, depth: u32) -> TxnRequest {
    let most = if rng.random_ratio(1, 100) { 140 } else { 4 };
    let ops = |rng: &mut _| {
        let count = Rng::next_u32(rng) % most;
        (0..count).map(|_| op(rng, world, depth)).collect()
    };
    let compares = rng.random_range(0..3);
    TxnRequest { compare: (0..compares).map(|_| compare(rng, world)).collect(), success: ops(rng), failure: ops(rng) }
}

/// Both are to have the same ids, and none is to end by itself.
pub fn grant(rng: &mut impl Rng, world: &World) -> LeaseGrantRequest {
    let again = rng.random_ratio(1, 10);
    let new = rng.random_range(1..1 << 40);
    LeaseGrantRequest {
        ID: if again { world.leases.choose(rng).copied().unwrap_or(new) } else { new },
        TTL: if rng.random_ratio(1, 20) { 9_000_000_001 } else { rng.random_range(10_000..1_000_000) },
    }
}

/// At the revision that is compacted, deletes are told by ours alone.
pub fn watch(rng: &mut impl Rng, world: &World) -> WatchCreateRequest {
    let (key, range_end) = keys(rng);
    let start_revision = match rng.random_range(0..10) {
        0..=4 => 0,
        5..=7 => world.revision - rng.random_range(0..30).min(world.revision),
        8 => world.revision + rng.random_range(1..20),
        _ => world.compacted - 1,
    };
    WatchCreateRequest {
        key,
        range_end,
        start_revision: if start_revision == world.compacted { 0 } else { start_revision.max(0) },
        filters: match rng.random_range(0..6) {
            0 => vec![0],
            1 => vec![1],
            _ => Vec::new(),
        },
        prev_kv: rng.random(),
        // Beyond those that nobody asks for: after a compaction etcd does not give the number of a watch away again.
        watch_id: if rng.random_ratio(1, 6) { rng.random_range(100_000..100_040) } else { 0 },
        fragment: rng.random_ratio(1, 4),
        progress_notify: false,
    }
}
