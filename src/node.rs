//! One node: membership and dissemination behind a few verbs, without clock, socket or task.
//!
//! # Contract
//!
//! Whoever drives a [`Node`] hands it what happens (`handle_*`, [`publish`](Node::publish),
//! [`leave`](Node::leave)), always with the time, and then drains what came of it:
//! [`poll_transmit`](Node::poll_transmit), [`poll_action`](Node::poll_action) and
//! [`poll_event`](Node::poll_event) until each gives `None`, and [`poll_timeout`](Node::poll_timeout)
//! for when to call [`handle_timeout`](Node::handle_timeout) next. One mutation, then drain.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use crate::{
    config::{Seed, Tuning},
    dissemination::{Message, MessageId, PublishError},
    membership::{Member, NodeName},
    wire::Address,
};

/// Something the application wants to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A member came, or came back.
    Joined(Member),
    /// A member said good-bye.
    Left(Member),
    /// A member stopped answering.
    Failed(Member),
    /// A member changed its metadata or its address.
    Updated(Member),
    /// Another node published something.
    Message(Message),
    /// Two live nodes claim the same name.
    NameConflict {
        /// The name.
        name: NodeName,
        /// Who has it, as far as this node knows.
        holder: SocketAddr,
        /// Who claims it too.
        claimant: SocketAddr,
    },
    /// This node has joined the cluster: a seed answered, or there are none to ask.
    Ready,
    /// A seed could not be reached; it is tried again.
    SeedUnreachable {
        /// The seed, as configured.
        seed: Seed,
        /// What went wrong.
        reason: String,
    },
    /// Something arrived that cannot be used, and was dropped.
    Rejected {
        /// Who sent it.
        from: SocketAddr,
        /// What was wrong with it.
        reason: String,
    },
    /// This node has told the others that it leaves, as far as they can be told.
    LeaveComplete,
}

/// A datagram to send.
#[derive(Clone, Debug)]
pub(crate) struct Transmit {
    pub(crate) to: SocketAddr,
    pub(crate) payload: Bytes,
}

/// A stream between this node and another, as long as it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(pub(crate) u64);

/// Something to be done outside.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Open a stream. What is written to it meanwhile is sent once it stands.
    Connect { id: StreamId, to: SocketAddr },
    /// Send bytes on a stream.
    Write { id: StreamId, data: Bytes },
    /// Send what was written, then end the stream. Nothing more is wanted from it.
    Close { id: StreamId },
    /// Resolve a seed's name, and report with [`Node::handle_lookup`].
    Lookup { seed: Seed },
}

/// What happened on a stream.
#[derive(Clone, Debug)]
pub(crate) enum StreamInput<'a> {
    /// Bytes arrived.
    Data(&'a [u8]),
    /// The other side will send no more.
    Closed,
    /// The stream could not be opened, or broke.
    Failed(String),
}

/// What a node needs to know, once the outside is settled.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) name: NodeName,
    pub(crate) address: Address,
    pub(crate) meta: Bytes,
    pub(crate) seeds: Vec<Seed>,
    pub(crate) tuning: Tuning,
    /// Which life of this node it is: later starts have larger ones.
    pub(crate) epoch: u64,
    /// Seeds the node's random choices.
    pub(crate) rng_seed: u64,
}

/// See the [module](self).
pub(crate) struct Node {}

impl Node {
    pub(crate) fn new(_now: Instant, _config: NodeConfig) -> Self {
        todo!()
    }
    pub(crate) fn handle_datagram(&mut self, _now: Instant, _from: SocketAddr, _data: &Bytes) {
        todo!()
    }
    pub(crate) fn handle_timeout(&mut self, _now: Instant) {
        todo!()
    }
    /// A stream was opened from outside; `None` refuses it.
    pub(crate) fn handle_accept(&mut self, _now: Instant, _from: SocketAddr) -> Option<StreamId> {
        todo!()
    }
    pub(crate) fn handle_stream(&mut self, _now: Instant, _id: StreamId, _input: StreamInput<'_>) {
        todo!()
    }
    pub(crate) fn handle_lookup(&mut self, _now: Instant, _seed: &Seed, _result: Result<Vec<SocketAddr>, String>) {
        todo!()
    }
    /// `value` is JSON.
    pub(crate) fn publish(&mut self, _now: Instant, _key: &str, _value: &str) -> Result<MessageId, PublishError> {
        todo!()
    }
    pub(crate) fn leave(&mut self, _now: Instant) {
        todo!()
    }
    /// Every member that is not dead, this node first.
    pub(crate) fn members(&self) -> Vec<Member> {
        todo!()
    }
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        todo!()
    }
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
}
