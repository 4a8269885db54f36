//! Who votes: taking a node in, letting one go, and putting a new node in the place of one that lost its disk.
//!
//! Only a leader does this, one change at a time, and each change again until it is settled: a change that was broken off
//! leaves a joint configuration, in which both the old and the new voters have to agree.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::info;

use super::{
    error::Said,
    message::JOIN,
    voter::{Raft, Voter, ask},
};
use crate::raft::ConsensusError;

/// How long a node has to say that it has become part of the cluster.
const JOINING: Duration = Duration::from_secs(10);
/// How long it has to be told everything.
const LEARNING: Duration = Duration::from_secs(60);

/// What is to change. Nodes are named as in the gossip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node is to vote, too. It has the role, an empty disk, and this list of voters in its settings.
    Add(String),
    /// A voter is to vote no more.
    Remove(String),
    /// The node that has this name now is to vote in the place of the one that had it.
    Replace(String),
}

/// Carries out a change to its end, whether or not somebody waits for it.
pub(super) async fn detached(voter: &Arc<Voter>, change: Change) -> Result<(), Said> {
    let voter = Arc::clone(voter);
    let carried = tokio::spawn(async move { carry_out(&voter, &change).await });
    carried.await.unwrap_or_else(|error| Err(Said::Stopped(error.to_string())))
}

/// Carries out a change on the leader, and ends when it is settled.
pub(super) async fn carry_out(voter: &Voter, change: &Change) -> Result<(), Said> {
    let raft = voter.raft().ok_or(Said::Waiting)?;
    let _one = voter.changing.lock().await;
    raft.confirm().await.map_err(|error| said(&raft, error))?;
    let view = raft.view();
    let of = |name: &str| -> BTreeSet<u64> {
        view.voters.iter().filter(|(_, other)| *other == name).map(|(id, _)| *id).collect()
    };
    let refused = Said::NotPossible;
    match change {
        Change::Add(name) => {
            if !of(name).is_empty() {
                return Err(refused(format!(
                    "{name} votes already; a node that lost its disk is put in its own place with replace"
                )));
            }
            let id = take_in(voter, &raft, name).await?;
            settle(&raft, view.voters.keys().copied().chain([id]).collect()).await?;
        }
        Change::Remove(name) => {
            let gone = of(name);
            if gone.is_empty() {
                return Err(refused(format!("{name} does not vote")));
            }
            let left: BTreeSet<u64> = view.voters.keys().copied().filter(|id| !gone.contains(id)).collect();
            if left.is_empty() {
                return Err(refused(format!("{name} is the last voter; somebody has to vote")));
            }
            if gone.contains(&raft.ids().node) {
                return Err(hand_over(&raft, &left).await);
            }
            settle(&raft, left).await?;
        }
        Change::Replace(name) => {
            let old = of(name);
            if old.is_empty() {
                return Err(refused(format!("{name} does not vote; take it in with add")));
            }
            let status = ask(&voter.sessions, name).await.map_err(|problem| refused(format!("{name}: {problem}")))?;
            if old.contains(&status.id) {
                return Err(refused(format!(
                    "{name} is still the same node, {:016x}: there is nothing to replace",
                    status.id
                )));
            }
            if status.founded {
                return Err(refused(format!("{name} is part of another store; empty its data directory")));
            }
            // It is told everything before it votes; then one step takes one away and the other in, so that whatever
            // breaks that off, the name still votes, and the next leader finds it so.
            let id = take_in(voter, &raft, name).await?;
            let rest = view.voters.keys().copied().filter(|id| !old.contains(id));
            settle(&raft, rest.chain([id]).collect()).await?;
        }
    }
    info!(node = voter.name, event = "store_voters", "the store's voters have changed: {change:?}");
    Ok(())
}

fn said(raft: &Raft, error: ConsensusError) -> Said {
    Voter::said(raft, error)
}

/// Has a node become part of the cluster, and told everything; gives its id.
async fn take_in(voter: &Voter, raft: &Raft, name: &str) -> Result<u64, Said> {
    let problem = |problem: String| Said::NotPossible(format!("{name}: {problem}"));
    let cluster = raft.ids().cluster.to_be_bytes().to_vec();
    let told = voter.sessions.call(name, JOIN, cluster, JOINING).await;
    told.map_err(|error| problem(error.to_string()))?;
    let status = ask(&voter.sessions, name).await.map_err(problem)?;
    let used = raft.state().read(|replica, _| replica.state.used());
    if let Some((machine, version)) = used.iter().find(|(machine, version)| status.versions.of(machine) < *version) {
        let knows = status.versions.of(machine);
        let why =
            format!("the store has commands of version {version} of {machine:?}, and it knows {knows}; upgrade it");
        return Err(problem(why));
    }
    // It may end in the middle.
    let added = timeout(LEARNING, raft.add_learner(status.id, name.into())).await;
    let slow = |_| problem(format!("it has not got everything within {LEARNING:?}; it goes on, try again"));
    added.map_err(slow)?.map_err(|error| said(raft, error))?;
    Ok(status.id)
}

/// Makes these the voters; whatever breaks that off, the same is tried again.
async fn settle(raft: &Raft, voters: BTreeSet<u64>) -> Result<(), Said> {
    for _ in 0..10 {
        match raft.set_voters(voters.clone()).await {
            Ok(()) if raft.view().settled => return Ok(()),
            Ok(()) => {}
            Err(error @ (ConsensusError::NotLeader { .. } | ConsensusError::Stopped(_))) => {
                return Err(said(raft, error));
            }
            Err(ConsensusError::Refused(why)) => tracing::debug!(%why, "a change of voters is tried again"),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        if raft.view().settled && raft.view().voters.keys().copied().collect::<BTreeSet<_>>() == voters {
            return Ok(());
        }
    }
    Err(Said::NoQuorum)
}

/// Ends a change that another leader has begun, if there is one.
pub(super) async fn finish(voter: &Voter, raft: &Raft) {
    let Ok(_one) = voter.changing.try_lock() else { return };
    let view = raft.view();
    if view.joint
        && let Err(said) = settle(raft, view.target).await
    {
        tracing::debug!(?said, "a change of voters is not finished yet");
    }
}

/// A leader that is to go has another one lead first, which is then asked.
async fn hand_over(raft: &Raft, to: &BTreeSet<u64>) -> Said {
    let view = raft.view();
    // Whoever has most of the log.
    let next = to.iter().max_by_key(|id| view.replicated.get(id).copied().flatten()).copied();
    if let Some(next) = next
        && let Err(error) = raft.hand_over(next).await
    {
        return said(raft, error);
    }
    Said::NotLeader(next.and_then(|next| view.voters.get(&next).cloned()))
}
