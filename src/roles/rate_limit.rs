//! Limits how often the log repeats itself: one line for each kind of event, and then only a count for a while.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// How many kinds are told apart. Peers may invent kinds, so there must be a limit.
const MAX_KINDS: usize = 64;

/// The kind for everything else: more kinds than fit, or unknown ones.
const OTHER: &str = "various reasons";

/// Admits one event of each kind per period, and counts the others.
#[derive(Debug)]
pub(super) struct RateLimiter {
    period: Duration,
    kinds: BTreeMap<String, Suppression>,
}

/// The current period of a kind.
#[derive(Debug)]
struct Suppression {
    until: Instant,
    suppressed: u64,
}

impl RateLimiter {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, kinds: BTreeMap::new() }
    }

    /// Whether to log an event of this kind now.
    pub(super) fn admit(&mut self, kind: &str, now: Instant) -> bool {
        let grace = |kind: &Suppression| if kind.suppressed > 0 { self.period } else { Duration::ZERO };
        self.kinds.retain(|_, kind| kind.until + grace(kind) > now);
        let full = self.kinds.len() >= MAX_KINDS && !self.kinds.contains_key(kind);
        let kind = if full { OTHER } else { kind };
        match self.kinds.get_mut(kind) {
            Some(kind) if kind.until > now => {
                kind.suppressed += 1;
                false
            }
            _ => {
                self.kinds.insert(kind.into(), Suppression { until: now + self.period, suppressed: 0 });
                true
            }
        }
    }

    /// Counts events of unknown kinds that were not logged.
    pub(super) fn count(&mut self, unknown: u64, now: Instant) {
        if unknown > 0 {
            let until = now + self.period;
            self.kinds.entry(OTHER.into()).or_insert(Suppression { until, suppressed: 0 }).suppressed += unknown;
        }
    }

    /// When there will be something to [`expire`](Self::expire).
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.kinds.values().filter(|kind| kind.suppressed > 0).map(|kind| kind.until).min()
    }

    /// The kinds whose period is over, with the number of events that were not logged in it. Logging the number begins the
    /// next period of the kind.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(String, u64)> {
        let due = self.kinds.iter_mut().filter(|(_, kind)| kind.suppressed > 0 && kind.until <= now);
        due.map(|(name, kind)| {
            kind.until = now + self.period;
            (name.clone(), std::mem::take(&mut kind.suppressed))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_first_at_once_and_the_number_of_the_others_later() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut limiter = RateLimiter::new(Duration::from_secs(10));

        assert!(limiter.admit("a", at(0)));
        assert_eq!(limiter.next_due(), None);
        assert!(!limiter.admit("a", at(1)));
        assert!(limiter.admit("b", at(2)));
        assert!(!limiter.admit("a", at(9)));
        assert_eq!(limiter.next_due(), Some(at(10)));
        assert_eq!(limiter.expire(at(10)), [("a".into(), 2)]);
        assert!(!limiter.admit("a", at(11)), "the number was just told");
        assert!(limiter.admit("b", at(12)));
        assert_eq!(limiter.expire(at(20)), [("a".into(), 1)]);
        assert_eq!(limiter.next_due(), None);
        assert!(limiter.admit("a", at(31)));

        limiter.count(0, at(40));
        assert_eq!(limiter.next_due(), None);
        limiter.count(7, at(40));
        limiter.count(1, at(41));
        assert_eq!(limiter.expire(at(50)), [(OTHER.into(), 8)]);
    }

    #[test]
    fn its_memory_is_bounded() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(Duration::from_secs(10));
        let said = (0..10_000).filter(|i| limiter.admit(&format!("kind {i}"), start)).count();
        assert_eq!(said, MAX_KINDS + 1);
        assert_eq!(limiter.kinds.len(), MAX_KINDS + 1);
        assert_eq!(limiter.expire(start + Duration::from_secs(10)), [(OTHER.into(), 10_000 - MAX_KINDS as u64 - 1)]);
        assert!(limiter.admit("another", start + Duration::from_secs(20)));
        assert_eq!(limiter.kinds.len(), 1);
    }
}
