//! Distributed locks, semaphores and elections, on the replicated store.
//!
//! # The promise
//!
//! One holder at a time, as long as holders heed their deadline. Where they may not, each grant has a *fencing token* that
//! only grows, and a check that refuses older ones. No lock is lost by the crash of a minority of the voters. A holder knows
//! within its time to live that it lost the lock, as long as it runs itself: a process that is stopped knows nothing, and
//! then only the token protects. No lock service can promise more in a network that may delay everything (Kleppmann, *How
//! to do distributed locking*, 2016; the tests of etcd by Jepsen, 2020).
//!
//! # How it works
//!
//! - A **session** is a client of locks. It lives as long as somebody keeps it alive, on a lease of the store, and all that
//!   it holds ends with it, in one command.
//! - A request for a lock takes a **place** in the lock's queue. The place has a number, its **token**: the revision of the
//!   store at which it was taken, so no two places have the same, and each is greater than all before. Whoever holds a lock
//!   has a place in its queue, too.
//! - Places are granted in their order. An exclusive place is granted when it is the first. Shared ones are granted together
//!   with those before them, as long as these are shared, so a writer waits for the readers before it and for none after
//!   it. Places of a semaphore are granted as long as there are fewer before them than it has permits. So in each lock a
//!   holder has a greater token than all holders before it.
//! - One command both takes a place out and grants those that follow. So there is no time in which nobody holds what
//!   somebody waits for.
//! - An **election** is an exclusive lock whose holder says something about itself, its value.
//! - Several locks at once are taken with one place that stands in all of their queues. The order is the same in all, so
//!   nobody waits in a circle.
//! - A **fence** keeps the highest token seen, for a resource outside that cannot compare tokens itself.
//!
//! [`Locks`] is the state machine, which the voters have. [`Client`] is what a node does with it.
//!
//! # What can go wrong
//!
//! - *A holder is killed, or cut off*: its lease ends, after its time to live and the lock-delay that it asked for, and the
//!   next one is granted.
//! - *The voter that leads is lost*: the next one has all leases run anew, in full. A holder keeps its lock meanwhile if it
//!   gets through to the new leader within its time to live; else it gives it up by its own deadline, and the lock is
//!   granted later than it could be, and never earlier.
//! - *A clock jumps*: nothing here reads a calendar clock, but to show since when a lock is held.
//! - *A client asks twice*: a session has at most one place in a queue; who asks again is told of that.
//! - *Whoever waits vanishes*: its session ends, and its place with it.

#![deny(missing_docs, unreachable_pub)]

pub mod client;
mod error;
pub mod machine;
pub mod message;
mod name;
mod refusal;

pub use client::{Client, Guard, Session};
pub use error::LockError;
pub use machine::Locks;
pub use message::{Mode, SessionConfig};
pub use name::{MAX_NAME, Name, NameError};
pub use refusal::Refusal;
