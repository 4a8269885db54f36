//! What a voter does by itself. A leader expires leases that nobody keeps alive, compacts old history, and gives a node that
//! lost its disk its former place. Any voter looks for room on a disk that was full.
//!
//! Only the leader times leases ([`LeaseTimers`](crate::machine::LeaseTimers)), on a clock that runs on while the host sleeps.
//! It proposes to expire what is due, and names its term; the state machine refuses that in another term. Under a new leader
//! all leases run anew, in full.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    select,
    time::{Instant, sleep},
};
use tracing::{debug, error, info, warn};

use super::{
    change::{self, VoterChange},
    clock::since_boot,
    error::RefusalReason,
    voter::{Raft, Voter, fetch_status},
};
use crate::{
    keys::{self, Compactor},
    machine::{Command, Outcome},
};

/// How many revisions of history the store keeps, and for how long: see [`Compactor`].
const HISTORY: u64 = 1_000_000;
const HISTORY_AGE: Duration = Duration::from_secs(3600);
/// How many leases a leader expires at once.
const EXPIRED_AT_ONCE: usize = 64;
/// How often a leader looks for what is due, at least.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The same while there may be leases without a timer, as those of sessions are at first: within twice this time they begin to
/// run. It takes a look at all leases, so it is longer where there are many.
const RECONCILE_INTERVAL: Duration = Duration::from_millis(50);
const RECONCILE_INTERVAL_PER_LEASE: Duration = Duration::from_micros(2);
/// How often it looks whether a voter lost its disk.
const CHECK_VOTERS_INTERVAL: Duration = Duration::from_secs(5);
/// How often a voter looks whether a full disk has room again.
const CHECK_SPACE_INTERVAL: Duration = Duration::from_secs(2);
/// How often it tries to make room by a snapshot, for which there may be none either.
const MAKE_ROOM_INTERVAL: Duration = Duration::from_secs(60);
/// When it tries again to confirm that it leads, if that failed.
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// When it proposes an expiry again that failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Runs these tasks until the voter is dropped or stops.
pub(super) async fn run(voter: Weak<Voter>, replace_after: Duration) {
    let Some(mut running) = voter.upgrade().map(|voter| voter.watch_running()) else { return };
    let Ok(raft) = running.wait_for(Option::is_some).await.map(|raft| raft.clone()) else { return };
    let Some(raft) = raft else { return };
    let mut statuses = raft.watch_status();
    let mut leading_term = None;
    let (mut space_checked, mut room_made) = (Instant::now(), None::<Instant>);
    let mut compactor = Compactor::new(HISTORY, HISTORY_AGE);
    if let Some(voter) = voter.upgrade() {
        voter.stats.observe(&raft.basic_status());
    }
    tokio::spawn(maintain_voters(voter.clone(), raft.clone(), replace_after));
    // Each write brings a status. To look for what is due each time would cost too much.
    let (mut checked, mut more) = (Instant::now(), false);
    loop {
        let status = select! {
            status = statuses.next_basic() => match status {
                Some(status) => status,
                None => {
                    if let Some(voter) = voter.upgrade().filter(|voter| voter.raft().is_some()) {
                        voter.fail("Raft has ended");
                    }
                    return;
                }
            },
            () = sleep(voter.upgrade().map_or(CHECK_INTERVAL, |voter| until_due(&voter).min(check_interval(&voter, &raft)))) => {
                raft.basic_status()
            }
        };
        let Some(voter) = voter.upgrade() else { return };
        voter.stats.observe(&status);
        if space_checked.elapsed() >= CHECK_SPACE_INTERVAL {
            space_checked = Instant::now();
            if raft.space().accepts_proposals {
                room_made = None;
            } else {
                let is_due = room_made.is_none_or(|at| at.elapsed() >= MAKE_ROOM_INTERVAL);
                // If Raft has stopped, its status says so.
                if raft.make_room(is_due).await.unwrap_or(false) {
                    room_made = Some(Instant::now());
                }
            }
        }
        if let Some(failure) = &status.failure {
            // A voter that was stopped has not failed.
            if voter.raft().is_some() {
                error!(node = voter.name, event = "store_failed", "this voter cannot go on: {failure}");
                voter.fail(failure);
            }
            return;
        }
        if !status.leads {
            if leading_term.take().is_some() {
                voter.timers.lock().unwrap_or_else(PoisonError::into_inner).follow();
                info!(node = voter.name, event = "store_follows", "no longer leads the store");
            }
            continue;
        }
        if leading_term != Some(status.term) {
            // A read index: all that earlier leaders committed is applied then.
            if raft.read_index().await.is_err() || raft.basic_status().term != status.term {
                // Each attempt brings a status, even if Raft refuses it at once, as while it transfers leadership.
                sleep(CONFIRM_AGAIN_AFTER).await;
                continue;
            }
            raft.state().read(|replica, _| {
                let mut timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
                timers.lead(since_boot(), status.term, replica.state.leases());
            });
            leading_term = Some(status.term);
            compactor = Compactor::new(HISTORY, HISTORY_AGE);
            info!(
                node = voter.name,
                event = "store_leads",
                term = status.term,
                "leads the store in term {}",
                status.term
            );
        } else if !more && checked.elapsed() < check_interval(&voter, &raft) && !until_due(&voter).is_zero() {
            continue;
        }
        checked = Instant::now();
        let revision = raft.state().read(|replica, _| {
            let mut timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
            timers.reconcile(since_boot(), replica.state.leases());
            compactor.due(since_boot(), replica.state.keys())
        });
        more = expire_leases(&voter, status.term) == EXPIRED_AT_ONCE || revision.is_some();
        if let Some(revision) = revision {
            compact_history(&raft, revision).await;
        }
    }
}

