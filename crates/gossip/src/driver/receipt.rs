//! What a publisher can know: who has its message.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use super::event_loop::Commands;
use crate::{MessageId, NodeName, dissemination::Progress};

/// Who has a message.
#[derive(Debug)]
struct Reached {
    /// Live members who have acknowledged it.
    members: usize,
    /// Live members who have not.
    missing: Vec<NodeName>,
    departed: Departed,
}

/// A message that was published: it is numbered and will be sent.
#[derive(Clone, Debug)]
pub struct Receipt {
    id: MessageId,
    published: Instant,
    joined: bool,
    plain: usize,
    progress: watch::Receiver<Progress>,
    commands: Commands,
}

/// A message has been delivered to every live member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How many members have it.
    pub delivered: usize,
    /// How many live members were to get it: as many.
    pub members: usize,
    /// How many plain memberlist members it was sent to, who cannot acknowledge.
    pub plain: usize,
    /// From its publication until this was noticed.
    pub elapsed: Duration,
    /// Whether the node had [joined](Receipt::joined) its cluster when it published it.
    pub joined: bool,
    /// Who was to get it as well, and has gone without.
    pub departed: Departed,
}

/// Members that went away before they acknowledged a message, and have not come back. As a member that fails may
/// only be cut off, it may have the message, or get it later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departed {
    /// Those that failed.
    pub failed: Vec<NodeName>,
    /// Those that left.
    pub left: Vec<NodeName>,
}

impl Departed {
    /// Whether nobody has gone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.left.is_empty()
    }
}

/// As it follows other words: `; node3 failed meanwhile`, or nothing.
impl fmt::Display for Departed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (gone, what) in [(&self.failed, "failed"), (&self.left, "left")] {
            if !gone.is_empty() {
                write!(f, "; {} {what} meanwhile", names(gone))?;
            }
        }
        Ok(())
    }
}

/// Why it is not known that every live member has a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The time was over.
    #[error("not delivered within {waited:?} to {}; still trying{departed}", names(missing))]
    Missing {
        /// How long was waited.
        waited: Duration,
        /// The live members who have not acknowledged it yet. It is not given up.
        missing: Vec<NodeName>,
        /// Who was to get it as well, and has gone without.
        departed: Departed,
    },
    /// The node has stopped.
    #[error("the node has stopped, so it can no longer say who has the message")]
    Stopped,
}

fn names(missing: &[NodeName]) -> String {
    let names: Vec<_> = missing.iter().take(10).map(NodeName::to_string).collect();
    let more = missing.len() - names.len();
    names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

impl Receipt {
    pub(super) fn new(
        id: MessageId,
        (published, joined): (Instant, bool),
        progress: watch::Receiver<Progress>,
        commands: Commands,
    ) -> Self {
        let plain = progress.borrow().plain;
        Self { id, published, joined, plain, progress, commands }
    }

    /// The message's identity.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Whether this node had joined its cluster when it published the message, which
    /// [`Handle::joined`](crate::Handle::joined) waits for. If not, it knew no other member: the message is delivered
    /// to 0 of 0, and members that it meets later do not get it, unless they ask for what is retained
    /// ([`Config::replay`](crate::Config::replay)).
    #[must_use]
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Waits until every live member has the message: also one that has not kept up for longer than
    /// [`Limits::lag_limit`](crate::Limits), for which nobody else waits. A member that fails or leaves meanwhile is
    /// not waited for, and named. Plain memberlist members are not waited for.
    ///
    /// # Errors
    ///
    /// The node has stopped.
    pub async fn delivered(mut self) -> Result<Delivery, Undelivered> {
        loop {
            let seq = self.id.seq;
            self.progress.wait_for(|progress| progress.everywhere > seq).await.map_err(|_| Undelivered::Stopped)?;
            let elapsed = self.published.elapsed();
            let reached = self.reached().await?;
            if reached.missing.is_empty() {
                return Ok(self.delivery(reached, elapsed));
            }
            // Somebody has just come back.
            self.progress.changed().await.map_err(|_| Undelivered::Stopped)?;
        }
    }

    /// Waits until every live member has the message, but no longer than `limit`.
    ///
    /// # Errors
    ///
    /// See [`Undelivered`].
    pub async fn delivered_within(self, limit: Duration) -> Result<Delivery, Undelivered> {
        let waiting = self.clone();
        if let Ok(delivered) = timeout(limit, waiting.delivered()).await {
            return delivered;
        }
        let reached = self.reached().await?;
        if reached.missing.is_empty() && self.progress.borrow().everywhere > self.id.seq {
            return Ok(self.delivery(reached, self.published.elapsed()));
        }
        let Reached { missing, departed, .. } = reached;
        Err(Undelivered::Missing { waited: limit, missing, departed })
    }

    fn delivery(&self, reached: Reached, elapsed: Duration) -> Delivery {
        let Reached { members, departed, .. } = reached;
        Delivery { delivered: members, members, plain: self.plain, elapsed, joined: self.joined, departed }
    }

    async fn reached(&self) -> Result<Reached, Undelivered> {
        let seq = self.id.seq;
        let reached = self.commands.ask(move |event_loop| {
            let (members, missing) = event_loop.node.reached(seq);
            let (failed, left) = event_loop.node.gone_without(seq);
            Reached { members, missing, departed: Departed { failed, left } }
        });
        reached.await.ok_or(Undelivered::Stopped)
    }
}
