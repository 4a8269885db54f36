//! Rate limits: how often something may happen.
//!
//! A token bucket, kept as a single point in time, as in the generic cell rate algorithm (ITU-T I.371): what is taken
//! costs time, and is owed until that time has passed. While less than a burst is owed, more may be taken.
//!
//! One type serves for events per second, for bytes per second, and for a pause between two of something.

use std::time::{Duration, Instant};

/// Limits how often something may happen. It begins with nothing owed.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use broadcast::rate::RateLimiter;
///
/// // Two a second, and up to two at once.
/// let (now, cost, burst) = (Instant::now(), Duration::from_millis(500), Duration::from_secs(1));
/// let mut limiter = RateLimiter::default();
/// assert!(limiter.take(now, cost, burst) && limiter.take(now, cost, burst));
/// assert!(!limiter.take(now, cost, burst));
/// assert!(limiter.take(now + cost, cost, burst));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimiter {
    owed_until: Option<Instant>,
}

impl RateLimiter {
    /// Takes something that costs this much time, unless a `burst` or more is owed already; with a burst of zero, unless
    /// anything is. Gives whether it was taken.
    pub fn take(&mut self, now: Instant, cost: Duration, burst: Duration) -> bool {
        let owed = self.owed_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let allowed = owed.is_zero() || owed < burst;
        if allowed {
            self.owed_until = Some(now + owed + cost);
        }
        allowed
    }
}

#[cfg(test)]
mod tests;
