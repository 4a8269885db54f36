//! A voter: founding, and what it does for others.
//!
//! # States
//!
//! | a voter is | until |
//! |---|---|
//! | waiting: it belongs to no cluster | the founder, or a leader that takes it in, tells it which |
//! | running: it has a log, and takes Raft's messages | it is stopped, or its disk fails |
//!
//! # Founding
//!
//! The voter with the lowest of the configured names founds, and nobody else. It asks all others, again and again, until
//! all have answered at one time that they have the same names in their settings and are part of no cluster that was
//! founded. Each has stored its id by then. It draws the cluster's id, or takes that which some of them have from an attempt
//! that was broken off; tells it to all; and once all have stored it, it begins the log with them as voters. A voter that
//! lost its disk finds others that were founded, and so never founds a second cluster: it waits.

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
    error::Said,
    figures::VoterFigures,
    message::{JOIN, Query, Read, VOTER, VoterStatus},
    place::Place,
    replica::{Replica, Watcher},
};
use crate::{
    disk::{DataFolder, DataFolderError, Ids},
    keys::{RangeOutcome, Watch},
    log::{Log, LogError, Options},
    machine::{Command, LeaseTimers, Machines, Outcome, State, Versions, View},
    raft::{Consensus, ConsensusError},
    snapshot::{SnapshotError, Snapshots},
};

pub(super) type Raft = Consensus<Place, Replica>;

/// How long another voter has to answer while a cluster is founded.
const ASK: Duration = Duration::from_secs(2);
/// How often the founder asks all others.
const FOUND_EVERY: Duration = Duration::from_millis(500);
/// How often it says for whom it waits.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// How many backups it writes at one time.
const SAVERS: usize = 2;
/// In memory, segments are small.
const IN_MEMORY: Options =
    Options { segment: 8 << 20, reserve: 1 << 20, queue: 4 << 20, cache: 1 << 20, read: 1 << 20 };

