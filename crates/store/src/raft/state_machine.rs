//! The replicated state behind openraft's trait: applying entries to it, and its snapshots.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};

use super::codec;
use super::types::{
    CommittedLeaderId, ProposalResponse, RaftLogId, RaftNode, RaftSnapshotMeta, StoreTypes, StoredMembership,
};
use crate::disk::Disk;
use crate::log::{LogSpace, LogSpaceReader};
use crate::snapshot::{SnapshotFile, SnapshotMeta, Snapshots};

/// The size of a snapshot, in bytes, that is small beside a log.
const SMALL_SNAPSHOT: u64 = 1 << 20;
/// How many entries there are between two snapshots at most, for a start replays them; and as many more as openraft's policy says.
const MAX_ENTRIES: u64 = 100_000;

/// A state that is equal on all voters, for they apply the same entries in the same order.
///
/// It has to be pure: what it does may depend only on itself and the entry, not on a clock, a random number, the order of a hash
/// map, or on who is there. `node/replica.rs` is the store's; `tests/storage/table.rs` is a small one.
pub trait ReplicatedState: Send + Sync + Sized + 'static {
    /// The state at one moment, to be written while the state itself goes on.
    type Copy: Send + Sync + 'static;

    /// Applies an entry. Returns the answer to the proposer. An unknown entry is an error and must not be skipped: the states
    /// would differ from then on.
    fn apply(&mut self, entry: CommittedEntry<'_>) -> Result<Bytes, EntryError>;

    /// A consistent copy. It should cost little: nothing is applied in the meantime.
    fn copy(&self) -> Self::Copy;

    /// Writes a copy, in an encoding of its own, which has a version of its own.
    fn write(copy: Self::Copy, out: &mut dyn Write) -> io::Result<()>;

    /// The state before the first entry.
    fn empty(&self) -> Self;

    /// What [`write`](Self::write) has written, read into an empty state. Its bytes are as they were written, but perhaps by
    /// a later version.
    fn read(self, input: &mut dyn Read) -> io::Result<Self>;

    /// This state, from a snapshot, takes the place of a former one: whoever waits for changes of that one waits for
    /// changes of this one now.
    fn succeed(&mut self, former: &Self) {
        let _ = former;
    }
}

/// A committed entry. See [`ReplicatedState::apply`].
#[derive(Clone, Copy, Debug)]
pub struct CommittedEntry<'a> {
    /// Its index.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What it has.
    pub input: EntryContent<'a>,
}

