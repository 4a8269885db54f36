//! Locks and elections, as etcd makes them on its server: by the recipe of its client. Whoever wants a lock `N` puts the key
//! `N/<lease>`, and has it when no key of that prefix was created before. So who asks by these calls and who follows the
//! recipe itself, as `etcdctl lock` and Go's `concurrency.Mutex` do, exclude each other.
//!
//! # What can go wrong
//!
//! - *The lease ends while a call waits*: its key is gone, and the call fails rather than answer that it has the lock.
//! - *The client goes away while it waits*: its key is deleted.

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
    kv::unsigned,
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

/// How long a lease lives that nobody has given, in seconds: that of etcd's client.
const TTL: i64 = 60;
/// Leaders that wait for an observer who does not read.
const LEADERS: usize = 16;

/// What etcd's client says.
const SESSION_EXPIRED: Status = Status::of(Code::Unknown, "mutex: session is expired");
const NOT_LEADER: Status = Status::of(Code::Unknown, "election: not leader");
/// What only this says: etcd's client takes such a key for its own.
const NOT_A_PLACE: Status = Status::of(
    Code::FailedPrecondition,
    "etcdserver: the key of this place is there, and not under its lease; delete it",
);
const NO_LEADER_KEY: Status = Status::of(Code::Unknown, r#""leader" field must be provided"#);
const NO_LEADER: Status = Status::of(Code::Unknown, "election: no leader");

/// A place in a queue: a key of one lease.
#[derive(Clone, Debug)]
struct Place {
    prefix: Bytes,
    key: Bytes,
    lease: i64,
    /// The revision that created it.
    revision: i64,
    /// What it had as its value before, if it was there.
    value: Option<Bytes>,
}

/// Deletes the key of a place that was left, unless that was kept.
struct Leaving {
    etcd: Etcd,
    place: Option<Place>,
}

impl Leaving {
    fn keep(mut self) {
        self.place = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let etcd = self.etcd.clone();
            // If this fails, the key ends with its lease.
            let leave = async move {
                drop(etcd.txn(if_created(&place.key, place.revision, deletes(&place.key))).await);
            };
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(leave);
            }
        }
    }
}

fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The first or the last to have been created of those in the queue, up to a revision.
fn in_queue(prefix: &Bytes, order: i32, max_create_revision: i64) -> RangeRequest {
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

fn deletes(key: &Bytes) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    RequestOp { request_delete_range: Some(delete), ..RequestOp::default() }
}

fn puts(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    RequestOp { request_put: Some(put), ..RequestOp::default() }
}

/// Does something if a key was created at this revision; 0 if it is not there.
fn if_created(key: &Bytes, revision: i64, then: RequestOp) -> TxnRequest {
    let compare = Compare { target: CREATE, key: key.clone(), create_revision: Some(revision), ..Compare::default() };
    TxnRequest { compare: vec![compare], success: vec![then], failure: Vec::new() }
}

impl Etcd {
    pub(crate) async fn lock(&self, request: LockRequest) -> Result<LockResponse, Status> {
        let (place, waiting, header) = self.queue_up(&request.name, request.lease, Bytes::new()).await?;
        let header = self.wait_for_turn(&place).await?.unwrap_or(header);
        waiting.keep();
        Ok(LockResponse { header: Some(header), key: place.key })
    }

    pub(crate) async fn unlock(&self, request: UnlockRequest) -> Result<UnlockResponse, Status> {
        let delete = DeleteRangeRequest { key: request.key, ..DeleteRangeRequest::default() };
        Ok(UnlockResponse { header: self.delete_range(delete).await?.header })
    }

    pub(crate) async fn campaign(&self, request: CampaignRequest) -> Result<CampaignResponse, Status> {
        let CampaignRequest { name, lease, value } = request;
        let (place, waiting, header) = self.queue_up(&name, lease, value.clone()).await?;
        let leader = LeaderKey { name, key: place.key.clone(), rev: place.revision, lease: place.lease };
        if place.value.as_ref().is_some_and(|before| *before != value) {
            self.proclaim(ProclaimRequest { leader: Some(leader.clone()), value }).await?;
        }
        self.wait_for_turn(&place).await?;
        waiting.keep();
        Ok(CampaignResponse { header: Some(header), leader: Some(leader) })
    }

    pub(crate) async fn proclaim(&self, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
        let LeaderKey { key, rev, lease, .. } = request.leader.ok_or(NO_LEADER_KEY)?;
        let done = self.txn(if_created(&key, rev, puts(&key, request.value, lease))).await?;
        if done.succeeded { Ok(ProclaimResponse { header: done.header }) } else { Err(NOT_LEADER) }
    }

    pub(crate) async fn leader(&self, request: LeaderRequest) -> Result<LeaderResponse, Status> {
        let found = self.range(in_queue(&prefix(&request.name), ASCEND, 0)).await?;
        let kv = found.kvs.into_iter().next().ok_or(NO_LEADER)?;
        Ok(LeaderResponse { header: found.header, kv: Some(kv) })
    }

    pub(crate) async fn resign(&self, request: ResignRequest) -> Result<ResignResponse, Status> {
        let LeaderKey { key, rev, .. } = request.leader.ok_or(NO_LEADER_KEY)?;
        let done = self.txn(if_created(&key, rev, deletes(&key))).await?;
        Ok(ResignResponse { header: done.header })
    }

