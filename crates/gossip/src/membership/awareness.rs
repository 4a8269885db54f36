//! Local health: how much a node trusts its own sense of time.
//!
//! Lifeguard's local health multiplier (arXiv 1707.00788, section IV-A). A node that misses answers it
//! should have had, or is told that it is suspected, concludes that it is itself slow and gives others
//! more time: its probes last longer before it suspects. The paper stretches the wait for the direct answer
//! as well; memberlist does not, and nor does this: what is gained goes to those asked for help.

use std::time::Duration;

/// A score from 0 (healthy) to one less than the configured maximum.
#[derive(Debug)]
pub(crate) struct Awareness {
    score: u32,
    max: u32,
}

impl Awareness {
    /// Healthy; scales by at most `max_multiplier`.
    pub(crate) fn new(max_multiplier: u32) -> Self {
        Self { score: 0, max: max_multiplier.max(1) - 1 }
    }

    /// 0 is healthy.
    pub(crate) fn score(&self) -> u32 {
        self.score
    }

    /// Worse by `delta`, or better when it is negative.
    pub(crate) fn apply(&mut self, delta: i32) {
        self.score = self.score.saturating_add_signed(delta).min(self.max);
    }

    /// `timeout`, stretched as this node's health demands.
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
