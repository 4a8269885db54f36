//! A voter: founding the store, and what it does for a request.
//!
//! # States
//!
//! | a voter is | until |
//! |---|---|
//! | waiting: it belongs to no store | the founder, or a leader that adds it, calls `store/join` with the store's id |
//! | running: it has a log, and takes part in Raft | it is stopped, or its disk fails |
//!
//! # Founding
//!
//! Founding is what etcd calls bootstrapping a cluster. Only the voter with the lowest of the configured names does it:
//!
//! 1. It asks all other configured voters for their status, until in one round all of them answer that they have the same list
//!    and belong to no store that was founded. Each of them has its own id on disk by then.
//! 2. It draws the store's id at random. If an earlier attempt broke off, some voters have an id already, and it takes that.
//! 3. It calls `store/join` at all of them, and each writes the id to its disk.
//! 4. It begins the log with all of them as voters.
//!
//! A voter that lost its disk finds others whose store was founded, so it never founds a second one: it waits.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broadcast_session::Sessions;
use bytes::Bytes;
use rand::{TryRng as _, rngs::SysRng};
use tokio::{
    sync::{Semaphore, broadcast::Receiver, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{error, info};

use super::{
    clock::since_boot,
    disk::VoterDisk,
    error::RefusalReason,
    message::{JOIN, MachineQuery, ReadRequest, VOTER, VoterStatus},
    replica::{Replica, Watcher},
    stats::VoterStats,
};
use crate::{
    disk::{DataFolder, DataFolderError, Ids},
    keys::{RangeOutcome, Watch},
    log::{Log, LogError, LogOptions},
    machine::{Command, CommandVersions, LeaseTimers, Machines, Outcome, QueryContext, State},
    raft::{Consensus, ConsensusError},
    snapshot::{SnapshotFileError, Snapshots},
};

pub(super) type Raft = Consensus<VoterDisk, Replica>;

/// How long another voter may take to answer while a store is founded.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the founder asks all others.
const FOUND_INTERVAL: Duration = Duration::from_millis(500);
/// How often it logs for whom it waits.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
/// How many backups it writes at one time.
const MAX_BACKUPS: usize = 2;
/// A log in memory has small segments, for two are preallocated.
const IN_MEMORY: LogOptions =
    LogOptions { segment: 8 << 20, reserve: 1 << 20, queue: 4 << 20, cache: 1 << 20, read: 1 << 20 };

/// Why a voter does not start. [`Store::start`](super::Store::start) returns it.
#[derive(Debug, thiserror::Error)]
pub enum VoterError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// The directory belongs to another node.
    #[error(
        "{folder} is the folder of node {found:016x}, and this node is {node:016x}; give this node its own folder, or \
         this folder the node that it belongs to"
    )]
    OtherNode {
        /// The directory.
        folder: String,
        /// The node that it belongs to.
        found: u64,
        /// This node.
        node: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotFileError),
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] ConsensusError),
    /// The disk fails.
    #[error("{path}: {source}; make sure that this folder can be written to")]
    Io {
        /// The directory.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A voter. See the [module](self).
#[derive(Debug)]
pub(super) struct Voter {
    pub(super) sessions: Sessions,
    pub(super) name: String,
    pub(super) id: u64,
    /// The names of the voters that found the store together, in order.
    pub(super) configured: Vec<String>,
    machines: Machines,
    /// The versions of the commands that this release knows.
    versions: CommandVersions,
    disk: VoterDisk,
    /// The locked directory, until the voter joins a store: then the log's writer has it.
    folder: Mutex<Option<DataFolder<VoterDisk>>>,
    /// Raft, once the voter has joined a store.
    running: watch::Sender<Option<Raft>>,
    pub(super) timers: Mutex<LeaseTimers>,
    pub(super) stats: VoterStats,
    /// Set once the voter cannot go on: why.
    failed: watch::Sender<Option<String>>,
    stopped: AtomicBool,
    /// Held during a membership change: Raft would accept a second one in the middle of the first.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// A permit for each backup that may be written.
    pub(super) savers: Arc<Semaphore>,
}

impl Voter {
    /// Opens the directory, and goes on with what is in it.
    pub(super) async fn start(
        sessions: &Sessions,
        path: Option<PathBuf>,
        machines: Machines,
        mut configured: Vec<String>,
    ) -> Result<Arc<Self>, VoterError> {
        configured.sort();
        configured.dedup();
        let (name, id) = (sessions.node().name().to_owned(), sessions.node().id().get());
        let shown = path.as_ref().map_or_else(|| "memory".to_owned(), |path| path.display().to_string());
        let disk = VoterDisk::open(path).map_err(|source| VoterError::Io { path: shown, source })?;
        let folder = DataFolder::open(disk.clone(), id)?;
        if folder.node() != id {
            let folder_name = crate::disk::Disk::name(&disk);
            return Err(VoterError::OtherNode { folder: folder_name, found: folder.node(), node: id });
        }
        let cluster = folder.cluster();
        let voter = Arc::new(Self {
            sessions: sessions.clone(),
            name,
            id,
            configured,
            versions: State::with(machines.make()).versions(),
            machines,
            disk,
            folder: Mutex::new(Some(folder)),
            running: watch::Sender::new(None),
            timers: Mutex::new(LeaseTimers::new()),
            stats: VoterStats::default(),
            failed: watch::Sender::new(None),
            stopped: AtomicBool::new(false),
            changing: tokio::sync::Mutex::default(),
            savers: Arc::new(Semaphore::new(MAX_BACKUPS)),
        });
        if let Some(cluster) = cluster {
            voter.join(cluster).await?;
        }
        Ok(voter)
    }

    /// Joins this store, for good.
    pub(super) async fn join(&self, cluster: u64) -> Result<(), VoterError> {
        let mut folder = {
            let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
            match folder.take() {
                Some(folder) => folder,
                // It has joined already, or another call is about to.
                None => return Ok(()),
            }
        };
        let ids = match folder.join(cluster) {
            Ok(ids) => ids,
            Err(error) => {
                *self.folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder);
                return Err(error.into());
            }
        };
        let raft = self.open(ids, folder).await.inspect_err(|problem| {
            self.failed.send_replace(Some(problem.to_string()));
        })?;
        self.running.send_replace(Some(raft));
        if self.has_stopped() {
            // Stopped while it opened its disk.
            self.stop().await;
        }
        Ok(())
    }

    async fn open(&self, ids: Ids, folder: DataFolder<VoterDisk>) -> Result<Raft, VoterError> {
        let in_memory = matches!(self.disk, VoterDisk::Memory(_));
        let options = if in_memory { IN_MEMORY } else { LogOptions::default() };
        let disk = self.disk.clone();
        let opened = tokio::task::spawn_blocking(move || -> Result<_, VoterError> {
            let (log, writer) = Log::open(disk.clone(), ids, options)?;
            let snapshots = Snapshots::open(disk, ids.cluster, log.state().purged)?;
            Ok((log, writer, snapshots))
        });
        let io = |source| VoterError::Io { path: crate::disk::Disk::name(&self.disk), source };
        let (log, writer, snapshots) = opened.await.map_err(|error| io(std::io::Error::other(error)))??;
        self.stats.opened(log.stats(), snapshots.clone());
        let failed = self.failed.clone();
        let spawned = writer.spawn(move |ended| {
            // The lock on the directory lasts as long as the writer.
            let _folder = folder;
            if let Err(problem) = ended {
                error!(event = "store_failed", "the log of the store cannot be written: {problem}");
                failed.send_replace(Some(problem.to_string()));
            }
        });
        spawned.map_err(io)?;
        Ok(Consensus::start(ids, log, snapshots, Replica::new(self.machines.clone()), self.sessions.clone()).await?)
    }

    /// Raft, once this voter has joined a store.
    pub(super) fn raft(&self) -> Option<Raft> {
        self.running.borrow().clone()
    }

    pub(super) fn watch_running(&self) -> watch::Receiver<Option<Raft>> {
        self.running.subscribe()
    }

    /// Notes that the voter cannot go on. The first reason counts.
    pub(super) fn fail(&self, why: &str) {
        self.failed.send_if_modified(|failed| {
            let is_news = failed.is_none();
            failed.get_or_insert_with(|| why.to_owned());
            is_news
        });
    }

    /// Resolves with the reason when the voter cannot go on.
    pub(super) async fn failure(&self) -> String {
        let mut failed = self.failed.subscribe();
        let failure = failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        failure.unwrap_or_else(|| "it was stopped".into())
    }

    /// Raft, or why this voter cannot take part in it now.
    pub(super) fn require_raft(&self) -> Result<Raft, RefusalReason> {
        if let Some(failure) = &*self.failed.borrow() {
            return Err(RefusalReason::Stopped(failure.clone()));
        }
        self.raft().ok_or(RefusalReason::Waiting)
    }

    /// The refusal for an error of Raft. If another voter leads, it has that voter's name.
    pub(super) fn refusal(raft: &Raft, error: ConsensusError) -> RefusalReason {
        match error {
            ConsensusError::NotLeader { leader } => {
                let raft_status = raft.status();
                let leader = leader.or(raft_status.leader).filter(|leader| *leader != raft.ids().node);
                RefusalReason::NotLeader(leader.and_then(|leader| raft_status.voters.get(&leader).cloned()))
            }
            other => other.into(),
        }
    }

    /// Proposes a command, if this voter leads. Returns the encoded outcome.
    pub(super) async fn execute(&self, command: Bytes) -> Result<Bytes, RefusalReason> {
        let raft = self.require_raft()?;
        let outcome = raft.propose(command).await.map_err(|error| Self::refusal(&raft, error))?;
        // Other outcomes may be long, and nobody here reads them.
        if Outcome::is_of_lease(&outcome) {
            let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            match Outcome::decode(&outcome) {
                Ok(Outcome::Granted { lease, ttl, .. }) => timers.granted(since_boot(), lease, ttl),
                Ok(Outcome::LeaseEnded { lease, .. }) => timers.ended(lease),
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// The id of this voter's store; an error if a request is about another one. 0 is any.
    pub(super) fn check_store(&self, store: u64) -> Result<u64, RefusalReason> {
        let mine = self.require_raft()?.ids().cluster;
        if store == 0 || store == mine { Ok(mine) } else { Err(RefusalReason::OtherStore(mine)) }
    }

    /// As [`execute`](Self::execute), for a command of a client: a command that would stop all voters must not get into the log,
    /// and only the leader knows which lease has run out.
    pub(super) async fn execute_for_client(&self, command: Bytes) -> Result<Bytes, RefusalReason> {
        let refuse = RefusalReason::NotPossible;
        let decoded = Command::decode(&command).map_err(|stop| refuse(stop.to_string()))?;
        if decoded.is_expiry() {
            return Err(refuse("only a leader ends a lease whose time is over; revoke it instead".into()));
        }
        let raft = self.require_raft()?;
        let (checked, all_know) =
            raft.state().read(|replica, _| (replica.state.check(&decoded), replica.state.is_known_to_all(&decoded)));
        checked.map_err(refuse)?;
        if !all_know {
            self.check_all_know(&raft, &decoded).await?;
        }
        self.execute(command).await
    }

    /// Asks all members whether they know a command whose version is new to the log. One that does not would have to stop.
    async fn check_all_know(&self, raft: &Raft, command: &Command) -> Result<(), RefusalReason> {
        let raft_status = raft.status();
        if !raft_status.leads {
            return Err(Self::refusal(raft, ConsensusError::NotLeader { leader: raft_status.leader }));
        }
        let others = raft_status.voters.iter().chain(&raft_status.learners).filter(|(id, _)| **id != self.id);
        let asked = others.map(async |(_, name)| (name, fetch_status(&self.sessions, name).await));
        for (name, status) in futures_util::future::join_all(asked).await {
            let refuse =
                |why| RefusalReason::NotPossible(format!("not all voters know this command yet: {name}: {why}"));
            let status = status.map_err(|problem| refuse(format!("{problem}; start it, or have it vote no more")))?;
            status.versions.check(command).map_err(|unknown| refuse(format!("{unknown}; upgrade it first")))?;
        }
        Ok(())
    }

    /// Reads keys. A linearizable read needs the leader; a serializable one is answered from this voter's state.
    pub(super) async fn read(&self, read: &ReadRequest) -> Result<RangeOutcome, RefusalReason> {
        let raft = self.require_raft()?;
        if !read.serializable {
            raft.read_index().await.map_err(|error| Self::refusal(&raft, error))?;
        } else if !raft.has_recovered() {
            return Err(RefusalReason::NotLeader(None));
        }
        let found =
            raft.state().read(|replica, _| replica.state.keys().range(&read.range)).map_err(RefusalReason::State)?;
        Ok(match read.most_bytes.and_then(|most| usize::try_from(most).ok()) {
            Some(most) => found.within(most),
            None => found,
        })
    }

    /// Queries a machine; linearizable.
    pub(super) async fn query(&self, query: &MachineQuery) -> Result<Bytes, RefusalReason> {
        let raft = self.require_raft()?;
        raft.read_index().await.map_err(|error| Self::refusal(&raft, error))?;
        let answered = raft.state().read(|replica, _| {
            let timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            let left = |lease| timers.remaining(since_boot(), lease);
            replica.state.query(
                &query.machine,
                &QueryContext { leases: replica.state.leases(), left: &left },
                &query.question,
            )
        });
        let unknown = || RefusalReason::NotPossible(no_machine(&query.machine));
        answered.ok_or_else(unknown)?.map_err(|malformed| RefusalReason::NotPossible(malformed.to_string()))
    }

    /// Subscribes to a machine's events, if this voter leads.
    pub(super) fn subscribe(&self, machine: &str) -> Result<(Raft, Receiver<Bytes>), RefusalReason> {
        let raft = self.require_raft()?;
        let raft_status = raft.status();
        if !raft_status.leads {
            return Err(Self::refusal(&raft, ConsensusError::NotLeader { leader: raft_status.leader }));
        }
        if self.versions.of(machine) == 0 {
            return Err(RefusalReason::NotPossible(no_machine(machine)));
        }
        let events = raft.state().read(|replica, _| replica.subscribers().subscribe(machine.into()));
        Ok((raft, events))
    }

    /// Keeps a lease alive, if this voter leads. Returns how long it lives now, in seconds; 0 if it has ended.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<i64, RefusalReason> {
        let raft = self.require_raft()?;
        // The lease runs from the moment of the request, not from that of the read index.
        let now = since_boot();
        raft.read_index().await.map_err(|error| Self::refusal(&raft, error))?;
        let term = raft.basic_status().term;
        // No entry is applied in here: a lease that is there, and whose expiry is not proposed, lives on.
        raft.state().read(|replica, _| {
            let state = &replica.state;
            let Some((ttl, guaranteed)) = state.leases().ttl(lease).zip(state.guaranteed_ttl(lease)) else {
                return Ok(0);
            };
            let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            // Timers of an earlier term lack the leases that were granted since.
            if timers.term() != Some(term) {
                return Err(RefusalReason::NotLeader(None));
            }
            timers.ensure(now, lease, ttl);
            let lives = timers.keep_alive(now, lease);
            Ok(lives.map_or(0, |ttl| guaranteed.min(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))))
        })
    }

    /// Begins a watch. Also returns the last revision before its first event.
    pub(super) fn watch(&self, watch: Watch) -> Result<(Watcher, u64), RefusalReason> {
        let raft = self.require_raft()?;
        // Until then the state may be older than what this voter had before it restarted.
        if !raft.has_recovered() {
            return Err(RefusalReason::NotLeader(None));
        }
        let start = watch.start_revision;
        let (watcher, revision) = Watcher::begin(raft.state(), watch).map_err(RefusalReason::State)?;
        Ok((watcher, start.checked_sub(1).unwrap_or(revision)))
    }

    pub(super) async fn status(&self) -> VoterStatus {
        let mut status = self.local_status();
        if let Some(raft) = self.raft() {
            status.founded = raft.is_founded().await.unwrap_or(true);
        }
        status
    }

    /// The status without [`VoterStatus::founded`]. It waits for nothing.
    pub(super) fn local_status(&self) -> VoterStatus {
        let mut status = VoterStatus {
            name: self.name.clone(),
            id: self.id,
            configured: self.configured.clone(),
            ephemeral: matches!(self.disk, VoterDisk::Memory(_)),
            has_room: true,
            versions: self.versions.clone(),
            failure: self.failed.borrow().clone(),
            ..VoterStatus::default()
        };
        let Some(raft) = self.raft() else { return status };
        let raft_status = raft.status();
        status.cluster = Some(raft.ids().cluster);
        self.stats.fill(Instant::now(), &raft_status, self.id, &mut status);
        status.last_term = raft.last_log_id().map(|last| last.term);
        status.voters = raft_status.voters.into_iter().collect();
        status.learners = raft_status.learners.into_iter().collect();
        status.has_room = raft.space().accepts_proposals;
        status.failure = status.failure.or(raft_status.failure);
        raft.state().read(|replica, _| {
            let keys = replica.state.keys();
            (status.revision, status.compacted) = (keys.revision(), keys.compacted());
            (status.bytes, status.quota, status.alarm) = (keys.bytes(), keys.quota(), keys.alarm());
            status.leases = replica.state.leases().len() as u64;
            status.watchers = replica.watchers().count() as u64;
        });
        status
    }

    /// Founds the store, if this is the voter to do it and nobody has. Returns when it is founded.
    pub(super) async fn found(&self) {
        if self.configured.first() != Some(&self.name) {
            return;
        }
        let mut logged_at = Instant::now();
        let mut logged = String::new();
        while !self.has_stopped() {
            if let Some(raft) = self.raft()
                && raft.is_founded().await.unwrap_or(true)
            {
                return;
            }
            match self.try_to_found().await {
                Ok(()) => return,
                Err(problem) => {
                    let is_early = logged.is_empty() && logged_at.elapsed() < STATUS_TIMEOUT;
                    if !is_early && (problem != logged || logged_at.elapsed() >= LOG_INTERVAL) {
                        info!(node = self.name, event = "store_waits", "no store yet: {problem}");
                        (logged, logged_at) = (problem, Instant::now());
                    }
                }
            }
            sleep(FOUND_INTERVAL).await;
        }
    }

    async fn try_to_found(&self) -> Result<(), String> {
        let mine = self.status().await;
        let mut voters = BTreeMap::from([(self.id, self.name.clone())]);
        let mut clusters: Vec<u64> = mine.cluster.into_iter().collect();
        let others = self.configured.iter().filter(|name| **name != self.name);
        let asked = others.map(async |name| (name, fetch_status(&self.sessions, name).await));
        for (name, status) in futures_util::future::join_all(asked).await {
            let status = status.map_err(|problem| format!("waiting for {name}: {problem}"))?;
            if status.founded {
                let cluster = status.cluster.unwrap_or_default();
                return Err(format!(
                    "{name} is part of the store {cluster:016x} already, and this node is not; it votes when that \
                     store's leader takes it in"
                ));
            }
            if status.configured != self.configured {
                return Err(format!(
                    "{name} has other voters in its settings, {}; here they are {}",
                    status.configured.join(", "),
                    self.configured.join(", ")
                ));
            }
            voters.insert(status.id, name.clone());
            clusters.extend(status.cluster);
        }
        if voters.len() != self.configured.len() {
            return Err("two voters have the same id: one has a copy of the other's disk".into());
        }
        clusters.sort_unstable();
        clusters.dedup();
        let cluster = match clusters[..] {
            [] => SysRng.try_next_u64().map_err(|error| format!("no source of randomness: {error}"))?,
            [cluster] => cluster,
            _ => return Err("voters have been told of different stores; empty the data directories of all".into()),
        };
        for name in self.configured.iter().filter(|name| **name != self.name) {
            let joined = self.sessions.call(name, JOIN, cluster.to_be_bytes().to_vec(), STATUS_TIMEOUT).await;
            let id = joined.map_err(|error| format!("waiting for {name}: {error}"))?;
            // It may have restarted without its disk, as another node.
            let id = <[u8; 8]>::try_from(&*id).map(u64::from_be_bytes).unwrap_or_default();
            if voters.get(&id) != Some(name) {
                return Err(format!("{name} was restarted, and is another node"));
            }
        }
        self.join(cluster).await.map_err(|error| error.to_string())?;
        let raft = self.raft().ok_or("this voter does not run")?;
        raft.found(voters).await.map_err(|error| error.to_string())?;
        info!(
            node = self.name,
            event = "store_founded",
            "founded the store {cluster:016x} with {}",
            self.configured.join(", ")
        );
        Ok(())
    }

    /// Transfers leadership to the voter with the longest log, if this one leads: then nobody waits for an election.
    pub(super) async fn transfer_leadership(&self) {
        let Some(raft) = self.raft().filter(|raft| raft.status().leads) else { return };
        let raft_status = raft.status();
        let others = raft_status.voters.keys().filter(|id| **id != self.id);
        let Some(next) = others.max_by_key(|id| raft_status.replicated.get(id).copied().flatten()) else { return };
        if raft.transfer_leadership(*next).await.is_err() {
            return;
        }
        let mut statuses = raft.watch_status();
        let follows = async { while statuses.next().await.is_some_and(|raft_status| raft_status.leads) {} };
        // If that fails, an election follows.
        let _ = timeout(Duration::from_millis(500), follows).await;
    }

    /// Stops Raft and unlocks the directory. Requests under way fail.
    pub(super) async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // It may not have joined a store yet.
        drop(self.folder.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(raft) = self.running.send_replace(None) {
            // A disk may hang.
            let _ = timeout(Duration::from_secs(1), raft.stop()).await;
        }
    }

    fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

fn no_machine(name: &str) -> String {
    format!("the voter that leads has no machine {name:?}: upgrade it")
}

/// Asks the voter of that name for its status.
pub(super) async fn fetch_status(sessions: &Sessions, name: &str) -> Result<VoterStatus, String> {
    let answer = sessions.call(name, VOTER, Bytes::new(), STATUS_TIMEOUT).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer).map_err(|error| format!("it answers what cannot be read: {error}"))
}
