//! A Lamport clock (Lamport, *Time, Clocks, and the Ordering of Events in a Distributed System*, 1978), as serf has it.
//!
//! Anybody can push a cluster's clocks ahead, and nobody can set them back. A clock at its end would stop everybody's. So a
//! time is believed only if it is not far ahead of the clock. A node that was away may be far behind: it catches up in the
//! exchanges of views that it begins itself, with members of its own choice.

use super::SerfError;

/// The latest time that is valid. No clock comes near it.
pub(super) const LATEST: u64 = 1 << 62;
/// How far ahead of this node's clock a time may be, from anybody. It takes 2^42 messages to use a clock up.
pub(super) const MAX_LEAP: u64 = 1 << 20;
/// The same in the reply to a state of this node: more than a cluster ever counts. It takes four million exchanges to use a
/// clock up, and a node begins one every few seconds at most.
pub(super) const MAX_LEAP_IN_REPLY: u64 = 1 << 40;

/// See the [module](self). It begins at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LamportClock(u64);

impl Default for LamportClock {
    fn default() -> Self {
        Self(1)
    }
}

impl LamportClock {
    /// The time of the next message.
    pub(super) fn time(self) -> u64 {
        self.0
    }

    /// Takes the next time, for a message.
    pub(super) fn tick(&mut self) -> u64 {
        let time = self.0;
        self.0 = self.0.saturating_add(1);
        time
    }

    /// Moves the clock past a time that was seen, if that is at most `leap` ahead.
    ///
    /// # Errors
    ///
    /// It is further ahead; the clock has not changed.
    pub(super) fn witness(&mut self, seen: u64, leap: u64) -> Result<(), SerfError> {
        if seen > self.0.saturating_add(leap) {
            return Err(SerfError::ClockLeap { time: seen, clock: self.0 });
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
        let mut clock = LamportClock::default();
        for seen in [2 + MAX_LEAP, 1 << 40, LATEST, u64::MAX - 1, u64::MAX] {
            assert_eq!(clock.witness(seen, MAX_LEAP), Err(SerfError::ClockLeap { time: seen, clock: 1 }));
        }
        assert_eq!(clock.tick(), 1);
        assert_eq!(clock.witness(2 + MAX_LEAP, MAX_LEAP), Ok(()));
        assert_eq!(clock.time(), 3 + MAX_LEAP);
        assert_eq!(
            clock.witness(LATEST, MAX_LEAP_IN_REPLY),
            Err(SerfError::ClockLeap { time: LATEST, clock: 3 + MAX_LEAP })
        );
        assert_eq!(clock.witness(MAX_LEAP_IN_REPLY, MAX_LEAP_IN_REPLY), Ok(()));
        assert_eq!(clock.witness(7, MAX_LEAP), Ok(()), "the past changes nothing");
        assert_eq!(clock.time(), MAX_LEAP_IN_REPLY + 1);
    }
}
