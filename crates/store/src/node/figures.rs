//! What a node counts of its store: the requests that it made, and on a voter what it has seen of leaders and of its disk.
//!
//! Raft's own view names the last leader even when nobody has heard of it for long: without a quorum there is no election
//! that would tell otherwise. So a leader counts as one here only while it is heard of.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{error::StoreError, message::VoterStatus, place::Place};
use crate::{
    log::{LogFigures, SyncTimes},
    raft::{Standing, View},
    snapshot::Snapshots,
};

/// How long a leader may be silent: 20 heartbeats, and longer than any voter waits before it asks for an election.
const SILENT: Duration = Duration::from_secs(3);

/// What a node counts of its store, since it began.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How many requests of this node have ended: for what, how, and how many.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    /// How this node is as a voter, and how long its syncs took; nothing if it does not vote.
    pub voter: Option<(VoterStatus, SyncTimes)>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Write,
    Read,
    ReadSerializable,
    Lease,
    KeepAlive,
    Voters,
}

/// How it ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Done,
    Refused,
    Failed,
    Unknown,
}

impl Operation {
    const ALL: [(Self, &str); 6] = [
        (Self::Write, "write"),
        (Self::Read, "read"),
        (Self::ReadSerializable, "read_serializable"),
        (Self::Lease, "lease"),
        (Self::KeepAlive, "keep_alive"),
        (Self::Voters, "voters"),
    ];
}

impl End {
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

/// How many requests have ended, and how.
#[derive(Debug, Default)]
pub(super) struct Requests([[AtomicU64; End::ALL.len()]; Operation::ALL.len()]);

impl Requests {
    /// One of them has ended so.
    pub(super) fn ended<T>(&self, operation: Operation, ended: Result<T, StoreError>) -> Result<T, StoreError> {
        self.0[operation as usize][End::of(&ended) as usize].fetch_add(1, Ordering::Relaxed);
        ended
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, &'static str, u64)> {
        let count = |operation, end| self.0[operation as usize][end as usize].load(Ordering::Relaxed);
        let each = |(operation, name)| End::ALL.map(|(end, how)| (name, how, count(operation, end)));
        Operation::ALL.into_iter().flat_map(each).collect()
    }
}

/// What a voter has seen since it was started.
#[derive(Debug, Default)]
pub(super) struct VoterFigures {
    seen: Mutex<Seen>,
    /// When each other voter has sent a message last.
    heard: Mutex<BTreeMap<u64, Instant>>,
    disk: OnceLock<(Arc<LogFigures>, Snapshots<Place>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// 0 before it knows one.
    term: u64,
    leader: Option<u64>,
    elections: u64,
    leader_changes: u64,
}

impl Seen {
    fn see(&mut self, term: u64, leader: Option<u64>) {
        // What was before it was started is not counted, nor what was before it heard of a term.
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

impl VoterFigures {
    /// Its log and its snapshots are open now.
    pub(super) fn opened(&self, log: Arc<LogFigures>, snapshots: Snapshots<Place>) {
        // A voter opens them once.
        let _ = self.disk.set((log, snapshots));
    }

    /// This is how it sees its cluster now.
    pub(super) fn see(&self, standing: &Standing) {
        lock(&self.seen).see(standing.term, standing.leader);
    }

    /// That voter has sent a message of Raft, and is who it says.
    pub(super) fn heard(&self, id: u64, now: Instant) {
        lock(&self.heard).insert(id, now);
    }

    pub(super) fn syncs(&self) -> SyncTimes {
        self.disk.get().map(|(log, _)| log.syncs()).unwrap_or_default()
    }

    /// Puts what was counted into the status of the voter `me`, with who leads.
    pub(super) fn write(&self, now: Instant, view: &View, me: u64, status: &mut VoterStatus) {
        status.term = view.term;
        status.leads = view.leads && (view.voters.len() == 1 || view.acknowledged.is_some_and(|ago| ago < SILENT));
        let heard = |id: u64| lock(&self.heard).get(&id).is_some_and(|at| now.duration_since(*at) < SILENT);
        let leader = view.leader.filter(|leader| if *leader == me { status.leads } else { heard(*leader) });
        status.leader = leader.and_then(|leader| view.voters.get(&leader).cloned());
        (status.last, status.committed) = (view.last, view.committed);
        (status.applied, status.snapshot) = (view.applied, view.snapshot);
        let seen = *lock(&self.seen);
        (status.elections, status.leader_changes) = (seen.elections, seen.leader_changes);
        // While a node takes the place of its former self, two voters have one name.
        let mut lags = BTreeMap::new();
        for (id, has) in view.replicated.iter().filter(|(id, _)| **id != me) {
            // One that has not answered this leader yet may have everything.
            let (Some(name), Some(has)) = (view.voters.get(id), has) else { continue };
            let lag = view.last.unwrap_or_default().saturating_sub(*has);
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
        let requests = Requests::default();
        let unknown = StoreError::Unknown { problem: String::new() };
        requests.ended(Operation::Write, Ok(())).expect("it was done");
        requests.ended(Operation::KeepAlive, Err::<(), _>(unknown)).expect_err("it was not");
        requests.ended(Operation::Voters, Err::<(), _>(StoreError::NoVoters)).expect_err("it was not");
        let counted: Vec<_> = requests.counts().into_iter().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(counted, [("write", "done", 1), ("keep_alive", "unknown", 1), ("voters", "failed", 1)]);
    }

    #[test]
    fn elections_are_counted_from_the_first_view_on() {
        let mut seen = Seen::default();
        for (term, leader) in [(0, None), (7, None), (7, Some(1)), (8, None), (8, Some(1)), (9, None), (11, Some(2))] {
            seen.see(term, leader);
        }
        assert_eq!((seen.elections, seen.leader_changes), (4, 1));
    }

    #[test]
    fn a_leader_that_is_silent_is_none() {
        let figures = VoterFigures::default();
        let voters = BTreeMap::from([(1, "a".into()), (2, "b".into()), (3, "c".into())]);
        let follows = View { term: 4, leader: Some(2), voters, last: Some(9), ..View::default() };
        let (began, late) = (Instant::now(), Instant::now() + SILENT);
        let status = |now: Instant, view: &View| {
            let mut status = VoterStatus::default();
            figures.write(now, view, 1, &mut status);
            status
        };
        assert_eq!(status(began, &follows).leader, None, "nothing was heard of it yet");
        figures.heard(2, began);
        assert_eq!(status(began, &follows).leader.as_deref(), Some("b"));
        figures.heard(3, late);
        assert_eq!(status(late, &follows).leader, None);

        let replicated = BTreeMap::from([(1, Some(9)), (2, Some(4)), (3, None)]);
        let leads = View { leader: Some(1), leads: true, replicated, acknowledged: Some(Duration::ZERO), ..follows };
        let told = status(late, &leads);
        assert_eq!((told.leads, told.leader.as_deref()), (true, Some("a")));
        assert_eq!(told.lags, [("b".to_owned(), 5)], "c has not said what it has");
        let told = status(late, &View { acknowledged: Some(SILENT), ..leads });
        assert_eq!((told.leads, told.leader), (false, None));
    }
}
