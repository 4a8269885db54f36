//! A node's own address and metadata while it runs, and how it leaves.
//!
//! If the address was configured as a name, the name is resolved again now and then. When it no longer stands for the
//! present address, the node moves ([`Membership::change_address`]). A name that cannot be resolved changes nothing.
//!
//! If the address was guessed, it is guessed again: first it is where the first joining node reached this one, and then
//! where the route to the first seed that answers begins, which is final. After that it stays as long as it is one of the
//! host's addresses, which is checked more often.
//!
//! [`Membership::change_address`]: crate::membership::Membership::change_address

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Action, Node, Timer};
use crate::{config::Seed, membership::Record, wire::Address};

/// How long a leaving node waits: for an answer to its push/pull request if it knows no other node, and for the others to
/// get what it has published.
pub(super) const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// The routes to so many members are looked at to guess an address.
const MAX_PEERS: usize = 8;

/// The name of the address that others use for this node. See [`Node::follow`](super::Node::follow).
#[derive(Clone, Debug)]
pub struct AdvertisedHost {
    /// The name, and a port. The port of the address stays, whatever the name resolves to.
    pub host: Seed,
    /// Whether the address may be IPv6.
    pub ipv6: bool,
}

/// How a guessed address was last guessed. Later variants are better guesses. See [`Node::set_guess`](super::Node::set_guess).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressGuess {
    /// By the host's interfaces.
    Interfaces,
    /// By where a node that joined through this one reached it.
    Joiner,
    /// By the route to a seed that has answered.
    Seed,
}

impl Node {
    /// Where others reach this node.
    pub fn addr(&self) -> SocketAddr {
        self.me().addr()
    }

    /// Announces other metadata from now on; gives whether the node still announces anything.
    pub fn update_meta(&mut self, now: Instant, meta: &Bytes) -> bool {
        let here = !self.membership.has_left() && self.timers.get(&Timer::Leave).is_none();
        if here && self.membership.update_meta(meta) {
            self.gossip_soon(now);
        }
        self.process_outputs(now);
        here
    }

    /// Keeps the node's address to what a name stands for.
    pub fn follow(&mut self, now: Instant, advertised: AdvertisedHost) {
        self.advertised = Some(advertised);
        self.check_own_address_later(now);
    }

    /// A lookup is cheap next to a push/pull exchange, and a move that is not noticed costs more. A check that asks no name
    /// server is cheaper still, and should notice a move before the others take this node for failed.
    fn check_own_address_later(&mut self, now: Instant) {
        let looked_up = self.advertised.is_some();
        let pause = if looked_up { self.tuning.push_pull_interval / 3 } else { self.tuning.probe_interval * 2 };
        self.timers.set(Timer::Advertise, now + pause);
    }

    pub(super) fn check_own_address(&mut self, now: Instant) {
        if self.membership.has_left() {
            return;
        }
        match &self.advertised {
            Some(AdvertisedHost { host, .. }) => self.actions.push_back(Action::Lookup { seed: host.clone() }),
            None => {
                let peers = self.membership.others().filter(|record| record.is_live()).map(Record::addr);
                let peers = peers.take(MAX_PEERS).collect();
                self.actions.push_back(Action::CheckAddress { peers });
            }
        }
        self.check_own_address_later(now);
    }

    /// This node's address is a guess; it will be guessed again.
    pub fn guess_address(&mut self, now: Instant) {
        self.guessed_by = Some(AddressGuess::Interfaces);
        self.check_own_address_later(now);
    }

    /// Whether the address is a guess that no other node knows yet.
    pub(crate) fn may_guess_address(&self) -> bool {
        self.guessed_by == Some(AddressGuess::Interfaces) && self.membership.live() == 1
    }

    /// A seed has answered: the route to it tells this node's address.
    pub(super) fn guess_by_seed(&mut self, peer: SocketAddr) {
        if self.guessed_by.is_some_and(|by| by < AddressGuess::Seed) {
            self.actions.push_back(Action::GuessAddress { peer });
        }
    }

    /// A node has joined through this one, which it reached at `ip`. A node on the same host says nothing about others.
    pub(super) fn guess_where_reached(&mut self, now: Instant, ip: Option<IpAddr>, peer: SocketAddr) {
        let from_elsewhere = ip.filter(|ip| !ip.is_loopback() && *ip != peer.ip());
        if let (Some(ip), Some(AddressGuess::Interfaces)) = (from_elsewhere, self.guessed_by) {
            self.set_guess(now, ip, AddressGuess::Joiner);
        }
    }

    /// Takes another guess at this node's address.
    pub fn set_guess(&mut self, now: Instant, ip: IpAddr, by: AddressGuess) {
        let new = SocketAddr::new(ip, self.addr().port());
        let Some(before) = self.guessed_by else { return };
        if self.membership.has_left() || !self.membership.allows(new) {
            return;
        }
        self.guessed_by = Some(before.max(by));
        if new != self.addr() {
            self.membership.change_address(now, Address::from(new));
            self.gossip_soon(now);
            self.process_outputs(now);
        }
    }

    /// Handles a lookup that may be of this node's own name.
    pub(super) fn handle_own_lookup(&mut self, now: Instant, seed: &Seed, found: &[SocketAddr]) {
        let Some(AdvertisedHost { host, ipv6 }) = &self.advertised else { return };
        let me = self.addr();
        let usable =
            |addr: &&SocketAddr| (addr.is_ipv4() || *ipv6) && !addr.ip().is_unspecified() && !addr.ip().is_multicast();
        // With several addresses, any is as good as another while it is there.
        if host != seed || found.contains(&me) {
            return;
        }
        let same_family = |addr: &&SocketAddr| addr.is_ipv4() == me.is_ipv4();
        let usable = || found.iter().filter(usable);
        if let Some(new) = usable().find(same_family).or_else(|| usable().next()) {
            self.membership.change_address(now, Address::from(*new));
            self.gossip_soon(now);
        }
    }

    /// Begins to leave. [`Event::LeaveComplete`](crate::Event::LeaveComplete) says when the others have been told.
    ///
    /// A node that has asked to join may have been let in already; the answer tells by whom. A node that has published
    /// something waits until the others have it. Neither waits for long.
    pub fn leave(&mut self, now: Instant) {
        self.seeds.stop();
        if !self.membership.has_left() && self.timers.get(&Timer::Leave).is_none() {
            self.timers.set(Timer::Leave, now + LEAVE_WAIT);
            self.announced_leave = self.leave_serf(now);
        }
        self.process_outputs(now);
    }

    /// Leaves if what it was waiting for has come.
    pub(super) fn leave_if_ready(&mut self, now: Instant) {
        let alone = self.membership.live() == 1 && self.is_joining();
        let unheard = !self.dissemination.is_settled() && !self.seeds.name_taken();
        if self.timers.get(&Timer::Leave).is_some() && !alone && !unheard && !self.announced_leave {
            self.complete_leave(now);
        }
    }

    pub(super) fn complete_leave(&mut self, now: Instant) {
        self.timers.cancel(&Timer::Leave);
        // A node whose name is another's was never let in; its goodbye would be taken for the other's.
        let silent = self.seeds.name_taken();
        self.membership.leave(now, silent);
    }
}
