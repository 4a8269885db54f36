//! A node's view of its whole cluster, for people who look at it.

use std::{net::SocketAddr, ops::Not};

use serde::{Deserialize, Serialize};

use super::{Node, Reach};
use crate::{
    config::{NodeInfo, info::resolve},
    dissemination::{StreamPosition, is_ours},
    membership::{Member, MemberState, Record},
};

/// How a node sees its cluster at one time: [`Node::overview`](crate::node::Node::overview).
///
/// ```
/// use std::{net::SocketAddr, time::Instant};
///
/// use broadcast::{
///     Config,
///     node::{Node, NodeConfig},
/// };
///
/// let address = SocketAddr::from(([127, 0, 0, 1], 7946));
/// let node = Node::new(Instant::now(), NodeConfig::new(Config::new("node1"), address));
/// let overview = node.overview();
/// assert!(overview.joined, "there is no seed to ask");
/// assert_eq!(overview.members[0].member.addr, address);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Overview {
    /// Whether the node has joined: a seed has answered, or there are none to ask.
    pub joined: bool,
    /// Whether it has begun to leave.
    pub leaving: bool,
    /// Everybody it remembers: itself first, then the others, including the dead and those that left.
    pub members: Vec<MemberOverview>,
    /// How far it is in the stream of each origin, itself first.
    pub positions: Vec<StreamPosition>,
}

/// What a node knows of one member: part of an [`Overview`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberOverview {
    /// The member as [`Handle::members`](crate::Handle::members) gives it.
    pub member: Member,
    /// Whether it is a node of this crate, which acknowledges messages.
    pub acknowledges: bool,
    /// How many of this node's messages it has not acknowledged yet. `None` for the node itself, plain memberlist nodes, members
    /// that are gone, and everybody before the first message.
    pub lag: Option<u64>,
    /// Whether it was [cut loose](crate::Event::LagLimitExceeded): publishers do not wait for it until it has caught up.
    pub loose: bool,
    /// How messages reach it.
    pub reach: Reach,
    /// What it tells about itself, if it has. Only a live node of this crate does.
    pub info: Option<NodeInfo>,
}

impl MemberOverview {
    /// The addresses at which the member serves clients, with the names of the services.
    pub fn endpoints(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        let endpoints = self.info.iter().flat_map(|info| &info.endpoints);
        endpoints.map(|(service, addr)| (service.as_str(), resolve(*addr, self.member.addr)))
    }
}

/// The health of a node: what a health check asks, and so only what takes no time to tell. It travels as JSON in the answer
/// to a ping over a stream. See [`Node::health`](crate::node::Node::health).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the node has joined: a seed has answered, or there are none to ask.
    pub joined: bool,
    /// Whether it has begun to leave.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub leaving: bool,
    /// How many members are alive or suspect, this node included.
    pub members: usize,
}

impl Node {
    /// Whether a seed has answered, or there are none to ask.
    #[must_use]
    pub fn has_joined(&self) -> bool {
        self.ready
    }

    /// This node's health.
    #[must_use]
    pub fn health(&self) -> Health {
        let leaving = self.refusal().is_some_and(|refusal| refusal == crate::PublishError::Stopped)
            || self.membership.me().state() == MemberState::Left;
        Health { joined: self.ready, leaving, members: self.membership.live() }
    }

    /// A number that changes whenever anything in [`Overview::members`] does, except for how members are reached, for which there
    /// is an event.
    #[must_use]
    pub fn member_changes(&self) -> u64 {
        self.membership.changes().wrapping_add(self.dissemination.peer_changes())
    }

    /// This node's view of its cluster.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let lags = self.dissemination.lags();
        let seen = |record: &Record| MemberOverview {
            member: self.member(record),
            acknowledges: is_ours(record.versions),
            lag: lags.get(&record.name).copied(),
            loose: self.dissemination.is_loose(&record.name),
            reach: self.reach(record.addr()),
            info: self.info_of(&record.name),
        };
        let me = self.membership.me();
        let others = self.membership.records().filter(|record| record.name != me.name);
        let mut members: Vec<_> = [me].into_iter().chain(others).map(seen).collect();
        members[1..].sort_by(|a, b| a.member.name.cmp(&b.member.name));
        let Health { joined, leaving, .. } = self.health();
        Overview { joined, leaving, members, positions: self.dissemination.positions() }
    }
}
