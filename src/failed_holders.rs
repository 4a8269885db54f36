//! Ending the sessions of nodes that have failed, if they asked for that.
//!
//! The gossip is sometimes wrong about who has failed, so no session ends for that by default. One that was opened with
//! `release_on_failure` gives that up, to hand its locks over sooner than its time to live says: the voter that leads ends it
//! once the cluster has taken its node for failed, without a break, for as long as its lock-delay. A voter that comes to lead
//! after a node was forgotten does not know that it has failed: then its sessions end when nobody keeps them alive.

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

/// How often it is looked who has failed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many sessions are ended at once.
const AT_ONCE: usize = 64;

/// Does that as long as this voter leads, for as long as it runs.
pub(crate) async fn release(node: Handle, locks: LockClient) {
    // Since when the nodes of sessions have failed, as this voter has seen it while it led.
    let mut failed: HashMap<String, Instant> = HashMap::new();
    loop {
        sleep(LOOK_EVERY).await;
        let sessions: Vec<(i64, String, u32)> = locks.store().local(wanting).unwrap_or_default();
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
        // Whoever has failed is forgotten some day, and has failed still.
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
            if ending.len() == AT_ONCE {
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

/// The sessions that ask for it.
fn wanting(locks: &Locks) -> Vec<(i64, String, u32)> {
    locks.released_on_failure().map(|(session, node, delay)| (session, node.into(), delay)).collect()
}
