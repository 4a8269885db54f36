//! What several parts go by: how much is remembered, and for how long.

use std::time::Duration;

/// Origins that are remembered at most.
pub(super) const MAX_ORIGINS: usize = 16_384;
/// How many of the members that have not answered yet get what is new straight from its origin, and are waited for
/// until they lag.
pub(super) const NEWCOMERS: usize = 64;
/// For how long messages are kept for a member that failed, and what it said last is asked for.
pub(super) const FAILED_GRACE: Duration = Duration::from_secs(120);
/// For how long messages are kept for a member that is said to have left: that may be a stale or a made-up word, which it
/// refutes when it hears of it, at the latest from an exchange of views.
pub(super) const LEFT_GRACE: Duration = Duration::from_secs(40);
/// How often is looked through what is over.
pub(super) const SWEEP: Duration = Duration::from_secs(1);
/// In a cluster too large for all to acknowledge at once, an origin gets so many acknowledgements a second.
pub(super) const ACKS_PER_SECOND: f64 = 2000.0;
