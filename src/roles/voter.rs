//! The role `voter`: votes in the replicated store.
//!
//! Raft runs on a thread of its own ([`NodeStore`](crate::store::NodeStore)), so neither HTTP nor gossip holds it up. The
//! role ends when the node is about to leave, or with an error when the voter cannot go on: when its disk fails, for
//! example, and what it has promised to keep may be lost.

use super::{Context, RoleResult};

/// Votes until the node is about to leave.
pub(crate) async fn run(context: Context) -> RoleResult {
    let Context { store, mut shutdown, .. } = context;
    tokio::select! {
        why = store.vote() => Err(why.into()),
        () = shutdown.begun() => Ok(()),
    }
}
