//! Says the same thing once, and then counts for a while.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// More kinds than this are counted as one. What comes from the network may choose its kind.
const KINDS: usize = 64;

/// The kind of what has none: there was no more room for it, or nobody knows it.
const OTHER: &str = "various reasons";

/// Admits one thing of a kind per period, and counts the others.
#[derive(Debug)]
pub(super) struct Limiter {
    period: Duration,
    kinds: BTreeMap<String, Kind>,
}

#[derive(Debug)]
struct Kind {
    until: Instant,
    suppressed: u64,
}

impl Limiter {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, kinds: BTreeMap::new() }
    }

    /// Whether to say something of that kind now.
    pub(super) fn admit(&mut self, kind: &str, now: Instant) -> bool {
        let grace = |kind: &Kind| if kind.suppressed > 0 { self.period } else { Duration::ZERO };
        self.kinds.retain(|_, kind| kind.until + grace(kind) > now);
        let full = self.kinds.len() >= KINDS && !self.kinds.contains_key(kind);
        let kind = if full { OTHER } else { kind };
        match self.kinds.get_mut(kind) {
            Some(kind) if kind.until > now => {
                kind.suppressed += 1;
                false
            }
            _ => {
                self.kinds.insert(kind.into(), Kind { until: now + self.period, suppressed: 0 });
                true
            }
        }
    }

    /// Counts as many things of unknown kinds as not said.
    pub(super) fn count(&mut self, unknown: u64, now: Instant) {
        if unknown > 0 {
            let until = now + self.period;
            self.kinds.entry(OTHER.into()).or_insert(Kind { until, suppressed: 0 }).suppressed += unknown;
        }
    }

    /// When there will be something to [`expire`](Self::expire).
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.kinds.values().filter(|kind| kind.suppressed > 0).map(|kind| kind.until).min()
    }

    /// Gives each kind whose period is over with the number that was not said in it. Saying so counts
    /// as saying it: the next period of that kind begins.
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
        let mut limiter = Limiter::new(Duration::from_secs(10));

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
        let mut limiter = Limiter::new(Duration::from_secs(10));
        let said = (0..10_000).filter(|i| limiter.admit(&format!("kind {i}"), start)).count();
        assert_eq!(said, KINDS + 1);
        assert_eq!(limiter.kinds.len(), KINDS + 1);
        assert_eq!(limiter.expire(start + Duration::from_secs(10)), [(OTHER.into(), 10_000 - KINDS as u64 - 1)]);
        assert!(limiter.admit("another", start + Duration::from_secs(20)));
        assert_eq!(limiter.kinds.len(), 1);
    }
}
