//! One voter's part in Raft, in this crate's terms: all that the rest of the crate knows of openraft.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broadcast_session::{IncomingBody, Sessions};
use bytes::Bytes;
use openraft::{
    Instant as _, Raft, ReadPolicy,
    async_runtime::WatchReceiver as _,
    errors::{ClientWriteError, InitializeError, LinearizableReadError, RaftError},
    type_config::alias::{SnapshotOf, VoteOf, WatchReceiverOf},
};

use super::{
    ReplicatedState, SharedState, StateMachine,
    log_store::LogStore,
    network::{self, MessageKind, Network},
    settings,
    types::{Proposal, RaftNode, RaftSnapshotMeta, StoreTypes, TypeConfig},
};
use crate::{
    disk::{Disk, Ids},
    log::{Log, LogId, LogSpace, LogSpaceReader},
    snapshot::Snapshots,
};

type C = TypeConfig;
type Metrics = WatchReceiverOf<C, openraft::RaftMetrics<C>>;

/// The largest snapshot that is taken, in bytes: far more than the quotas of all machines allow.
pub const MAX_SNAPSHOT: u64 = 4 << 30;

/// Why Raft did not agree on something. [`Consensus::propose`] returns it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsensusError {
    /// This voter does not lead, or is not sure that it still does. Nothing has been done.
    #[error("this voter does not lead")]
    NotLeader {
        /// The leader, as far as this voter knows.
        leader: Option<u64>,
    },
    /// It may have been committed, or may be yet.
    #[error("it is not known whether it was agreed on: the leader has changed meanwhile")]
    Unknown,
    /// Not enough voters answer.
    #[error("too few voters answer")]
    NoQuorum,
    /// The disk is full. Nothing has been done.
    #[error("the disk of the leader is full; make room on it")]
    Full,
    /// The request makes no sense now.
    #[error("{0}")]
    Refused(String),
    /// This voter has stopped.
    #[error("this voter has stopped: {0}")]
    Stopped(String),
}

/// The status of Raft at a voter. [`Consensus::status`] returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The term.
    pub term: u64,
    /// Who leads in it, as far as it knows.
    pub leader: Option<u64>,
    /// Whether this voter leads, and a quorum has confirmed that.
    pub leads: bool,
    /// On a leader: how long ago a quorum confirmed it last.
    pub acknowledged: Option<Duration>,
    /// The last entry in its log.
    pub last: Option<u64>,
    /// The last one that it knows to be committed.
    pub committed: Option<u64>,
    /// The last one that it has applied.
    pub applied: Option<u64>,
    /// The last one in its newest snapshot.
    pub snapshot: Option<u64>,
    /// The last one that it has purged from its log.
    pub purged: Option<u64>,
    /// The voters, by id and name.
    pub voters: BTreeMap<u64, String>,
    /// Whether no membership change is under way.
    pub settled: bool,
    /// Whether the configuration is joint: old and new voters both have to agree.
    pub joint: bool,
    /// The voters once the change is done.
    pub target: BTreeSet<u64>,
    /// The learners, by id and name.
    pub learners: BTreeMap<u64, String>,
    /// On a leader: the index of the last entry that each other member has.
    pub replicated: BTreeMap<u64, Option<u64>>,
    /// Why this voter has stopped, if it has.
    pub failure: Option<String>,
}

/// The part of a [`RaftStatus`] that is needed often: it allocates nothing. etcd's raft has the same two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasicStatus {
    /// The term.
    pub term: u64,
    /// Who leads in it, as far as it knows.
    pub leader: Option<u64>,
    /// Whether this voter leads, and a quorum has confirmed that.
    pub leads: bool,
    /// Why this voter has stopped, if it has.
    pub failure: Option<String>,
}

/// One voter's part in Raft.
pub struct Consensus<D: Disk, S: ReplicatedState> {
    raft: Raft<C, StateMachine<C, S, D>>,
    ids: Ids,
    shared: SharedState<S>,
    snapshots: Snapshots<D>,
    space: LogSpaceReader<D>,
    /// Whether its state is as new again as before it restarted.
    recovered: Arc<AtomicBool>,
    installing: Arc<tokio::sync::Mutex<()>>,
}

