//! Who the peers are: members that come, answer, move and go.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Outbound,
    peer::{Began, Peer, Standing},
};
use crate::{dissemination::limits::NEWCOMERS, membership::NodeName};

impl Outbound {
    /// A member is there: at first, again, or at another address. A new one begins with what is sent from now
    /// on, and so does a new life of one that was there before.
    /// Elsewhere, or of another revision, it gets another cookie.
    ///
    /// One that is not `proven` is waited for as others are until it lags, if there are few of its kind.
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
            let back = matches!(peer.standing, Standing::Away { .. });
            let standing = if peer.proven { Standing::Lagging } else { Standing::Unproven };
            if back {
                peer.behind_since = None;
                (peer.backoff, peer.periods_left) = (0, 0);
            }
            if before != addr {
                self.forget_addr(before, name);
            }
            if back {
                self.set_standing(name.as_bytes(), standing);
                self.catch_up(name.as_bytes());
            }
        } else {
            self.unproven += usize::from(!proven);
            let waits = proven || self.unproven <= NEWCOMERS;
            let standing = if waits { Standing::Current } else { Standing::Unproven };
            let peer = Peer {
                addr,
                standing,
                proven,
                acked: next,
                joined_at: next,
                rejoined_at: next,
                life: 0,
                began: Began::MAX,
                acknowledged: false,
                behind_since: None,
                seen: next,
                backoff: 0,
                periods_left: 0,
                cookie,
            };
            self.peers.insert(name.clone(), peer);
            self.positions.add(standing, next);
        }
        // Who has answered there is not displaced by who is only said to be there.
        let proven = |name: &NodeName| self.peers.get(name).is_some_and(|peer| peer.proven);
        if proven(name) || !self.names.get(&addr).is_some_and(proven) {
            self.names.insert(addr, name.clone());
        }
    }

    /// A peer has answered, or acknowledged something.
    pub(in crate::dissemination) fn prove_peer(&mut self, name: &[u8]) {
        let unproven = self.peers.get_key_value(name).filter(|(_, peer)| !peer.proven);
        let Some(name) = unproven.map(|(name, _)| name.clone()) else { return };
        let Some(peer) = self.peers.get_mut(&name) else { return };
        peer.proven = true;
        (peer.behind_since, peer.backoff, peer.periods_left) = (None, 0, 0);
        let (addr, unproven) = (peer.addr, peer.standing == Standing::Unproven);
        self.unproven -= 1;
        self.names.insert(addr, name.clone());
        if unproven {
            self.set_standing(name.as_bytes(), Standing::Lagging);
            self.catch_up(name.as_bytes());
        }
    }

    /// A member has failed, or is said to have left; it may come back within that time.
    pub(in crate::dissemination) fn lose_peer(&mut self, now: Instant, name: &NodeName, grace: Duration) {
        if self.peers.contains_key(name) {
            self.set_standing(name.as_bytes(), Standing::Away { since: now, until: now + grace });
            self.free();
        }
    }

    /// A peer was away for too long. Where it was, is remembered for one that has never said it itself.
    pub(super) fn forget_peer(&mut self, name: &NodeName, away: Instant) {
        if let Some(peer) = self.peers.get(name).filter(|peer| !peer.acknowledged) {
            let gone_at = self.began(away, 0);
            self.forgotten.add(name, peer.acked, gone_at);
        }
        self.remove_peer(name);
    }

    fn remove_peer(&mut self, name: &NodeName) {
        if let Some(peer) = self.peers.remove(name) {
            self.unproven -= usize::from(!peer.proven);
            self.forget_addr(peer.addr, name);
            self.positions.remove(peer.standing, peer.acked);
            self.free();
        }
    }

    fn forget_addr(&mut self, addr: SocketAddr, name: &NodeName) {
        if self.names.get(&addr) == Some(name) {
            self.names.remove(&addr);
        }
    }

    /// Who is reached there.
    pub(in crate::dissemination) fn name_at(&self, addr: SocketAddr) -> Option<&NodeName> {
        self.names.get(&addr)
    }
}
