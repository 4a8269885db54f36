//! etcd's services `Lock` and `Election`. As in etcd's server, they follow the recipe of its client, the Go package
//! `concurrency`: whoever wants lock `N` puts the key `N/LEASE`, and holds the lock once no key with the prefix `N/` is older.
//! So a client that calls these services and one that follows the recipe itself (`etcdctl lock`, `concurrency.Mutex`) exclude
//! each other. The lock service ([`broadcast_lock`]) waits in the same queue.
//!
//! # What can go wrong
//!
//! - *The lease ends while a call waits*: its key is gone, so the call fails.
//! - *The client goes away while a call waits*: its key is deleted.

use broadcast_lock::message::lease_digits;
use broadcast_store::{
    StoreError,
    keys::{KeyRange, Watch, WatchEvent},
};
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    Etcd,
    kv::to_u64,
    messages::{
        CampaignRequest, CampaignResponse, Compare, DeleteRangeRequest, KeyValue, LeaderKey, LeaderRequest,
        LeaderResponse, LeaseGrantRequest, LockRequest, LockResponse, ProclaimRequest, ProclaimResponse, PutRequest,
        RangeRequest, RequestOp, ResignRequest, ResignResponse, ResponseHeader, TxnRequest, UnlockRequest,
        UnlockResponse,
        enums::{ASCEND, CREATE, DESCEND, SORT_CREATE},
    },
    routes::Requests,
    status::{Code, Status},
};

/// The time to live of a lease where the client names none, in seconds: that of etcd's client.
const DEFAULT_TTL: i64 = 60;
/// How many leaders a stream holds for an observer that does not read.
const LEADER_BUFFER: usize = 16;

/// Texts of etcd's client.
const SESSION_EXPIRED: Status = Status::of(Code::Unknown, "mutex: session is expired");
const NOT_LEADER: Status = Status::of(Code::Unknown, "election: not leader");
/// A text of this service only: etcd's client takes such a key for its own.
const KEY_NOT_OF_LEASE: Status = Status::of(
    Code::FailedPrecondition,
    "etcdserver: the key of this place is there, and not under its lease; delete it",
);
const NO_LEADER_KEY: Status = Status::of(Code::Unknown, r#""leader" field must be provided"#);
const NO_LEADER: Status = Status::of(Code::Unknown, "election: no leader");

/// An entry in a queue: the key of a lease.
#[derive(Clone, Debug)]
struct QueueEntry {
    prefix: Bytes,
    key: Bytes,
    lease: i64,
    /// The revision that created it.
    revision: i64,
    /// The value of the key, if it was there before.
    value: Option<Bytes>,
}

/// Deletes the key of an entry when it is dropped, unless it was disarmed.
struct DeleteOnDrop {
    etcd: Etcd,
    entry: Option<QueueEntry>,
}

impl DeleteOnDrop {
    fn disarm(mut self) {
        self.entry = None;
    }
}

impl Drop for DeleteOnDrop {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let etcd = self.etcd.clone();
            // If this fails, the key ends with its lease.
            let delete = async move {
                drop(etcd.txn(if_created(&entry.key, entry.revision, delete_op(&entry.key))).await);
            };
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(delete);
            }
        }
    }
}

fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Reads the oldest key of a queue or the newest, up to a revision; 0 means up to now.
fn oldest_or_newest(prefix: &Bytes, order: i32, max_create_revision: i64) -> RangeRequest {
    let KeyRange { key, end } = KeyRange::prefix(prefix.clone());
    RangeRequest {
        key,
        range_end: end,
        limit: 1,
        sort_order: order,
        sort_target: SORT_CREATE,
        max_create_revision,
        ..RangeRequest::default()
    }
}

fn delete_op(key: &Bytes) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    RequestOp { request_delete_range: Some(delete), ..RequestOp::default() }
}

fn put_op(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    RequestOp { request_put: Some(put), ..RequestOp::default() }
}

/// Does something if a key was created at this revision; 0 means, if it does not exist.
fn if_created(key: &Bytes, revision: i64, then: RequestOp) -> TxnRequest {
    let compare = Compare { target: CREATE, key: key.clone(), create_revision: Some(revision), ..Compare::default() };
    TxnRequest { compare: vec![compare], success: vec![then], failure: Vec::new() }
}

