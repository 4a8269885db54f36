//! What a node counts of its store: its requests, and at a voter elections, leaders and its disk. Metrics and the status read
//! it; no decision depends on it.
//!
//! Raft names the last leader even if nobody has heard of it for long: without a quorum there is no election that would tell
//! otherwise. Here a leader counts as one only while the voter hears of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{disk::VoterDisk, error::StoreError, message::VoterStatus};
use crate::{
    log::{LogStats, SyncStats},
    raft::{BasicStatus, RaftStatus},
    snapshot::Snapshots,
};

/// How long a leader may be silent: 20 heartbeats, and longer than any voter waits before it calls an election.
const SILENT: Duration = Duration::from_secs(3);

/// What a node has counted of its store since it started. [`Store::stats`](super::Store::stats) returns it.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// How many requests of this node have ended: their kind, their result, and how many.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    /// On a voter: its status, and how long its syncs took.
    pub voter: Option<(VoterStatus, SyncStats)>,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestKind {
    Write,
    Read,
    ReadSerializable,
    Lease,
    KeepAlive,
    Voters,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
enum RequestResult {
    Done,
    Refused,
    Failed,
    Unknown,
}

impl RequestKind {
    const ALL: [(Self, &str); 6] = [
        (Self::Write, "write"),
        (Self::Read, "read"),
        (Self::ReadSerializable, "read_serializable"),
        (Self::Lease, "lease"),
        (Self::KeepAlive, "keep_alive"),
        (Self::Voters, "voters"),
    ];
}

impl RequestResult {
    const ALL: [(Self, &str); 4] =
        [(Self::Done, "done"), (Self::Refused, "refused"), (Self::Failed, "failed"), (Self::Unknown, "unknown")];

    fn of<T>(ended: &Result<T, StoreError>) -> Self {
        match ended {
            Ok(_) => Self::Done,
            Err(StoreError::Refused(_) | StoreError::NotPossible { .. }) => Self::Refused,
            Err(StoreError::Unknown { .. }) => Self::Unknown,
            Err(_) => Self::Failed,
        }
    }
}

/// How many requests have ended, by kind and result.
#[derive(Debug, Default)]
pub(super) struct RequestCounters([[AtomicU64; RequestResult::ALL.len()]; RequestKind::ALL.len()]);

impl RequestCounters {
    /// Counts a request that has ended.
    pub(super) fn count<T>(&self, kind: RequestKind, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.0[kind as usize][RequestResult::of(&result) as usize].fetch_add(1, Ordering::Relaxed);
        result
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let count = |operation, end| self.0[operation as usize][end as usize].load(Ordering::Relaxed);
        let each = |(operation, name)| RequestResult::ALL.map(|(end, how)| (name, how, count(operation, end)));
        RequestKind::ALL.into_iter().flat_map(each).collect()
    }
}

/// What a voter has counted since it started.
#[derive(Debug, Default)]
pub(super) struct VoterStats {
    elections: Mutex<ElectionStats>,
    /// When each other voter sent its last message.
    heard: Mutex<BTreeMap<u64, Instant>>,
    disk: OnceLock<(Arc<LogStats>, Snapshots<VoterDisk>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ElectionStats {
    /// 0 before the voter knows one.
    term: u64,
    leader: Option<u64>,
    elections: u64,
    leader_changes: u64,
}

impl ElectionStats {
    fn observe(&mut self, term: u64, leader: Option<u64>) {
        // Terms and leaders before the first one that this voter has heard of do not count.
        let before = std::mem::replace(&mut self.term, term);
        if before > 0 {
            self.elections += term.saturating_sub(before);
        }
        if let Some(leader) = leader {
            let before = self.leader.replace(leader).unwrap_or(leader);
            self.leader_changes += u64::from(before != leader);
        }
    }
}

impl VoterStats {
    /// Reads the disk's figures from here on: the log and the snapshots are open.
    pub(super) fn opened(&self, log: Arc<LogStats>, snapshots: Snapshots<VoterDisk>) {
        // A voter opens them once.
        let _ = self.disk.set((log, snapshots));
    }

    /// Counts an election or a new leader, if Raft's status shows one.
    pub(super) fn observe(&self, status: &BasicStatus) {
        lock(&self.elections).observe(status.term, status.leader);
    }

    /// Notes that this voter has sent a message of Raft, and has proven who it is.
    pub(super) fn heard(&self, id: u64, now: Instant) {
        lock(&self.heard).insert(id, now);
    }

    pub(super) fn syncs(&self) -> SyncStats {
        self.disk.get().map(|(log, _)| log.syncs()).unwrap_or_default()
    }

    /// Fills the status of the voter `me`: its stats, and the leader if it hears of one.
    pub(super) fn fill(&self, now: Instant, raft_status: &RaftStatus, me: u64, status: &mut VoterStatus) {
        status.term = raft_status.term;
        status.leads = raft_status.leads
            && (raft_status.voters.len() == 1 || raft_status.acknowledged.is_some_and(|ago| ago < SILENT));
        let heard = |id: u64| lock(&self.heard).get(&id).is_some_and(|at| now.duration_since(*at) < SILENT);
        let leader = raft_status.leader.filter(|leader| if *leader == me { status.leads } else { heard(*leader) });
        status.leader = leader.and_then(|leader| raft_status.voters.get(&leader).cloned());
        (status.last, status.committed) = (raft_status.last, raft_status.committed);
        (status.applied, status.snapshot) = (raft_status.applied, raft_status.snapshot);
        let elections = *lock(&self.elections);
        (status.elections, status.leader_changes) = (elections.elections, elections.leader_changes);
        // While a node takes the place of its former self, two voters have the same name.
        let mut lags = BTreeMap::new();
        for (id, has) in raft_status.replicated.iter().filter(|(id, _)| **id != me) {
            // A voter that has not answered this leader yet may have all entries.
            let (Some(name), Some(has)) = (raft_status.voters.get(id), has) else { continue };
            let lag = raft_status.last.unwrap_or_default().saturating_sub(*has);
            lags.entry(name.clone()).and_modify(|most: &mut u64| *most = lag.max(*most)).or_insert(lag);
        }
        status.lags = lags.into_iter().collect();
        let Some((log, snapshots)) = self.disk.get() else { return };
        status.log_bytes = log.bytes();
        status.snapshot_bytes = snapshots.current().map_or(0, |(_, file)| file.size());
        let (syncs, micros) = (log.syncs(), |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        status.syncs = syncs.all.count();
        (status.sync_median, status.sync_longest) = (micros(syncs.median), micros(syncs.longest));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_are_for_and_how_they_ended() {
        let requests = RequestCounters::default();
        let unknown = StoreError::Unknown { problem: String::new() };
        requests.count(RequestKind::Write, Ok(())).expect("it was done");
        requests.count(RequestKind::KeepAlive, Err::<(), _>(unknown)).expect_err("it was not");
        requests.count(RequestKind::Voters, Err::<(), _>(StoreError::NoVoters)).expect_err("it was not");
        let counted: Vec<_> = requests.counts().into_iter().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(counted, [("write", "done", 1), ("keep_alive", "unknown", 1), ("voters", "failed", 1)]);
    }

    #[test]
    fn elections_are_counted_from_the_first_view_on() {
        let mut elections = ElectionStats::default();
        for (term, leader) in [(0, None), (7, None), (7, Some(1)), (8, None), (8, Some(1)), (9, None), (11, Some(2))] {
            elections.observe(term, leader);
        }
        assert_eq!((elections.elections, elections.leader_changes), (4, 1));
    }

    #[test]
    fn a_leader_that_is_silent_is_none() {
        let stats = VoterStats::default();
        let voters = BTreeMap::from([(1, "a".into()), (2, "b".into()), (3, "c".into())]);
        let follows = RaftStatus { term: 4, leader: Some(2), voters, last: Some(9), ..RaftStatus::default() };
        let (began, late) = (Instant::now(), Instant::now() + SILENT);
        let status = |now: Instant, raft_status: &RaftStatus| {
            let mut status = VoterStatus::default();
            stats.fill(now, raft_status, 1, &mut status);
            status
        };
        assert_eq!(status(began, &follows).leader, None, "nothing was heard of it yet");
        stats.heard(2, began);
        assert_eq!(status(began, &follows).leader.as_deref(), Some("b"));
        stats.heard(3, late);
        assert_eq!(status(late, &follows).leader, None);

        let replicated = BTreeMap::from([(1, Some(9)), (2, Some(4)), (3, None)]);
        let leads =
            RaftStatus { leader: Some(1), leads: true, replicated, acknowledged: Some(Duration::ZERO), ..follows };
        let told = status(late, &leads);
        assert_eq!((told.leads, told.leader.as_deref()), (true, Some("a")));
        assert_eq!(told.lags, [("b".to_owned(), 5)], "c has not said what it has");
        let told = status(late, &RaftStatus { acknowledged: Some(SILENT), ..leads });
        assert_eq!((told.leads, told.leader), (false, None));
    }
}
