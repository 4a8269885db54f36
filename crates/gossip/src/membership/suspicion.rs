//! How long a suspect has to refute before it is declared dead.
//!
//! Lifeguard's suspicion timeout (Dadgar, Phillips, Currey: "Lifeguard: Local Health Awareness for
//! More Accurate Failure Detection", arXiv 1707.00788, section IV-B): it starts long and shrinks
//! logarithmically with each independent confirmation.

use std::time::{Duration, Instant};

use super::NodeName;
use crate::config::Tuning;

/// A suspicion of one member, and its timeout.
#[derive(Debug)]
pub(crate) struct Suspicion {
    start: Instant,
    min: Duration,
    max: Duration,
    /// How many confirmations bring the timeout down to `min`.
    confirmations_wanted: usize,
    /// The members that suspect it: the first one, then those that confirmed.
    accusers: Vec<NodeName>,
}

impl Suspicion {
    /// `from` begins to suspect a member of a cluster with `n` live ones.
    pub(crate) fn new(now: Instant, from: NodeName, n: usize, tuning: &Tuning) -> Self {
        let confirmations_wanted = (tuning.suspicion_mult as usize).saturating_sub(2);
        // A cluster too small for that many confirmations does not wait for them.
        let confirmations_wanted = if n < confirmations_wanted + 2 { 0 } else { confirmations_wanted };
        let min = min_timeout(tuning.suspicion_mult, n, tuning.probe_interval);
        Self {
            start: now,
            min,
            max: min * tuning.suspicion_max_timeout_mult,
            confirmations_wanted,
            accusers: vec![from],
        }
    }

    /// When the member is declared dead, with the confirmations that there are.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + timeout(self.min, self.max, self.accusers.len() - 1, self.confirmations_wanted)
    }

    /// Whether there are as many confirmations as wanted.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.accusers.len() > self.confirmations_wanted
    }

    /// `from` suspects the member, too. Gives whether that is news, which brings the deadline closer.
    pub(crate) fn confirm(&mut self, from: &NodeName) -> bool {
        if self.accusers.len() > self.confirmations_wanted || self.accusers.contains(from) {
            return false;
        }
        self.accusers.push(from.clone());
        true
    }
}

/// The shortest timeout: `mult · max(1, log10(n)) · interval`. memberlist's `suspicionTimeout`.
fn min_timeout(mult: u32, n: usize, interval: Duration) -> Duration {
    let scale = (n.max(1) as f64).log10().max(1.0);
    interval.mul_f64(f64::from(mult) * (scale * 1000.0).floor() / 1000.0)
}

/// The timeout after some confirmations: memberlist's `remainingSuspicionTime`, from the start.
fn timeout(min: Duration, max: Duration, confirmations: usize, wanted: usize) -> Duration {
    if wanted == 0 {
        return min;
    }
    let share = (confirmations as f64 + 1.0).ln() / (wanted as f64 + 1.0).ln();
    max.saturating_sub((max - min).mul_f64(share)).max(min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Profile;

    fn seconds(d: Duration) -> f64 {
        (d.as_secs_f64() * 100.0).round() / 100.0
    }

    #[test]
    fn min_timeout_is_that_of_memberlist() {
        let table = [(1, 4.0), (10, 4.0), (11, 4.164), (50, 6.792), (100, 8.0), (500, 10.792), (10_000, 16.0)];
        for (n, wanted) in table {
            let got = min_timeout(4, n, Duration::from_secs(1));
            assert!((got.as_secs_f64() - wanted).abs() < 1e-6, "n {n}: {got:?}, not {wanted}");
        }
    }

    #[test]
    fn shrinks_with_confirmations_as_in_memberlist() {
        let table: [(u64, u64, &[f64]); 3] =
            [(2, 30, &[30.0, 16.0, 7.81, 2.0]), (4, 24, &[24.0, 11.38, 4.0]), (3, 18, &[18.0, 3.0])];
        for (min, max, wanted) in table {
            let (min, max) = (Duration::from_secs(min), Duration::from_secs(max));
            for (confirmations, &expected) in wanted.iter().enumerate() {
                assert_eq!(seconds(timeout(min, max, confirmations, wanted.len() - 1)), expected);
            }
        }
        assert_eq!(timeout(Duration::from_secs(3), Duration::from_secs(18), 0, 0), Duration::from_secs(3));
    }

    #[test]
    fn each_accuser_counts_once_and_small_clusters_do_not_wait_for_more() {
        let now = Instant::now();
        let tuning = Profile::Lan.tuning();
        let mut suspicion = Suspicion::new(now, "a".into(), 10, &tuning);
        assert_eq!(suspicion.deadline(), now + Duration::from_secs(24));
        assert!(!suspicion.confirm(&"a".into()));
        assert!(suspicion.confirm(&"b".into()));
        assert!(!suspicion.confirm(&"b".into()));
        assert!(suspicion.confirm(&"c".into()));
        assert!(!suspicion.confirm(&"d".into()));
        assert_eq!(suspicion.deadline(), now + Duration::from_secs(4));

        let small = Suspicion::new(now, "a".into(), 3, &tuning);
        assert_eq!(small.deadline(), now + Duration::from_secs(4));
    }
}
