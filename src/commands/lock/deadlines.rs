//! When the command that runs under a lock must have ended: arithmetic on what a node has confirmed, without a clock.
//!
//! For the voters, a session expires one TTL after they received its last keepalive, which they received *after* its holder
//! sent it. So a holder that counts the TTL from before it sends never relies on a lock for longer than the voters keep it
//! (Gray and Cheriton, *Leases*, 1989). Both count time, and neither compares clocks.

use std::time::Duration;

use super::super::supervisor::{BootTime, Deadlines};

/// The longest time that a command has between SIGTERM and the deadline.
const GRACE: Duration = Duration::from_secs(5);
/// How long before the deadline it is killed at most, since a busy machine may be slow to do so.
const MARGIN: Duration = Duration::from_secs(1);

/// When a session may expire whose last confirmed keepalive was sent at that time.
pub(super) fn expiry(sent: BootTime, ttl: Duration) -> BootTime {
    sent + ttl
}

/// When to ask a command to end, and when to kill it, so that it is over by the deadline.
pub(super) fn before(deadline: BootTime, ttl: Duration) -> Deadlines {
    Deadlines { terminate: deadline.before(grace(ttl)), kill: deadline.before(MARGIN.min(ttl / 6)) }
}

/// The same once the lock is lost: sooner than planned, and never later.
pub(super) fn after_loss(now: BootTime, ttl: Duration, planned: Deadlines) -> Deadlines {
    Deadlines { terminate: now.min(planned.terminate), kill: planned.kill.min(now + grace(ttl)) }
}

/// Whether to start a command: with little time left, it might have to end at once.
pub(super) fn may_start(now: BootTime, deadline: BootTime, ttl: Duration) -> bool {
    now + ttl / 2 <= deadline
}

fn grace(ttl: Duration) -> Duration {
    GRACE.min(ttl / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::at(Duration::from_millis(millis))
    }

    #[test]
    fn a_command_is_over_before_its_ttl_is() {
        let ttl = Duration::from_secs(10);
        let deadline = expiry(at(1000), ttl);
        assert_eq!(deadline, at(11_000));
        assert_eq!(before(deadline, ttl), Deadlines { terminate: at(8500), kill: at(10_000) });
        let short = Duration::from_secs(3);
        assert_eq!(before(at(4000), short), Deadlines { terminate: at(3250), kill: at(3500) });
        assert!(before(at(3000), Duration::from_secs(2)).kill <= at(2700));
        let long = Duration::from_secs(3600);
        assert_eq!(before(at(3_601_000), long), Deadlines { terminate: at(3_596_000), kill: at(3_600_000) });
    }

    #[test]
    fn one_that_is_lost_ends_sooner_and_never_later() {
        let ttl = Duration::from_secs(10);
        let planned = before(at(11_000), ttl);
        assert_eq!(after_loss(at(2000), ttl, planned), Deadlines { terminate: at(2000), kill: at(4500) });
        assert_eq!(after_loss(at(9000), ttl, planned), Deadlines { terminate: at(8500), kill: at(10_000) });
        assert_eq!(after_loss(at(99_000), ttl, planned), planned);
    }

    #[test]
    fn a_command_starts_with_half_of_its_ttl_ahead() {
        let ttl = Duration::from_secs(10);
        assert!(may_start(at(6000), at(11_000), ttl));
        assert!(!may_start(at(6001), at(11_000), ttl));
    }
}
