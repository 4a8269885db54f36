//! A rate limit for each member.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{membership::NodeName, rate::RateLimiter};

/// How much each live member may get per time.
#[derive(Debug, Default)]
pub(super) struct Quota {
    limits: BTreeMap<NodeName, RateLimiter>,
}

impl Quota {
    /// Takes `cost` out of a member's allowance, if there is so much. See [`RateLimiter::take`].
    pub(super) fn take(&mut self, now: Instant, name: &NodeName, cost: Duration, burst: Duration) -> bool {
        self.limits.entry(name.clone()).or_default().take(now, cost, burst)
    }

    /// Forgets a member that is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.limits.remove(name);
    }
}
