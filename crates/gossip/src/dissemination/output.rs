//! What the dissemination asks its owner to do.

use std::{net::SocketAddr, ops::Range};

use bytes::Bytes;

use super::message::Message;
use crate::membership::{NodeName, Target};

/// Something to be done by the node.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send these messages to each of these nodes, in as few packets as possible, with `route` in front of each packet.
    Packets { to: Vec<Target>, route: Option<Bytes>, messages: Vec<Bytes> },
    /// Send this message over a TCP stream.
    Stream { to: SocketAddr, message: Bytes },
    /// Deliver a message of another node to the application.
    Deliver(Message),
    /// Tell the application that messages of an origin cannot be had any more.
    Missed { origin: NodeName, epoch: u64, seqs: Range<u64> },
    /// Tell the application that a member was cut loose: publishers do not wait for it any longer.
    CutLoose(NodeName),
    /// A member of ours was reminded several times and acknowledges nothing. Its packets, or this node's, may not arrive.
    Unresponsive(SocketAddr),
    /// Tell the application who has acknowledged what.
    Acks(Acks),
    /// Tell the application that a member's packets come from another address than it announces.
    AddressMismatch { name: NodeName, announced: SocketAddr, from: SocketAddr },
}

/// Which members have which of an origin's messages, as the origin reports. [`Node::watch`](crate::node::Node::watch) asks for
/// these reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acks {
    /// The origin.
    pub origin: NodeName,
    /// The epoch of the origin.
    pub epoch: u64,
    /// The members whose positions have changed: each has all of the origin's messages below its number that it is owed. Now
    /// and then all members are listed, changed or not.
    pub members: Vec<(NodeName, u64)>,
}
