//! How long a lock may be relied on. Pure arithmetic of what a node has confirmed.
//!
//! A session ends on the servers' side its TTL after they heard of it last. That was after its holder sent what they
//! heard; so from *before sending*, a TTL is surely over no later for the holder than for them.

use std::time::Duration;

use super::super::supervisor::{BootTime, Limits};

/// How long a command has at most, from SIGTERM to the deadline.
const GRACE: Duration = Duration::from_secs(5);
/// How long before the deadline it is killed at most: so long a machine may take that has much else to do.
const MARGIN: Duration = Duration::from_secs(1);

/// When a lock ends of which this was sent last that is confirmed.
pub(super) fn deadline(sent: BootTime, ttl: Duration) -> BootTime {
    sent + ttl
}

/// Until when a command may run that is to be over by then.
pub(super) fn limits(deadline: BootTime, ttl: Duration) -> Limits {
    Limits { ask: deadline.before(grace(ttl)), kill: deadline.before(MARGIN.min(ttl / 6)) }
}

/// The same for a lock that is lost already.
pub(super) fn lost(now: BootTime, ttl: Duration, before: Limits) -> Limits {
    Limits { ask: now.min(before.ask), kill: before.kill.min(now + grace(ttl)) }
}

/// Whether a command may be started: not with little time left, or that it has might be over at once.
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
        let deadline = deadline(at(1000), ttl);
        assert_eq!(deadline, at(11_000));
        assert_eq!(limits(deadline, ttl), Limits { ask: at(8500), kill: at(10_000) });
        let short = Duration::from_secs(3);
        assert_eq!(limits(at(4000), short), Limits { ask: at(3250), kill: at(3500) });
        assert!(limits(at(3000), Duration::from_secs(2)).kill <= at(2700));
        let long = Duration::from_secs(3600);
        assert_eq!(limits(at(3_601_000), long), Limits { ask: at(3_596_000), kill: at(3_600_000) });
    }

    #[test]
    fn one_that_is_lost_ends_sooner_and_never_later() {
        let ttl = Duration::from_secs(10);
        let before = limits(at(11_000), ttl);
        assert_eq!(lost(at(2000), ttl, before), Limits { ask: at(2000), kill: at(4500) });
        assert_eq!(lost(at(9000), ttl, before), Limits { ask: at(8500), kill: at(10_000) });
        assert_eq!(lost(at(99_000), ttl, before), before);
    }

    #[test]
    fn a_command_starts_with_half_of_its_ttl_ahead() {
        let ttl = Duration::from_secs(10);
        assert!(may_start(at(6000), at(11_000), ttl));
        assert!(!may_start(at(6001), at(11_000), ttl));
    }
}
