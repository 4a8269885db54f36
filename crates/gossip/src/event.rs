//! What a node tells its application, apart from messages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    config::{NodeId, NodeInfo, Seed},
    member::{Member, NodeName},
};

/// Something happened that the application may want to know. [`Handle::events`](crate::Handle::events) follows them;
/// [`Event::Missed`] also stands among the messages, in the place of those that are gone.
///
/// ```
/// use broadcast::Event;
///
/// fn describe(event: &Event) -> Option<String> {
///     match event {
///         Event::Joined(member) => Some(format!("{} is here, at {}", member.name, member.addr)),
///         Event::Left(member) => Some(format!("{} has left", member.name)),
///         Event::Failed(member) => Some(format!("{} has failed", member.name)),
///         // There are more, and later releases may add some.
///         _ => None,
///     }
/// }
/// assert_eq!(describe(&Event::Ready), None);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A member came, or came back.
    Joined(Member),
    /// A member said goodbye. In a serf cluster, others can say so later of a member that was told as failed.
    Left(Member),
    /// A member stopped answering.
    Failed(Member),
    /// A member changed its metadata or its address.
    Updated(Member),
    /// Nobody retains these messages any more, so this node never gets them. What their origin published after them
    /// follows.
    Missed {
        /// The node that published them.
        origin: NodeName,
        /// The run of that node.
        epoch: u64,
        /// The number of the first one.
        from: u64,
        /// The number after the last one.
        to: u64,
    },
    /// A member has acknowledged nothing for the [lag limit](crate::Retention::lag_limit), so publishers wait for it no
    /// longer. It may miss messages, and then gets [`Event::Missed`].
    LagLimitExceeded(NodeName),
    /// A member's packets come from another address than it announces: a gateway changes it, or its host has several.
    /// What it says counts all the same, and answers go to the address that it announces. Told once, until it is gone.
    AddressMismatch {
        /// The member.
        name: NodeName,
        /// The address that it announces.
        announced: SocketAddr,
        /// The address that its packets come from.
        from: SocketAddr,
    },
    /// The way in which this node reaches a member has changed: it now uses only TCP, say, as a firewall drops
    /// datagrams.
    ReachChanged {
        /// The member.
        name: NodeName,
        /// The member's address.
        addr: SocketAddr,
        /// How this node reaches it from now on.
        reach: Reach,
    },
    /// Messages of this node do not reach the agents of a serf cluster as events; nodes of this crate get them all the
    /// same. Told at once, and then every 10 s at most.
    SerfEventDropped {
        /// How many messages, since this was last told.
        count: u64,
        /// Why the last of them is no event.
        reason: String,
    },
    /// This node can publish again, after [`PublishError::WouldBlock`](crate::PublishError::WouldBlock).
    PublishReady,
    /// Two live nodes claim the same name.
    NameConflict {
        /// The name.
        name: NodeName,
        /// The address of the node that has it, as far as this node knows.
        holder: SocketAddr,
        /// The address of the other one.
        claimant: SocketAddr,
    },
    /// A member that is a node of this crate has told its [info](NodeInfo), for the first time or a new one.
    InfoReceived {
        /// The member.
        name: NodeName,
        /// Its info.
        info: Arc<NodeInfo>,
    },
    /// Two live nodes have the same identity: probably the data of one was copied for the other.
    IdConflict {
        /// The identity.
        id: NodeId,
        /// The two nodes. The first may be this one.
        names: [NodeName; 2],
    },
    /// A member answered a ping at once. Told only if [`Config::report_probes`](crate::Config::report_probes) asks for
    /// it: each second about another member, at the usual pace.
    Probed {
        /// The member.
        name: NodeName,
        /// The round-trip time.
        rtt: Duration,
        /// What the member's acknowledgements carry; empty if that is more than 512 bytes.
        payload: Bytes,
    },
    /// This node has joined the cluster: a seed answered, or there are no seeds.
    Ready,
    /// A seed could not be reached for about a second; the node goes on trying.
    SeedUnreachable {
        /// The seed, as configured.
        seed: Seed,
        /// What went wrong.
        reason: String,
    },
    /// Something arrived that cannot be used, and was dropped. Told for the first ten in a second.
    Rejected {
        /// The sender's address.
        from: SocketAddr,
        /// What is wrong with it.
        reason: String,
        /// How many more were dropped, but not told, since this was last told.
        suppressed: u64,
    },
    /// This node has told the others that it leaves, as far as they can be told.
    LeaveComplete,
}

/// How a node reaches a member with messages. [`Event::ReachChanged`] tells when that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// By datagrams, and for large messages over TCP: the usual way.
    #[default]
    Datagrams,
    /// By datagrams of up to this many bytes, since larger ones do not arrive. What does not fit goes over TCP.
    SmallDatagrams(usize),
    /// Only over TCP: datagrams do not arrive, in one direction or both.
    Streams,
}
