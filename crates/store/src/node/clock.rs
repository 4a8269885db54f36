//! The clock that leases run on.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The time since the host booted, suspended or not (`CLOCK_BOOTTIME`): a lease runs on while a laptop sleeps.
///
/// ```
/// let began = broadcast_store::node::since_boot();
/// assert!(broadcast_store::node::since_boot() >= began);
/// ```
pub fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::CLOCK_BOOTTIME;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::CLOCK_MONOTONIC;
    clock_gettime(clock).expect("the system has this clock").into()
}
