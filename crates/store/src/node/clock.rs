//! The clock that leases run on.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time since the machine started, suspended or not: a lease goes on while a laptop sleeps.
pub fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::CLOCK_MONOTONIC;
    clock_gettime(clock).expect("the system has this clock").into()
}
