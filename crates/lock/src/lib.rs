//! Distributed locks, semaphores and elections, on the replicated store.
//!
//! ```no_run
//! # async fn example(store: broadcast_store::Store) -> Result<(), broadcast_lock::LockError> {
//! use broadcast_lock::LockClient;
//!
//! let locks = LockClient::new(store, "node1");
//! let guard = locks.lock("jobs/nightly").await?;
//! // Send the token along with each write: the receiver refuses tokens lower than the highest it has seen.
//! println!("held, with token {}", guard.token());
//! guard.release().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **One holder at a time**, as long as holders heed their deadline ([`LockGuard::deadline`]).
//! - **A fencing token** with each grant, greater than all before. Where a holder cannot heed its deadline, the token protects:
//!   whoever receives a write refuses tokens lower than the highest it has seen.
//! - **No lock is lost** when a minority of the voters crashes.
//! - **A holder learns in time** that it has lost the lock, by its deadline, as long as it runs. A process that is paused
//!   learns nothing, and then only the token protects. No lock service can promise more in a network that may delay
//!   everything (Martin Kleppmann, *How to do distributed locking*, 2016; Jepsen's tests of etcd, 2020).
//!
//! # Terms
//!
//! They are those of Chubby, ZooKeeper and Consul.
//!
//! - A **session** is a client of the lock service. It has a time to live, and lives as long as keep-alives come within it.
//!   When it ends, all its locks are released by the same command. It is a lease of the store.
//! - A request for a lock becomes an **entry** in the lock's **queue**. It is a **waiter** first, and a **holder** once the
//!   lock is granted.
//! - An entry's **token** is the revision of the store at which it was queued. So no two are the same, and in each lock a
//!   holder has a greater token than all holders before it.
//! - The **lock delay** is how long the locks of an expired session stay taken, for a holder that has not noticed yet.
//! - A **fence** remembers the highest token seen, for a resource that cannot compare tokens itself.
//! - An **election** is an exclusive lock whose holder, the **leader**, publishes a value. Those who wait **campaign**.
//!
//! # How it works
//!
//! [`Locks`] is the state machine: the voters of the store have it. [`LockClient`] is what a node uses. [`message`] is what
//! they send each other.
//!
//! - **Grants go by the order of the queue.** An exclusive entry is granted when it is the first. A shared one is granted
//!   together with those before it, if all these are shared: so a writer waits for the readers before it, and for none after
//!   it. An entry of a semaphore is granted when fewer entries are before it than there are permits.
//! - **One command releases and grants.** It takes an entry out and grants the lock to those that follow. So there is no moment
//!   at which nobody holds what somebody waits for.
//! - **Several locks at once** are one entry, in all their queues. It has one token, so its order is the same in all queues,
//!   and nobody waits in a circle.
//! - **Clients of etcd** that follow its recipe for locks wait in the same queues: their keys are entries, and entries are
//!   keys.
//!
//! # One lock, step by step
//!
//! 1. [`LockClient::lock`] draws an id for a session and calls [`LockClient::enqueue`]. That sends one command,
//!    [`LockCommand::Acquire`](message::LockCommand::Acquire), by [`LockClient::execute`].
//! 2. The store's leader puts it into the log. Each voter carries it out: `Locks::apply` calls `execute`, then `acquire`, which
//!    opens the session (`open`), puts the entry into the queue (`insert`), and grants it if it may be granted (`grant`).
//! 3. The leader answers with the token. The client has a [`Waiter`](client::Waiter), which waits for the event
//!    [`Granted`](message::EntryChange::Granted); [`Session`] sends keep-alives meanwhile.
//! 4. Whoever holds the lock releases it, or its session ends: `remove` takes its entry out, and `grant` grants the next.
//! 5. The event comes back, and [`LockClient::lock`] returns the [`LockGuard`].
//!
//! # What can go wrong
//!
//! - *A holder is killed, or cut off*: its session expires. The next one is granted after its time to live and its lock delay.
//! - *The leader of the store is lost*: the next leader lets all leases run anew, in full. A holder that reaches it within its
//!   time to live keeps its lock. Another one gives the lock up by its own deadline, and the next grant is later than it could
//!   be, but never too early.
//! - *A clock jumps*: nothing here reads the time of day, but to show since when a lock is held.
//! - *A client asks twice*: a session has at most one entry in a queue. The second request is refused
//!   ([`Refusal::AlreadyQueued`]).
//! - *A waiter vanishes*: its session expires, and its entry goes with it.

#![deny(missing_docs, unreachable_pub)]

pub mod client;
mod error;
pub mod machine;
pub mod message;
mod name;
mod refusal;

pub use client::{LockClient, LockGuard, Session};
pub use error::LockError;
pub use machine::Locks;
pub use message::{LockSessionConfig, Mode};
pub use name::{MAX_NAME_BYTES, Name, NameError};
pub use refusal::Refusal;

#[doc(hidden)]
#[deprecated(note = "renamed to `LockClient`")]
pub type Client = LockClient;
#[doc(hidden)]
#[deprecated(note = "renamed to `LockGuard`")]
pub type Guard = LockGuard;
#[doc(hidden)]
#[deprecated(note = "renamed to `LockSessionConfig`")]
pub type SessionConfig = LockSessionConfig;
