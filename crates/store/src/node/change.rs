//! Membership changes: adding a voter, removing one, and replacing one that lost its disk.
//!
//! Only the leader carries out a change, one at a time. A new voter is a learner first, until it has nearly all entries. The
//! change itself is Raft's *joint consensus* (chapter 6 of the Raft paper): for a while both the old and the new voters have to
//! agree. A change that is broken off leaves that joint configuration, and the leader, or the next one, finishes it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::info;

use super::{
    error::RefusalReason,
    message::JOIN,
    voter::{Raft, Voter, fetch_status},
};
use crate::raft::ConsensusError;

/// How long a node may take to join the store.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a learner may take to get all entries.
const LEARN_TIMEOUT: Duration = Duration::from_secs(60);

/// A membership change. Nodes have the names that they have in the gossip.
///
/// [`Store::change_voters`](super::Store::change_voters) carries it out.
///
/// ```
/// use broadcast_store::node::VoterChange;
///
/// let change = VoterChange::Replace("node2".into());
/// assert_ne!(change, VoterChange::Remove("node2".into()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VoterChange {
    /// Adds a voter. The node needs the role, an empty disk, and its own name in its list of voters.
    Add(String),
    /// Removes a voter.
    Remove(String),
    /// Puts the node that has this name now in the place of the voter that had it, and lost its disk.
    Replace(String),
}

/// Carries out a change to its end, also if the caller stops waiting.
pub(super) async fn carry_out_detached(voter: &Arc<Voter>, change: VoterChange) -> Result<(), RefusalReason> {
    let voter = Arc::clone(voter);
    let task = tokio::spawn(async move { carry_out(&voter, &change).await });
    task.await.unwrap_or_else(|error| Err(RefusalReason::Stopped(error.to_string())))
}

/// Carries out a change on the leader. Returns when it is complete.
pub(super) async fn carry_out(voter: &Voter, change: &VoterChange) -> Result<(), RefusalReason> {
    let raft = voter.raft().ok_or(RefusalReason::Waiting)?;
    let _one = voter.changing.lock().await;
    raft.read_index().await.map_err(|error| refusal(&raft, error))?;
    let raft_status = raft.status();
    let ids_of = |name: &str| -> BTreeSet<u64> {
        raft_status.voters.iter().filter(|(_, other)| *other == name).map(|(id, _)| *id).collect()
    };
    let refused = RefusalReason::NotPossible;
    match change {
        VoterChange::Add(name) => {
            if !ids_of(name).is_empty() {
                return Err(refused(format!(
                    "{name} votes already; a node that lost its disk is put in its own place with replace"
                )));
            }
            let id = add_learner(voter, &raft, name).await?;
            settle(&raft, raft_status.voters.keys().copied().chain([id]).collect()).await?;
        }
        VoterChange::Remove(name) => {
            let removed = ids_of(name);
            if removed.is_empty() {
                return Err(refused(format!("{name} does not vote")));
            }
            let left: BTreeSet<u64> = raft_status.voters.keys().copied().filter(|id| !removed.contains(id)).collect();
            if left.is_empty() {
                return Err(refused(format!("{name} is the last voter; somebody has to vote")));
            }
            if removed.contains(&raft.ids().node) {
                return Err(transfer_leadership(&raft, &left).await);
            }
            settle(&raft, left).await?;
        }
        VoterChange::Replace(name) => {
            let old = ids_of(name);
            if old.is_empty() {
                return Err(refused(format!("{name} does not vote; take it in with add")));
            }
            let status =
                fetch_status(&voter.sessions, name).await.map_err(|problem| refused(format!("{name}: {problem}")))?;
            if old.contains(&status.id) {
                return Err(refused(format!(
                    "{name} is still the same node, {:016x}: there is nothing to replace",
                    status.id
                )));
            }
            if status.founded {
                return Err(refused(format!("{name} is part of another store; empty its data directory")));
            }
            // The node gets all entries before it votes. Then one step exchanges the two: whatever breaks that off, a node of
            // this name still votes, and the next leader can go on.
            let id = add_learner(voter, &raft, name).await?;
            let rest = raft_status.voters.keys().copied().filter(|id| !old.contains(id));
            settle(&raft, rest.chain([id]).collect()).await?;
        }
    }
    info!(node = voter.name, event = "store_voters", "the store's voters have changed: {change:?}");
    Ok(())
}

fn refusal(raft: &Raft, error: ConsensusError) -> RefusalReason {
    Voter::refusal(raft, error)
}

/// Has a node join the store, and makes it a learner that has nearly all entries. Returns its id.
async fn add_learner(voter: &Voter, raft: &Raft, name: &str) -> Result<u64, RefusalReason> {
    let problem = |problem: String| RefusalReason::NotPossible(format!("{name}: {problem}"));
    let cluster = raft.ids().cluster.to_be_bytes().to_vec();
    let told = voter.sessions.call(name, JOIN, cluster, JOIN_TIMEOUT).await;
    told.map_err(|error| problem(error.to_string()))?;
    let status = fetch_status(&voter.sessions, name).await.map_err(problem)?;
    let used = raft.state().read(|replica, _| replica.state.versions_in_use());
    if let Some((machine, version)) = used.iter().find(|(machine, version)| status.versions.of(machine) < *version) {
        let knows = status.versions.of(machine);
        let why =
            format!("the store has commands of version {version} of {machine:?}, and it knows {knows}; upgrade it");
        return Err(problem(why));
    }
    // The learner stays if this times out.
    let added = timeout(LEARN_TIMEOUT, raft.add_learner(status.id, name.into())).await;
    let slow = |_| problem(format!("it has not got everything within {LEARN_TIMEOUT:?}; it goes on, try again"));
    added.map_err(slow)?.map_err(|error| refusal(raft, error))?;
    Ok(status.id)
}

/// Makes these the voters. Tries again if something breaks that off.
async fn settle(raft: &Raft, voters: BTreeSet<u64>) -> Result<(), RefusalReason> {
    for _ in 0..10 {
        match raft.set_voters(voters.clone()).await {
            Ok(()) if raft.status().settled => return Ok(()),
            Ok(()) => {}
            Err(error @ (ConsensusError::NotLeader { .. } | ConsensusError::Stopped(_))) => {
                return Err(refusal(raft, error));
            }
            Err(ConsensusError::Refused(why)) => tracing::debug!(%why, "a change of voters is tried again"),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        if raft.status().settled && raft.status().voters.keys().copied().collect::<BTreeSet<_>>() == voters {
            return Ok(());
        }
    }
    Err(RefusalReason::NoQuorum)
}

/// Finishes a change that an earlier leader has begun, if there is one.
pub(super) async fn finish(voter: &Voter, raft: &Raft) {
    let Ok(_one) = voter.changing.try_lock() else { return };
    let raft_status = raft.status();
    if raft_status.joint
        && let Err(reason) = settle(raft, raft_status.target).await
    {
        tracing::debug!(said = ?reason, "a change of voters is not finished yet");
    }
}

/// A leader does not remove itself: it transfers leadership, and the refusal names the next leader to ask.
async fn transfer_leadership(raft: &Raft, to: &BTreeSet<u64>) -> RefusalReason {
    let raft_status = raft.status();
    // The voter with the longest log.
    let next = to.iter().max_by_key(|id| raft_status.replicated.get(id).copied().flatten()).copied();
    if let Some(next) = next
        && let Err(error) = raft.transfer_leadership(next).await
    {
        return refusal(raft, error);
    }
    RefusalReason::NotLeader(next.and_then(|next| raft_status.voters.get(&next).cloned()))
}
