//! Sending along the tree of an origin: to those on this node's arc of the [ring](super::ring::Ring) who are next.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;

use super::{
    context::Context,
    control::Route,
    revision::ours,
    ring::{self, Branch, Ring},
};
use crate::membership::Membership;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Nothing when the members have changed since it was laid out.
    ring: Option<Ring>,
    /// Messages to pass on, by the end of the arc that they are for, and over how many hops they came.
    relays: BTreeMap<(u64, u8), Vec<Bytes>>,
}

impl Tree {
    /// The members have changed.
    pub(super) fn lay_out_anew(&mut self) {
        self.ring = None;
    }

    pub(super) fn ring(&mut self, membership: &Membership) -> &Ring {
        self.ring.get_or_insert_with(|| Ring::new(membership))
    }

    /// The same, as it was last.
    pub(super) fn last_ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// A message came over so many hops, and is to be passed on to those up to the end of an arc.
    pub(super) fn relay(&mut self, until: u64, hops: u8, message: Bytes) {
        self.relays.entry((until, hops)).or_default().push(message);
    }

    /// Passes on what came.
    pub(super) fn send_relays(&mut self, cx: &mut Context, membership: &Membership) {
        let me = ring::place(cx.me.name.as_bytes());
        for ((until, hops), messages) in std::mem::take(&mut self.relays) {
            let branches = self.ring(membership).branches(me, until);
            send_along(cx, branches, hops, &messages, |_, _| {});
        }
    }

    /// Sends messages of this node to all. `greet` comes before each of those who get them from here.
    pub(super) fn send_all(
        &mut self,
        cx: &mut Context,
        messages: &[Bytes],
        membership: &Membership,
        greet: impl Fn(&mut Context, SocketAddr),
    ) {
        let me = ring::place(cx.me.name.as_bytes());
        let ring = self.ring(membership);
        let mut branches = ring.branches(me, me);
        branches.extend(ring.newcomers.iter().map(|&to| Branch { to, until: None }));
        send_along(cx, branches, 0, messages, greet);
    }
}

/// Sends messages that came over so many hops to those who are next.
fn send_along(
    cx: &mut Context,
    branches: Vec<Branch>,
    hops: u8,
    messages: &[Bytes],
    greet: impl Fn(&mut Context, SocketAddr),
) {
    let mut leaves = Vec::new();
    for branch in branches {
        greet(cx, branch.to);
        match branch.until {
            None => leaves.push(ours(branch.to)),
            until => cx.spread(vec![ours(branch.to)], Some(Route { hops, until }), messages.to_vec()),
        }
    }
    if !leaves.is_empty() {
        cx.spread(leaves, (hops > 0).then_some(Route { hops, until: None }), messages.to_vec());
    }
}
