//! Whether a session is still with the member that it was made with.

use std::sync::Weak;

use broadcast::{Event, Subscription};

use crate::{Inner, handshake::Identity};

/// Resolves when this member has left, or is another one. That it is taken for failed is no reason: gossip may be wrong
/// about that, and what is agreed on by calls must not depend on it. `events` have to be those since it was found.
pub(crate) async fn gone(mut events: Subscription<Event>, who: Identity, inner: Weak<Inner>) {
    while let Some(event) = events.recv().await {
        match event {
            Ok(Event::Left(member)) if member.name == who.name => return,
            Ok(Event::Introduced { name, info }) if name == who.name && info.id != who.id => return,
            Ok(_) => {}
            Err(_lagged) => {
                let Some(inner) = inner.upgrade() else { break };
                if inner.know(&who).await.is_err() {
                    return;
                }
            }
        }
    }
    // The node has stopped, which ends all sessions anyhow.
    std::future::pending().await
}
