//! Histograms of durations, as plain numbers: counting costs an addition, and allocates nothing.

use std::time::Duration;

/// A histogram of durations with fixed buckets.
///
/// ```
/// use std::time::Duration;
///
/// use broadcast::Histogram;
///
/// let mut histogram = Histogram::default();
/// histogram.record(Duration::from_millis(3));
/// let bucket = histogram.buckets().find(|(_, count)| *count > 0);
/// assert_eq!(bucket, Some((Some(Duration::from_millis(5)), 1)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; Histogram::BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// The longest duration in each bucket. One more bucket is for all that takes longer.
    pub const BOUNDS: [Duration; 16] = {
        const MICROS: [u64; 16] = [
            100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000,
        ];
        let mut bounds = [Duration::ZERO; 16];
        let mut i = 0;
        while i < MICROS.len() {
            bounds[i] = Duration::from_micros(MICROS[i]);
            i += 1;
        }
        bounds
    };

    /// Counts a duration.
    pub fn record(&mut self, took: Duration) {
        self.counts[Self::BOUNDS.partition_point(|bound| *bound < took)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all durations.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Each bucket: its bound, `None` for the last one, and how many durations are in it. A bucket does not count what is
    /// in those before.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        Self::BOUNDS.into_iter().map(Some).chain([None]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        let micros = [0, 100, 101, 1_000_000, 10_000_000, 10_000_001, 1 << 40];
        for time in micros {
            histogram.record(Duration::from_micros(time));
        }
        let hit: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        let bound = |micros| Some(Duration::from_micros(micros));
        assert_eq!(hit, [(bound(100), 2), (bound(250), 1), (bound(1_000_000), 1), (bound(10_000_000), 1), (None, 2)]);
        assert_eq!(histogram.count(), micros.len() as u64);
        assert_eq!(histogram.sum(), Duration::from_micros(micros.iter().sum()));
    }
}
