//! What the writer measures, for metrics and the status. No decision depends on it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broadcast::Histogram;

/// How many of the last syncs are kept one by one.
const RECENT: usize = 128;

/// What a log's writer has measured since the log was opened. [`Log::stats`](super::Log::stats) returns it.
#[derive(Debug, Default)]
pub struct LogStats {
    bytes: AtomicU64,
    syncs: Mutex<Syncs>,
}

#[derive(Debug, Default)]
struct Syncs {
    all: Histogram,
    /// The newest is the last.
    recent: VecDeque<Duration>,
}

/// How long the writer took to write and sync a batch. [`LogStats::syncs`] returns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStats {
    /// All of them, since the log was opened.
    pub all: Histogram,
    /// The median of the last 128.
    pub median: Duration,
    /// The longest of the last 128.
    pub longest: Duration,
}

impl LogStats {
    /// How many bytes the files take on the disk, preallocated ones included.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How long the syncs took.
    pub fn syncs(&self) -> SyncStats {
        let syncs = self.lock();
        let (all, mut recent) = (syncs.all, Vec::from(syncs.recent.clone()));
        drop(syncs);
        recent.sort_unstable();
        let [median, longest] = [recent.len() / 2, recent.len().saturating_sub(1)];
        let at = |place: usize| recent.get(place).copied().unwrap_or_default();
        SyncStats { all, median: at(median), longest: at(longest) }
    }

    pub(super) fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let mut syncs = self.lock();
        syncs.all.record(took);
        if syncs.recent.len() == RECENT {
            syncs.recent.pop_front();
        }
        syncs.recent.push_back(took);
    }

    fn lock(&self) -> MutexGuard<'_, Syncs> {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_syncs_have_a_median_and_all_of_them_a_count() {
        let stats = LogStats::default();
        assert_eq!(stats.syncs(), SyncStats::default());
        stats.synced(Duration::from_secs(9));
        assert_eq!(stats.syncs().longest, Duration::from_secs(9));
        (1..=128).for_each(|millis| stats.synced(Duration::from_millis(millis)));
        let syncs = stats.syncs();
        assert_eq!((syncs.median, syncs.longest), (Duration::from_millis(65), Duration::from_millis(128)));
        assert_eq!(syncs.all.count(), 129);
    }
}
