//! What a node tells of itself, and where it is reached, while it runs; and that it leaves.
//!
//! An address that was configured as a name is that name's: it is resolved again every now and then, and
//! when it does not stand for the present address any more, the node moves ([`Membership::change_address`]). A
//! name that cannot be resolved changes nothing.
//!
//! An address that was guessed is guessed again: it is where the first node to join reached this one, and then
//! where the route to the first seed that answers begins, which decides. After that it stays as long as it is one
//! of the host's, which is looked after more often.
//!
//! [`Membership::change_address`]: crate::membership::Membership::change_address

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Action, Node, Timer};
use crate::{config::Seed, membership::Record, wire::Address};

/// How long a leaving node waits for an answer to its view, while it knows of no other node, and for the
/// others to get what it has said.
pub(super) const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// The routes to so many members are looked at for an address.
const MAX_PEERS: usize = 8;

/// The name of the address that others reach this node at.
#[derive(Clone, Debug)]
pub struct AdvertisedHost {
    /// Its port is that of the address, whatever the name resolves to.
    pub host: Seed,
    /// Whether the address may be IPv6.
    pub ipv6: bool,
}

/// What a guessed address was last guessed by. Later ones are better guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressGuess {
    /// What this host tells.
    Interfaces,
    /// Where a node that joined through this one reached it.
    Joiner,
    /// The route to a seed that has answered.
    Seed,
}

impl Node {
    /// Where others reach this node.
    pub fn addr(&self) -> SocketAddr {
        self.me().addr()
    }

    /// Tells something else about this node from now on; gives whether it still tells anything.
    pub fn update_meta(&mut self, now: Instant, meta: &Bytes) -> bool {
        let here = !self.membership.has_left() && self.timers.get(&Timer::Leave).is_none();
        if here && self.membership.update_meta(meta) {
            self.gossip_soon(now);
        }
        self.settle(now);
        here
    }

    /// Goes on being reached at the address that a name stands for.
    pub fn follow(&mut self, now: Instant, advertised: AdvertisedHost) {
        self.advertised = Some(advertised);
        self.resolve_own_later(now);
    }

    /// Looking is cheap next to exchanging views, and a move that is not noticed costs more. What asks no name server
    /// is cheaper still, and should be noticed before the others find this node failed.
    fn resolve_own_later(&mut self, now: Instant) {
        let looked_up = self.advertised.is_some();
        let pause = if looked_up { self.tuning.push_pull_interval / 3 } else { self.tuning.probe_interval * 2 };
        self.timers.set(Timer::Advertise, now + pause);
    }

    pub(super) fn resolve_own(&mut self, now: Instant) {
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
        self.resolve_own_later(now);
    }

    /// This node's address is a guess, to be guessed again.
    pub fn guess_address(&mut self, now: Instant) {
        self.guessed_by = Some(AddressGuess::Interfaces);
        self.resolve_own_later(now);
    }

    /// Whether the address is a guess that nobody has been told yet.
    pub(crate) fn may_guess_address(&self) -> bool {
        self.guessed_by == Some(AddressGuess::Interfaces) && self.membership.live() == 1
    }

    /// A seed has answered, and there is a route to it.
    pub(super) fn guess_by_seed(&mut self, peer: SocketAddr) {
        if self.guessed_by.is_some_and(|by| by < AddressGuess::Seed) {
            self.actions.push_back(Action::GuessAddress { peer });
        }
    }

    /// Somebody has joined, who reached this node there. One on the same host says nothing of others.
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
            self.settle(now);
        }
    }

    /// A name was resolved; it may be that of this node's own address.
    pub(super) fn check_own(&mut self, now: Instant, seed: &Seed, found: &[SocketAddr]) {
        let Some(AdvertisedHost { host, ipv6 }) = &self.advertised else { return };
        let me = self.addr();
        let usable =
            |addr: &&SocketAddr| (addr.is_ipv4() || *ipv6) && !addr.ip().is_unspecified() && !addr.ip().is_multicast();
        // One of several addresses is as good as another, as long as it is there.
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

    /// Tells the others that this node leaves; [`Event::LeaveComplete`](crate::Event::LeaveComplete) says when they have been told.
    ///
    /// One that has asked to join may have been let in already, and hears with the answer by whom; one that
    /// has said something waits until the others have it. Neither for long.
    pub fn leave(&mut self, now: Instant) {
        self.seeds.stop();
        if !self.membership.has_left() && self.timers.get(&Timer::Leave).is_none() {
            self.timers.set(Timer::Leave, now + LEAVE_WAIT);
            self.announced_leave = self.leave_serf(now);
        }
        self.settle(now);
    }

    /// What a leaving node waits for may have come.
    pub(super) fn leave_if_ready(&mut self, now: Instant) {
        let alone = self.membership.live() == 1 && self.is_joining();
        let unheard = !self.dissemination.is_settled() && !self.seeds.name_taken();
        if self.timers.get(&Timer::Leave).is_some() && !alone && !unheard && !self.announced_leave {
            self.say_good_bye(now);
        }
    }

    pub(super) fn say_good_bye(&mut self, now: Instant) {
        self.timers.cancel(&Timer::Leave);
        // A node whose name is another's was never let in; its good-bye would be taken for the other's.
        let silent = self.seeds.name_taken();
        self.membership.leave(now, silent);
    }
}
