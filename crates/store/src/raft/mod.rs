//! The adapter to [openraft](https://docs.rs/openraft): its types for this store, its settings, and our log, state and network
//! behind its traits.
//!
//! Nothing else in this crate names openraft, so its next version changes only this module.
//!
//! - [`TypeConfig`] says what Raft replicates: a [`Proposal`] is bytes that only the state can read, so a voter
//!   replicates what a later release has proposed. A [`RaftNode`] has only a name: its address comes by gossip.
//! - [`settings`] has openraft's settings, each with its reason.
//! - [`LogStore`] is our log behind openraft's trait.
//! - [`Consensus`] is one voter's part in Raft, in this crate's terms, with its messages as calls of sessions.
//! - [`StateMachine`] keeps a [`ReplicatedState`], applies entries to it, and builds and installs its snapshots.
//! - `offline` reads and writes what Raft keeps on a disk that no voter uses.
//!
//! **One leader a term.** openraft can number leaders by term and node, so that two may lead in one term, one after the
//! other (`leader_id_adv`), or by term alone, as in Raft's paper (`leader_id_std`). Here it is the term alone: a lease's
//! expiry names the term it was decided in, and must be refused in any other leader's.
//!
//! **Two runtimes.** All is generic over [`StoreTypes`], which `TypeConfig` is, and with the feature `sim` also
//! `SimTypeConfig`: the very same code runs on openraft's simulated runtime, where blocking work runs at once.

mod codec;
mod config;
mod consensus;
mod log_store;
mod network;
mod offline;
mod state_machine;
mod types;

pub use config::settings;
#[doc(hidden)]
pub use consensus::read_index;
pub use consensus::{BasicStatus, Consensus, ConsensusError, MAX_SNAPSHOT, RaftStatus, RaftStatusReceiver};
pub use log_store::{LogStore, LogStoreReader};
pub use network::{MAX_MESSAGE, RAFT, SNAPSHOT};
pub(crate) use offline::{OfflineEntry, decode_entry, single_voter, snapshot_members};
pub use state_machine::{
    CommittedEntry, EntryContent, EntryError, ReplicatedState, SharedState, SnapshotBuilder, StateMachine,
};
#[cfg(feature = "sim")]
pub use types::SimTypeConfig;
pub use types::{Proposal, ProposalResponse, RaftNode, StoreTypes, TypeConfig};
