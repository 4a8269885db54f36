//! A differential test: the same random operations go to a real etcd and to the store. Both must answer the same, and their
//! watches must get the same events. Only who answers may differ, and how long a lease of days has left.
//!
//! The store is asked at a node that does not vote, so every operation also goes to the voters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::{Duration, Instant},
};

use broadcast_etcd::messages::{
    CompactionRequest, CompactionResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeResponse, ResponseHeader,
    TxnResponse, WatchCancelRequest, WatchRequest, WatchResponse,
};
use prost::Message;
use rand::{Rng, RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Cluster, RealEtcd,
    client::{CallError, Client, LIMIT},
    requests::{self, World},
};

const SEED: &str = "BROADCAST_TESTS_SEED";
const OPERATIONS: &str = "BROADCAST_TESTS_OPERATIONS";
/// How many leases and watches there are at a time, at most: however long a run is, its operations stay as fast.
const MAX_LEASES: usize = 200;
const MAX_WATCHES: usize = 60;

/// An answer, which both servers have to give alike.
trait Answer: Message + Default + PartialEq + Clone + Debug {
    fn header(&mut self) -> &mut Option<ResponseHeader>;

    /// Without what says who answers, and when.
    fn comparable(mut self) -> Self {
        let header = self.header().as_mut().expect("each answer has one");
        *header = ResponseHeader { revision: header.revision, ..ResponseHeader::default() };
        self
    }
}

macro_rules! answers {
    ($($name:ty),*) => {$(impl Answer for $name {
        fn header(&mut self) -> &mut Option<ResponseHeader> {
            &mut self.header
        }
    })*};
}

answers!(
    RangeResponse,
    PutResponse,
    DeleteRangeResponse,
    TxnResponse,
    CompactionResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse,
    LeaseLeasesResponse
);

/// An event: put or delete, the key, and the key before.
type SeenEvent = (i32, Vec<u8>, Vec<u8>);

/// What happened on one stream of watches since both agreed last.
#[derive(Clone, Debug, Default, PartialEq)]
struct WatchLog {
    /// Who was created, with which ids, and why not.
    created: Vec<(i64, bool, String)>,
    /// The events of each watch, in order; before them, the last one that was agreed on.
    events: BTreeMap<i64, Vec<SeenEvent>>,
    /// Who was cancelled, and at which compacted revision.
    cancelled: BTreeSet<(i64, i64)>,
}

impl WatchLog {
    fn add(&mut self, answer: WatchResponse) {
        let id = answer.watch_id;
        if answer.created {
            self.created.push((id, answer.canceled, answer.cancel_reason));
        } else if answer.canceled {
            self.cancelled.insert((id, answer.compact_revision));
        }
        for event in answer.events {
            let [kv, prev] = [event.kv, event.prev_kv].map(|kv| kv.map(|kv| kv.encode_to_vec()).unwrap_or_default());
            self.events.entry(id).or_default().push((event.r#type, kv, prev));
        }
    }

    /// Forgets what was agreed on: otherwise a run of a million operations would compare all of it again and again.
    fn forget(&mut self) {
        self.created.clear();
        for events in self.events.values_mut() {
            events.drain(..events.len() - 1);
        }
    }
}

/// A server, and the stream of watches on it.
struct Server {
    client: Client,
    watches: mpsc::UnboundedSender<WatchRequest>,
    answers: mpsc::UnboundedReceiver<WatchResponse>,
    log: WatchLog,
}

impl Server {
    async fn connect(addr: std::net::SocketAddr) -> Self {
        let mut client = Client::connect(addr).await;
        let mut call = client.open("/etcdserverpb.Watch/Watch", &[]).await;
        let (watches, mut requests) = mpsc::unbounded_channel::<WatchRequest>();
        let (answered, answers) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    request = requests.recv() => match request {
                        Some(request) => call.send(&request),
                        None => return,
                    },
                    answer = call.next_without_limit() => match answer {
                        Ok(Some(answer)) => drop(answered.send(answer)),
                        other => panic!("the stream has ended: {other:?}"),
                    },
                }
            }
        });
        Self { client, watches, answers, log: WatchLog::default() }
    }

    fn take(&mut self) {
        while let Ok(answer) = self.answers.try_recv() {
            self.log.add(answer);
        }
    }

    /// Waits until so many watches were created, or not.
    async fn created(&mut self, count: usize) {
        while self.log.created.len() < count {
            let answer = timeout(LIMIT, self.answers.recv()).await.expect("an answer in time");
            self.log.add(answer.expect("the stream stands"));
        }
    }
}

