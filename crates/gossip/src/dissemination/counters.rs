//! How far everybody is, and what was counted, in numbers.

use crate::membership::NodeName;

/// How far the cluster is with what this node publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every live member, those apart that were cut loose, has everything below this number.
    pub(crate) stable: u64,
    /// Those included.
    pub(crate) everywhere: u64,
    /// How many plain memberlist members there are, who cannot acknowledge.
    pub(crate) plain: usize,
}

/// How far a node is with what an origin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// The origin.
    pub origin: NodeName,
    /// Which life of it; odd for what it passes on for plain memberlist nodes.
    pub epoch: u64,
    /// All below this number was delivered here; of a node's own messages, was published.
    pub next: u64,
    /// The number after the last message there is, as far as this node has heard.
    pub end: u64,
    /// Every member has all below this number, as the origin says.
    pub floor: u64,
    /// How many messages are kept for others.
    pub retained: usize,
}

/// What came of messages to a node since its start, and what was dropped of it, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageCounts {
    /// Messages that this node published.
    pub published: u64,
    /// Messages of others that were delivered to the application.
    pub delivered: u64,
    /// Messages that were asked for, because they were missing, counted each time.
    pub wanted: u64,
    /// Messages that were given to others who asked for them.
    pub given: u64,
    /// Messages that arrived, whether they were here already or not.
    pub copies: u64,
    /// Messages that were here already.
    pub duplicates: u64,
    /// Messages that could not be had any more, as told by [`Event::Missed`](crate::Event::Missed).
    pub missed: u64,
    /// Messages, and what is said of them, from who is no member (yet), or not the one it says.
    pub strangers: u64,
    /// Messages, acknowledgements and what is said of messages, of a life that is over.
    pub past_epochs: u64,
    /// Members that were heard from another address than they announce, as told by
    /// [`Event::AddressMismatch`](crate::Event::AddressMismatch).
    pub elsewhere: u64,
    /// Everything else that could not be used.
    pub unusable: u64,
    /// Messages of this node that agents of a serf cluster do not get, as told by
    /// [`Event::SerfEventDropped`](crate::Event::SerfEventDropped).
    pub no_events: u64,
}
