//! Three voters on openraft's simulated runtime, with the real log and snapshots on disks that lose what was not synced.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broadcast_store::disk::{CrashOutcome, Ids, SimDisk};
use broadcast_store::log::{Log, LogOptions};
use broadcast_store::raft::{LogStore, Proposal, RaftNode, SharedState, SimTypeConfig, StateMachine, settings};
use broadcast_store::snapshot::{SnapshotFile, Snapshots};
use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AsyncRuntime, OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2, SnapshotPolicy};
use openraft_rt_sim::SimRuntime;

use crate::random::{Random, seeds};
use crate::table::{Table, command};

type C = SimTypeConfig;
type Machine = StateMachine<C, Table, SimDisk>;

const CLUSTER: u64 = 7;
const WRITES: u64 = 1000;
const AT_ONCE: u64 = 20;

/// Whoever runs can be called.
#[derive(Clone)]
struct Network {
    peers: Arc<Mutex<BTreeMap<u64, Peer>>>,
    random: Arc<Mutex<Random>>,
    /// How many snapshots were sent and installed.
    installed: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Peer {
    raft: Raft<C, Machine>,
    snapshots: Snapshots<SimDisk>,
}

struct Client {
    network: Network,
    target: u64,
}

fn unreachable(why: &str) -> Unreachable<C> {
    Unreachable::new(&io::Error::other(why.to_owned()))
}

impl Client {
    /// Waits as long as a message takes; one in a hundred is lost. Then finds who is to get it.
    async fn travel(&self) -> Result<Peer, Unreachable<C>> {
        let (delay, lost) = {
            let mut random = self.network.random.lock().expect("no panic");
            (1 + random.below(5), random.below(100) == 0)
        };
        C::sleep(Duration::from_millis(delay)).await;
        let peer = self.network.peers.lock().expect("no panic").get(&self.target).cloned();
        peer.filter(|_| !lost).ok_or_else(|| unreachable("lost"))
    }
}

impl RaftNetworkFactory<C> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &RaftNode) -> Client {
        Client { network: self.clone(), target }
    }
}

impl RaftNetworkV2<C> for Client {
    type SnapshotData = SnapshotFile<SimDisk>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        let peer = self.travel().await?;
        let answer = peer.raft.append_entries(request).await.map_err(|error| unreachable(&error.to_string()))?;
        self.travel().await?;
        Ok(answer)
    }

    async fn vote(&mut self, request: VoteRequest<C>, _option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let peer = self.travel().await?;
        let answer = peer.raft.vote(request).await.map_err(|error| unreachable(&error.to_string()))?;
        self.travel().await?;
        Ok(answer)
    }

    async fn pre_vote(&mut self, request: VoteRequest<C>, _option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let peer = self.travel().await?;
        let answer = peer.raft.pre_vote(request).await.map_err(|error| unreachable(&error.to_string()))?;
        self.travel().await?;
        Ok(answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotFile<SimDisk>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let peer = self.travel().await?;
        let gone = |error: &dyn std::error::Error| unreachable(&error.to_string());
        let mut incoming = peer.snapshots.receive().map_err(|error| gone(&error))?;
        let mut piece = vec![0; 1000];
        while incoming.size() < snapshot.snapshot.size() {
            let n = snapshot.snapshot.read_at(&mut piece, incoming.size()).map_err(|error| gone(&error))?;
            C::sleep(Duration::from_micros(100)).await;
            incoming.write(&piece[..n]).map_err(|error| gone(&error))?;
        }
        let file = incoming.finish().map_err(|error| gone(&error))?;
        let snapshot = SnapshotOf::<C, _> { meta: snapshot.meta, snapshot: file };
        let answer = peer.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| gone(&error))?;
        self.network.installed.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        let peer = self.travel().await?;
        Ok(peer.raft.handle_transfer_leader(request).await.map_err(|error| unreachable(&error.to_string()))?)
    }
}

struct Node {
    id: u64,
    disk: SimDisk,
    raft: Raft<C, Machine>,
    table: SharedState<Table>,
    network: Network,
}

fn options() -> LogOptions {
    LogOptions { segment: 16 << 10, reserve: 1 << 10, queue: 64 << 10, cache: 4 << 10, read: 4 << 10 }
}

impl Node {
    async fn start(id: u64, disk: SimDisk, network: &Network) -> Self {
        let (log, writer) =
            Log::open(disk.clone(), Ids { cluster: CLUSTER, node: id }, options()).expect("the log is whole");
        let snapshots =
            Snapshots::open(disk.clone(), CLUSTER, log.state().purged).expect("a snapshot and the log fit together");
        let random = network.random.clone();
        let pause = move || C::sleep(Duration::from_micros(random.lock().expect("no panic").below(4000)));
        // It ends when its disk does, or when the node is dropped.
        C::spawn(async move { drop(writer.run(pause).await) });
        let machine = StateMachine::new(Table::default(), snapshots.clone());
        let table = machine.shared();
        let mut config = settings(CLUSTER).expect("valid settings");
        config.snapshot_policy = SnapshotPolicy::LogsSinceLast(100);
        config.max_in_snapshot_log_to_keep = 20;
        config.purge_batch_size = 8;
        let raft = Raft::new(id, Arc::new(config), network.clone(), LogStore::new(log), machine).await;
        let raft = raft.expect("the stored state is consistent");
        let peer = Peer { raft: raft.clone(), snapshots };
        network.peers.lock().expect("no panic").insert(id, peer);
        Self { id, disk, raft, table, network: network.clone() }
    }