/// Why a voter does not start.
#[derive(Debug, thiserror::Error)]
pub enum VoterError {
    /// Its folder cannot be used.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// It is another node's.
    #[error(
        "{folder} is the folder of node {found:016x}, and this node is {node:016x}; give this node its own folder, or \
         this folder the node that it belongs to"
    )]
    OtherNode {
        /// The folder.
        folder: String,
        /// Whose it is.
        found: u64,
        /// Who this is.
        node: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Raft does not start.
    #[error(transparent)]
    Raft(#[from] ConsensusError),
    /// The disk fails.
    #[error("{path}: {source}; make sure that this folder can be written to")]
    Io {
        /// Where.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Voter {
    pub(super) sessions: Sessions,
    pub(super) name: String,
    pub(super) id: u64,
    /// The names of those who are to found the cluster, in order.
    pub(super) configured: Vec<String>,
    machines: Machines,
    /// The commands that it knows.
    versions: Versions,
    place: Place,
    folder: Mutex<Option<DataFolder<Place>>>,
    running: watch::Sender<Option<Raft>>,
    pub(super) timers: Mutex<LeaseTimers>,
    pub(super) figures: VoterFigures,
    /// Said when the voter cannot go on, and why.
    failed: watch::Sender<Option<String>>,
    stopped: AtomicBool,
    /// One change of voters at a time. Raft would take a second one into the middle of the first.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The places of those who write a backup.
    pub(super) savers: Arc<Semaphore>,
}

impl Voter {
    /// Opens the folder, and goes on with what is in it; gives at once what others can already ask.
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
        let place = Place::open(path).map_err(|source| VoterError::Io { path: shown, source })?;
        let folder = DataFolder::open(place.clone(), id)?;
        if folder.node() != id {
            let folder_name = crate::disk::Disk::name(&place);
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
            place,
            folder: Mutex::new(Some(folder)),
            running: watch::Sender::new(None),
            timers: Mutex::new(LeaseTimers::new()),
            figures: VoterFigures::default(),
            failed: watch::Sender::new(None),
            stopped: AtomicBool::new(false),
            changing: tokio::sync::Mutex::default(),
            savers: Arc::new(Semaphore::new(SAVERS)),
        });
        if let Some(cluster) = cluster {
            voter.join(cluster).await?;
        }
        Ok(voter)
    }

    /// Becomes part of this cluster, for good.
    pub(super) async fn join(&self, cluster: u64) -> Result<(), VoterError> {
        let mut folder = {
            let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
            match folder.take() {
                Some(folder) => folder,
                // It runs already, or another call is about to have it run.
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
            // Meanwhile.
            self.stop().await;
        }
        Ok(())
    }

    async fn open(&self, ids: Ids, folder: DataFolder<Place>) -> Result<Raft, VoterError> {
        let in_memory = matches!(self.place, Place::Memory(_));
        let options = if in_memory { IN_MEMORY } else { Options::default() };
        let place = self.place.clone();
        let opened = tokio::task::spawn_blocking(move || -> Result<_, VoterError> {
            let (log, writer) = Log::open(place.clone(), ids, options)?;
            let snapshots = Snapshots::open(place, ids.cluster, log.state().purged)?;
            Ok((log, writer, snapshots))
        });
        let io = |source| VoterError::Io { path: crate::disk::Disk::name(&self.place), source };
        let (log, writer, snapshots) = opened.await.map_err(|error| io(std::io::Error::other(error)))??;
        self.figures.opened(log.figures(), snapshots.clone());
        let failed = self.failed.clone();
        let spawned = writer.spawn(move |ended| {
            // Whoever has this has the folder's lock.
            let _folder = folder;
            if let Err(problem) = ended {
                error!(event = "store_failed", "the log of the store cannot be written: {problem}");
                failed.send_replace(Some(problem.to_string()));
            }
        });
        spawned.map_err(io)?;
        Ok(Consensus::start(ids, log, snapshots, Replica::new(self.machines.clone()), self.sessions.clone()).await?)
    }

    /// Raft, once this voter is part of a cluster.
    pub(super) fn raft(&self) -> Option<Raft> {
        self.running.borrow().clone()
    }

    pub(super) fn watch_running(&self) -> watch::Receiver<Option<Raft>> {
        self.running.subscribe()
    }

    /// It cannot go on.
    pub(super) fn fail(&self, why: &str) {
        self.failed.send_if_modified(|failed| {
            let is_news = failed.is_none();
            failed.get_or_insert_with(|| why.to_owned());
            is_news
        });
    }

    /// Resolves when it cannot go on.
    pub(super) async fn failure(&self) -> String {
        let mut failed = self.failed.subscribe();
        let failure = failed.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        failure.unwrap_or_else(|| "it was stopped".into())
    }

    pub(super) fn need(&self) -> Result<Raft, Said> {
        if let Some(failure) = &*self.failed.borrow() {
            return Err(Said::Stopped(failure.clone()));
        }
        self.raft().ok_or(Said::Waiting)
    }

    /// With who leads, by name, where this voter does not.
    pub(super) fn said(raft: &Raft, error: ConsensusError) -> Said {
        match error {
            ConsensusError::NotLeader { leader } => {
                let view = raft.view();
                let leader = leader.or(view.leader).filter(|leader| *leader != raft.ids().node);
                Said::NotLeader(leader.and_then(|leader| view.voters.get(&leader).cloned()))
            }
            other => other.into(),
        }
    }

    /// Has a command agreed on, if this voter leads.
    pub(super) async fn execute(&self, command: Bytes) -> Result<Bytes, Said> {
        let raft = self.need()?;
        let outcome = raft.propose(command).await.map_err(|error| Self::said(&raft, error))?;
        // Others may be long, and are for who asked to read.
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

    /// The store that this voter is of; an error, if a question is about another one.
    pub(super) fn same_store(&self, asked: u64) -> Result<u64, Said> {
        let mine = self.need()?.ids().cluster;
        if asked == 0 || asked == mine { Ok(mine) } else { Err(Said::OtherStore(mine)) }
    }

    /// As [`execute`](Self::execute), for who asks from outside: what would stop all voters must not get into the log, and
    /// only the leader knows whose time is over.
    pub(super) async fn request(&self, command: Bytes) -> Result<Bytes, Said> {
        let refuse = Said::NotPossible;
        let decoded = Command::decode(&command).map_err(|stop| refuse(stop.to_string()))?;
        if decoded.is_expiry() {
            return Err(refuse("only a leader ends a lease whose time is over; revoke it instead".into()));
        }
        let raft = self.need()?;
        let (checked, all_know) =
            raft.state().read(|replica, _| (replica.state.check(&decoded), replica.state.all_know(&decoded)));
        checked.map_err(refuse)?;
        if !all_know {
            self.all_know(&raft, &decoded).await?;
        }
        self.execute(command).await
    }

    /// Asks all members whether they know a command that the log has not had yet. One that does not would have to stop.
    async fn all_know(&self, raft: &Raft, command: &Command) -> Result<(), Said> {
        let view = raft.view();
        if !view.leads {
            return Err(Self::said(raft, ConsensusError::NotLeader { leader: view.leader }));
        }
        let others = view.voters.iter().chain(&view.learners).filter(|(id, _)| **id != self.id);
        let asked = others.map(async |(_, name)| (name, ask(&self.sessions, name).await));
        for (name, status) in futures_util::future::join_all(asked).await {
            let refuse = |why| Said::NotPossible(format!("not all voters know this command yet: {name}: {why}"));
            let status = status.map_err(|problem| refuse(format!("{problem}; start it, or have it vote no more")))?;
            status.versions.check(command).map_err(|unknown| refuse(format!("{unknown}; upgrade it first")))?;
        }
        Ok(())
    }

    /// Reads what was there when this was called, or, serializable, at some time before.
    pub(super) async fn read(&self, read: &Read) -> Result<RangeOutcome, Said> {
        let raft = self.need()?;
        if !read.serializable {
            raft.confirm().await.map_err(|error| Self::said(&raft, error))?;
        } else if !raft.has_recovered() {
            return Err(Said::NotLeader(None));
        }
        let found = raft.state().read(|replica, _| replica.state.keys().range(&read.range)).map_err(Said::Refused)?;
        Ok(match read.most_bytes.and_then(|most| usize::try_from(most).ok()) {
            Some(most) => found.within(most),
            None => found,
        })
    }

    /// Has a machine answer a question, as it was when this was called, or later.
    pub(super) async fn query(&self, query: &Query) -> Result<Bytes, Said> {
        let raft = self.need()?;
        raft.confirm().await.map_err(|error| Self::said(&raft, error))?;
        let answered = raft.state().read(|replica, _| {
            let timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            let left = |lease| timers.remaining(since_boot(), lease);
            replica.state.answer(&query.machine, &View { leases: replica.state.leases(), left: &left }, &query.question)
        });
        let unknown = || Said::NotPossible(no_machine(&query.machine));
        answered.ok_or_else(unknown)?.map_err(|malformed| Said::NotPossible(malformed.to_string()))
    }

    /// What a machine tells from now on, as long as this voter leads.
    pub(super) fn follow(&self, machine: &str) -> Result<(Raft, Receiver<Bytes>), Said> {
        let raft = self.need()?;
        let view = raft.view();
        if !view.leads {
            return Err(Self::said(&raft, ConsensusError::NotLeader { leader: view.leader }));
        }
        if self.versions.of(machine) == 0 {
            return Err(Said::NotPossible(no_machine(machine)));
        }
        let told = raft.state().read(|replica, _| replica.followers().follow(machine.into()));
        Ok((raft, told))
    }

    /// Has a lease run anew; gives how long it lives now, in seconds, and 0 if there is none.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<i64, Said> {
        let raft = self.need()?;
        // It runs from when it was asked, not from when that was confirmed.
        let now = since_boot();
        raft.confirm().await.map_err(|error| Self::said(&raft, error))?;
        let term = raft.standing().term;
        // Nothing is applied in the meantime: a lease that is there, and whose expiry is not proposed, lives on.
        raft.state().read(|replica, _| {
            let state = &replica.state;
            let Some((ttl, promised)) = state.leases().ttl(lease).zip(state.promised(lease)) else { return Ok(0) };
            let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            // Timers of an earlier term do not know what was granted since.
            if timers.term() != Some(term) {
                return Err(Said::NotLeader(None));
            }
            timers.seen(now, lease, ttl);
            let confirmed = timers.confirmed(now, lease);
            Ok(confirmed.map_or(0, |ttl| promised.min(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))))
        })
    }

    /// Gives also up to which revision there is nothing to tell.
    pub(super) fn watch(&self, watch: Watch) -> Result<(Watcher, u64), Said> {
        let raft = self.need()?;
        // What it had before it was restarted may be of a store that is no more.
        if !raft.has_recovered() {
            return Err(Said::NotLeader(None));
        }
        let start = watch.start_revision;
        let (watcher, revision) = Watcher::begin(raft.state(), watch).map_err(Said::Refused)?;
        Ok((watcher, start.checked_sub(1).unwrap_or(revision)))
    }

    pub(super) async fn status(&self) -> VoterStatus {
        let mut status = self.seen();
        if let Some(raft) = self.raft() {
            status.founded = raft.is_founded().await.unwrap_or(true);
        }
        status
    }

    /// How it is, but for whether its cluster has been founded. It asks nobody, and waits for nothing.
    pub(super) fn seen(&self) -> VoterStatus {
        let mut status = VoterStatus {
            name: self.name.clone(),
            id: self.id,
            configured: self.configured.clone(),
            ephemeral: matches!(self.place, Place::Memory(_)),
            has_room: true,
            versions: self.versions.clone(),
            failure: self.failed.borrow().clone(),
            ..VoterStatus::default()
        };
        let Some(raft) = self.raft() else { return status };
        let view = raft.view();
        status.cluster = Some(raft.ids().cluster);
        self.figures.write(Instant::now(), &view, self.id, &mut status);
        status.last_term = raft.last().map(|last| last.term);
        status.voters = view.voters.into_iter().collect();
        status.learners = view.learners.into_iter().collect();
        status.has_room = raft.room().accepts_proposals;
        status.failure = status.failure.or(view.failure);
        raft.state().read(|replica, _| {
            let keys = replica.state.keys();
            (status.revision, status.compacted) = (keys.revision(), keys.compacted());
            (status.bytes, status.quota, status.alarm) = (keys.bytes(), keys.quota(), keys.alarm());
            status.leases = replica.state.leases().len() as u64;
            status.watchers = replica.watchers().count() as u64;
        });
        status
    }

    /// Founds the cluster, if that is this voter's to do and has not been done. Ends when it is founded.
    pub(super) async fn found(&self) {
        if self.configured.first() != Some(&self.name) {
            return;
        }
        let mut told = Instant::now();
        let mut said = String::new();
        while !self.has_stopped() {
            if let Some(raft) = self.raft()
                && raft.is_founded().await.unwrap_or(true)
            {
                return;
            }
            match self.try_to_found().await {
                Ok(()) => return,
                Err(problem) => {
                    let silent = said.is_empty() && told.elapsed() < ASK;
                    if !silent && (problem != said || told.elapsed() >= TELL_EVERY) {
                        info!(node = self.name, event = "store_waits", "no store yet: {problem}");
                        (said, told) = (problem, Instant::now());
                    }
                }
            }
            sleep(FOUND_EVERY).await;
        }
    }

    async fn try_to_found(&self) -> Result<(), String> {
        let mine = self.status().await;
        let mut voters = BTreeMap::from([(self.id, self.name.clone())]);
        let mut clusters: Vec<u64> = mine.cluster.into_iter().collect();
        let others = self.configured.iter().filter(|name| **name != self.name);
        let asked = others.map(async |name| (name, ask(&self.sessions, name).await));
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
            let told = self.sessions.call(name, JOIN, cluster.to_be_bytes().to_vec(), ASK).await;
            let id = told.map_err(|error| format!("waiting for {name}: {error}"))?;
            // It may be another one by now.
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

    /// Has another voter lead, if this one does: then nobody waits for an election.
    pub(super) async fn hand_over(&self) {
        let Some(raft) = self.raft().filter(|raft| raft.view().leads) else { return };
        let view = raft.view();
        let others = view.voters.keys().filter(|id| **id != self.id);
        let Some(next) = others.max_by_key(|id| view.replicated.get(id).copied().flatten()) else { return };
        if raft.hand_over(*next).await.is_err() {
            return;
        }
        let mut views = raft.watch();
        let follows = async { while views.next().await.is_some_and(|view| view.leads) {} };
        // Nobody has to lead for this one to stop.
        let _ = timeout(Duration::from_millis(500), follows).await;
    }

    /// Stops voting, and lets its folder go; what is under way is given up.
    pub(super) async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // It may not have begun yet.
        drop(self.folder.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(raft) = self.running.send_replace(None) {
            // A disk that hangs is not waited for.
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

/// How the voter of that name is.
pub(super) async fn ask(sessions: &Sessions, name: &str) -> Result<VoterStatus, String> {
    let answer = sessions.call(name, VOTER, Bytes::new(), ASK).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&answer).map_err(|error| format!("it answers what cannot be read: {error}"))
}
