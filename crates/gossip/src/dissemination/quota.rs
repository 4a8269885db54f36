//! How much each member may get in a while.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{membership::NodeName, rate::RateLimiter};

/// A rate limit for each member, of those that are live.
#[derive(Debug, Default)]
pub(super) struct Quota {
    limits: BTreeMap<NodeName, RateLimiter>,
}

impl Quota {
    /// Whether a member may have what costs so much; it has it then. See [`RateLimiter::take`].
    pub(super) fn take(&mut self, now: Instant, name: &NodeName, cost: Duration, burst: Duration) -> bool {
        self.limits.entry(name.clone()).or_default().take(now, cost, burst)
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.limits.remove(name);
    }
}