    /// Tells who leads, and what that one proclaims, from now on.
    pub(crate) fn observe(
        self,
        mut requests: Requests<LeaderRequest>,
        _: bool,
    ) -> impl Stream<Item = Result<LeaderResponse, Status>> + Send + 'static {
        let (out, told) = mpsc::channel(LEADERS);
        tokio::spawn(async move {
            let observed = async {
                let request = requests.next().await?.unwrap_or_default();
                requests.is_dealt_with();
                self.tell_leaders(&prefix(&request.name), &out).await
            };
            let ended = tokio::select! {
                ended = observed => ended,
                () = out.closed() => return,
            };
            if let Err(status) = ended {
                let _ = out.send(Err(status)).await;
            }
        });
        ReceiverStream::new(told)
    }

    async fn tell_leaders(
        &self,
        prefix: &Bytes,
        out: &mpsc::Sender<Result<LeaderResponse, Status>>,
    ) -> Result<(), Status> {
        let tell = async |header: ResponseHeader, kv: KeyValue| {
            let told = out.send(Ok(LeaderResponse { header: Some(header), kv: Some(kv) })).await;
            told.map_err(|_| Status::of(Code::Internal, "nobody observes any more"))
        };
        loop {
            let found = self.range(in_queue(prefix, ASCEND, 0)).await?;
            let mut header = found.header.unwrap_or_default();
            let Some(kv) = found.kvs.into_iter().next() else {
                // Whoever comes first is seen the next time.
                self.changed(KeyRange::prefix(prefix.clone()), header.revision + 1, false).await?;
                continue;
            };
            let key = kv.key.clone();
            tell(header.clone(), kv).await?;
            loop {
                let Some(kv) = self.changed(KeyRange::one(key.clone()), header.revision + 1, false).await? else {
                    break;
                };
                // It has resigned, or its lease has ended.
                if kv.version == 0 {
                    break;
                }
                header = self.header(unsigned(kv.mod_revision));
                tell(header.clone(), kv).await?;
            }
        }
    }

    /// Takes a place in a queue; gives also the header of that answer.
    async fn queue_up(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<(Place, Leaving, ResponseHeader), Status> {
        let lease = match lease {
            // Nobody keeps it alive.
            0 => self.grant(LeaseGrantRequest { TTL, ID: 0 }).await?.ID,
            lease => lease,
        };
        let prefix = prefix(name);
        let key: Bytes = [&prefix[..], lease_digits(lease).as_bytes()].concat().into();
        let look = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let look = RequestOp { request_range: Some(look), ..RequestOp::default() };
        let txn = TxnRequest { failure: vec![look], ..if_created(&key, 0, puts(&key, value, lease)) };
        // etcd's server asks through a client, and passes on what that says, without its code.
        let of_client = |status: Status| match status.code {
            Code::NotFound | Code::InvalidArgument => Status { code: Code::Unknown, ..status },
            _ => status,
        };
        let done = self.txn(txn).await.map_err(of_client)?;
        let header = done.header.unwrap_or_default();
        let there = done.responses.into_iter().next().and_then(|first| first.response_range);
        let there = there.and_then(|range| range.kvs.into_iter().next());
        if there.as_ref().is_some_and(|kv| kv.lease != lease) {
            return Err(NOT_A_PLACE);
        }
        let (revision, value) = match there {
            Some(kv) => (kv.create_revision, Some(kv.value)),
            None => (header.revision, None),
        };
        let place = Place { prefix, key, lease, revision, value };
        let leaving = Leaving { etcd: self.clone(), place: Some(place.clone()) };
        Ok((place, leaving, header))
    }

    /// Waits until nobody is before a place; gives the header of the answer that says so, if that took time.
    async fn wait_for_turn(&self, place: &Place) -> Result<Option<ResponseHeader>, Status> {
        let mut waited = false;
        loop {
            let before = self.range(in_queue(&place.prefix, DESCEND, place.revision - 1)).await?;
            let header = before.header.unwrap_or_default();
            let before = before.kvs.into_iter().next();
            if before.is_some() || waited {
                // Its lease may have ended.
                let mine = RangeRequest { key: place.key.clone(), ..RangeRequest::default() };
                let mine = self.range(mine).await?.kvs.into_iter().next();
                mine.filter(|kv| kv.create_revision == place.revision).ok_or(SESSION_EXPIRED)?;
            }
            let Some(before) = before else { return Ok(waited.then_some(header)) };
            waited = true;
            // Whoever is before, or the place itself, which its lease takes along.
            let [before, mine] =
                [before.key, place.key.clone()].map(|key| self.changed(KeyRange::one(key), header.revision + 1, true));
            tokio::select! {
                gone = before => gone?,
                gone = mine => gone?,
            };
        }
    }

    /// The first change of these keys from a revision on, or the first delete. Nothing, if that is forgotten: then look
    /// again.
    async fn changed(&self, keys: KeyRange, from: i64, no_put: bool) -> Result<Option<KeyValue>, Status> {
        let watch = Watch { keys, start_revision: unsigned(from), no_put, ..Watch::default() };
        self.run(async move |store| {
            let mut watch = store.watch(watch);
            loop {
                match watch.next().await {
                    Ok(Some(WatchEvent::Changes { events, .. })) => {
                        return Ok(events.first().map(|event| crate::kv::key_value(&event.kv)));
                    }
                    Ok(Some(WatchEvent::Progress { .. })) => {}
                    Ok(Some(WatchEvent::Cancelled(_)) | None) => return Ok(None),
                    // Voters may be there again.
                    Err(StoreError::NoLeader { .. } | StoreError::NoVoters) => {}
                    Err(error) => return Err(error),
                }
            }
        })
        .await
    }
}
