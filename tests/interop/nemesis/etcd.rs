//! Clients that use the store over etcd's protocol during the faults. They print the same lines as those over HTTP, so that all
//! are checked together.

use std::{net::SocketAddr, sync::LazyLock, thread, time::Duration};

use broadcast_etcd::messages::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, Event, KeyValue, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseRevokeResponse, LockRequest, LockResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
    enums::{CREATE, MOD},
};
use bytes::Bytes;
use prost::Message;
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng as _};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

use super::{
    client::{LAST, LeaseClient, Operation, PACE, Work, change_keys, hold_leases, now, print_line},
    locks::{LockClient, NotHeld},
};
use crate::{etcd::client::Client, voters};

/// Longer than a request waits for a leader, and shorter than [`Client`] waits before it panics.
const PATIENCE: Duration = Duration::from_secs(25);
static ADDR: LazyLock<SocketAddr> = LazyLock::new(|| voters::ETCD.parse().expect("an address"));

/// A thread's own client, which connects anew after a failure.
pub(super) struct Etcd {
    runtime: Runtime,
    client: Option<Client>,
}

impl Etcd {
    pub(super) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { runtime, client: None }
    }

    /// Nothing, if the node was not reached, refuses it, or does not answer.
    fn call<A: Message + Default>(&mut self, path: &str, request: &impl Message) -> Option<A> {
        self.call_within(PATIENCE, path, request)
    }

    fn call_within<A: Message + Default>(&mut self, limit: Duration, path: &str, request: &impl Message) -> Option<A> {
        let Self { runtime, client } = self;
        let answered = async {
            let mut there = match client.take() {
                Some(client) => client,
                None => Client::try_connect(*ADDR).await.ok()?,
            };
            let answer = there.call(path, request).await.ok()?;
            *client = Some(there);
            Some(answer)
        };
        runtime.block_on(async { timeout(limit, answered).await.ok()? })
    }
}

fn revision(header: Option<ResponseHeader>) -> i64 {
    header.unwrap_or_default().revision
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).expect("what is put here is text")
}

/// As HTTP shows it.
fn kv(kv: &KeyValue) -> Value {
    let KeyValue { create_revision, mod_revision, version, .. } = kv;
    let lease = (kv.lease != 0).then(|| format!("{:x}", kv.lease));
    json!({
        "key": text(&kv.key), "value": text(&kv.value), "create_revision": create_revision,
        "mod_revision": mod_revision, "version": version, "lease": lease,
    })
}

fn range(found: RangeResponse, revision: i64) -> Value {
    let kvs: Vec<_> = found.kvs.iter().map(kv).collect();
    json!({"revision": revision, "count": found.count, "kvs": kvs})
}

fn puts(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), lease, ..PutRequest::default() }
}

fn compare(key: Bytes) -> Compare {
    Compare { key, ..Compare::default() }
}

/// Does what was chosen, and gives what HTTP would have answered.
fn operate(etcd: &mut Etcd, operation: &Operation<'_>) -> Option<Value> {
    let Operation { kind, key, value, expected } = *operation;
    let named = Bytes::from(key.to_owned());
    match kind {
        "put" => {
            let put: PutResponse = etcd.call("/etcdserverpb.KV/Put", &puts(key, value, 0))?;
            Some(json!({"revision": revision(put.header)}))
        }
        "delete" => {
            let delete = DeleteRangeRequest { key: named, ..DeleteRangeRequest::default() };
            let delete: DeleteRangeResponse = etcd.call("/etcdserverpb.KV/DeleteRange", &delete)?;
            Some(json!({"revision": revision(delete.header), "deleted": delete.deleted}))
        }
        "swap" => {
            let put = RequestOp { request_put: Some(puts(key, value, 0)), ..RequestOp::default() };
            let get = RangeRequest { key: named.clone(), ..RangeRequest::default() };
            let get = RequestOp { request_range: Some(get), ..RequestOp::default() };
            let expected = Some(i64::try_from(expected).expect("a revision"));
            let as_expected = Compare { target: MOD, mod_revision: expected, ..compare(named) };
            let txn = TxnRequest { compare: vec![as_expected], success: vec![put], failure: vec![get] };
            let done: TxnResponse = etcd.call("/etcdserverpb.KV/Txn", &txn)?;
            let revision = revision(done.header);
            let ranges = done.responses.into_iter().filter_map(|one| one.response_range);
            let responses: Vec<_> = ranges.map(|found| json!({"get": range(found, revision)})).collect();
            Some(json!({"revision": revision, "succeeded": done.succeeded, "responses": responses}))
        }
        _ => {
            let serializable = kind == "read_locally";
            let (key, range_end) = ("k".into(), "l".into());
            let read = RangeRequest { key, range_end, serializable, ..RangeRequest::default() };
            let mut found: RangeResponse = etcd.call("/etcdserverpb.KV/Range", &read)?;
            let revision = revision(found.header.take());
            Some(range(found, revision))
        }
    }
}

/// The work of a client of etcd.
pub(super) const WORK: [Work; 2] = [
    |name, _, rest| hold_leases(&format!("{name}-etcd"), rest, &mut Etcd::new()),
    |name, seed, rest| {
        let mut etcd = Etcd::new();
        let random = Xoshiro256PlusPlus::seed_from_u64(!seed);
        change_keys(&format!("{name}-etcd"), random, rest, |operation| operate(&mut etcd, operation));
    },
];

impl LeaseClient for Etcd {
    type Id = i64;

