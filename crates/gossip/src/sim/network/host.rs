//! A host, and what is on its way to it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use bytes::Bytes;

use crate::{
    config::Seed,
    member::NodeName,
    node::{Action, Node, StreamId, Transmit},
    sim::agenda::Time,
};

/// A host, by its number.
pub(crate) type HostId = usize;

/// A stream, by the order in which they were opened.
pub(super) type ConnectionId = u64;

/// One end of a stream, by where it was opened; and what flows towards it.
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

/// Something that is to happen.
#[derive(Debug)]
pub(super) enum Due {
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
    /// A node is told where it is.
    Address {
        host: HostId,
        life: u32,
    },
    /// Not the network's: whoever runs it has asked to be called.
    Call(u64),
}

/// What a host has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) packet_bytes: u64,
    pub(crate) stream_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: NodeName,
    pub(super) addr: SocketAddr,
    /// Where what it sends comes from, if not from there.
    pub(super) source: Option<SocketAddr>,
    /// Its address has changed since its node was started.
    pub(super) has_moved: bool,
    pub(super) node: Option<Box<Node>>,
    /// How many nodes have been started here.
    pub(super) life: u32,
    /// When the agenda calls its deadline up.
    pub(super) armed: Option<Time>,
    pub(super) paused: bool,
    /// Its messages are blocked, and wait; its deadlines do not.
    pub(super) muted: bool,
    pub(super) held: VecDeque<Due>,
    pub(super) held_bytes: usize,
    /// What it wants sent and done meanwhile.
    pub(super) unsent: VecDeque<Unsent>,
    pub(super) unsent_bytes: usize,
    pub(super) streams: BTreeMap<StreamId, (ConnectionId, Side)>,
    /// Sent in all its lives.
    pub(super) traffic: Traffic,
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
            armed: None,
            paused: false,
            muted: false,
            held: VecDeque::new(),
            held_bytes: 0,
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            streams: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Whether what arrives waits.
    pub(super) fn holds(&self) -> bool {
        self.paused || self.muted
    }

    /// Where what it sends comes from.
    pub(super) fn sends_from(&self) -> SocketAddr {
        self.source.unwrap_or(self.addr)
    }
}

/// What a host whose messages are blocked cannot do yet.
#[derive(Debug)]
pub(super) enum Unsent {
    Datagram(Transmit),
    Action(Action),
}
