//! What a message is called.

use std::fmt::Display;

/// What makes a message of an origin different from every other: the origin's life, and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Which life of the origin: later starts have larger ones. Twice its start, in microseconds since
    /// 1970.
    pub epoch: u64,
    /// The number of the message in it, from 0.
    pub seq: u64,
}

impl MessageId {
    /// How a message of `origin` is named in logs and over HTTP.
    #[must_use]
    pub fn of(self, origin: impl Display) -> String {
        let Self { epoch, seq } = self;
        format!("{origin}.{epoch}.{seq}")
    }
}
