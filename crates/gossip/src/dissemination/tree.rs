//! Sending along the tree: to the next nodes on this node's arc of the [ring](super::ring::Ring).

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;

use super::{
    context::Context,
    control::Route,
    revision::target_of_ours,
    ring::{self, Branch, Ring},
};
use crate::membership::Membership;

/// The tree as this node sees it. See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// `None` when the members have changed since it was made.
    ring: Option<Ring>,
    /// Messages to pass on, by the end of the arc that they are for and the hops that they took.
    relays: BTreeMap<(u64, u8), Vec<Bytes>>,
}

impl Tree {
    /// The members have changed: the ring is made anew when it is needed.
    pub(super) fn invalidate(&mut self) {
        self.ring = None;
    }

    pub(super) fn ring(&mut self, membership: &Membership) -> &Ring {
        self.ring.get_or_insert_with(|| Ring::new(membership))
    }

    /// The ring, if the members have not changed since it was made.
    pub(super) fn cached_ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// Queues a message that took so many `hops`, to be passed on up to the position `until`.
    pub(super) fn queue_relay(&mut self, until: u64, hops: u8, message: Bytes) {
        self.relays.entry((until, hops)).or_default().push(message);
    }

    /// Passes on what is queued.
    pub(super) fn send_relays(&mut self, cx: &mut Context, membership: &Membership) {
        let me = ring::position_of(cx.local.name.as_bytes());
        for ((until, hops), messages) in std::mem::take(&mut self.relays) {
            let branches = self.ring(membership).branches(me, until);
            send_along(cx, branches, hops, &messages, |_, _| {});
        }
    }

    /// Sends messages of this node to all. `send_start_if_new` is called for each receiver before.
    pub(super) fn send_all(
        &mut self,
        cx: &mut Context,
        messages: &[Bytes],
        membership: &Membership,
        send_start_if_new: impl Fn(&mut Context, SocketAddr),
    ) {
        let me = ring::position_of(cx.local.name.as_bytes());
        let ring = self.ring(membership);
        let mut branches = ring.branches(me, me);
        branches.extend(ring.newcomers.iter().map(|&to| Branch { to, until: None }));
        send_along(cx, branches, 0, messages, send_start_if_new);
    }
}

/// Sends messages that took so many `hops` to the next nodes.
fn send_along(
    cx: &mut Context,
    branches: Vec<Branch>,
    hops: u8,
    messages: &[Bytes],
    send_start_if_new: impl Fn(&mut Context, SocketAddr),
) {
    let mut leaves = Vec::new();
    for branch in branches {
        send_start_if_new(cx, branch.to);
        match branch.until {
            None => leaves.push(target_of_ours(branch.to)),
            until => cx.multicast(vec![target_of_ours(branch.to)], Some(Route { hops, until }), messages.to_vec()),
        }
    }
    if !leaves.is_empty() {
        cx.multicast(leaves, (hops > 0).then_some(Route { hops, until: None }), messages.to_vec());
    }
}
