//! A host, and the events that concern it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use bytes::Bytes;

use crate::{
    config::Seed,
    member::NodeName,
    node::{Action, Node, StreamId, Transmit},
    sim::event_queue::VirtualTime,
};

/// A host, by its number.
pub(crate) type HostId = usize;

/// The name of a host, and of the nodes that run on it.
pub(crate) fn host_name(host: HostId) -> String {
    format!("n{host}")
}

/// A stream, numbered in the order of opening.
pub(super) type ConnectionId = u64;

/// One end of a stream, and the flow towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Opener = 0,
    Acceptor = 1,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Opener => Self::Acceptor,
            Self::Acceptor => Self::Opener,
        }
    }
}

/// An event in the [`EventQueue`](crate::sim::event_queue::EventQueue).
#[derive(Debug)]
pub(super) enum ScheduledEvent {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        payload: Bytes,
    },
    Timer {
        host: HostId,
    },
    Flow {
        connection: ConnectionId,
        side: Side,
    },
    Lookup {
        host: HostId,
        life: u32,
        seed: Seed,
    },
    /// A node gets its host's new address.
    Address {
        host: HostId,
        life: u32,
    },
    /// Scheduled by the owner of the network, for itself.
    Callback(u64),
}

/// How much a host has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostTraffic {
    pub(crate) packets: u64,
    pub(crate) packet_bytes: u64,
    pub(crate) stream_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: NodeName,
    pub(super) addr: SocketAddr,
    /// The source address of what it sends, if that is another one.
    pub(super) source: Option<SocketAddr>,
    /// Its address has changed since its node started.
    pub(super) has_moved: bool,
    pub(super) node: Option<Box<Node>>,
    /// How many nodes have been started here.
    pub(super) life: u32,
    /// When the event for its node's deadline comes up.
    pub(super) timer_at: Option<VirtualTime>,
    pub(super) paused: bool,
    /// Its messages wait in both directions, but its deadlines pass.
    pub(super) muted: bool,
    /// What has arrived while the host is stalled.
    pub(super) inbox: VecDeque<ScheduledEvent>,
    pub(super) inbox_bytes: usize,
    /// What the node wants to send and do while it is muted.
    pub(super) outbox: VecDeque<OutboxItem>,
    pub(super) outbox_bytes: usize,
    pub(super) streams: BTreeMap<StreamId, (ConnectionId, Side)>,
    /// Sent in all its lives.
    pub(super) traffic: HostTraffic,
}

impl Host {
    /// One without a node.
    pub(super) fn new(name: NodeName, addr: SocketAddr) -> Self {
        Self {
            name,
            addr,
            source: None,
            has_moved: false,
            node: None,
            life: 0,
            timer_at: None,
            paused: false,
            muted: false,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            streams: BTreeMap::new(),
            traffic: HostTraffic::default(),
        }
    }

    /// Whether arriving events wait in the inbox.
    pub(super) fn is_stalled(&self) -> bool {
        self.paused || self.muted
    }

    /// The source address of what it sends.
    pub(super) fn sends_from(&self) -> SocketAddr {
        self.source.unwrap_or(self.addr)
    }
}

/// What a muted host cannot send or do yet.
#[derive(Debug)]
pub(super) enum OutboxItem {
    Datagram(Transmit),
    Action(Action),
}
