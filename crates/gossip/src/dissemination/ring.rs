//! The dissemination tree: who sends a message to whom. Each origin has a tree of its own.
//!
//! All members stand on a ring, in the order of a hash of their names. An origin is responsible for the whole ring. A node
//! that is responsible for an arc splits it into [`FANOUT`] parts, sends the message to the first member of each, and makes
//! it responsible for the rest of that part. If an arc has no more than [`FANOUT`] members, each gets the message directly:
//! in a small cluster, one hop reaches all.
//!
//! This is the broadcast of El-Ansary, Alima, Brand and Haridi ("Efficient Broadcast in Structured P2P Networks", IPTPS
//! 2003). It needs no routing tables here, since each node knows all members. Plumtree (Leitão, Pereira, Rodrigues:
//! "Epidemic Broadcast Trees", SRDS 2007) learns its tree from a first flood and prunes it. This tree needs no state, flood
//! or pruning; each node gets each message once, and no path is longer than `ceil(log_FANOUT(n))`.
//!
//! # What can go wrong
//!
//! - *Views differ*: arcs are given by their ends, not by indices in a list, so nobody gets a message twice. A member that
//!   only some nodes know may be passed over, and repairs that itself.
//! - *Members that do not exist*: members that have never answered are not on the ring.
//! - *A packet is lost, or a member that passes messages on has failed*: the members behind it repair that themselves.

use std::{net::SocketAddr, sync::Arc};

use super::{
    hash::hash,
    limits::MAX_UNPROVEN,
    revision::{is_named, is_ours},
};
use crate::membership::{Membership, Record, Target};

/// To how many members a node sends a message at most. More makes fewer hops; fewer makes less work for each node.
pub(crate) const FANOUT: usize = 32;

/// Where a message goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) to: SocketAddr,
    /// The receiver passes it on up to this position, exclusive; `None` if it does not pass it on.
    pub(super) until: Option<u64>,
}

/// The live members, as the membership has them at one time.
#[derive(Debug)]
pub(super) struct Ring {
    /// The positions of proven members that understand this crate's messages, sorted. This node is among them, as it is in the
    /// rings of all others: its arcs begin behind its position, and never reach it.
    positions: Arc<[(u64, SocketAddr)]>,
    /// Whether all of those understand messages with a sender's header.
    pub(super) all_named: bool,
    /// Members of ours that have not answered this node yet, up to [`MAX_UNPROVEN`]. An origin sends to them directly, so that
    /// nobody else depends on them.
    pub(super) newcomers: Vec<SocketAddr>,
    /// Plain members; of those that have not answered, as many.
    pub(super) plain: Vec<Target>,
}

/// A member's position on the ring.
pub(super) fn position_of(name: &[u8]) -> u64 {
    hash(name)
}

impl Ring {
    /// A ring of all live members that are proven, and some that are not.
    pub(super) fn new(membership: &Membership) -> Self {
        let mut ring = Self { positions: Arc::default(), all_named: true, newcomers: Vec::new(), plain: Vec::new() };
        let (mut positions, mut newcomers) = (Vec::with_capacity(membership.proven_live()), 0);
        // Proven members come first.
        let is_me = |record: &Record| std::ptr::eq(record, membership.me());
        for record in membership.records().filter(|record| record.is_live()) {
            newcomers += usize::from(!record.is_proven());
            if newcomers > MAX_UNPROVEN {
                break;
            }
            if !is_ours(record.versions) {
                ring.plain.extend((!is_me(record)).then(|| Target::from(record)));
            } else if !record.is_proven() {
                ring.all_named &= is_named(record.versions);
                ring.newcomers.push(record.addr());
            } else {
                ring.all_named &= is_named(record.versions);
                positions.push((position_of(record.name.as_bytes()), record.addr()));
            }
        }
        positions.sort_unstable();
        ring.positions = membership.share_ring(positions);
        ring
    }

    /// Where to send a message when this node is responsible for the arc from `from` to `until`, both exclusive. From a
    /// position to itself is the whole ring.
    pub(super) fn branches(&self, from: u64, until: u64) -> Vec<Branch> {
        let begin = self.positions.partition_point(|(position, _)| *position <= from);
        let end = self.positions.partition_point(|(position, _)| *position < until);
        let (one, other) = if from < until {
            (self.positions.get(begin..end).unwrap_or_default(), &[][..])
        } else {
            (&self.positions[begin..], &self.positions[..end])
        };
        let len = one.len() + other.len();
        let at = |position: usize| one.get(position).or_else(|| other.get(position - one.len()));
        let parts = len.min(FANOUT);
        let bound = |part: usize| part * len / parts;
        let branch = |part: usize| {
            let (first, next) = (bound(part), bound(part + 1));
            let until = (next - first > 1).then(|| at(next).map_or(until, |(position, _)| *position));
            at(first).map(|(_, to)| Branch { to: *to, until })
        };
        (0..parts).filter_map(branch).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(positions: Vec<(u64, SocketAddr)>) -> Ring {
        Ring { positions: positions.into(), all_named: true, newcomers: Vec::new(), plain: Vec::new() }
    }

    fn addr(i: usize) -> SocketAddr {
        ([10, 0, (i >> 8) as u8, i as u8], 7946).into()
    }

    proptest! {
        /// However many nodes there are, and whichever is the origin: each gets the message once, in few hops.
        #[test]
        fn everybody_is_reached_once(n in 1..1500_usize, origin: usize) {
            let mut all: Vec<_> = (0..n).map(|i| (position_of(format!("node{i}").as_bytes()), addr(i))).collect();
            all.sort_unstable();
            let origin = all[origin % n];
            let mut reached = std::collections::BTreeSet::from([origin.1]);
            let mut front = vec![(origin, origin.0)];
            let mut hops = 0;
            while !front.is_empty() {
                let mut next = Vec::new();
                for (me, until) in front {
                    let positions = all.iter().copied().filter(|other| *other != me).collect();
                    let branches = ring(positions).branches(me.0, until);
                    prop_assert!(branches.len() <= FANOUT);
                    for Branch { to, until } in branches {
                        prop_assert!(reached.insert(to), "{to} twice");
                        if let Some(until) = until {
                            next.push((*all.iter().find(|(_, addr)| *addr == to).unwrap(), until));
                        }
                    }
                }
                front = next;
                hops += 1;
            }
            prop_assert_eq!(reached.len(), n);
            prop_assert!(hops <= match n { 0..=33 => 1, 34..=1057 => 2, _ => 3 }, "{n} nodes: {hops} hops");
        }

        /// Whatever arc a stranger names: nobody gets the message twice.
        #[test]
        fn any_arc_is_bounded(n in 0..200_usize, from: u64, until: u64) {
            let mut positions: Vec<_> = (0..n).map(|i| (position_of(format!("node{i}").as_bytes()), addr(i))).collect();
            positions.sort_unstable();
            let branches = ring(positions).branches(from, until);
            let targets: std::collections::BTreeSet<_> = branches.iter().map(|branch| branch.to).collect();
            prop_assert_eq!(targets.len(), branches.len());
        }
    }
}