impl Etcd {
    pub(crate) async fn lock(&self, request: LockRequest) -> Result<LockResponse, Status> {
        let (entry, guard, header) = self.enqueue(&request.name, request.lease, Bytes::new()).await?;
        let header = self.wait_for_turn(&entry).await?.unwrap_or(header);
        guard.disarm();
        Ok(LockResponse { header: Some(header), key: entry.key })
    }

    pub(crate) async fn unlock(&self, request: UnlockRequest) -> Result<UnlockResponse, Status> {
        let delete = DeleteRangeRequest { key: request.key, ..DeleteRangeRequest::default() };
        Ok(UnlockResponse { header: self.delete_range(delete).await?.header })
    }

    pub(crate) async fn campaign(&self, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let CampaignRequest { name, lease, value } = request;
        let (entry, guard, header) = self.enqueue(&name, lease, value.clone()).await?;
        let leader = LeaderKey { name, key: entry.key.clone(), rev: entry.revision, lease: entry.lease };
        if entry.value.as_ref().is_some_and(|before| *before != value) {
            self.proclaim(ProclaimRequest { leader: Some(leader.clone()), value }).await?;
        }
        self.wait_for_turn(&entry).await?;
        guard.disarm();
        Ok(CampaignResponse { header: Some(header), leader: Some(leader) })
    }

    pub(crate) async fn proclaim(&self, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
        let LeaderKey { key, rev, lease, .. } = request.leader.ok_or(NO_LEADER_KEY)?;
        let done = self.txn(if_created(&key, rev, put_op(&key, request.value, lease))).await?;
        if done.succeeded { Ok(ProclaimResponse { header: done.header }) } else { Err(NOT_LEADER) }
    }

    pub(crate) async fn leader(&self, request: LeaderRequest) -> Result<LeaderResponse, Status> {
        let found = self.range(oldest_or_newest(&prefix(&request.name), ASCEND, 0)).await?;
        let kv = found.kvs.into_iter().next().ok_or(NO_LEADER)?;
        Ok(LeaderResponse { header: found.header, kv: Some(kv) })
    }

    pub(crate) async fn resign(&self, request: ResignRequest) -> Result<ResignResponse, Status> {
        let LeaderKey { key, rev, .. } = request.leader.ok_or(NO_LEADER_KEY)?;
        let done = self.txn(if_created(&key, rev, delete_op(&key))).await?;
        Ok(ResignResponse { header: done.header })
    }

