//! What arrived and could not be used: all of it is counted, and the first of each second told.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Event, Node, metrics::Cause};

/// Of how many unusable inputs a second the application is told.
pub(super) const REJECTIONS_PER_SECOND: u32 = 10;

/// How often the application was told of unusable input, in the present second.
#[derive(Debug)]
pub(super) struct Rejections {
    second: Instant,
    told: u32,
    untold: u64,
}

impl Rejections {
    pub(super) fn new(now: Instant) -> Self {
        Self { second: now, told: 0, untold: 0 }
    }
}

impl Node {
    /// Counts what was dropped, and tells it.
    pub(super) fn reject(&mut self, now: Instant, from: SocketAddr, cause: Cause, reason: &dyn fmt::Display) {
        self.metrics.reject(cause);
        let rejections = &mut self.rejections;
        if now.saturating_duration_since(rejections.second) >= Duration::from_secs(1) {
            (rejections.second, rejections.told) = (now, 0);
        }
        if rejections.told == REJECTIONS_PER_SECOND {
            rejections.untold += 1;
            return;
        }
        rejections.told += 1;
        let untold = std::mem::take(&mut rejections.untold);
        self.events.push_back(Event::Rejected { from, reason: reason.to_string(), untold });
    }
}