/// Pair servers.
struct Pair {
    etcd: Server,
    ours: Server,
    seed: u64,
    number: u64,
    /// How many watches were created, and how many events were told.
    counts: (usize, usize),
}

impl Pair {
    fn fail(&self, what: &str) -> ! {
        panic!(
            "operation {} differs: {what}\nagain: {SEED}={} cargo test --test interop -- etcd/ten_thousand",
            self.number, self.seed
        )
    }

    /// Asks both, and gives what both answer.
    async fn call<A: Answer>(&mut self, path: &str, request: &(impl Message + Debug)) -> Result<A, CallError> {
        self.call_as(path, request, |answer: A| answer).await
    }

    async fn call_as<A: Answer>(
        &mut self,
        path: &str,
        request: &(impl Message + Debug),
        same: fn(A) -> A,
    ) -> Result<A, CallError> {
        let (etcd, ours) = (self.etcd.client.call::<A>(path, request), self.ours.client.call::<A>(path, request));
        let (etcd, ours) = tokio::join!(etcd, ours);
        let [etcd, ours] = [etcd, ours].map(|answer| answer.map(|answer| same(answer.comparable())));
        if etcd != ours {
            self.fail(&format!("{path} {request:?}\netcd: {etcd:#?}\nours: {ours:#?}"));
        }
        ours
    }

