//! What a voter does by itself. It looks for room on a disk that was full. A leader ends leases that nobody keeps alive,
//! forgets old history, and puts a node that lost its disk in its own place.
//!
//! Leases are timed by the leader alone, on a clock that goes on while a machine sleeps. What it finds due it proposes, with
//! its term; in another term that is refused. A new leader has all leases run anew, in full.

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
    change::{self, Change},
    clock::since_boot,
    error::Said,
    voter::{Raft, Voter, ask},
};
use crate::{
    keys::{self, Compactor},
    machine::{Command, Outcome},
};

/// How many revisions are kept at most, and for how long.
const HISTORY: u64 = 1_000_000;
const HISTORY_AGE: Duration = Duration::from_secs(3600);
/// How many leases are ended at once, at most.
const ENDED_AT_ONCE: usize = 64;
/// How often a leader looks for what is due, at least.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it looks whether voters are who they were.
const LOOK_AT_VOTERS_EVERY: Duration = Duration::from_secs(5);
/// How often a disk that was full is looked at.
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(2);
/// When something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Does all of that whenever this voter leads, as long as somebody has it.
pub(super) async fn lead(voter: Weak<Voter>, replace_after: Duration) {
    let Some(mut running) = voter.upgrade().map(|voter| voter.watch_running()) else { return };
    let Ok(raft) = running.wait_for(Option::is_some).await.map(|raft| raft.clone()) else { return };
    let Some(raft) = raft else { return };
    let mut views = raft.watch();
    let mut leads_in = None;
    let mut room_at = Instant::now();
    let mut compactor = Compactor::new(HISTORY, HISTORY_AGE);
    if let Some(voter) = voter.upgrade() {
        voter.figures.see(&raft.standing());
    }
    tokio::spawn(tend(voter.clone(), raft.clone(), replace_after));
    // Each write brings a view: what is due is looked for now and then, unless there was more than is done at once.
    let (mut looked, mut more) = (Instant::now(), false);
    loop {
        let view = select! {
            view = views.next_standing() => match view {
                Some(view) => view,
                None => {
                    if let Some(voter) = voter.upgrade().filter(|voter| voter.raft().is_some()) {
                        voter.fail("Raft has ended");
                    }
                    return;
                }
            },
            () = sleep(voter.upgrade().map_or(LOOK_EVERY, |voter| until_due(&voter))) => raft.standing(),
        };
        let Some(voter) = voter.upgrade() else { return };
        voter.figures.see(&view);
        if room_at.elapsed() >= LOOK_FOR_ROOM_EVERY {
            room_at = Instant::now();
            raft.make_room();
        }
        if let Some(failure) = &view.failure {
            // It may have been stopped.
            if voter.raft().is_some() {
                error!(node = voter.name, event = "store_failed", "this voter cannot go on: {failure}");
                voter.fail(failure);
            }
            return;
        }
        if !view.leads {
            if leads_in.take().is_some() {
                voter.timers.lock().unwrap_or_else(PoisonError::into_inner).follow();
                info!(node = voter.name, event = "store_follows", "no longer leads the store");
            }
            continue;
        }
        if leads_in != Some(view.term) {
            // All that earlier leaders have had agreed on is applied then.
            if raft.confirm().await.is_err() || raft.standing().term != view.term {
                continue;
            }
            raft.state().read(|replica, _| {
                let mut timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
                timers.lead(since_boot(), view.term, replica.state.leases());
            });
            leads_in = Some(view.term);
            compactor = Compactor::new(HISTORY, HISTORY_AGE);
            info!(node = voter.name, event = "store_leads", term = view.term, "leads the store in term {}", view.term);
        } else if !more && looked.elapsed() < LOOK_EVERY && !until_due(&voter).is_zero() {
            continue;
        }
        looked = Instant::now();
        let revision = raft.state().read(|replica, _| {
            let mut timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
            timers.reconcile(since_boot(), replica.state.leases());
            compactor.due(since_boot(), replica.state.keys())
        });
        more = end_leases(&voter, view.term) == ENDED_AT_ONCE || revision.is_some();
        if let Some(revision) = revision {
            forget_history(&raft, revision).await;
        }
    }
}

/// How long until it is to be looked for what is due: until the next lease runs out, if that is soon.
fn until_due(voter: &Voter) -> Duration {
    let next = voter.timers.lock().unwrap_or_else(PoisonError::into_inner).next_deadline();
    next.map_or(LOOK_EVERY, |at| at.saturating_sub(since_boot()).min(LOOK_EVERY))
}

/// Looks after who votes, on whoever leads.
async fn tend(voter: Weak<Voter>, raft: Raft, after: Duration) {
    let mut missing = Missing { since: HashMap::new(), after };
    loop {
        sleep(LOOK_AT_VOTERS_EVERY.min(after)).await;
        let Some(voter) = voter.upgrade() else { return };
        if voter.raft().is_none() {
            return;
        }
        if raft.standing().leads {
            change::finish(&voter, &raft).await;
            missing.look(&voter, &raft).await;
        } else {
            missing.since.clear();
        }
    }
}

/// Proposes the end of leases that are due, and gives of how many. Each is under way only once.
fn end_leases(voter: &Arc<Voter>, term: u64) -> usize {
    let due = voter.timers.lock().unwrap_or_else(PoisonError::into_inner).due(since_boot(), ENDED_AT_ONCE);
    let count = due.len();
    for lease in due {
        let voter = Arc::clone(voter);
        tokio::spawn(async move {
            let ended = voter.execute(Command::expire(lease, term).encode().into()).await;
            let mut timers = voter.timers.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = ended.ok().and_then(|outcome| Outcome::decode(&outcome).ok());
            timers.proposed(since_boot() + AGAIN, term, lease, outcome.as_ref());
        });
    }
    count
}

async fn forget_history(raft: &Raft, revision: u64) {
    let compact = Command::keys(&keys::Command::Compact { revision }).map(|command| Bytes::from(command.encode()));
    let Ok(compact) = compact else { return };
    if let Err(error) = raft.propose(compact).await {
        debug!(%error, revision, "history is not forgotten yet");
    }
}

/// Voters whose name another node has now.
struct Missing {
    /// Since when, by their id.
    since: HashMap<u64, Instant>,
    after: Duration,
}

impl Missing {
    /// Puts a node that lost its disk in its own place, once its former self has been away for long enough. The gossip
    /// only says that there is somebody of that name; that it is an empty node with the cluster's key, the node itself
    /// proves in a session.
    async fn look(&mut self, voter: &Arc<Voter>, raft: &Raft) {
        let view = raft.view();
        self.since.retain(|id, _| view.voters.contains_key(id));
        for (id, name) in &view.voters {
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
            if since.elapsed() < self.after || !ask(&voter.sessions, name).await.is_ok_and(|status| !status.founded) {
                continue;
            }
            match change::detached(voter, Change::Replace(name.clone())).await {
                Ok(()) => drop(self.since.remove(id)),
                Err(Said::NotPossible(why)) => {
                    warn!(node = voter.name, event = "store_voter_lost", "{name} does not take its place: {why}")
                }
                Err(said) => debug!(?said, name, "a voter does not take its place yet"),
            }
        }
    }
}
