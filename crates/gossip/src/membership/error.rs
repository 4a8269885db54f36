//! Why a message about members is refused.

use std::net::SocketAddr;

use super::{NodeName, PROTOCOLS};
use crate::wire::limits;

/// Why a message was refused. The texts reach the application, as reasons of [`Event::Rejected`](crate::Event::Rejected).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MembershipError {
    #[error("a ping for \"{0}\" arrived, which is not this node's name; does its address belong to another node now?")]
    PingForOther(NodeName),
    #[error(
        "node \"{name}\" speaks protocol versions {min} to {max} (currently {current}), this node {} to {}; \
         run versions that overlap",
        PROTOCOLS.start(), PROTOCOLS.end()
    )]
    ProtocolVersion { name: NodeName, min: u8, max: u8, current: u8 },
    #[error(
        "node \"{name}\" has {kind} version {version}, but this cluster needs {min} to {max}; run versions that overlap"
    )]
    IncompatibleVersion { name: NodeName, kind: &'static str, version: u8, min: u8, max: u8 },
    #[error(
        "node \"{name}\" understands {kind} versions {min} to {max}, but this cluster speaks {version}; \
         run versions that overlap"
    )]
    VersionNotUnderstood { name: NodeName, kind: &'static str, version: u8, min: u8, max: u8 },
    #[error("node \"{name}\" was not let in: {max} members are known already; is `max_members` too small?")]
    TooManyMembers { name: NodeName, max: usize },
    #[error("node \"{name}\" is said to have incarnation {incarnation}, far above the known {known}")]
    IncarnationLeap { name: NodeName, incarnation: u32, known: u32 },
    #[error("a node that is not a member asked for a ping to {0}, which is not a member either; the ping is not sent")]
    RelayForStranger(SocketAddr),
    #[error("a node without a name announces itself at {0}; give it one")]
    NoName(SocketAddr),
    #[error("node \"{0}\" announces no usable address ({1})")]
    UnusableAddress(NodeName, SocketAddr),
    #[error("node \"{name}\" was not let in: {addr} is in none of the networks of `allow`")]
    NetworkNotAllowed { name: NodeName, addr: SocketAddr },
    #[error("node \"{name}\" was not admitted by this node's application: {reason}")]
    NotAdmitted { name: NodeName, reason: String },
    #[error("a view of {nodes} nodes was not admitted by this node's application: {reason}")]
    ViewNotAdmitted { nodes: usize, reason: String },
    #[error(
        "the acknowledgement of node \"{name}\" carries {size} bytes, which are ignored: at most {} are allowed",
        limits::ACK_PAYLOAD
    )]
    AckPayloadTooLong { name: NodeName, size: usize },
}
