//! What arrived and could not be used: all of it is counted, and so many of them a second told.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Event, Node};
use crate::rate::RateLimiter;

/// Of how many unusable inputs a second the application is told.
pub(super) const REJECTIONS_PER_SECOND: u32 = 10;

/// What was wrong, to count it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Packet,
    Member,
    View,
    Message,
    Stream,
}

/// How often the application was told of unusable input.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    limit: RateLimiter,
    /// How many it was not told of since.
    suppressed: u64,
}

impl Node {
    /// Counts what was dropped, and tells it.
    pub(super) fn reject(&mut self, now: Instant, from: SocketAddr, cause: Cause, reason: &dyn fmt::Display) {
        self.metrics.reject(cause);
        let rejections = &mut self.rejections;
        let second = Duration::from_secs(1);
        if !rejections.limit.take(now, second / REJECTIONS_PER_SECOND, second) {
            rejections.suppressed += 1;
            return;
        }
        let suppressed = std::mem::take(&mut rejections.suppressed);
        self.events.push_back(Event::Rejected { from, reason: reason.to_string(), suppressed });
    }
}
