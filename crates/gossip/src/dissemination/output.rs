//! What the dissemination wants done.

use std::{net::SocketAddr, ops::Range};

use bytes::Bytes;

use super::message::Message;
use crate::membership::{NodeName, Target};

/// What the dissemination wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send these messages, in as few packets as possible, to each of these nodes; `route` goes in front
    /// of each packet.
    Packets { to: Vec<Target>, route: Option<Bytes>, messages: Vec<Bytes> },
    /// Send this message over a stream.
    Stream { to: SocketAddr, message: Bytes },
    /// Tell the application what another node published.
    Deliver(Message),
    /// Tell the application that messages of an origin cannot be had any more.
    Missed { origin: NodeName, epoch: u64, seqs: Range<u64> },
    /// Tell the application that a member is not waited for any longer.
    CutLoose(NodeName),
    /// A member of ours has been reminded again and again, and acknowledges nothing: maybe packets do not
    /// reach it, or its own do not arrive here.
    Silent(SocketAddr),
    /// Tell the application who has acknowledged what.
    Acks(Acks),
    /// Tell the application that a member is heard from another address than it announces.
    Elsewhere { name: NodeName, announced: SocketAddr, from: SocketAddr },
}

/// Who has acknowledged what of an origin's messages, as the origin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acks {
    /// The origin.
    pub origin: NodeName,
    /// Which life of it.
    pub epoch: u64,
    /// The members whose positions have changed: all of the origin's messages below that number, which are
    /// meant for it, are at that member. Now and then all members are told, changed or not.
    pub members: Vec<(NodeName, u64)>,
}