impl<D: Disk, S: ReplicatedState> Clone for Consensus<D, S> {
    fn clone(&self) -> Self {
        Self {
            raft: self.raft.clone(),
            ids: self.ids,
            shared: self.shared.clone(),
            snapshots: self.snapshots.clone(),
            space: self.space.clone(),
            recovered: self.recovered.clone(),
            installing: self.installing.clone(),
        }
    }
}

impl<D: Disk, S: ReplicatedState> fmt::Debug for Consensus<D, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl<D: Disk, S: ReplicatedState> Consensus<D, S> {
    /// Starts Raft with what is on the disk. `empty` is the state before the first entry.
    ///
    /// # Errors
    ///
    /// The disk fails, or what is on it cannot be read.
    pub async fn start(
        ids: Ids,
        log: Log<D>,
        snapshots: Snapshots<D>,
        empty: S,
        sessions: Sessions,
    ) -> Result<Self, ConsensusError> {
        let settings = settings(ids.cluster).map_err(stopped)?;
        let network = Network { sessions, cluster: ids.cluster, me: ids.node, _disk: PhantomData };
        let space = log.space_reader();
        let machine = StateMachine::new(empty, snapshots.clone()).with_log(space.clone());
        let shared = machine.shared();
        let raft = Raft::new(ids.node, Arc::new(settings), network, LogStore::new(log), machine).await;
        let raft = raft.map_err(stopped)?;
        let recovered = Arc::new(AtomicBool::new(false));
        let (recovering, flag) = (raft.clone(), recovered.clone());
        tokio::spawn(async move {
            // That takes a leader. It ends with an error when this voter stops.
            if recovering.wait_for_recovery(None).await.is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self { raft, ids, shared, snapshots, space, recovered, installing: Arc::default() })
    }

    /// Whether the state is at least as new as it was before this voter restarted. Until then nobody may read it.
    pub fn has_recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    /// The ids of this node and its store.
    pub fn ids(&self) -> Ids {
        self.ids
    }

    /// The state, to read.
    pub fn state(&self) -> &SharedState<S> {
        &self.shared
    }

    /// The log id of the last entry of its log.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.space.last()
    }

    /// How much fits into the log.
    pub fn space(&self) -> LogSpace {
        self.space.get()
    }

    /// Makes room in the log, if the disk was full: purges what the newest snapshot has, and tries again to get a spare segment.
    /// With `snapshot`, if nothing can be purged, it starts a new snapshot instead, for a later call to purge what that one has.
    /// Returns whether it did.
    ///
    /// # Errors
    ///
    /// It has stopped.
    pub async fn make_room(&self, snapshot: bool) -> Result<bool, ConsensusError> {
        if self.space.get().accepts_proposals {
            return Ok(false);
        }
        let RaftStatus { snapshot: newest, purged, replicated, .. } = self.status();
        // Who lacks an entry that its leader has purged would need a whole snapshot, on a disk that may be full as well.
        let all_have = replicated.values().copied().min().unwrap_or(newest);
        let purgeable = newest.min(all_have).filter(|up_to| purged < Some(*up_to));
        if let Some(up_to) = purgeable {
            self.raft.trigger().purge_log(up_to).await.map_err(stopped)?;
        }
        // A segment would take the room of a snapshot, after which there is room for both.
        if self.snapshots.is_busy() {
            return Ok(false);
        }
        if snapshot && purgeable.is_none() && newest < self.space.removable() {
            return self.raft.trigger().snapshot().await.map(|()| true).map_err(stopped);
        }
        self.space.prepare_spare();
        Ok(false)
    }

    /// Whether this voter's store has been founded.
    pub async fn is_founded(&self) -> Result<bool, ConsensusError> {
        self.raft.is_initialized().await.map_err(stopped)
    }

