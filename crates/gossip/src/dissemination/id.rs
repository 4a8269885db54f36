//! The identity of a message.

use std::fmt::Display;

/// Identifies a message among all of its origin: an epoch, and a number in it.
///
/// ```
/// let id = broadcast::MessageId { epoch: 3591158614380154, seq: 7 };
/// assert_eq!(id.of("node1"), "node1.3591158614380154.7");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The epoch: one run of the origin. A later start has a larger one. It is twice the time of the start, in microseconds
    /// since 1970.
    pub epoch: u64,
    /// The number of the message in its epoch, from 0.
    pub seq: u64,
}

impl MessageId {
    /// How logs and the HTTP API name this message of `origin`.
    #[must_use]
    pub fn of(self, origin: impl Display) -> String {
        let Self { epoch, seq } = self;
        format!("{origin}.{epoch}.{seq}")
    }
}
