//! Local health: how far a node takes itself to be slow.
//!
//! Lifeguard's local health multiplier (arXiv 1707.00788, section IV-A). A node that misses answers that it should have
//! got, or hears that it is suspected, concludes that it is itself slow and gives others more time: its probes last longer
//! before it suspects. The paper also stretches the wait for the direct answer. memberlist does not, nor does this: the time
//! gained goes to the members asked for help.

use std::time::Duration;

/// The health score: from 0 (healthy) to one less than the configured maximum.
#[derive(Debug)]
pub(crate) struct Awareness {
    score: u32,
    max: u32,
}

impl Awareness {
    /// A healthy node's score, which multiplies timeouts by at most `max_multiplier`.
    pub(crate) fn new(max_multiplier: u32) -> Self {
        Self { score: 0, max: max_multiplier.max(1) - 1 }
    }

    /// The score; 0 is healthy.
    pub(crate) fn score(&self) -> u32 {
        self.score
    }

    /// Adds `delta` to the score: positive is worse.
    pub(crate) fn apply(&mut self, delta: i32) {
        self.score = self.score.saturating_add_signed(delta).min(self.max);
    }

    /// `timeout`, multiplied as this node's health demands.
    pub(crate) fn scale(&self, timeout: Duration) -> Duration {
        timeout * (self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_within_its_bounds() {
        let second = Duration::from_secs(1);
        let mut awareness = Awareness::new(8);
        for (delta, scaled) in [(0, 1), (-1, 1), (1, 2), (3, 5), (10, 8), (-2, 6), (-100, 1)] {
            awareness.apply(delta);
            assert_eq!(awareness.scale(second), second * scaled, "after {delta}");
        }
    }
}
