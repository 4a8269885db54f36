//! Receipts: how a publisher learns who has its message.

use std::{
    fmt,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};

use super::event_loop::Commands;
use crate::{MessageId, NodeName, dissemination::Progress};

/// Which members have a message.
#[derive(Debug)]
struct ReceiptStatus {
    /// How many live members have acknowledged it.
    members: usize,
    /// The live members that have not.
    missing: Vec<NodeName>,
    departed: DepartedMembers,
}

/// A published message: it has its number, and will be sent. Waits for its delivery, if you like.
///
/// ```
/// use std::time::Duration;
///
/// use broadcast::{Config, DeliveryError, Profile, start};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::new("node1").bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
/// let node = start(config).await?;
/// let receipt = node.publish("price", &17).await?;
/// match receipt.delivered_within(Duration::from_secs(5)).await {
///     Ok(delivery) => println!("{} of {} members have it", delivery.delivered, delivery.members),
///     Err(DeliveryError::Missing { missing, .. }) => println!("still waiting for {missing:?}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Receipt {
    id: MessageId,
    published: Instant,
    joined: bool,
    plain: usize,
    progress: watch::Receiver<Progress>,
    commands: Commands,
}

/// The delivery of a message to every live member. [`Receipt`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How many members have it.
    pub delivered: usize,
    /// How many live members were to get it; the same number.
    pub members: usize,
    /// To how many plain memberlist members it was sent. These cannot acknowledge.
    pub plain: usize,
    /// The time from its publication until the last acknowledgement.
    pub elapsed: Duration,
    /// Whether the node had [joined](Receipt::joined) its cluster when it published the message.
    pub joined: bool,
    /// The members that went away without acknowledging it.
    pub departed: DepartedMembers,
}

/// Members that went away before they acknowledged a message, and have not come back. A failed member may only be cut off:
/// it may have the message, or get it later. [`Delivery::departed`] has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DepartedMembers {
    /// Those that failed.
    pub failed: Vec<NodeName>,
    /// Those that left.
    pub left: Vec<NodeName>,
}

impl DepartedMembers {
    /// Whether nobody has gone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty() && self.left.is_empty()
    }
}

/// As it follows other words: `; node3 failed meanwhile`, or nothing.
impl fmt::Display for DepartedMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (gone, what) in [(&self.failed, "failed"), (&self.left, "left")] {
            if !gone.is_empty() {
                write!(f, "; {} {what} meanwhile", names(gone))?;
            }
        }
        Ok(())
    }
}

/// Why a message's delivery to every live member was not confirmed. [`Receipt`] has an example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The time is over.
    #[error("not delivered within {waited:?} to {}; still trying{departed}", names(missing))]
    Missing {
        /// How long this has waited.
        waited: Duration,
        /// The live members that have not acknowledged the message yet. The node goes on sending it to them.
        missing: Vec<NodeName>,
        /// The members that went away without acknowledging it.
        departed: DepartedMembers,
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

    /// Whether this node had joined its cluster ([`Handle::joined`](crate::Handle::joined)) when it published the message. If
    /// not, it knew no other member: the message is delivered to 0 of 0, and members that it meets later do not get it,
    /// unless they ask for what is retained ([`Config::replay`](crate::Config::replay)).
    #[must_use]
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// Waits until every live member has the message, even one that lags by more than
    /// [`Retention::lag_limit`](crate::Retention::lag_limit), for which publishers do not wait. It does not wait for members
    /// that fail or leave meanwhile, and names them ([`Delivery::departed`]); nor for plain memberlist members.
    ///
    /// # Errors
    ///
    /// The node has stopped.
    pub async fn delivered(mut self) -> Result<Delivery, DeliveryError> {
        loop {
            let seq = self.id.seq;
            self.progress.wait_for(|progress| progress.everywhere > seq).await.map_err(|_| DeliveryError::Stopped)?;
            let elapsed = self.published.elapsed();
            let status = self.status().await?;
            if status.missing.is_empty() {
                return Ok(self.delivery(status, elapsed));
            }
            // A member has just come back.
            self.progress.changed().await.map_err(|_| DeliveryError::Stopped)?;
        }
    }

    /// Waits until every live member has the message, but no longer than `limit`.
    ///
    /// # Errors
    ///
    /// See [`DeliveryError`].
    pub async fn delivered_within(self, limit: Duration) -> Result<Delivery, DeliveryError> {
        let waiting = self.clone();
        if let Ok(delivered) = timeout(limit, waiting.delivered()).await {
            return delivered;
        }
        let status = self.status().await?;
        if status.missing.is_empty() && self.progress.borrow().everywhere > self.id.seq {
            return Ok(self.delivery(status, self.published.elapsed()));
        }
        let ReceiptStatus { missing, departed, .. } = status;
        Err(DeliveryError::Missing { waited: limit, missing, departed })
    }

    fn delivery(&self, status: ReceiptStatus, elapsed: Duration) -> Delivery {
        let ReceiptStatus { members, departed, .. } = status;
        Delivery { delivered: members, members, plain: self.plain, elapsed, joined: self.joined, departed }
    }

    async fn status(&self) -> Result<ReceiptStatus, DeliveryError> {
        let seq = self.id.seq;
        let status = self.commands.ask(move |event_loop| {
            let (members, missing) = event_loop.node.acked_by(seq);
            let (failed, left) = event_loop.node.departed_without(seq);
            ReceiptStatus { members, missing, departed: DepartedMembers { failed, left } }
        });
        status.await.ok_or(DeliveryError::Stopped)
    }
}