    /// Founds the store with these voters (openraft's `initialize`). Call it on one of them, when none has ever been part of a
    /// store.
    pub async fn found(&self, voters: BTreeMap<u64, String>) -> Result<(), ConsensusError> {
        let voters: BTreeMap<_, _> = voters.into_iter().map(|(id, name)| (id, RaftNode { name })).collect();
        match self.raft.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(stopped(error)),
        }
    }

    /// Proposes a command. Returns the encoded outcome once it is committed and applied.
    ///
    /// # Errors
    ///
    /// See [`ConsensusError`].
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ConsensusError> {
        let space = self.space.get();
        if !space.accepts_proposals {
            return Err(ConsensusError::Full);
        }
        match self.raft.client_write(Proposal(command)).await {
            Ok(written) => Ok(written.data.0),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ConsensusError::NotLeader { leader: forward.leader_id })
            }
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(ConsensusError::Refused(error.to_string()))
            }
            Err(RaftError::APIError(_)) => Err(ConsensusError::Unknown),
            Err(RaftError::Fatal(error)) => Err(stopped(error)),
        }
    }

    /// Waits for a read index (chapter 6.4 of the Raft dissertation): a quorum confirms that this voter leads, and it has applied
    /// all that was committed when this was called. What is read then is no older than the call.
    ///
    /// # Errors
    ///
    /// See [`ConsensusError`].
    pub async fn read_index(&self) -> Result<(), ConsensusError> {
        read_index(&self.raft).await
    }

    /// The status of Raft at this voter.
    pub fn status(&self) -> RaftStatus {
        status(&self.raft.metrics())
    }

    /// The same, in short.
    pub fn basic_status(&self) -> BasicStatus {
        basic_status(&self.raft.metrics())
    }

    /// Whether that node is a voter or a learner, as far as this voter knows.
    pub fn is_member(&self, id: u64) -> bool {
        self.raft.metrics().borrow_watched().membership_config.membership().get_node(&id).is_some()
    }

    /// Its statuses from now on.
    pub fn watch_status(&self) -> RaftStatusReceiver {
        RaftStatusReceiver(self.raft.metrics())
    }

    /// Makes these the voters, and nobody else; there has to be one.
    ///
    /// # Errors
    ///
    /// See [`ConsensusError`]. A change that was broken off is to be made once more.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), ConsensusError> {
        let changed = self.raft.change_membership(voters, false).await;
        changed.map(|_| ()).map_err(of_change)
    }

    /// Adds a learner. Returns when it has nearly all entries.
    ///
    /// # Errors
    ///
    /// See [`ConsensusError`].
    pub async fn add_learner(&self, id: u64, name: String) -> Result<(), ConsensusError> {
        let added = self.raft.add_learner(id, RaftNode { name }, true).await;
        added.map(|_| ()).map_err(of_change)
    }

    /// Transfers leadership to another voter.
    ///
    /// # Errors
    ///
    /// It has stopped.
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), ConsensusError> {
        self.raft.trigger().transfer_leader(to).await.map_err(stopped)
    }

    /// Handles a message of Raft from another voter. Returns the encoded answer.
    ///
    /// # Errors
    ///
    /// In words: the message is of another store, for another node, in the name of another than the caller, or malformed; or this
    /// voter has stopped.
    pub async fn handle_message(&self, caller: u64, message: &[u8]) -> Result<Bytes, String> {
        let (kind, rest) = self.open(message)?;
        let kind = MessageKind::of(kind).ok_or("a message of an unknown kind")?;
        let unreadable = |error: io::Error| format!("a message that cannot be read: {error}");
        let failed = |error: &dyn fmt::Display| error.to_string();
        let full = || "the disk is full".to_owned();
        let speaks_for = |vote: &VoteOf<C>| {
            let id = vote.leader_id.voted_for;
            if id == caller { Ok(()) } else { Err(format!("{caller:016x} speaks for {id:016x}")) }
        };
        let answer = match kind {
            MessageKind::Append => {
                let request: openraft::raft::AppendEntriesRequest<C> = network::decode(rest).map_err(unreadable)?;
                speaks_for(&request.vote)?;
                // A log that does not take entries fails for good: it is not asked to.
                if !request.entries.is_empty() && self.space.get().free < LogSpace::bytes(rest.len() as u64) {
                    return Err(full());
                }
                let answer = self.raft.append_entries(request).await.map_err(|error| failed(&error))?;
                network::encode(Vec::new(), &answer)
            }
            MessageKind::Vote => {
                let request: openraft::raft::VoteRequest<C> = network::decode(rest).map_err(unreadable)?;
                speaks_for(&request.vote)?;
                network::encode(Vec::new(), &self.raft.vote(request).await.map_err(|error| failed(&error))?)
            }
            MessageKind::PreVote => {
                let request: openraft::raft::VoteRequest<C> = network::decode(rest).map_err(unreadable)?;
                speaks_for(&request.vote)?;
                network::encode(Vec::new(), &self.raft.pre_vote(request).await.map_err(|error| failed(&error))?)
            }
            MessageKind::Transfer => {
                let request: openraft::raft::TransferLeaderRequest<C> = network::decode(rest).map_err(unreadable)?;
                speaks_for(request.from_leader())?;
                let answer = self.raft.handle_transfer_leader(request).await.map_err(|error| failed(&error))?;
                network::encode(Vec::new(), &answer)
            }
        };
        answer.map_err(|error| error.to_string())
    }

    /// Receives a snapshot from another voter, and installs it. Returns the encoded answer.
    ///
    /// # Errors
    ///
    /// As with [`handle_message`](Self::handle_message); or the disk failed.
    pub async fn receive_snapshot(&self, caller: u64, body: &mut IncomingBody) -> Result<Bytes, String> {
        let in_words = |error: &dyn fmt::Display| error.to_string();
        let first = body.next().await.map_err(|error| in_words(&error))?.ok_or("a snapshot of nothing")?;
        let (_, rest) = self.open(&first)?;
        let (vote, meta, size): (VoteOf<C>, RaftSnapshotMeta, u64) =
            network::decode(rest).map_err(|error| format!("a snapshot that cannot be read: {error}"))?;
        if vote.leader_id.voted_for != caller {
            return Err(format!("{caller:016x} speaks for {:016x}", vote.leader_id.voted_for));
        }
        if size > MAX_SNAPSHOT {
            return Err(format!("a snapshot of {size} bytes, and {MAX_SNAPSHOT} are the most"));
        }
        let _one = self.installing.try_lock().map_err(|_| "another snapshot is on its way")?;
        let mut incoming = self.snapshots.receive().map_err(|error| in_words(&error))?;
        while let Some(piece) = body.next().await.map_err(|error| in_words(&error))? {
            if incoming.size() + piece.len() as u64 > size {
                return Err(format!("a snapshot of {size} bytes has more"));
            }
            let written = tokio::task::spawn_blocking(move || incoming.write(&piece).map(|()| incoming));
            incoming = written.await.map_err(|error| in_words(&error))?.map_err(|error| in_words(&error))?;
        }
        if incoming.size() != size {
            return Err(format!("a snapshot of {size} bytes has {}", incoming.size()));
        }
        let snapshot = incoming.finish().map_err(|error| in_words(&error))?;
        // What cannot be read must not get as far as Raft, which would stop.
        let (snapshots, file) = (self.snapshots.clone(), snapshot.clone());
        let empty = self.shared.read(|state, _| state.empty());
        let read =
            tokio::task::spawn_blocking(move || snapshots.read(&file, |input| empty.read(input).map(drop)).map(drop));
        read.await.map_err(|error| in_words(&error))?.map_err(|error| in_words(&error))?;
        let snapshot = SnapshotOf::<C, _> { meta, snapshot };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| in_words(&error))?;
        network::encode(Vec::new(), &answer).map_err(|error| error.to_string())
    }

    /// Stops Raft. Requests under way fail.
    pub async fn stop(&self) {
        // Should a part of it have panicked, it has stopped as well.
        let _ = self.raft.shutdown().await;
    }

    fn open<'a>(&self, message: &'a [u8]) -> Result<(u8, &'a [u8]), String> {
        let (kind, cluster, to, rest) = network::parse(message).ok_or("a message that is cut")?;
        let Ids { cluster: mine, node } = self.ids;
        if cluster != mine {
            return Err(format!("this voter is of cluster {mine:016x}, not of {cluster:016x}"));
        }
        if to != node {
            return Err(format!("this voter is {node:016x}, not {to:016x}"));
        }
        Ok((kind, rest))
    }
}

