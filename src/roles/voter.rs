//! The role `voter`: agrees, with the other voters, on what the store holds.
//!
//! Raft runs on a thread of its own ([`NodeStore`](crate::store::NodeStore)): neither HTTP nor gossip holds it up. The
//! role ends when the node is about to leave, or with an error when the voter cannot go on: its disk fails, say, and what
//! it has promised to keep may be lost.

use super::{Context, Ended};

/// Votes until the node is about to leave.
pub(crate) async fn run(context: Context) -> Ended {
    let Context { store, mut shutdown, .. } = context;
    tokio::select! {
        why = store.vote() => Err(why.into()),
        () = shutdown.begun() => Ok(()),
    }
}
