//! The network between voters, and between clients and voters. It loses, delays, doubles and cuts; and it notes what
//! voters promise each other, which must hold after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use broadcast_store::{
    disk::SimDisk,
    machine::{LeaseTimers, Machines},
    node::Replica,
    raft::{RaftNode, SharedState, SimTypeConfig, StateMachine},
    snapshot::{SnapshotFile, Snapshots},
};
use openraft::{
    OptionalSend, Raft, RaftNetworkFactory, RaftNetworkV2,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
    type_config::{
        TypeConfigExt as _,
        alias::{SnapshotOf, VoteOf},
    },
};

use crate::{history::History, random::Random, voter::Clock};

pub(crate) type C = SimTypeConfig;
pub(crate) type Machine = StateMachine<C, Replica, SimDisk>;

/// A voter that runs: who has this can call it.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    /// Which of its lives it is.
    pub(crate) life: u64,
    pub(crate) raft: Raft<C, Machine>,
    pub(crate) snapshots: Snapshots<SimDisk>,
    pub(crate) state: SharedState<Replica>,
    pub(crate) timers: Arc<Mutex<LeaseTimers>>,
    pub(crate) disk: SimDisk,
    pub(crate) clock: Clock,
}

/// How the network is at the moment, and the disks and votes of voters.
#[derive(Clone, Debug)]
pub(crate) struct NetworkConditions {
    /// From whom to whom nothing comes through. Clients have the number 0.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Of a thousand messages, how many are lost.
    pub(crate) lost: u64,
    /// Of a thousand messages, how many come a second time, and late.
    pub(crate) doubled: u64,
    /// How long a message takes at most, in milliseconds.
    pub(crate) slow: u64,
    /// How long the disk of each voter takes to sync at most, in milliseconds.
    pub(crate) sync: BTreeMap<u64, u64>,
    /// Of a hundred votes that are given, after how many the voter loses power at once.
    pub(crate) fatal_votes: u64,
}

impl NetworkConditions {
    pub(crate) fn normal() -> Self {
        Self { cut: BTreeSet::new(), lost: 5, doubled: 10, slow: 5, sync: BTreeMap::new(), fatal_votes: 0 }
    }
}

pub(crate) struct Inner {
    pub(crate) peers: BTreeMap<u64, Peer>,
    pub(crate) conditions: NetworkConditions,
    pub(crate) random: Random,
    /// What voters have besides keys.
    pub(crate) machines: Machines,
    pub(crate) history: History,
    /// Who led in which term.
    pub(crate) leaders: BTreeMap<u64, u64>,
    /// The highest term in which a voter has given its vote, and to whom.
    pub(crate) promised: BTreeMap<u64, (u64, u64)>,
    pub(crate) installed: u64,
    pub(crate) crashes: u64,
    pub(crate) done: bool,
}

/// All that voters and clients share in a run.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inner>>);

impl World {
    pub(crate) fn new(random: Random, machines: Machines) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            peers: BTreeMap::new(),
            conditions: NetworkConditions::normal(),
            random,
            machines,
            history: History::default(),
            leaders: BTreeMap::new(),
            promised: BTreeMap::new(),
            installed: 0,
            crashes: 0,
            done: false,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no panic")
    }

    pub(crate) fn below(&self, end: u64) -> u64 {
        self.lock().random.below(end)
    }

    /// Whether something happens that has a chance of `n` in a thousand.
    pub(crate) fn chance(&self, n: u64) -> bool {
        self.below(1000) < n
    }

    /// A check has failed.
    pub(crate) fn fail(&self, what: String) {
        self.lock().history.fail(what);
    }

    pub(crate) fn done(&self) -> bool {
        self.lock().done
    }

    /// Those that run.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.lock().peers.values().filter(|peer| !peer.disk.ended()).cloned().collect()
    }

    pub(crate) fn peer(&self, id: u64) -> Option<Peer> {
        self.lock().peers.get(&id).filter(|peer| !peer.disk.ended()).cloned()
    }

    /// Whether a voter still is in this life.
    pub(crate) fn lives(&self, peer: &Peer) -> bool {
        self.peer(peer.id).is_some_and(|current| current.life == peer.life)
    }

    /// Whether a message from one to another comes through now; after the time that it takes.
    pub(crate) async fn travel(&self, from: u64, to: u64) -> bool {
        let (delay, lost) = {
            let mut inner = self.lock();
            let slow = inner.conditions.slow;
            let lost = inner.conditions.lost;
            (1 + inner.random.below(slow), inner.random.below(1000) < lost)
        };
        C::sleep(Duration::from_millis(delay)).await;
        let inner = self.lock();
        let alive = |id: u64| id == 0 || inner.peers.get(&id).is_some_and(|peer| !peer.disk.ended());
        !lost && !inner.conditions.cut.contains(&(from, to)) && alive(from) && alive(to)
    }

    /// Notes who leads in a term, which must be the only one.
    fn check_leader(&self, term: u64, leader: u64) {
        let before = *self.lock().leaders.entry(term).or_insert(leader);
        if before != leader {
            self.fail(format!("{before} and {leader} both lead in term {term}"));
        }
    }

    /// Notes a vote, which must be the voter's only one in that term. The voter may lose power just then.
    fn check_vote(&self, voter: &Peer, term: u64, candidate: u64) {
        let mut inner = self.lock();
        let before = inner.promised.get(&voter.id).copied().unwrap_or_default();
        if before.0 == term && before.1 != candidate {
            let id = voter.id;
            inner.history.fail(format!("{id} votes for {candidate} in term {term}, and did for {}", before.1));
        }
        inner.promised.insert(voter.id, before.max((term, candidate)));
        let fatal = inner.conditions.fatal_votes;
        if inner.random.below(100) < fatal {
            voter.disk.end_after(0);
        }
    }
}

