//! A histogram of durations whose buckets grow with their values, so that each quantile is within 1/32 of the true value, as in
//! HdrHistogram.

use std::time::Duration;

/// The number of buckets for each power of two.
const PER_DOUBLING: u64 = 32;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct LatencyHistogram {
    counts: Vec<u64>,
    count: u64,
    max: Duration,
}

impl LatencyHistogram {
    pub(super) fn add(&mut self, took: Duration) {
        let bucket = bucket(took.as_micros() as u64);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(took);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.counts.resize(self.counts.len().max(other.counts.len()), 0);
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The duration that this share of all does not exceed; `None` if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(upper(bucket)).min(self.max))
    }

    pub(crate) fn max(&self) -> Option<Duration> {
        (self.count > 0).then_some(self.max)
    }
}

fn bucket(value: u64) -> usize {
    let doublings = value.max(PER_DOUBLING).ilog2() - PER_DOUBLING.ilog2();
    (u64::from(doublings) * PER_DOUBLING + (value >> doublings)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket / PER_DOUBLING).saturating_sub(1);
    ((bucket - doublings * PER_DOUBLING + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_close_to_the_truth() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max()), (None, None));
        for micros in 1..=100_000 {
            histogram.add(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.0, 1.0), (0.5, 50_000.0), (0.99, 99_000.0), (1.0, 100_000.0)] {
            let got = histogram.quantile(share).expect("there are some").as_micros() as f64;
            assert!((0.999..1.04).contains(&(got / micros)), "{share}: {got}, not {micros}");
        }
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.quantile(0.5), histogram.quantile(0.5));
    }

    #[test]
    fn buckets_hold_what_falls_into_them() {
        for value in (0..5000).chain((10..63).map(|bit| (1 << bit) + 12_345)) {
            let bucket = bucket(value);
            assert!(upper(bucket) >= value, "{value}");
            assert!(bucket == 0 || upper(bucket - 1) < value, "{value}");
        }
    }
}
