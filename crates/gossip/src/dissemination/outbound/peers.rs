//! Peers that come, answer, move and go away.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    OutboundLog,
    peer::{Peer, PeerState, StartTime},
};
use crate::{dissemination::limits::MAX_UNPROVEN, membership::NodeName};

impl OutboundLog {
    /// Adds a member as a peer, or notes that it is back or has moved. A new peer starts with what is sent next, and so
    /// does a new epoch of a known one. At another address, or of another release, it gets a new cookie.
    ///
    /// A peer that is not `proven` counts like any other until it lags, as long as there are few of its kind.
    pub(in crate::dissemination) fn add_peer(
        &mut self,
        addr: SocketAddr,
        name: &NodeName,
        cookie: Option<u64>,
        proven: bool,
    ) {
        let next = self.next();
        if let Some(peer) = self.peers.get_mut(name.as_bytes()) {
            let moved = peer.addr != addr;
            peer.rejoined_at = next;
            let was_proven = peer.proven;
            peer.proven = proven || (was_proven && !moved);
            self.unproven = self.unproven + usize::from(was_proven) - usize::from(peer.proven);
            if peer.addr != addr || peer.cookie.is_some() != cookie.is_some() {
                peer.cookie = cookie;
            }
            let before = std::mem::replace(&mut peer.addr, addr);
            let back = matches!(peer.state, PeerState::Away { .. });
            let state = if peer.proven { PeerState::Lagging } else { PeerState::Unproven };
            if back {
                peer.behind_since = None;
                (peer.backoff, peer.backoff_left) = (0, 0);
            }
            if before != addr {
                self.forget_addr(before, name);
            }
            if back {
                self.set_state(name.as_bytes(), state);
                self.catch_up(name.as_bytes());
            }
        } else {
            self.unproven += usize::from(!proven);
            let waits = proven || self.unproven <= MAX_UNPROVEN;
            let state = if waits { PeerState::Current } else { PeerState::Unproven };
            let peer = Peer {
                addr,
                state,
                proven,
                acked: next,
                joined_at: next,
                rejoined_at: next,
                epoch: 0,
                started_at: StartTime::MAX,
                acknowledged: false,
                behind_since: None,
                acked_at_last_check: next,
                backoff: 0,
                backoff_left: 0,
                cookie,
            };
            self.peers.insert(name.clone(), peer);
            self.positions.add(state, next);
        }
        // A peer that has answered at an address is not displaced by one that only announces it.
        let proven = |name: &NodeName| self.peers.get(name).is_some_and(|peer| peer.proven);
        if proven(name) || !self.names.get(&addr).is_some_and(proven) {
            self.names.insert(addr, name.clone());
        }
    }

    /// A peer has answered or acknowledged something.
    pub(in crate::dissemination) fn prove_peer(&mut self, name: &[u8]) {
        let unproven = self.peers.get_key_value(name).filter(|(_, peer)| !peer.proven);
        let Some(name) = unproven.map(|(name, _)| name.clone()) else { return };
        let Some(peer) = self.peers.get_mut(&name) else { return };
        peer.proven = true;
        (peer.behind_since, peer.backoff, peer.backoff_left) = (None, 0, 0);
        let (addr, unproven) = (peer.addr, peer.state == PeerState::Unproven);
        self.unproven -= 1;
        self.names.insert(addr, name.clone());
        if unproven {
            self.set_state(name.as_bytes(), PeerState::Lagging);
            self.catch_up(name.as_bytes());
        }
    }

    /// A member has failed or is said to have left; it may come back within `grace`.
    pub(in crate::dissemination) fn peer_down(&mut self, now: Instant, name: &NodeName, grace: Duration) {
        if self.peers.contains_key(name) {
            self.set_state(name.as_bytes(), PeerState::Away { since: now, until: now + grace });
            self.free();
        }
    }

    /// Drops a peer that was away for too long. The position of a peer that never stated one itself is remembered.
    pub(super) fn forget_peer(&mut self, name: &NodeName, away: Instant) {
        if let Some(peer) = self.peers.get(name).filter(|peer| !peer.acknowledged) {
            let gone_at = self.start_time_by_age(away, 0);
            self.forgotten.add(name, peer.acked, gone_at);
        }
        self.remove_peer(name);
    }

    fn remove_peer(&mut self, name: &NodeName) {
        if let Some(peer) = self.peers.remove(name) {
            self.unproven -= usize::from(!peer.proven);
            self.forget_addr(peer.addr, name);
            self.positions.remove(peer.state, peer.acked);
            self.free();
        }
    }

    fn forget_addr(&mut self, addr: SocketAddr, name: &NodeName) {
        if self.names.get(&addr) == Some(name) {
            self.names.remove(&addr);
        }
    }

    /// The peer that is reached at an address.
    pub(in crate::dissemination) fn name_at(&self, addr: SocketAddr) -> Option<&NodeName> {
        self.names.get(&addr)
    }
}