    /// Streams the leaders of an election, and the values that they proclaim.
    pub(crate) fn observe(
        self,
        mut requests: Requests<LeaderRequest>,
        _: bool,
    ) -> impl Stream<Item = Result<LeaderResponse, Status>> + Send + 'static {
        let (out, leaders) = mpsc::channel(LEADER_BUFFER);
        tokio::spawn(async move {
            let observed = async {
                let request = requests.next().await?.unwrap_or_default();
                requests.release();
                self.send_leaders(&prefix(&request.name), &out).await
            };
            let ended = tokio::select! {
                ended = observed => ended,
                () = out.closed() => return,
            };
            if let Err(status) = ended {
                let _ = out.send(Err(status)).await;
            }
        });
        ReceiverStream::new(leaders)
    }

    async fn send_leaders(
        &self,
        prefix: &Bytes,
        out: &mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<(), Status> {
        let send = async |header: ResponseHeader, kv: KeyValue| {
            let sent = out.send(Ok(LeaderResponse { header: Some(header), kv: Some(kv) })).await;
            sent.map_err(|_| Status::of(Code::Internal, "nobody observes any more"))
        };
        loop {
            let found = self.range(oldest_or_newest(prefix, ASCEND, 0)).await?;
            let mut header = found.header.unwrap_or_default();
            let Some(kv) = found.kvs.into_iter().next() else {
                // Nobody leads: wait for the first candidate.
                self.wait_for_change(KeyRange::prefix(prefix.clone()), header.revision + 1, false).await?;
                continue;
            };
            let key = kv.key.clone();
            send(header.clone(), kv).await?;
            loop {
                let Some(kv) = self.wait_for_change(KeyRange::one(key.clone()), header.revision + 1, false).await?
                else {
                    break;
                };
                // The key is deleted: the leader has resigned, or its lease has ended.
                if kv.version == 0 {
                    break;
                }
                header = self.header(to_u64(kv.mod_revision));
                send(header.clone(), kv).await?;
            }
        }
    }

    /// Puts the key of an entry, or finds it there. Also gives the header of that response.
    async fn enqueue(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<(QueueEntry, DeleteOnDrop, ResponseHeader), Status> {
        let lease = match lease {
            // A lease for this call: nobody keeps it alive.
            0 => self.grant(LeaseGrantRequest { TTL: DEFAULT_TTL, ID: 0 }).await?.ID,
            lease => lease,
        };
        let prefix = prefix(name);
        let key: Bytes = [&prefix[..], lease_digits(lease).as_bytes()].concat().into();
        let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let read = RequestOp { request_range: Some(read), ..RequestOp::default() };
        let txn = TxnRequest { failure: vec![read], ..if_created(&key, 0, put_op(&key, value, lease)) };
        // etcd's server calls itself through its client, which drops the code of these errors.
        let as_client_error = |status: Status| match status.code {
            Code::NotFound | Code::InvalidArgument => Status { code: Code::Unknown, ..status },
            _ => status,
        };
        let done = self.txn(txn).await.map_err(as_client_error)?;
        let header = done.header.unwrap_or_default();
        let existing = done.responses.into_iter().next().and_then(|first| first.response_range);
        let existing = existing.and_then(|range| range.kvs.into_iter().next());
        if existing.as_ref().is_some_and(|kv| kv.lease != lease) {
            return Err(KEY_NOT_OF_LEASE);
        }
        let (revision, value) = match existing {
            Some(kv) => (kv.create_revision, Some(kv.value)),
            None => (header.revision, None),
        };
        let entry = QueueEntry { prefix, key, lease, revision, value };
        let delete_on_drop = DeleteOnDrop { etcd: self.clone(), entry: Some(entry.clone()) };
        Ok((entry, delete_on_drop, header))
    }

    /// Waits until no entry is older. If it had to wait, gives the header of the response that shows it.
    async fn wait_for_turn(&self, entry: &QueueEntry) -> Result<Option<ResponseHeader>, Status> {
        let mut waited = false;
        loop {
            let before = self.range(oldest_or_newest(&entry.prefix, DESCEND, entry.revision - 1)).await?;
            let header = before.header.unwrap_or_default();
            let before = before.kvs.into_iter().next();
            if before.is_some() || waited {
                // The entry is gone if its lease has ended.
                let mine = RangeRequest { key: entry.key.clone(), ..RangeRequest::default() };
                let mine = self.range(mine).await?.kvs.into_iter().next();
                mine.filter(|kv| kv.create_revision == entry.revision).ok_or(SESSION_EXPIRED)?;
            }
            let Some(before) = before else { return Ok(waited.then_some(header)) };
            waited = true;
            // Either the entry before this one is deleted, or this one is, with its lease.
            let [before, mine] = [before.key, entry.key.clone()]
                .map(|key| self.wait_for_change(KeyRange::one(key), header.revision + 1, true));
            tokio::select! {
                gone = before => gone?,
                gone = mine => gone?,
            };
        }
    }

    /// Waits for the first change of these keys from a revision on, or with `no_put` for the first delete. Nothing, if history
    /// has forgotten it: then read again.
    async fn wait_for_change(&self, keys: KeyRange, from: i64, no_put: bool) -> Result<Option<KeyValue>, Status> {
        let watch = Watch { keys, start_revision: to_u64(from), no_put, ..Watch::default() };
        self.run(async move |store| {
            let mut watch = store.watch(watch);
            loop {
                match watch.next().await {
                    Ok(Some(WatchEvent::Changes { events, .. })) => {
                        return Ok(events.first().map(|event| crate::kv::key_value(&event.kv)));
                    }
                    Ok(Some(WatchEvent::Progress { .. })) => {}
                    Ok(Some(WatchEvent::Cancelled(_)) | None) => return Ok(None),
                    // The watch asks again, as soon as voters are there.
                    Err(StoreError::NoLeader { .. } | StoreError::NoVoters) => {}
                    Err(error) => return Err(error),
                }
            }
        })
        .await
    }
}
