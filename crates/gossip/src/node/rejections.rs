//! Input that was rejected: all of it is counted, and a few cases a second are reported.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Event, Node};
use crate::rate::RateLimiter;

/// How many rejections a second are reported to the application.
pub(super) const REJECTIONS_PER_SECOND: u32 = 10;

/// What was wrong, to count it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RejectionCause {
    Packet,
    Member,
    View,
    Message,
    Stream,
}

/// Limits the reports of rejections.
#[derive(Debug, Default)]
pub(super) struct RejectionLog {
    limit: RateLimiter,
    /// How many rejections were not reported since the last report.
    suppressed: u64,
}

impl Node {
    /// Counts a rejection, and reports it if the limit allows.
    pub(super) fn reject(&mut self, now: Instant, from: SocketAddr, cause: RejectionCause, reason: &dyn fmt::Display) {
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
