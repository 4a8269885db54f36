//! Stands in for the crate of this name, which openraft counts with: how many entries a batch has, and the like.
//!
//! Nothing here reads these counts: that takes openraft's feature `runtime-stats`, which is off. But the first histogram of
//! the real crate makes tables for all resolutions that there can be, 27 MB of them, which stay in memory. That is twice
//! what a voter takes otherwise. So these histograms count nothing, and `[patch]` in the workspace's `Cargo.toml` puts
//! them in the other ones' place. Whoever embeds `broadcast-store` in a program of their own gets the real ones, unless
//! they do the same.

#![deny(missing_docs, unreachable_pub)]

use std::{fmt, marker::PhantomData};

/// A histogram that counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }

    /// Takes a value, and forgets it.
    pub fn record(&mut self, _: u64) {}

    /// Takes a value so many times, and forgets it.
    pub fn record_n(&mut self, _: u64, _: u64) {}

    /// How many values it has.
    #[must_use]
    pub fn total(&self) -> u64 {
        0
    }

    /// What can be told of the values.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// What can be told of no values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are all 0, and named after what part of the values is lower")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not counted")
    }
}

/// A picture of histograms: nothing.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// The same, for there is nothing to draw.
    #[must_use]
    pub fn add(self, _: impl Into<String>, _: Histogram) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
