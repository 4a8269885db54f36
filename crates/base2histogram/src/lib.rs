//! A stub of the crate of this name, which openraft uses for statistics such as the sizes of batches.
//!
//! Nothing here reads these statistics: openraft's feature `runtime-stats` is off. But the first histogram of the real crate
//! allocates lookup tables for all possible resolutions, 27 MB, which stay in memory. That is twice the memory that a voter needs
//! otherwise. So these histograms count nothing, and `[patch]` in the workspace's `Cargo.toml` replaces the real crate by this
//! one. A program that embeds `broadcast-store` gets the real crate, unless it does the same.
//!
//! ```
//! let mut histogram = base2histogram::Histogram::<()>::new();
//! histogram.record(7);
//! assert_eq!(histogram.total(), 0);
//! ```

#![deny(missing_docs, unreachable_pub)]

use std::{fmt, marker::PhantomData};

/// A histogram that counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram<T = ()>(PhantomData<T>);

impl<T> Histogram<T> {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> Self {
        Self(PhantomData)
    }

    /// Ignores a value.
    pub fn record(&mut self, _: u64) {}

    /// Ignores a value that comes so many times.
    pub fn record_n(&mut self, _: u64, _: u64) {}

    /// The number of values: none.
    #[must_use]
    pub fn total(&self) -> u64 {
        0
    }

    /// The percentiles of no values.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Percentiles, which are all 0. [`Histogram::percentile_stats`] returns them.
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

/// A chart of histograms, which is empty.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty chart.
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// The same chart.
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
