//! What Raft replicates, and on what it runs.

use std::fmt;
use std::future::Future;
use std::io;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use serde::{Deserialize, Serialize};

/// What a client proposes: a command to the state, in the state's own encoding. See [`Consensus::propose`](super::Consensus::propose).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

/// The state's answer to a [`Proposal`], in the state's own encoding.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalResponse(pub Bytes);

/// What Raft knows of a member besides its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    /// Its name in the gossip, by which its address is found.
    pub name: String,
}

// Values may be secret, and large: what is logged says how long they are.
impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for ProposalResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} bytes)", self.0.len())
    }
}

pub(super) type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
pub(super) type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(super) type Payload = openraft::EntryPayload<Proposal, u64, RaftNode>;
pub(super) type RaftEntry = openraft::Entry<CommittedLeaderId, Payload>;
pub(super) type RaftVote = openraft::Vote<LeaderId>;
pub(super) type RaftLogId = openraft::LogId<CommittedLeaderId>;
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, RaftNode>;
pub(super) type RaftSnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, RaftNode>;

openraft::declare_raft_types!(
    /// What Raft replicates, on Tokio.
    pub TypeConfig:
        D = Proposal,
        R = ProposalResponse,
        NodeId = u64,
        Node = RaftNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
);

#[cfg(feature = "sim")]
openraft::declare_raft_types!(
    /// What Raft replicates, on openraft's simulated runtime.
    pub SimTypeConfig:
        D = Proposal,
        R = ProposalResponse,
        NodeId = u64,
        Node = RaftNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = openraft_rt_sim::SimRuntime,
);

/// The same types, on any runtime.
pub trait StoreTypes:
    RaftTypeConfig<
        D = Proposal,
        R = ProposalResponse,
        NodeId = u64,
        Node = RaftNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::Vote<openraft::impls::leader_id_std::LeaderId<u64, u64>>,
        Payload = openraft::EntryPayload<Proposal, u64, RaftNode>,
        Entry = openraft::Entry<
            <openraft::impls::leader_id_std::LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed,
            openraft::EntryPayload<Proposal, u64, RaftNode>,
        >,
    >
{
    /// Runs what blocks or computes for long where it holds up nobody.
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send;
}

impl StoreTypes for TypeConfig {
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
    }
}

// Time does not pass while it computes, and there is one thread.
#[cfg(feature = "sim")]
impl StoreTypes for SimTypeConfig {
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        Ok(work())
    }
}