    /// Waits until both watches have been told the same.
    async fn agree(&mut self) {
        let end = Instant::now() + LIMIT;
        loop {
            self.etcd.take();
            self.ours.take();
            if self.etcd.log == self.ours.log {
                let WatchLog { created, events, .. } = &self.ours.log;
                self.counts.0 += created.len();
                self.counts.1 += events.values().map(|events| events.len() - 1).sum::<usize>();
                self.etcd.log.forget();
                self.ours.log.forget();
                return;
            }
            if Instant::now() > end {
                let differ =
                    self.etcd.log.events.iter().filter(|(id, events)| self.ours.log.events.get(id) != Some(events));
                let differ: Vec<_> =
                    differ.map(|(id, events)| (id, events.len(), self.ours.log.events.get(id))).collect();
                let [etcd, ours] = [&self.etcd.log, &self.ours.log].map(|log| (&log.created, &log.cancelled));
                self.fail(&format!("watches\netcd: {etcd:?}\nours: {ours:?}\nevents: {differ:?}"));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn watch(&self, request: &WatchRequest) {
        for side in [&self.etcd, &self.ours] {
            side.watches.send(request.clone()).expect("the stream stands");
        }
    }
}

pub fn ten_thousand_operations() {
    let number = |name, default| std::env::var(name).map_or(default, |value| value.parse().expect("a number"));
    let operations = number(OPERATIONS, 10_000);
    let seed = number(SEED, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(run(seed, operations));
}

/// A watch that both have begun, and is not cancelled.
struct ActiveWatch {
    id: i64,
    /// The first revision that it is to be told of, as long as it is not known to have been told what had been before.
    behind: Option<i64>,
    begun_at: i64,
}

async fn run(seed: u64, operations: u64) {
    let (real, cluster) = (RealEtcd::start(), Cluster::start());
    for voter in &cluster.voters {
        voter.etcd();
    }
    let (etcd, ours) = tokio::join!(Server::connect(real.addr), Server::connect(cluster.other.etcd()));
    let mut both = Pair { etcd, ours, seed, number: 0, counts: (0, 0) };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut world = World { revision: 1, ..World::default() };
    let mut watching: Vec<ActiveWatch> = Vec::new();
    // The store may not have been founded yet.
    let first = PutRequest { key: "a".into(), value: "first".into(), ..PutRequest::default() };
    while both.ours.client.call::<PutResponse>("/etcdserverpb.KV/Put", &first).await.is_err() {}
    both.etcd.client.call::<PutResponse>("/etcdserverpb.KV/Put", &first).await.expect("it is put");
    for at in 0..operations {
        both.number = at;
        step(&mut both, &mut rng, &mut world, &mut watching).await;
        if at % 100 == 99 {
            both.agree().await;
            let log = &both.ours.log;
            watching.retain(|watch| !log.cancelled.iter().any(|(id, _)| *id == watch.id));
        }
    }
    both.agree().await;
    let (watches, events) = both.counts;
    assert!(operations < 1000 || (watches > 10 && events > 100), "{watches} watches, {events} events");
}

async fn step(both: &mut Pair, rng: &mut impl Rng, world: &mut World, watching: &mut Vec<ActiveWatch>) {
    let mut seen = 0;
    let kind = match rng.random_range(0..1000) {
        840..880 if world.leases.len() >= MAX_LEASES => 880,
        940..980 if watching.len() >= MAX_WATCHES => 980,
        kind => kind,
    };
    match kind {
        0..250 => {
            let answer = both.call::<RangeResponse>("/etcdserverpb.KV/Range", &requests::range(rng, world)).await;
            seen = revision(answer.map(|answer| answer.header));
        }
        250..500 => {
            let answer = both.call::<PutResponse>("/etcdserverpb.KV/Put", &requests::put(rng, world)).await;
            seen = revision(answer.map(|answer| answer.header));
        }
        500..580 => {
            let request = requests::delete(rng);
            let answer = both.call::<DeleteRangeResponse>("/etcdserverpb.KV/DeleteRange", &request).await;
            seen = revision(answer.map(|answer| answer.header));
        }
        580..840 => {
            let answer = both.call::<TxnResponse>("/etcdserverpb.KV/Txn", &requests::txn(rng, world, 0)).await;
            seen = revision(answer.map(|answer| answer.header));
        }
        840..880 => {
            let request = requests::grant(rng, world);
            if let Ok(answer) = both.call::<LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", &request).await {
                world.leases.push(answer.ID);
            }
        }
        880..890 => {
            let at = rng.random_range(0..world.leases.len() + 1);
            let id = if at < world.leases.len() { world.leases.swap_remove(at) } else { 987_654 };
            let request = LeaseRevokeRequest { ID: id };
            let answer = both.call::<LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", &request).await;
            seen = revision(answer.map(|answer| answer.header));
        }
        890..910 => {
            let id = world.leases.choose(rng).copied().unwrap_or(987_654);
            let request = LeaseTimeToLiveRequest { ID: id, keys: rng.random() };
            let path = "/etcdserverpb.Lease/LeaseTimeToLive";
            // etcd lists keys in no order.
            let about = |mut answer: LeaseTimeToLiveResponse| {
                answer.keys.sort_unstable();
                LeaseTimeToLiveResponse { TTL: answer.TTL.min(1), ..answer }
            };
            let _ = both.call_as(path, &request, about).await;
        }
        910..920 => {
            let by_id = |mut answer: LeaseLeasesResponse| {
                answer.leases.sort_by_key(|lease| lease.ID);
                answer
            };
            let _ = both.call_as("/etcdserverpb.Lease/LeaseLeases", &LeaseLeasesRequest {}, by_id).await;
        }
        920..935 => {
            let id = world.leases.choose(rng).copied().unwrap_or(987_654);
            let request = LeaseKeepAliveRequest { ID: id };
            let _ = both.call::<LeaseKeepAliveResponse>("/etcdserverpb.Lease/LeaseKeepAlive", &request).await;
        }
        935..940 => compact(both, rng, world, watching).await,
        940..980 => {
            let mut create = requests::watch(rng, world);
            // To etcd, the number of a watch that compaction ended is taken for ever; to us, until the watch has ended.
            let ends = |watch: &ActiveWatch| watch.behind.is_some_and(|start| start <= world.compacted);
            let has_ended = both.ours.log.cancelled.iter().any(|(id, _)| *id == create.watch_id);
            if has_ended || watching.iter().any(|watch| watch.id == create.watch_id && ends(watch)) {
                create.watch_id = 0;
            }
            let begins = Some(create.start_revision).filter(|start| *start != 0 && *start <= world.revision);
            let count = both.ours.log.created.len() + 1;
            both.watch(&WatchRequest { create_request: Some(create), ..WatchRequest::default() });
            both.etcd.created(count).await;
            both.ours.created(count).await;
            let (id, refused, _) = both.ours.log.created[count - 1];
            if both.etcd.log.created != both.ours.log.created {
                both.fail(&format!("{:?}, {:?}", both.etcd.log.created.last(), both.ours.log.created.last()));
            }
            if !refused {
                watching.push(ActiveWatch { id, behind: begins, begun_at: world.revision });
            }
        }
        _ => {
            // Each has been told all that there was: whatever comes later is not told.
            both.agree().await;
            let behind: Vec<_> =
                watching.iter().filter(|watch| !is_behind(both, watch)).map(|watch| watch.id).collect();
            let Some(&id) = behind.choose(rng) else { return };
            let cancel = Some(WatchCancelRequest { watch_id: id });
            both.watch(&WatchRequest { cancel_request: cancel, ..WatchRequest::default() });
            let end = Instant::now() + LIMIT;
            let gone = |side: &Server| side.log.cancelled.iter().any(|(cancelled, _)| *cancelled == id);
            while !gone(&both.etcd) || !gone(&both.ours) {
                assert!(Instant::now() < end, "watch {id} is not cancelled");
                both.etcd.take();
                both.ours.take();
                sleep(Duration::from_millis(1)).await;
            }
            watching.retain(|watch| watch.id != id);
            let [etcd, ours] = [&both.etcd, &both.ours].map(|side| side.log.events.get(&id));
            if etcd != ours {
                both.fail(&format!("watch {id}, which was cancelled\netcd: {etcd:?}\nours: {ours:?}"));
            }
            // Its number is free, and what the next one of that number is told is no longer this one's.
            for side in [&mut both.etcd, &mut both.ours] {
                side.log.cancelled.retain(|(cancelled, _)| *cancelled != id);
                side.log.events.remove(&id);
            }
        }
    }
    world.revision = world.revision.max(seen);
}

/// Whether etcd may not have told a watch what was there before it began: nothing says so but what comes later.
fn is_behind(both: &Pair, watch: &ActiveWatch) -> bool {
    let events = both.etcd.log.events.get(&watch.id);
    let told = events.and_then(|events| events.last()).map(|(_, kv, _)| kv);
    let told = told.and_then(|kv| broadcast_etcd::messages::KeyValue::decode(&**kv).ok());
    watch.behind.is_some() && told.is_none_or(|kv| kv.mod_revision <= watch.begun_at)
}

/// Compacts, where that does not overtake a watch of etcd: it looks for what is behind now and then only.
async fn compact(both: &mut Pair, rng: &mut impl Rng, world: &mut World, watching: &[ActiveWatch]) {
    both.agree().await;
    let behind = watching.iter().filter(|watch| is_behind(both, watch)).filter_map(|watch| watch.behind);
    let most = behind.min().unwrap_or(world.revision);
    let revision = match rng.random_range(0..6) {
        0 => world.compacted.max(1),
        1 => world.revision + 1,
        _ => most - rng.random_range(0..10).min(most - 1),
    };
    if revision > most && revision <= world.revision {
        return;
    }
    let request = CompactionRequest { revision, physical: true };
    if both.call::<CompactionResponse>("/etcdserverpb.KV/Compact", &request).await.is_ok() {
        world.compacted = revision;
    }
}

fn revision(answer: Result<Option<ResponseHeader>, CallError>) -> i64 {
    answer.ok().flatten().map_or(0, |header| header.revision)
}
