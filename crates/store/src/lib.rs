//! A replicated store: what must be agreed is agreed by Raft, in the data model of etcd.
//!
//! # The rooms, from the ground up
//!
//! | module | holds |
//! |---|---|
//! | [`keys`] | users' keys: revisions, transactions, history and watches; pure |
//! | [`machine`] | the state as a whole: the machines it consists of, leases, clients, versions, snapshots; pure |
//! | [`disk`] | a folder and whose it is; a simulated one for tests |
//! | [`log`] | the log on disk: one writer, one sync for all that waits |
//! | [`snapshot`] | snapshots as files |
//! | [`raft`] | all that touches openraft |
//! | [`backup`] | the state in a file, and founding a store anew from that |
//! | [`node`] | the store of a node: it votes or forwards, founds a cluster, times leases, serves watches |
//!
//! The replicated state reads no clock, draws nothing at random, and does no I/O. What the members agree on, an order of
//! [`machine::Command`]s, goes into [`machine::State::apply`]; an [`machine::Outcome`] comes out. Equal commands in an
//! equal order give equal states, equal outcomes, and snapshots with equal bytes, on every member.
//!
//! ```
//! use broadcast_store::{keys, machine::{At, Command, Outcome, State}};
//!
//! let mut state = State::new();
//! let put = keys::Command::Put(keys::Put { key: "color".into(), value: "green".into(), ..Default::default() });
//! // What the leader appends to its log, and every member reads from its own.
//! let entry = Command::keys(&put)?.encode();
//! let outcome = state.apply(At { index: 1, term: 1 }, &Command::decode(&entry)?)?;
//! assert!(matches!(outcome, Outcome::Keys(keys::Outcome::Put(put)) if put.revision == 2));
//!
//! let found = state.keys().range(&keys::Range::of("color"))?;
//! assert_eq!(found.kvs[0].value, "green");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs, unreachable_pub)]

pub mod backup;
mod codec;
mod cow_map;
pub mod disk;
mod error;
pub mod keys;
mod leases;
mod limits;
pub mod log;
pub mod machine;
pub mod node;
pub mod raft;
mod section;
pub mod snapshot;

pub use error::{Error, Malformed, SnapshotError, Stop};
pub use node::{Config, Store, StoreError};
