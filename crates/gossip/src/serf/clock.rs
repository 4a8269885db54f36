//! A Lamport clock (Lamport, *Time, Clocks, and the Ordering of Events in a Distributed System*, 1978).
//!
//! Anybody can push a cluster's clocks ahead, and nobody can set them back. So a time is believed only if it is not
//! far ahead of what is known: what nobody could go beyond would end everybody's clock. A node that was away may
//! be far behind. It catches up in the exchanges of views that it begins itself, as those are with members it chose.

use super::Unusable;

/// The latest time that can be read. No clock comes near it.
pub(super) const LATEST: u64 = 1 << 62;
/// How far ahead of this node's clock a time is believed, whoever tells it. To use the clocks up by that takes 2^42
/// messages.
pub(super) const LEAP: u64 = 1 << 20;
/// The same in an answer to a view of this node: more than all that a cluster ever says. To use the clocks up by that
/// takes four million exchanges, of which a node begins one every few seconds at most.
pub(super) const LEAP_WHEN_ASKED: u64 = 1 << 40;

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
        self.0 = self.0.saturating_add(1);
        time
    }

    /// Goes on after a time that was seen, if that is no more than `leap` ahead.
    ///
    /// # Errors
    ///
    /// It is further ahead; the clock has not changed.
    pub(super) fn witness(&mut self, seen: u64, leap: u64) -> Result<(), Unusable> {
        if seen > self.0.saturating_add(leap) {
            return Err(Unusable::Leap { time: seen, clock: self.0 });
        }
        self.0 = self.0.max(seen.saturating_add(1));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_ahead_does_not_move_it() {
        let mut clock = Clock::default();
        for seen in [2 + LEAP, 1 << 40, LATEST, u64::MAX - 1, u64::MAX] {
            assert_eq!(clock.witness(seen, LEAP), Err(Unusable::Leap { time: seen, clock: 1 }));
        }
        assert_eq!(clock.tick(), 1);
        assert_eq!(clock.witness(2 + LEAP, LEAP), Ok(()));
        assert_eq!(clock.time(), 3 + LEAP);
        assert_eq!(clock.witness(LATEST, LEAP_WHEN_ASKED), Err(Unusable::Leap { time: LATEST, clock: 3 + LEAP }));
        assert_eq!(clock.witness(LEAP_WHEN_ASKED, LEAP_WHEN_ASKED), Ok(()));
        assert_eq!(clock.witness(7, LEAP), Ok(()), "the past changes nothing");
        assert_eq!(clock.time(), LEAP_WHEN_ASKED + 1);
    }
}
