//! How long messages are kept for members that lack them.

use std::{ops::RangeInclusive, time::Duration};

use super::{ConfigError, DAY, range};

/// How much a node keeps of what is published, and for how long it waits for a slow member.
///
/// A node keeps its own messages until every live member has them, and those of others until their origins say that
/// nobody needs them any more. Half of `retain_bytes` is for its own, half for others'.
///
/// ```
/// use std::time::Duration;
///
/// use broadcast::{Config, Retention};
///
/// // Publishers shall not wait long for a slow member, which then may miss messages.
/// let retention = Retention { lag_limit: Duration::from_secs(2), ..Retention::default() };
/// let config = Config::new("node1").retention(retention);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How many messages the node keeps: this many of its own, and this many of all others together. By default 65,536;
    /// from 16 to 16,777,216.
    ///
    /// More of them bridge longer absences and slower members before publishers wait and messages are
    /// [missed](crate::Event::Missed). They take memory, as far as [`retain_bytes`](Self::retain_bytes) goes.
    pub retain_messages: usize,
    /// How many bytes of messages the node keeps, as they travel: half for its own, half for others'. By default 64 MiB;
    /// from 8 MiB to 1 TiB.
    ///
    /// More of them bridge longer absences and slower members, as above. The node takes that much memory when members lag,
    /// and up to a quarter as much for messages that arrive ahead of their turn.
    pub retain_bytes: usize,
    /// How long publishers wait for a member that acknowledges nothing. By default 10 s; from 100 ms to 1 day.
    ///
    /// Longer, a member that pauses misses nothing. One slow member also holds up every publisher for longer: `publish`
    /// waits, and `try_publish` fails with [`WouldBlock`](crate::PublishError::WouldBlock). When the time is over,
    /// [`Event::LagLimitExceeded`](crate::Event::LagLimitExceeded) names the member.
    pub lag_limit: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { retain_messages: 65_536, retain_bytes: 64 << 20, lag_limit: Duration::from_secs(10) }
    }
}

impl Retention {
    /// What [`retain_messages`](Self::retain_messages) may be.
    pub const RETAIN_MESSAGES: RangeInclusive<usize> = 16..=1 << 24;
    /// What [`retain_bytes`](Self::retain_bytes) may be: the largest message has to fit in half of a half, beside what
    /// is delivered already.
    pub const RETAIN_BYTES: RangeInclusive<usize> = 8 << 20..=1 << 40;
    /// What [`lag_limit`](Self::lag_limit) may be.
    pub const LAG_LIMIT: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;

    /// Checks whether a node can run with this.
    ///
    /// # Errors
    ///
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range::check("retain_messages", self.retain_messages, &Self::RETAIN_MESSAGES)?;
        range::check_size("retain_bytes", self.retain_bytes, &Self::RETAIN_BYTES)?;
        range::check_duration("lag_limit", self.lag_limit, &Self::LAG_LIMIT)
    }
}
