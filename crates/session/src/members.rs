//! Watches whether the member of a session is still a member.

use std::sync::Weak;

use broadcast::{Event, Subscription};

use crate::{Inner, handshake::Identity};

/// Resolves when this member has left, or another node has taken its name. That gossip takes the member for failed is no
/// reason to end a session: gossip may be wrong about that, and what nodes agree on by calls must not depend on it. `events`
/// must have begun before the member was looked up.
pub(crate) async fn departed(mut events: Subscription<Event>, who: Identity, inner: Weak<Inner>) {
    while let Some(event) = events.recv().await {
        match event {
            Ok(Event::Left(member)) if member.name == who.name => return,
            Ok(Event::InfoReceived { name, info }) if name == who.name && info.id != who.id => return,
            Ok(_) => {}
            Err(_lagged) => {
                let Some(inner) = inner.upgrade() else { break };
                if inner.verify_member(&who).await.is_err() {
                    return;
                }
            }
        }
    }
    // The node has stopped, which ends all sessions anyway.
    std::future::pending().await
}