/// What a committed entry has. See [`CommittedEntry`].
#[derive(Clone, Copy, Debug)]
pub enum EntryContent<'a> {
    /// Nothing: the first entry of a new leader.
    Blank,
    /// A command.
    Command(&'a Bytes),
    /// The voters from now on.
    Voters(&'a BTreeSet<u64>),
}

/// Why a state cannot apply an entry. The node stops. See [`ReplicatedState::apply`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot apply an entry: {0}")]
pub struct EntryError(pub String);

/// What is applied, and up to which entry.
#[derive(Debug)]
struct AppliedState<S> {
    state: S,
    applied: Option<RaftLogId>,
    membership: StoredMembership,
}

/// Reads the replicated state, beside Raft, which applies entries to it. [`Consensus::state`](super::Consensus::state) returns it.
#[derive(Debug)]
pub struct SharedState<S> {
    machine: Arc<RwLock<AppliedState<S>>>,
}

impl<S> Clone for SharedState<S> {
    fn clone(&self) -> Self {
        Self { machine: self.machine.clone() }
    }
}

impl<S> SharedState<S> {
    /// Reads the state, and the index of its last applied entry. No entry is applied meanwhile: be quick.
    pub fn read<T>(&self, read: impl FnOnce(&S, Option<u64>) -> T) -> T {
        let machine = self.lock();
        read(&machine.state, machine.applied.as_ref().map(|applied| applied.index))
    }

    fn lock(&self) -> RwLockReadGuard<'_, AppliedState<S>> {
        self.machine.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_to_write(&self) -> RwLockWriteGuard<'_, AppliedState<S>> {
        self.machine.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`ReplicatedState`] as openraft's state machine.
#[derive(Debug)]
pub struct StateMachine<C, S, D: Disk> {
    shared: SharedState<S>,
    snapshots: Snapshots<D>,
    /// The log that is purged after a snapshot.
    log: Option<LogSpaceReader<D>>,
    /// How many bytes of the log have been applied.
    applied_bytes: u64,
    /// How many they were when the newest snapshot was begun.
    snapshot_begun_at: Arc<AtomicU64>,
    _types: PhantomData<C>,
}

impl<C, S: ReplicatedState, D: Disk> StateMachine<C, S, D> {
    /// Begins with the state `empty`; openraft installs the newest snapshot, and applies the log after it.
    pub fn new(empty: S, snapshots: Snapshots<D>) -> Self {
        let machine = AppliedState { state: empty, applied: None, membership: StoredMembership::default() };
        Self {
            shared: SharedState { machine: Arc::new(RwLock::new(machine)) },
            snapshots,
            log: None,
            applied_bytes: 0,
            snapshot_begun_at: Arc::default(),
            _types: PhantomData,
        }
    }

    /// Does not put a snapshot off while there is no room in this log.
    #[must_use]
    pub fn with_log(self, log: LogSpaceReader<D>) -> Self {
        Self { log: Some(log), ..self }
    }

    /// Whether a snapshot is worth its bytes: as many have been applied since the newest one, so that snapshots write no more
    /// than the log does. (Redis rewrites its log by this rule.) Or it is small; or a start would have to replay too much; or
    /// the log has no room, and gets some when it is purged after it.
    fn is_worth_a_snapshot(&self) -> bool {
        let Some((meta, file)) = self.snapshots.current() else { return true };
        let bytes = self.applied_bytes.saturating_sub(self.snapshot_begun_at.load(Ordering::Relaxed));
        let (newest, applied) = (meta.last.map(|last| last.index), self.shared.read(|_, applied| applied));
        let entries = applied.unwrap_or(0).saturating_sub(newest.unwrap_or(0));
        let makes_room = |log: &LogSpaceReader<D>| !log.get().accepts_proposals && newest < log.removable();
        file.size() <= bytes.max(SMALL_SNAPSHOT) || entries >= MAX_ENTRIES || self.log.as_ref().is_some_and(makes_room)
    }

    /// A handle to read the state.
    pub fn shared(&self) -> SharedState<S> {
        self.shared.clone()
    }
}

impl<S: ReplicatedState> AppliedState<S> {
    fn apply(
        &mut self,
        id: RaftLogId,
        payload: &EntryPayload<super::Proposal, u64, RaftNode>,
    ) -> Result<Bytes, EntryError> {
        let voters: BTreeSet<u64>;
        let input = match payload {
            EntryPayload::Blank => EntryContent::Blank,
            EntryPayload::Normal(command) => EntryContent::Command(&command.0),
            EntryPayload::Membership(membership) => {
                voters = membership.voter_ids().collect();
                self.membership = StoredMembership::new(Some(id), membership.clone());
                EntryContent::Voters(&voters)
            }
        };
        let reply = self.state.apply(CommittedEntry { index: id.index, term: id.leader_id.term, input })?;
        self.applied = Some(id);
        Ok(reply)
    }
}

impl<C: StoreTypes, S: ReplicatedState, D: Disk> RaftStateMachine<C> for StateMachine<C, S, D> {
    type SnapshotData = SnapshotFile<D>;
    type SnapshotBuilder = SnapshotBuilder<C, S, D>;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        let machine = self.shared.lock();
        Ok((machine.applied, machine.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if let EntryPayload::Normal(command) = &entry.payload {
                self.applied_bytes += LogSpace::bytes(command.0.len() as u64);
            }
            // Readers come in between: a long run of entries must not hold them up.
            let reply = self.shared.lock_to_write().apply(entry.log_id, &entry.payload);
            let reply = reply.map_err(|stop| io::Error::other(format!("entry {}: {stop}", entry.log_id)))?;
            if let Some(responder) = responder {
                responder.send(ProposalResponse(reply));
            }
        }
        Ok(())
    }

    // openraft asks each time its policy wants a snapshot, or somebody does.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder<C, S, D>> {
        if !force && !self.is_worth_a_snapshot() {
            return None;
        }
        Some(RaftStateMachine::<C>::get_snapshot_builder(self).await)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder<C, S, D> {
        let machine = self.shared.lock();
        let meta = RaftSnapshotMeta { last_log_id: machine.applied, last_membership: machine.membership.clone() };
        let work = SnapshotJob { copy: machine.state.copy(), meta };
        SnapshotBuilder {
            work: Some(work),
            snapshots: self.snapshots.clone(),
            applied_bytes: self.applied_bytes,
            begun_at: self.snapshot_begun_at.clone(),
            _types: PhantomData,
        }
    }

    async fn install_snapshot(&mut self, meta: &RaftSnapshotMeta, file: SnapshotFile<D>) -> io::Result<()> {
        let (snapshots, expected) = (self.snapshots.clone(), stored(meta));
        let empty = self.shared.read(|state, _| state.empty());
        let state = C::blocking(move || -> io::Result<S> {
            let (found, state) = snapshots.read(&file, |input| empty.read(input))?;
            if found != expected {
                let message =
                    format!("the snapshot is of {:?}, and was announced as of {:?}", found.last, expected.last);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            // It is durable before anybody sees the state, for the log is purged after it.
            snapshots.keep(&found, &file)?;
            Ok(state)
        });
        let state = state.await??;
        let machine = AppliedState { state, applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let mut current = self.shared.lock_to_write();
        let former = std::mem::replace(&mut *current, machine);
        current.state.succeed(&former.state);
        self.snapshot_begun_at.store(self.applied_bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot<D>>> {
        current(&self.snapshots)
    }
}

fn current<D: Disk>(snapshots: &Snapshots<D>) -> io::Result<Option<RaftSnapshot<D>>> {
    let Some((meta, snapshot)) = snapshots.current() else { return Ok(None) };
    let last_membership = codec::read_stored_membership(&meta.membership)?;
    let meta = RaftSnapshotMeta { last_log_id: meta.last.map(codec::raft_log_id), last_membership };
    Ok(Some(Snapshot { meta, snapshot }))
}

fn stored(meta: &RaftSnapshotMeta) -> SnapshotMeta {
    SnapshotMeta {
        last: meta.last_log_id.as_ref().map(codec::log_id),
        membership: codec::write_stored_membership(&meta.last_membership),
    }
}

type RaftSnapshot<D> = Snapshot<CommittedLeaderId, u64, RaftNode, SnapshotFile<D>>;

/// Builds a snapshot of a copy, while entries are applied to the state.
#[derive(Debug)]
pub struct SnapshotBuilder<C, S: ReplicatedState, D: Disk> {
    work: Option<SnapshotJob<S>>,
    snapshots: Snapshots<D>,
    /// How many bytes of the log had been applied.
    applied_bytes: u64,
    begun_at: Arc<AtomicU64>,
    _types: PhantomData<C>,
}

struct SnapshotJob<S: ReplicatedState> {
    copy: S::Copy,
    meta: RaftSnapshotMeta,
}

impl<S: ReplicatedState> std::fmt::Debug for SnapshotJob<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotJob").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl<C: StoreTypes, S: ReplicatedState, D: Disk> RaftSnapshotBuilder<C> for SnapshotBuilder<C, S, D> {
    type SnapshotData = SnapshotFile<D>;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot<D>> {
        let Some(SnapshotJob { copy, meta }) = self.work.take() else {
            return Err(io::Error::other("a builder builds one snapshot"));
        };
        let (snapshots, description) = (self.snapshots.clone(), stored(&meta));
        let written = C::blocking(move || snapshots.write(&description, |out| S::write(copy, out)));
        match written.await? {
            Ok(snapshot) => {
                self.begun_at.store(self.applied_bytes, Ordering::Relaxed);
                Ok(Snapshot { meta, snapshot })
            }
            // An error would stop the node, which can go on without. openraft ignores a snapshot that is not newer than
            // the one it knows, and does not purge the log.
            Err(error) if error.is_full() => {
                tracing::warn!(%error, "no room for a snapshot: the log is not purged until there is");
                let nothing = || Snapshot { meta: RaftSnapshotMeta::default(), snapshot: self.snapshots.nothing() };
                Ok(current(&self.snapshots)?.unwrap_or_else(nothing))
            }
            Err(error) => Err(error.into()),
        }
    }
}
