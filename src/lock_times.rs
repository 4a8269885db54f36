//! Measures how long locks are waited for and held. The state machine of locks reads no clock, so the voter that leads
//! follows its events and takes the time. What began before the voter led is not counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use broadcast_lock::{
    LockClient,
    machine::NAME,
    message::{EntryChange, LockEvent},
};
use tokio::time::{Instant, sleep};
use tracing::debug;

/// How often to check whether this voter leads.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The upper bound of each bucket, in milliseconds. One more bucket is for everything longer.
const BOUNDS: [u64; 10] = [1, 10, 100, 1_000, 5_000, 30_000, 120_000, 600_000, 3_600_000, 21_600_000];

/// A histogram of durations from a millisecond to hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DurationHistogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl DurationHistogram {
    fn record(&mut self, took: Duration) {
        self.counts[BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < took)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub(crate) fn sum(&self) -> Duration {
        self.sum
    }

    /// The bound of each bucket, `None` for the last one, with its own count.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        BOUNDS.into_iter().map(|bound| Some(Duration::from_millis(bound))).chain([None]).zip(self.counts)
    }
}

/// The times of locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockTimes {
    /// From the request to the grant.
    pub(crate) waits: DurationHistogram,
    /// From the grant to its end.
    pub(crate) holds: DurationHistogram,
}

/// Records the times of locks while a voter leads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockTimesRecorder(Arc<Mutex<LockTimes>>);

impl LockTimesRecorder {
    pub(crate) fn times(&self) -> LockTimes {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, LockTimes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records whenever this voter leads, as long as it runs.
    pub(crate) async fn run(self, locks: LockClient) {
        loop {
            if locks.store().leads() {
                match locks.store().subscribe(NAME).await {
                    Ok(mut events) => {
                        let mut entries = OpenEntries::default();
                        while let Some(event) = events.next().await {
                            // Another voter records from now on.
                            if !locks.store().leads() {
                                break;
                            }
                            if let Ok(event) = LockEvent::decode(&event) {
                                entries.take(&event, Instant::now(), &mut self.lock());
                            }
                        }
                    }
                    Err(error) => debug!(%error, "the times of locks are not taken"),
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// The queue entries and grants that events have told of, by token: no more than the state machine has.
#[derive(Debug, Default)]
struct OpenEntries(HashMap<u64, QueueEntry>);

#[derive(Debug)]
struct QueueEntry {
    /// When it began to wait, or was granted.
    since: Instant,
    is_held: bool,
}

impl OpenEntries {
    fn take(&mut self, event: &LockEvent, now: Instant, times: &mut LockTimes) {
        match event.change {
            EntryChange::Queued => drop(self.0.insert(event.token, QueueEntry { since: now, is_held: false })),
            EntryChange::Granted => {
                // A lock that is granted at once has no event before this one.
                let entry = self.0.insert(event.token, QueueEntry { since: now, is_held: true });
                times.waits.record(entry.map_or(Duration::ZERO, |entry| now - entry.since));
            }
            EntryChange::Proclaimed => {}
            EntryChange::Released | EntryChange::Forced | EntryChange::Ended | EntryChange::Expired => {
                if let Some(entry) = self.0.remove(&event.token).filter(|entry| entry.is_held) {
                    times.holds.record(now - entry.since);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_end_with_the_grant_and_holds_with_the_lock() {
        let (mut entries, mut times, began) = (OpenEntries::default(), LockTimes::default(), Instant::now());
        let mut take = |token, change, after| {
            let event = LockEvent { token, session: 1, names: Vec::new(), change };
            entries.take(&event, began + Duration::from_millis(after), &mut times);
        };
        take(1, EntryChange::Granted, 0);
        take(2, EntryChange::Queued, 50);
        take(3, EntryChange::Queued, 60);
        take(3, EntryChange::Ended, 70);
        take(1, EntryChange::Released, 1050);
        take(2, EntryChange::Granted, 1050);
        take(2, EntryChange::Proclaimed, 2000);
        take(2, EntryChange::Expired, 30_000_000);
        // It was granted before this voter led.
        take(9, EntryChange::Released, 30_000_001);
        let hit = |times: DurationHistogram| times.buckets().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        let millis = Duration::from_millis;
        assert_eq!(hit(times.waits), [(Some(millis(1)), 1), (Some(millis(1000)), 1)]);
        assert_eq!(hit(times.holds), [(Some(millis(5000)), 1), (None, 1)]);
        assert_eq!((times.waits.sum(), times.holds.sum()), (millis(1000), millis(1050 + 29_998_950)));
        assert!(entries.0.is_empty());
    }
}
