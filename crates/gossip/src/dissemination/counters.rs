//! Positions and counts.

use crate::membership::NodeName;

/// How far the cluster is with this node's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every live member has everything below this number, except for those that were cut loose.
    pub(crate) stable: u64,
    /// Every live member has everything below this number, including those that were cut loose.
    pub(crate) everywhere: u64,
    /// How many plain memberlist members there are, which cannot acknowledge.
    pub(crate) plain: usize,
}

/// How far a node is in the stream of an origin: part of an [`Overview`](crate::Overview).
///
/// ```
/// # use broadcast::StreamPosition;
/// fn missing(position: &StreamPosition) -> u64 {
///     position.end - position.next
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// The origin.
    pub origin: NodeName,
    /// Its epoch. An odd one is of the messages that it publishes for plain memberlist nodes.
    pub epoch: u64,
    /// All messages below this number were delivered here or, if they are this node's own, published.
    pub next: u64,
    /// The number after the last message that exists, as far as this node knows.
    pub end: u64,
    /// The floor: every member has all messages below this number, as the origin says.
    pub floor: u64,
    /// How many messages are kept for others.
    pub retained: usize,
}

/// What a node has counted of messages since its start: [`Metrics::messages`](crate::Metrics::messages).
///
/// ```
/// # use broadcast::MessageCounts;
/// let MessageCounts { copies, duplicates, .. } = MessageCounts::default();
/// assert_eq!(copies - duplicates, 0, "nothing has arrived yet");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages that this node published.
    pub published: u64,
    /// Messages of others that were delivered to the application.
    pub delivered: u64,
    /// Messages that this node requested because they were missing, counted each time.
    pub requested: u64,
    /// Messages that this node retransmitted to others that requested them.
    pub retransmitted: u64,
    /// Messages that arrived, whether they were here already or not.
    pub copies: u64,
    /// Messages that arrived though they were here already.
    pub duplicates: u64,
    /// Messages that could not be had any more, as told by [`Event::Missed`](crate::Event::Missed).
    pub missed: u64,
    /// Messages and control messages from a sender that is not (yet) a member, or not the one that it says.
    pub strangers: u64,
    /// Messages, acknowledgements and other control messages of an epoch that has ended.
    pub past_epochs: u64,
    /// Members whose packets come from another address than they announce, as told by
    /// [`Event::AddressMismatch`](crate::Event::AddressMismatch).
    pub address_mismatches: u64,
    /// Everything else that could not be used.
    pub unusable: u64,
    /// Messages of this node that a serf cluster's agents do not get, as told by
    /// [`Event::SerfEventDropped`](crate::Event::SerfEventDropped).
    pub serf_events_dropped: u64,
}