/// How often to look for what is due.
fn check_interval(voter: &Voter, raft: &Raft) -> Duration {
    raft.state().read(|replica, _| {
        let leases = replica.state.leases();
        let timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
        if !timers.is_behind(leases) {
            return CHECK_INTERVAL;
        }
        let look = RECONCILE_INTERVAL_PER_LEASE * u32::try_from(leases.len()).unwrap_or(u32::MAX);
        RECONCILE_INTERVAL.saturating_add(look).min(CHECK_INTERVAL)
    })
}

/// How long until the next lease runs out, if that is soon; else until the next check.
fn until_due(voter: &Voter) -> Duration {
    let next = voter.timers.lock().unwrap_or_else(PoisonError::into_inner).next_deadline();
    next.map_or(CHECK_INTERVAL, |at| at.saturating_sub(since_boot()).min(CHECK_INTERVAL))
}

/// Finishes membership changes and replaces lost voters, while this voter leads.
async fn maintain_voters(voter: Weak<Voter>, raft: Raft, after: Duration) {
    let mut lost = LostVoters { since: HashMap::new(), after };
    loop {
        sleep(CHECK_VOTERS_INTERVAL.min(after)).await;
        let Some(voter) = voter.upgrade() else { return };
        if voter.raft().is_none() {
            return;
        }
        if raft.basic_status().leads {
            change::finish(&voter, &raft).await;
            lost.check(&voter, &raft).await;
        } else {
            lost.since.clear();
        }
    }
}

/// Proposes to expire the leases that are due. Returns how many.
fn expire_leases(voter: &Arc<Voter>, term: u64) -> usize {
    let due = voter.timers.lock().unwrap_or_else(PoisonError::into_inner).due(since_boot(), EXPIRED_AT_ONCE);
    let count = due.len();
    for lease in due {
        let voter = Arc::clone(voter);
        tokio::spawn(async move {
            let result = voter.execute(Command::expire(lease, term).encode().into()).await;
            let mut timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = result.ok().and_then(|outcome| Outcome::decode(&outcome).ok());
            timers.expiry_outcome(since_boot() + RETRY_AFTER, term, lease, outcome.as_ref());
        });
    }
    count
}

async fn compact_history(raft: &Raft, revision: u64) {
    let compact = Command::keys(&keys::KeysCommand::Compact { revision }).map(|command| Bytes::from(command.encode()));
    let Ok(compact) = compact else { return };
    if let Err(error) = raft.propose(compact).await {
        debug!(%error, revision, "history is not forgotten yet");
    }
}

/// Voters whose name belongs to another node now: they have lost their disks.
struct LostVoters {
    /// Since when, by their ids.
    since: HashMap<u64, Instant>,
    after: Duration,
}

impl LostVoters {
    /// Replaces a voter that lost its disk, once its former self has been away for long enough. The gossip only says that
    /// there is a node of that name; in a session it proves that it is an empty one with the cluster's key.
    async fn check(&mut self, voter: &Arc<Voter>, raft: &Raft) {
        let status = raft.status();
        self.since.retain(|id, _| status.voters.contains_key(id));
        for (id, name) in &status.voters {
            let info = voter.sessions.node().info_of(&name.as_str().into()).await;
            let is_another = info.is_some_and(|info| info.id.get() != *id);
            if !is_another || *id == raft.ids().node {
                self.since.remove(id);
                continue;
            }
            let since = *self.since.entry(*id).or_insert_with(|| {
                let after = self.after;
                warn!(
                    node = voter.name,
                    event = "store_voter_lost",
                    "the voter {name} ({id:016x}) has lost its disk: a node of that name is there with another id; it takes \
                     its place in {after:?}, or with `voters replace {name}`"
                );
                Instant::now()
            });
            if since.elapsed() < self.after
                || !fetch_status(&voter.sessions, name).await.is_ok_and(|other| !other.founded)
            {
                continue;
            }
            match change::carry_out_detached(voter, VoterChange::Replace(name.clone())).await {
                Ok(()) => drop(self.since.remove(id)),
                Err(RefusalReason::NotPossible(why)) => {
                    warn!(node = voter.name, event = "store_voter_lost", "{name} does not take its place: {why}")
                }
                Err(reason) => debug!(said = ?reason, name, "a voter does not take its place yet"),
            }
        }
    }
}