/// [`Consensus::read_index`], on any runtime.
#[doc(hidden)]
pub async fn read_index<T: StoreTypes, S: ReplicatedState, D: Disk>(
    raft: &Raft<T, StateMachine<T, S, D>>,
) -> Result<(), ConsensusError> {
    match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
            Err(ConsensusError::NotLeader { leader: forward.leader_id })
        }
        Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ConsensusError::NoQuorum),
        Err(RaftError::Fatal(error)) => Err(stopped(error)),
    }
}

fn stopped(error: impl fmt::Display) -> ConsensusError {
    ConsensusError::Stopped(error.to_string())
}

fn of_change(error: RaftError<C, ClientWriteError<C>>) -> ConsensusError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ConsensusError::NotLeader { leader: forward.leader_id }
        }
        RaftError::APIError(error) => ConsensusError::Refused(error.to_string()),
        RaftError::Fatal(error) => stopped(error),
    }
}

/// The statuses of a voter, one after the other. [`Consensus::watch_status`] makes it.
pub struct RaftStatusReceiver(Metrics);

impl fmt::Debug for RaftStatusReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RaftStatusReceiver")
    }
}

impl RaftStatusReceiver {
    /// The next status; `None` once the voter has stopped.
    pub async fn next(&mut self) -> Option<RaftStatus> {
        self.0.changed().await.ok()?;
        Some(status(&self.0))
    }

