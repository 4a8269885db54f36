//! What a node tells of itself, and where it is reached, while it runs.
//!
//! An address that was configured as a name is that name's: it is resolved again every now and then, and
//! when it does not stand for the present address any more, the node moves ([`Membership::move_to`]). A
//! name that cannot be resolved changes nothing.
//!
//! [`Membership::move_to`]: crate::membership::Membership::move_to

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{Action, Node, Timer};
use crate::{config::Seed, wire::Address};

/// How often the name of this node's own address is resolved.
const REFRESH: std::time::Duration = std::time::Duration::from_secs(10);

/// The name of the address that others reach this node at.
#[derive(Clone, Debug)]
pub(crate) struct Advertised {
    /// Its port is that of the address, whatever the name resolves to.
    pub(crate) host: Seed,
    /// Whether the address may be IPv6.
    pub(crate) ipv6: bool,
}

impl Node {
    /// Where others reach this node.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.me().addr()
    }

    /// Tells something else about this node from now on; gives whether it still tells anything.
    pub(crate) fn update_meta(&mut self, now: Instant, meta: &Bytes) -> bool {
        let here = !self.membership.has_left() && self.timers.get(&Timer::Leave).is_none();
        if here && self.membership.update_meta(meta) {
            self.gossip_soon(now);
        }
        self.settle(now);
        here
    }

    /// Goes on being reached at the address that a name stands for.
    pub(crate) fn follow(&mut self, now: Instant, advertised: Advertised) {
        self.advertised = Some(advertised);
        self.timers.set(Timer::Advertise, now + REFRESH);
    }

    pub(super) fn resolve_own(&mut self, now: Instant) {
        let Some(Advertised { host, .. }) = &self.advertised else { return };
        if self.membership.has_left() {
            return;
        }
        self.actions.push_back(Action::Lookup { seed: host.clone() });
        self.timers.set(Timer::Advertise, now + REFRESH);
    }

    /// A name was resolved; it may be that of this node's own address.
    pub(super) fn check_own(&mut self, now: Instant, seed: &Seed, found: &[SocketAddr]) {
        let Some(Advertised { host, ipv6 }) = &self.advertised else { return };
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
            self.membership.move_to(now, Address::from(*new));
            self.gossip_soon(now);
        }
    }
}
