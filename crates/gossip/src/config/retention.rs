//! How much is kept.

use std::time::Duration;

use super::ConfigError;

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
    /// Whether a node can have them.
    ///
    /// # Errors
    ///
    /// Which cannot be, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |setting, value: String, allowed| Err(ConfigError::Tuning { setting, value, allowed });
        if !(16..=1 << 24).contains(&self.retain_messages) {
            return refuse("retain_messages", self.retain_messages.to_string(), "between 16 and 16777216");
        }
        // The largest message has to fit in half of a half, beside what is delivered already.
        if !(8 << 20..=1 << 40).contains(&self.retain_bytes) {
            return refuse("retain_bytes", self.retain_bytes.to_string(), "between 8 MiB and 1 TiB, in bytes");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60)).contains(&self.lag_limit) {
            return refuse("lag_limit", format!("{:?}", self.lag_limit), "between 100 milliseconds and 1 day");
        }
        Ok(())
    }
}
