//! What a publisher can know: who has its message.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::event_loop::Command;
use crate::{MessageId, NodeName, dissemination::Progress};

/// Who has a message.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Members who have acknowledged it.
    pub(super) members: usize,
    /// Members who have not, and are waited for.
    pub(super) missing: Vec<NodeName>,
}

/// A message that was published: it is numbered and will be sent.
#[derive(Clone, Debug)]
pub struct Receipt {
    id: MessageId,
    published: Instant,
    members: usize,
    plain: usize,
    progress: watch::Receiver<Progress>,
    commands: mpsc::Sender<Command>,
}

/// A message has been delivered to every live member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How many members have it.
    pub delivered: usize,
    /// How many members there were when it was published; those that have failed or left since, or were
    /// cut loose, are counted out.
    pub members: usize,
    /// How many plain memberlist members it was sent to, who cannot acknowledge.
    pub plain: usize,
    /// From its publication until this was noticed.
    pub elapsed: Duration,
}

/// Why it is not known that every live member has a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The time was over.
    #[error("not delivered within {waited:?} to {}; still trying", names(missing))]
    Missing {
        /// How long was waited.
        waited: Duration,
        /// The members who have not acknowledged it yet. It is not given up.
        missing: Vec<NodeName>,
    },
    /// The node has stopped.
    #[error("the node has stopped; who has the message is not known any more")]
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
        published: Instant,
        progress: watch::Receiver<Progress>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        let Progress { members, plain, .. } = *progress.borrow();
        Self { id, published, members, plain, progress, commands }
    }

    /// The message's identity.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Waits until every live member has the message. A member that fails or leaves meanwhile is not
    /// waited for, nor is one that does not keep up for longer than [`Limits::lag_limit`](crate::Limits).
    /// Plain memberlist members are not waited for.
    ///
    /// # Errors
    ///
    /// The node has stopped.
    pub async fn delivered(mut self) -> Result<Delivery, Undelivered> {
        let seq = self.id.seq;
        self.progress.wait_for(|progress| progress.stable > seq).await.map_err(|_| Undelivered::Stopped)?;
        let elapsed = self.published.elapsed();
        let Reached { members, .. } = self.reached().await?;
        Ok(Delivery { delivered: members, members: self.members.max(members), plain: self.plain, elapsed })
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
        let Reached { missing, .. } = self.reached().await?;
        Err(Undelivered::Missing { waited: limit, missing })
    }

    async fn reached(&self) -> Result<Reached, Undelivered> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Reached { seq: self.id.seq, reply };
        self.commands.send(command).await.map_err(|_| Undelivered::Stopped)?;
        answer.await.map_err(|_| Undelivered::Stopped)
    }
}
