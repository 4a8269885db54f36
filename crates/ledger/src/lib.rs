//! Tells from the logs of a cluster's nodes whether every live one heard every message, once and in order.
//!
//! The messages are those of the demo's senders, of `broadcast node --role sender`: their keys say who sent them, and
//! their values are a Lamport clock's, so that no two messages of one life of a node have the same value. [`Entry`]
//! reads a line of a log, as text or as JSON; [`judge`] takes the [`Life`] of each node and gives a [`Verdict`].
//!
//! JSON tells which life of a sender a message is from. Text does not: a value that several lives of a sender have
//! sent is then only counted.

#![deny(missing_docs, unreachable_pub)]

mod entry;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod judge;
mod verdict;

pub use entry::Entry;
pub use judge::{Duty, Life, judge};
pub use verdict::{Fault, Verdict, Wrong};
