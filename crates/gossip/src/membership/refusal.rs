//! Why a message was not believed.

use std::net::SocketAddr;

use super::{NodeName, PROTOCOLS};
use crate::wire::limits;

/// Why a message was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a ping for \"{0}\" arrived, which is not this node's name; does its address belong to another node now?")]
    NotMe(NodeName),
    #[error(
        "node \"{name}\" speaks protocol versions {min} to {max} (currently {current}), this node {} to {}; \
         run versions that overlap",
        PROTOCOLS.start(), PROTOCOLS.end()
    )]
    Protocol { name: NodeName, min: u8, max: u8, current: u8 },
    #[error(
        "node \"{name}\" has {kind} version {version}, but this cluster needs {min} to {max}; run versions that overlap"
    )]
    Incompatible { name: NodeName, kind: &'static str, version: u8, min: u8, max: u8 },
    #[error(
        "node \"{name}\" understands {kind} versions {min} to {max}, but this cluster speaks {version}; \
         run versions that overlap"
    )]
    Deaf { name: NodeName, kind: &'static str, version: u8, min: u8, max: u8 },
    #[error("node \"{name}\" was not let in: {max} members are known already; is `max_members` too small?")]
    Full { name: NodeName, max: usize },
    #[error("node \"{name}\" is said to have incarnation {incarnation}, far above the known {known}")]
    Leap { name: NodeName, incarnation: u32, known: u32 },
    #[error("a node that is not a member asked for a ping to {0}, which is not a member either; the ping is not sent")]
    Errand(SocketAddr),
    #[error("a node without a name announces itself at {0}; give it one")]
    NoName(SocketAddr),
    #[error("node \"{0}\" announces no usable address ({1})")]
    NoAddress(NodeName, SocketAddr),
    #[error("node \"{name}\" was not let in: {addr} is in none of the networks of `allow`")]
    Outside { name: NodeName, addr: SocketAddr },
    #[error("node \"{name}\" was not admitted by this node's application: {reason}")]
    NotAdmitted { name: NodeName, reason: String },
    #[error("a view of {nodes} nodes was not admitted by this node's application: {reason}")]
    ViewNotAdmitted { nodes: usize, reason: String },
    #[error(
        "the acknowledgement of node \"{name}\" carries {size} bytes, which are ignored: at most {} are allowed",
        limits::ACK_PAYLOAD
    )]
    AckPayload { name: NodeName, size: usize },
}
