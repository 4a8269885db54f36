//! How long locks are waited for and held. The machine of locks reads no clock; so the voter that leads follows what happens,
//! and takes the time. What began before it came to lead, or was not told, is not counted.

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

/// How often it is looked who leads.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The longest time that each bucket is for, in milliseconds; one more is for all that takes longer.
const BOUNDS: [u64; 10] = [1, 10, 100, 1_000, 5_000, 30_000, 120_000, 600_000, 3_600_000, 21_600_000];

/// Times that are counted by how long they are: from a millisecond to hours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Times {
    fn record(&mut self, took: Duration) {
        self.counts[BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < took)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub(crate) fn sum(&self) -> Duration {
        self.sum
    }

    /// Each bucket's bound, `None` for the last one, and how many it has that none before it has.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        BOUNDS.into_iter().map(|bound| Some(Duration::from_millis(bound))).chain([None]).zip(self.counts)
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockTimes {
    /// From a place in the queue to its grant.
    pub(crate) waits: Times,
    /// From the grant to its end.
    pub(crate) holds: Times,
}

/// The same, as a voter goes on counting. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted(Arc<Mutex<LockTimes>>);

impl Counted {
    pub(crate) fn times(&self) -> LockTimes {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, LockTimes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts as long as this voter leads, for as long as it runs.
    pub(crate) async fn follow(self, locks: LockClient) {
        loop {
            if locks.store().leads() {
                match locks.store().subscribe(NAME).await {
                    Ok(mut events) => {
                        let mut places = Places::default();
                        while let Some(event) = events.next().await {
                            // Otherwise these are another voter's.
                            if !locks.store().leads() {
                                break;
                            }
                            if let Ok(event) = LockEvent::decode(&event) {
                                places.see(&event, Instant::now(), &mut self.lock());
                            }
                        }
                    }
                    Err(error) => debug!(%error, "the times of locks are not taken"),
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The places that are there, as far as they were told of: no more than the machine has.
#[derive(Debug, Default)]
struct Places(HashMap<u64, Place>);

#[derive(Debug)]
struct Place {
    /// When it began to wait, or was granted.
    since: Instant,
    is_held: bool,
}

impl Places {
    fn see(&mut self, event: &LockEvent, now: Instant, times: &mut LockTimes) {
        match event.change {
            EntryChange::Queued => drop(self.0.insert(event.token, Place { since: now, is_held: false })),
            EntryChange::Granted => {
                // One that does not wait is granted at once, and told of only then.
                let place = self.0.insert(event.token, Place { since: now, is_held: true });
                times.waits.record(place.map_or(Duration::ZERO, |place| now - place.since));
            }
            EntryChange::Proclaimed => {}
            EntryChange::Released | EntryChange::Forced | EntryChange::Ended | EntryChange::Expired => {
                if let Some(place) = self.0.remove(&event.token).filter(|place| place.is_held) {
                    times.holds.record(now - place.since);
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
        let (mut places, mut times, began) = (Places::default(), LockTimes::default(), Instant::now());
        let mut see = |token, change, after| {
            let event = LockEvent { token, session: 1, names: Vec::new(), change };
            places.see(&event, began + Duration::from_millis(after), &mut times);
        };
        see(1, EntryChange::Granted, 0);
        see(2, EntryChange::Queued, 50);
        see(3, EntryChange::Queued, 60);
        see(3, EntryChange::Ended, 70);
        see(1, EntryChange::Released, 1050);
        see(2, EntryChange::Granted, 1050);
        see(2, EntryChange::Proclaimed, 2000);
        see(2, EntryChange::Expired, 30_000_000);
        // It was granted before this voter led.
        see(9, EntryChange::Released, 30_000_001);
        let hit = |times: Times| times.buckets().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        let millis = Duration::from_millis;
        assert_eq!(hit(times.waits), [(Some(millis(1)), 1), (Some(millis(1000)), 1)]);
        assert_eq!(hit(times.holds), [(Some(millis(5000)), 1), (None, 1)]);
        assert_eq!((times.waits.sum(), times.holds.sum()), (millis(1000), millis(1050 + 29_998_950)));
        assert!(places.0.is_empty());
    }
}
