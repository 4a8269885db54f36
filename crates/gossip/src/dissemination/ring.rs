//! Who gets a message from whom: a tree over the members, laid out anew for each origin.
//!
//! All members stand on a ring in the order of a hash of their names. An origin is responsible for the
//! whole ring; whoever is responsible for an arc splits it into [`FANOUT`] parts, sends to the first
//! member of each, and makes it responsible for the rest of that part. An arc of up to [`FANOUT`]
//! members is sent to directly: in a small cluster one hop reaches all.
//!
//! This is the broadcast of El-Ansary, Alima, Brand and Haridi ("Efficient Broadcast in Structured P2P
//! Networks", IPTPS 2003), without the routing tables, as each node knows all members. Compared with an
//! epidemic tree that is learned (Plumtree; Leitão, Pereira, Rodrigues, SRDS 2007) it needs no state, no
//! first flood and no pruning, each node gets each message once, and no path is longer than
//! `ceil(log_FANOUT(n))`.
//!
//! # What can go wrong
//!
//! - *Views differ*: arcs are told by their ends, not by places in a list, so nobody gets a message
//!   twice; a member that only some know may be passed over, and repairs itself.
//! - *Members that there are not*: those that have never answered are not on the ring.
//! - *A packet is lost, or a member that stands for others has failed*: those behind it repair themselves.

use std::{net::SocketAddr, sync::Arc};

use super::{
    hash::hash,
    limits::NEWCOMERS,
    revision::{is_named, is_ours},
};
use crate::membership::{Membership, Record, Target};

/// To how many a node sends a message at most.
pub(crate) const FANOUT: usize = 32;

/// Somebody to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    pub(super) to: SocketAddr,
    /// It is to pass the message on up to this place, exclusive.
    pub(super) until: Option<u64>,
}

/// The live members. Derived from the membership, and made anew when that changes.
#[derive(Debug)]
pub(super) struct Ring {
    /// Those that understand this crate's messages, sorted. This node is among them, as it is in the rings of all others:
    /// its arcs begin behind its place, and come to it nowhere.
    places: Arc<[(u64, SocketAddr)]>,
    /// Whether all of those are told by name who says what.
    pub(super) named: bool,
    /// Of those that have not answered this node yet, up to [`NEWCOMERS`]: an origin tells them itself, and nobody
    /// else depends on them.
    pub(super) newcomers: Vec<SocketAddr>,
    /// Those that do not understand them; of those that have not answered, as many.
    pub(super) plain: Vec<Target>,
}

/// A member's place on the ring.
pub(super) fn place(name: &[u8]) -> u64 {
    hash(name)
}

impl Ring {
    /// All live members that have answered this node, and some that have not.
    pub(super) fn new(membership: &Membership) -> Self {
        let mut ring = Self { places: Arc::default(), named: true, newcomers: Vec::new(), plain: Vec::new() };
        let (mut places, mut newcomers) = (Vec::with_capacity(membership.proven_live()), 0);
        // First come those that have answered.
        let is_me = |record: &Record| std::ptr::eq(record, membership.me());
        for record in membership.records().filter(|record| record.is_live()) {
            newcomers += usize::from(!record.is_proven());
            if newcomers > NEWCOMERS {
                break;
            }
            if !is_ours(record.versions) {
                ring.plain.extend((!is_me(record)).then(|| Target::from(record)));
            } else if !record.is_proven() {
                ring.named &= is_named(record.versions);
                ring.newcomers.push(record.addr());
            } else {
                ring.named &= is_named(record.versions);
                places.push((place(record.name.as_bytes()), record.addr()));
            }
        }
        places.sort_unstable();
        ring.places = membership.share_ring(places);
        ring
    }

    /// Whom to send to when responsible for the arc from `from` to `until`, both exclusive; from a place
    /// to itself is the whole ring.
    pub(super) fn branches(&self, from: u64, until: u64) -> Vec<Branch> {
        let begin = self.places.partition_point(|(place, _)| *place <= from);
        let end = self.places.partition_point(|(place, _)| *place < until);
        let (one, other) = if from < until {
            (self.places.get(begin..end).unwrap_or_default(), &[][..])
        } else {
            (&self.places[begin..], &self.places[..end])
        };
        let len = one.len() + other.len();
        let at = |place: usize| one.get(place).or_else(|| other.get(place - one.len()));
        let parts = len.min(FANOUT);
        let bound = |part: usize| part * len / parts;
        let branch = |part: usize| {
            let (first, next) = (bound(part), bound(part + 1));
            let until = (next - first > 1).then(|| at(next).map_or(until, |(place, _)| *place));
            at(first).map(|(_, to)| Branch { to: *to, until })
        };
        (0..parts).filter_map(branch).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(places: Vec<(u64, SocketAddr)>) -> Ring {
        Ring { places: places.into(), named: true, newcomers: Vec::new(), plain: Vec::new() }
    }

    fn addr(i: usize) -> SocketAddr {
        ([10, 0, (i >> 8) as u8, i as u8], 7946).into()
    }

    proptest! {
        /// However many there are and whoever begins: each gets it once, in few hops.
        #[test]
        fn everybody_is_reached_once(n in 1..1500_usize, origin: usize) {
            let mut all: Vec<_> = (0..n).map(|i| (place(format!("node{i}").as_bytes()), addr(i))).collect();
            all.sort_unstable();
            let origin = all[origin % n];
            let mut reached = std::collections::BTreeSet::from([origin.1]);
            let mut front = vec![(origin, origin.0)];
            let mut hops = 0;
            while !front.is_empty() {
                let mut next = Vec::new();
                for (me, until) in front {
                    let places = all.iter().copied().filter(|other| *other != me).collect();
                    let branches = ring(places).branches(me.0, until);
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

        /// Whatever arc a stranger names: no more than all are reached, and nobody twice.
        #[test]
        fn any_arc_is_bounded(n in 0..200_usize, from: u64, until: u64) {
            let mut places: Vec<_> = (0..n).map(|i| (place(format!("node{i}").as_bytes()), addr(i))).collect();
            places.sort_unstable();
            let branches = ring(places).branches(from, until);
            let targets: std::collections::BTreeSet<_> = branches.iter().map(|branch| branch.to).collect();
            prop_assert_eq!(targets.len(), branches.len());
        }
    }
}