    /// The next status, in short.
    pub async fn next_basic(&mut self) -> Option<BasicStatus> {
        self.0.changed().await.ok()?;
        Some(basic_status(&self.0))
    }
}

fn basic_status(metrics: &Metrics) -> BasicStatus {
    let metrics = metrics.borrow_watched();
    BasicStatus {
        term: metrics.current_term,
        leader: metrics.current_leader,
        leads: metrics.state.is_leader() && metrics.last_quorum_acked.is_some(),
        failure: metrics.running_state.as_ref().err().map(ToString::to_string),
    }
}

fn status(metrics: &Metrics) -> RaftStatus {
    // Whoever holds what is borrowed holds up Raft.
    let metrics = metrics.borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let name = |id: u64| (id, membership.get_node(&id).map(|voter| voter.name.clone()).unwrap_or_default());
    let index = |id: &Option<super::types::RaftLogId>| id.as_ref().map(|id| id.index);
    RaftStatus {
        term: metrics.current_term,
        leader: metrics.current_leader,
        leads: metrics.state.is_leader() && metrics.last_quorum_acked.is_some(),
        acknowledged: metrics.last_quorum_acked.as_ref().map(|at| at.elapsed()),
        last: metrics.last_log_index,
        committed: index(&metrics.local_committed),
        applied: index(&metrics.last_applied),
        snapshot: index(&metrics.snapshot),
        purged: index(&metrics.purged),
        voters: membership.voter_ids().map(name).collect(),
        settled: membership.get_joint_config().len() < 2
            && metrics.membership_config == metrics.committed_membership_config,
        joint: membership.get_joint_config().len() > 1,
        target: membership.get_joint_config().last().cloned().unwrap_or_default(),
        learners: membership.learner_ids().map(name).collect(),
        replicated: metrics.replication.iter().flatten().map(|(id, at)| (*id, index(at))).collect(),
        failure: metrics.running_state.err().map(|error| error.to_string()),
    }
}