    fn grant(&mut self, ttl: Duration) -> Option<(i64, Duration)> {
        let grant = LeaseGrantRequest { TTL: i64::try_from(ttl.as_secs()).expect("it is short"), ID: 0 };
        let granted: LeaseGrantResponse = self.call("/etcdserverpb.Lease/LeaseGrant", &grant)?;
        Some((granted.ID, Duration::from_secs(granted.TTL.unsigned_abs())))
    }

    fn put(&mut self, key: &str, lease: &i64) -> Option<u64> {
        let put: PutResponse = self.call("/etcdserverpb.KV/Put", &puts(key, key, *lease))?;
        Some(revision(put.header).unsigned_abs())
    }

    fn keep_alive(&mut self, lease: &i64) -> bool {
        let keep = LeaseKeepAliveRequest { ID: *lease };
        let kept: Option<LeaseKeepAliveResponse> = self.call("/etcdserverpb.Lease/LeaseKeepAlive", &keep);
        kept.is_some_and(|kept| kept.TTL > 0)
    }
}

/// Prints each revision. Whenever it is cut off, it resumes after the last one, as clients of etcd do.
pub(super) fn watch(name: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut told = 0;
    // Watchers have numbers.
    let name = &format!("{name}0");
    while !runtime.block_on(follow(name, &mut told)).unwrap_or_default() {
        // The node is not there, and may be again.
        thread::sleep(PACE * 4);
    }
}

/// Whether the last key was seen; nothing, if the watch was cut off.
async fn follow(name: &str, told: &mut i64) -> Option<bool> {
    let connected = timeout(PATIENCE, Client::try_connect(*ADDR)).await.ok()?;
    let mut call = connected.ok()?.try_open("/etcdserverpb.Watch/Watch", &[("hasleader", "true")]).await.ok()?;
    let all = Bytes::from_static(&[0]);
    let (key, range_end) = (all.clone(), all);
    let start_revision = if *told == 0 { 2 } else { *told + 1 };
    let create = WatchCreateRequest { key, range_end, start_revision, prev_kv: true, ..WatchCreateRequest::default() };
    call.send(&WatchRequest { create_request: Some(create), ..WatchRequest::default() });
    loop {
        let answer = timeout(PATIENCE, call.next_without_limit::<WatchResponse>()).await.ok()?;
        let answer = answer.ok()??;
        if answer.canceled {
            print_line(&json!({"ended": answer.cancel_reason, "why": answer.compact_revision}));
            return None;
        }
        let at = now().as_nanos() as u64;
        let mut is_last = false;
        for events in answer.events.chunk_by(|one, next| changed(one) == changed(next)) {
            let revision = changed(&events[0]);
            let all: Vec<_> = events.iter().map(event).collect();
            print_line(&json!({"watcher": name, "told": {"revision": revision, "events": all}, "at": at}));
            *told = revision;
            is_last |= events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == LAST));
        }
        if is_last {
            return Some(true);
        }
    }
}

/// The revision of a change.
fn changed(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn event(event: &Event) -> Value {
    let mut shown = json!({"kv": event.kv.as_ref().map(kv)});
    if let Some(prev) = &event.prev_kv {
        shown["prev"] = kv(prev);
    }
    shown
}

/// A lock held by a client of etcd.
pub(super) struct EtcdLock {
    key: Bytes,
    lease: i64,
    /// The revision that created the key is the token.
    token: u64,
}

impl LockClient for Etcd {
    const PROTOCOL: &str = "etcd";

    type Lock = EtcdLock;

    fn lock(&mut self, name: &'static str, ttl: Duration, wait: Duration) -> Option<EtcdLock> {
        let (lease, _) = self.grant(ttl)?;
        let request = LockRequest { name: name.into(), lease };
        // None is granted in no time, and nobody keeps the lease alive meanwhile.
        let wait = wait.clamp(PACE * 5, ttl * 2 / 3);
        let held = self.call_within::<LockResponse>(wait, "/v3lockpb.Lock/Lock", &request).and_then(|locked| {
            let look = RangeRequest { key: locked.key.clone(), ..RangeRequest::default() };
            let found: RangeResponse = self.call("/etcdserverpb.KV/Range", &look)?;
            let token = found.kvs.first()?.create_revision.unsigned_abs();
            Some(EtcdLock { key: locked.key, lease, token })
        });
        if held.is_none() {
            // It waits no longer then.
            self.revoke(lease);
        }
        held
    }

    fn token(held: &EtcdLock) -> u64 {
        held.token
    }

    fn keep_alive(&mut self, held: &EtcdLock) -> bool {
        LeaseClient::keep_alive(self, &held.lease)
    }

    fn put_fenced(&mut self, held: &EtcdLock, key: &str) -> Option<Result<u64, NotHeld>> {
        let token = Some(i64::try_from(held.token).expect("a revision"));
        let is_held = Compare { target: CREATE, create_revision: token, ..compare(held.key.clone()) };
        let put = RequestOp { request_put: Some(puts(key, "x", 0)), ..RequestOp::default() };
        let txn = TxnRequest { compare: vec![is_held], success: vec![put], failure: Vec::new() };
        let done: TxnResponse = self.call("/etcdserverpb.KV/Txn", &txn)?;
        Some(if done.succeeded { Ok(revision(done.header).unsigned_abs()) } else { Err(NotHeld) })
    }

    fn release(&mut self, held: &EtcdLock) {
        self.revoke(held.lease);
    }
}

impl Etcd {
    /// Ends a lease, and so what it holds.
    fn revoke(&mut self, lease: i64) {
        let _: Option<LeaseRevokeResponse> =
            self.call("/etcdserverpb.Lease/LeaseRevoke", &LeaseRevokeRequest { ID: lease });
    }
}
