//! Limits that several modules share: how much is remembered, and for how long.

use std::time::Duration;

/// The most origins that are remembered.
pub(super) const MAX_ORIGINS: usize = 16_384;
/// How many members that have not answered yet are sent new messages by the origin itself, and are waited for until they
/// lag. More gives larger groups of newcomers an early start; fewer lets made-up members cost less.
pub(super) const MAX_UNPROVEN: usize = 64;
/// For how long messages are kept for a member that failed, and missing ones of an origin that failed are requested.
/// Longer survives longer partitions without loss, and costs memory.
pub(super) const FAILED_GRACE: Duration = Duration::from_secs(120);
/// For how long messages are kept for a member that is said to have left. That may be stale or forged news, which the
/// member refutes when it hears it, at the latest in a push/pull exchange.
pub(super) const LEFT_GRACE: Duration = Duration::from_secs(40);
/// How often ended streams are looked through for messages to free.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many acknowledgements a second an origin gets in a cluster that is too large for all to acknowledge at once. More
/// makes receipts faster, and more work for the origin.
pub(super) const ACKS_PER_SECOND: f64 = 2000.0;
