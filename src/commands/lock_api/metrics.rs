//! The metrics of locks, which voters have, for Prometheus.

use std::fmt;

use broadcast_gateway::MetricsWriter;
use broadcast_lock::{Locks, machine::LockTotals};
use broadcast_store::machine::Machine;

use crate::lock_times::LockTimes;

/// Writes all metrics.
pub(super) fn write(writer: &mut MetricsWriter<'_>, locks: &Locks, times: &LockTimes) -> fmt::Result {
    let (sessions, held, waiting) = locks.counts();
    for (name, help, value) in [
        ("lock_sessions", "Sessions that there are, as this voter knows", sessions),
        ("lock_held", "Places that hold a lock, as this voter knows", held),
        ("lock_waiting", "Places that wait for a lock, as this voter knows", waiting),
    ] {
        writer.gauge(name, help, &[], [([], value as u64)])?;
    }
    writer.gauge("lock_bytes", "Bytes that locks take", &[], [([], Machine::bytes(locks))])?;
    writer.gauge("lock_quota_bytes", "How many bytes locks may take", &[], [([], locks.quota())])?;
    let LockTotals { grants, releases, forced, expired, fenced } = locks.totals();
    writer.counter("lock_grants", "Locks that were granted since the store was founded", &[], [([], grants)])?;
    let ends = [(["released"], releases), (["forced"], forced), (["expired"], expired)];
    writer.counter("lock_ends", "Locks that ended since the store was founded, by how they did", &["how"], ends)?;
    writer.counter("lock_fenced", "Writes that were refused for their token", &[], [([], fenced)])?;
    for (name, help, times) in [
        ("lock_wait_seconds", "Time from a place in the queue to its grant, while this voter led", times.waits),
        ("lock_hold_seconds", "Time from the grant of a lock to its end, while this voter led", times.holds),
    ] {
        writer.buckets(name, help, times.sum(), times.buckets())?;
    }
    Ok(())
}
