//! What a node tells its application.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    config::{NodeId, NodeInfo, Seed},
    member::{Member, NodeName},
};

/// Something the application wants to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A member came, or came back.
    Joined(Member),
    /// A member said good-bye. In a serf cluster this may be said for one that has failed, and was told as that.
    Left(Member),
    /// A member stopped answering.
    Failed(Member),
    /// A member changed its metadata or its address.
    Updated(Member),
    /// Messages cannot be had any more: nobody retains them. What their origin said after them follows.
    Missed {
        /// Who published them.
        origin: NodeName,
        /// Which life of it.
        epoch: u64,
        /// The number of the first one.
        from: u64,
        /// The number after the last one.
        to: u64,
    },
    /// A member has not kept up with what this node publishes for so long that it is not waited for any
    /// more. It may miss messages, and is told then.
    CutLoose(NodeName),
    /// What a member says comes from another address than it announces: one that a gateway put on it, or another
    /// one of its host. It is heard all the same, and answered at the one that it announces. Told once, until
    /// it is gone.
    HeardElsewhere {
        /// The member.
        name: NodeName,
        /// Where it says that it is.
        announced: SocketAddr,
        /// Where its packets come from.
        from: SocketAddr,
    },
    /// A member is reached otherwise than before: over TCP only, say, as a firewall drops datagrams.
    Reached {
        /// The member.
        name: NodeName,
        /// Where it listens.
        addr: SocketAddr,
        /// How it is reached from now on.
        reach: Reach,
    },
    /// Agents of a serf cluster do not get messages of this node as events; our nodes get them all the same.
    /// Told at once, and then every 10 s at most.
    NoSerfEvent {
        /// How many, since this was told last.
        count: u64,
        /// Why the last of them is none.
        reason: String,
    },
    /// This node can publish again, after [`PublishError::WouldBlock`](crate::PublishError::WouldBlock).
    Room,
    /// Two live nodes claim the same name.
    NameConflict {
        /// The name.
        name: NodeName,
        /// Who has it, as far as this node knows.
        holder: SocketAddr,
        /// Who claims it too.
        claimant: SocketAddr,
    },
    /// A member that is a node of this crate has told about itself, for the first time or something new.
    Introduced {
        /// The member.
        name: NodeName,
        /// What it tells.
        info: Arc<NodeInfo>,
    },
    /// Two live nodes have the same identity, as where the data of one was copied for the other.
    IdConflict {
        /// The identity.
        id: NodeId,
        /// Their names. The first may be this node.
        names: [NodeName; 2],
    },
    /// A member answered a ping at once. Told only if [`Config::report_probes`](crate::Config::report_probes)
    /// asks for it: each second another member's, at the usual pace.
    Probed {
        /// The member.
        name: NodeName,
        /// How long that took.
        rtt: Duration,
        /// What the member has its acknowledgements carry; nothing if that is more than 512 bytes.
        payload: Bytes,
    },
    /// This node has joined the cluster: a seed answered, or there are none to ask.
    Ready,
    /// A seed could not be reached, for about a second by now; it is tried again.
    SeedUnreachable {
        /// The seed, as configured.
        seed: Seed,
        /// What went wrong.
        reason: String,
    },
    /// Something arrived that cannot be used, and was dropped. Told for the first ten a second.
    Rejected {
        /// Who sent it.
        from: SocketAddr,
        /// What was wrong with it.
        reason: String,
        /// How many more were dropped since the last time this was told, untold.
        untold: u64,
    },
    /// This node has told the others that it leaves, as far as they can be told.
    LeaveComplete,
}

/// How a member is reached with messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// By datagrams, and large messages over TCP: as usual.
    #[default]
    Datagrams,
    /// By datagrams of up to so many bytes. Larger ones do not arrive, so that what does not fit goes over TCP.
    SmallDatagrams(usize),
    /// Over TCP only: datagrams do not arrive, or the member's own do not arrive here.
    Streams,
}
