//! How much is kept.

use std::{ops::RangeInclusive, time::Duration};

use super::{ConfigError, DAY, range};

/// How much a node keeps of what is published, and for how long a slow member is waited for.
///
/// A node keeps its own messages until every live member has them, and those of others until their
/// origins say that nobody needs them any more. Half of `retain_bytes` is for its own, half for others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Messages that are kept at most: so many of its own, and so many of all others together.
    pub retain_messages: usize,
    /// Bytes of messages that are kept at most, as they travel.
    pub retain_bytes: usize,
    /// A member that acknowledges nothing for so long is not waited for any more.
    pub lag_limit: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { retain_messages: 65_536, retain_bytes: 64 << 20, lag_limit: Duration::from_secs(10) }
    }
}

impl Limits {
    /// What [`retain_messages`](Self::retain_messages) may be.
    pub const RETAIN_MESSAGES: RangeInclusive<usize> = 16..=1 << 24;
    /// What [`retain_bytes`](Self::retain_bytes) may be: the largest message has to fit in half of a half, beside what
    /// is delivered already.
    pub const RETAIN_BYTES: RangeInclusive<usize> = 8 << 20..=1 << 40;
    /// What [`lag_limit`](Self::lag_limit) may be.
    pub const LAG_LIMIT: RangeInclusive<Duration> = Duration::from_millis(100)..=DAY;

    /// Whether a node can have them.
    ///
    /// # Errors
    ///
    /// Which cannot be, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range::check("retain_messages", self.retain_messages, &Self::RETAIN_MESSAGES)?;
        range::check_size("retain_bytes", self.retain_bytes, &Self::RETAIN_BYTES)?;
        range::check_duration("lag_limit", self.lag_limit, &Self::LAG_LIMIT)
    }
}