    /// Ends it at some step of its disk, and starts it again with what the disk has kept.
    async fn crash(&mut self, random: &mut Random, network: &Network) {
        self.disk.end_after(random.below(40));
        for _ in 0..100 {
            if self.disk.ended() {
                break;
            }
            C::sleep(Duration::from_millis(10)).await;
        }
        self.network.peers.lock().expect("no panic").remove(&self.id);
        let _ = self.raft.shutdown().await;
        // Long enough to fall behind what the others' logs still have.
        C::sleep(Duration::from_millis(random.below(20_000))).await;
        self.disk.reboot(
            [CrashOutcome::Nothing, CrashOutcome::Torn, CrashOutcome::Everything, CrashOutcome::ProcessOnly]
                [random.below(4) as usize],
        );
        *self = Self::start(self.id, self.disk.clone(), network).await;
    }
}

/// Writes to whoever leads, until one says that it is done.
async fn write(network: Network, key: u64) {
    let value = vec![key as u8; 10 + (key % 200) as usize];
    for attempt in 0.. {
        assert!(attempt < 2000, "write {key} is never done");
        let peers: Vec<_> = network.peers.lock().expect("no panic").values().cloned().collect();
        let leader = peers.into_iter().find(|peer| peer.raft.is_leader());
        if let Some(leader) = leader {
            let written = leader.raft.client_write(Proposal(command(key, &value)));
            if let Ok(Ok(_)) = C::timeout(Duration::from_secs(5), written).await {
                return;
            }
        }
        C::sleep(Duration::from_millis(50)).await;
    }
}

/// Gives how many snapshots were sent and installed.
async fn scenario(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let random_of_network = Arc::new(Mutex::new(Random::new(random.number())));
    let network = Network { peers: Arc::default(), random: random_of_network, installed: Arc::default() };
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::start(id, SimDisk::new(random.number()), &network).await);
    }
    let voters = |id| (id, RaftNode { name: format!("node{id}") });
    nodes[0].raft.initialize((1..=3).map(voters).collect::<BTreeMap<_, _>>()).await.expect("three pristine nodes");
    let writer = network.clone();
    let writing = C::spawn(async move {
        for first in (0..WRITES).step_by(AT_ONCE as usize) {
            join_all((first..first + AT_ONCE).map(|key| write(writer.clone(), key))).await;
            C::sleep(Duration::from_millis(300)).await;
        }
    });
    for _ in 0..4 {
        C::sleep(Duration::from_millis(random.below(4000))).await;
        let at = random.below(3) as usize;
        nodes[at].crash(&mut random, &network).await;
    }
    writing.await.expect("all writes are done");
    let last = {
        let applied = nodes.iter().map(|node| node.raft.metrics());
        applied.filter_map(|metrics| metrics.borrow_watched().last_applied).map(|id| id.index).max()
    };
    for node in &nodes {
        let wait = node.raft.wait(Some(Duration::from_secs(60)));
        wait.applied_index_at_least(last, "all have applied all").await.expect("the node catches up");
    }
    // A new leader's first entry may still be on its way: compare at one index.
    for _ in 0..1000 {
        let tables: Vec<_> = nodes.iter().map(|node| node.table.read(|table, at| (table.clone(), at))).collect();
        if tables.iter().all(|(_, at)| *at == tables[0].1) {
            for (node, (table, at)) in nodes.iter().zip(&tables) {
                assert!(*table == tables[0].0, "node {} differs from node 1 at index {at:?}", node.id);
            }
            let expected = |key: u64| vec![key as u8; 10 + (key % 200) as usize];
            let values: BTreeMap<_, _> = (0..WRITES).map(|key| (key, expected(key))).collect();
            assert!(tables[0].0.values == values, "every write that was done is there");
            assert_eq!(tables[0].0.applied, tables[0].1.expect("not empty") + 1, "each entry was applied once");
            let metrics = nodes[0].raft.metrics();
            let purged = metrics.borrow_watched().purged.map(|id| id.index);
            assert!(purged > Some(500), "the log is purged behind snapshots: {purged:?}");
            return network.installed.load(Ordering::Relaxed);
        }
        C::sleep(Duration::from_millis(100)).await;
    }
    panic!("the nodes never are at one index");
}

#[test]
fn voters_that_crash_lose_nothing_and_end_up_equal() {
    let installed = AtomicU64::new(0);
    seeds("voters_that_crash_lose_nothing_and_end_up_equal", 0..12, |seed| {
        let snapshots = SimRuntime::with_seed(seed).block_on(scenario(seed));
        installed.fetch_add(snapshots, Ordering::Relaxed);
    });
    // One seed alone may do without.
    let one_seed = std::env::var_os("BROADCAST_TESTS_STORE_SEED").is_some();
    assert!(one_seed || installed.into_inner() > 3, "who was away for long needs a snapshot");
}

#[test]
fn a_seed_decides_everything() {
    let trace = |seed| {
        let mut runtime = SimRuntime::with_seed(seed);
        runtime.record_trace(true);
        runtime.block_on(scenario(seed));
        runtime.take_trace()
    };
    let (first, second) = (trace(3), trace(3));
    assert!(first.len() > 10_000, "{}", first.len());
    assert!(first == second, "two runs of one seed differ");
}
