//! Ends the sessions of failed nodes, if the sessions were opened with `release_on_failure`.
//!
//! Gossip is sometimes wrong about who has failed, so by default a session lives until it expires. `release_on_failure` trades
//! that safety for a faster handover: the leading voter ends the session once the cluster has considered its node failed,
//! without a break, for the session's lock-delay. A voter that begins to lead after the node was forgotten does not know that
//! it failed; then the session expires.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use broadcast::{Handle, MemberState, NodeName};
use broadcast_lock::{LockClient, Locks};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{debug, info};

/// How often to check who has failed.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many sessions are ended at the same time.
const MAX_IN_FLIGHT: usize = 64;

/// Ends such sessions whenever this voter leads, as long as it runs.
pub(crate) async fn release(node: Handle, locks: LockClient) {
    // Since when nodes have been failed, as this voter saw it while it led.
    let mut failed: HashMap<String, Instant> = HashMap::new();
    loop {
        sleep(POLL_INTERVAL).await;
        let sessions: Vec<(i64, String, u32)> = locks.store().local(released_on_failure).unwrap_or_default();
        if sessions.is_empty() || !locks.store().leads() {
            failed.clear();
            continue;
        }
        let overview = node.overview().await;
        let (dead, others): (Vec<_>, Vec<_>) =
            overview.members.iter().partition(|seen| seen.member.state == MemberState::Dead);
        let names = |members: Vec<&broadcast::MemberOverview>| -> HashSet<NodeName> {
            members.into_iter().map(|seen| seen.member.name.clone()).collect()
        };
        let (dead, others) = (names(dead), names(others));
        // A failed node that the cluster has forgotten still counts as failed.
        failed.retain(|name, _| !others.contains(&NodeName::from(name.as_str())));
        let mut ending = JoinSet::new();
        for (session, name, delay) in sessions {
            let is_dead = dead.contains(&NodeName::from(name.as_str()));
            let since = match failed.get(&name) {
                Some(since) => *since,
                None if is_dead => *failed.entry(name.clone()).or_insert_with(Instant::now),
                None => continue,
            };
            if since.elapsed() < Duration::from_secs(delay.into()) {
                continue;
            }
            if ending.len() == MAX_IN_FLIGHT {
                ending.join_next().await;
                if !locks.store().leads() {
                    break;
                }
            }
            let (locks, me) = (locks.clone(), node.name().to_owned());
            ending.spawn(async move {
                match locks.end_session(session).await {
                    Ok(()) => info!(
                        node = me,
                        event = "session_released",
                        "ended session {session:016x}: its node {name} has failed"
                    ),
                    Err(error) => debug!(%error, "a session of a failed node has not ended yet"),
                }
            });
        }
        ending.join_all().await;
    }
}

/// The sessions with `release_on_failure`, with their nodes and lock-delays.
fn released_on_failure(locks: &Locks) -> Vec<(i64, String, u32)> {
    locks.released_on_failure().map(|(session, node, delay)| (session, node.into(), delay)).collect()
}
