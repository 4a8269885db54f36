//! A Lamport clock (Lamport, *Time, Clocks, and the Ordering of Events in a Distributed System*, 1978).

/// The latest time that is believed. Nobody counts so far; who claims it would end everybody's clock.
pub(super) const LATEST: u64 = 1 << 62;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock(u64);

impl Default for Clock {
    fn default() -> Self {
        Self(1)
    }
}

impl Clock {
    /// The time of the next message.
    pub(super) fn time(self) -> u64 {
        self.0
    }

    /// Takes a time for a message.
    pub(super) fn tick(&mut self) -> u64 {
        let time = self.0;
        self.witness(time);
        time
    }

    /// Goes on after a time that was seen, which is at most [`LATEST`].
    pub(super) fn witness(&mut self, seen: u64) {
        self.0 = self.0.max(seen.saturating_add(1));
    }
}
