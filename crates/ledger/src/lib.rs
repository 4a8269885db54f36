//! Checks by the logs of a cluster's nodes that every live node received every message, once and in order. `broadcast chaos`
//! and the tests use it.
//!
//! The messages are those of the demo, of `broadcast node --role sender`: their keys name the sender, and their values are
//! those of a Lamport clock, so that no two messages of one life of a node have the same value. [`LogEntry`]
//! reads a line of a log, as text or as JSON; [`judge`] takes the [`Life`] of each node and gives a [`Verdict`].
//!
//! JSON logs have the epoch of each message, which tells the lives of a sender apart. Text logs do not: a value that several
//! lives of a sender have sent is then only counted.

#![deny(missing_docs, unreachable_pub)]

mod entry;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod judge;
mod verdict;

pub use entry::LogEntry;
pub use judge::{Life, Obligation, judge};
pub use verdict::{Anomaly, AnomalyKind, Verdict};
