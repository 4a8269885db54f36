//! How often something may happen.
//!
//! A token bucket, kept as a single time, as the generic cell rate algorithm does (ITU-T I.371): what is taken
//! costs time, and is owed until that time has passed. While less than a burst is owed, more may be taken.
//!
//! One type serves all: what is told so many times in a second, what is given in so many bytes a second, and what
//! is done again only after a pause.

use std::time::{Duration, Instant};

/// What may happen only so often. It begins with nothing owed.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit {
    owed_until: Option<Instant>,
}

impl RateLimit {
    /// Takes something that costs so much time, unless a `burst` or more is owed already. Without a burst, nothing may be
    /// owed at all. Gives whether it was taken.
    pub fn take(&mut self, now: Instant, cost: Duration, burst: Duration) -> bool {
        let owed = self.owed_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let may = owed.is_zero() || owed < burst;
        if may {
            self.owed_until = Some(now + owed + cost);
        }
        may
    }
}

#[cfg(test)]
mod tests;