/// What one voter says to another.
pub(crate) struct Client {
    world: World,
    from: u64,
    target: u64,
}

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) world: World,
    pub(crate) from: u64,
}

impl RaftNetworkFactory<C> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &RaftNode) -> Client {
        Client { world: self.world.clone(), from: self.from, target }
    }
}

fn unreachable(why: &str) -> Unreachable<C> {
    Unreachable::new(&io::Error::other(why.to_owned()))
}

impl Client {
    async fn call<Q: Clone + Send + 'static, A, F>(
        &self,
        request: Q,
        option: &RPCOption,
        answer: impl Fn(Peer, Q) -> F + Clone + Send + 'static,
    ) -> Result<A, RPCError<C>>
    where
        A: Send + 'static,
        F: Future<Output = Result<A, String>> + Send,
    {
        let Self { world, from, target } = self;
        let doubled = world.lock().conditions.doubled;
        if world.chance(doubled) {
            let (world, from, target) = (world.clone(), *from, *target);
            let (request, answer) = (request.clone(), answer.clone());
            let late = Duration::from_millis(world.below(4000));
            drop(C::spawn(async move {
                C::sleep(late).await;
                if world.travel(from, target).await
                    && let Some(peer) = world.peer(target)
                {
                    // Whoever asked has gone.
                    let _ = answer(peer, request).await;
                }
            }));
        }
        if world.travel(*from, *target).await
            && let Some(peer) = world.peer(*target)
        {
            let answered = answer(peer, request).await;
            if world.travel(*target, *from).await {
                return answered.map_err(|error| unreachable(&error).into());
            }
        }
        // Nobody says that a message was lost.
        C::sleep(option.hard_ttl()).await;
        Err(unreachable("lost").into())
    }
}

impl RaftNetworkV2<C> for Client {
    type SnapshotData = SnapshotFile<SimDisk>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        self.world.check_leader(request.vote.leader_id.term, self.from);
        self.call(request, &option, |peer, request| async move {
            peer.raft.append_entries(request).await.map_err(|error| error.to_string())
        })
        .await
    }

    async fn vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        let world = self.world.clone();
        self.call(request, &option, move |peer, request| {
            let world = world.clone();
            async move {
                let (term, candidate) = (request.vote.leader_id.term, request.vote.leader_id.voted_for);
                let answer = peer.raft.vote(request).await.map_err(|error| error.to_string())?;
                if answer.vote_granted && !peer.disk.ended() {
                    world.check_vote(&peer, term, candidate);
                }
                Ok(answer)
            }
        })
        .await
    }

    async fn pre_vote(&mut self, request: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        self.call(request, &option, |peer, request| async move {
            peer.raft.pre_vote(request).await.map_err(|error| error.to_string())
        })
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: SnapshotOf<C, SnapshotFile<SimDisk>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let Self { world, from, target } = self;
        let gone = |error: &dyn std::error::Error| unreachable(&error.to_string());
        let lost = || unreachable("lost");
        let peer = world.peer(*target).ok_or_else(lost)?;
        if !world.travel(*from, *target).await {
            return Err(lost().into());
        }
        let mut incoming = peer.snapshots.receive().map_err(|error| gone(&error))?;
        let mut piece = vec![0; 4000];
        while incoming.size() < snapshot.snapshot.size() {
            let n = snapshot.snapshot.read_at(&mut piece, incoming.size()).map_err(|error| gone(&error))?;
            if !world.travel(*from, *target).await {
                return Err(lost().into());
            }
            incoming.write(&piece[..n]).map_err(|error| gone(&error))?;
        }
        let file = incoming.finish().map_err(|error| gone(&error))?;
        let snapshot = SnapshotOf::<C, _> { meta: snapshot.meta, snapshot: file };
        let answer = peer.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| gone(&error))?;
        world.lock().installed += 1;
        if !world.travel(*target, *from).await {
            return Err(lost().into());
        }
        Ok(answer)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        self.call(request, &option, |peer, request| async move {
            peer.raft.handle_transfer_leader(request).await.map_err(|error| error.to_string())
        })
        .await
    }
}
