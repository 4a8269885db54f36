//! Who has acknowledged what, for receipts, watchers and metrics; and who went away without a message.

use std::{collections::BTreeMap, net::SocketAddr, ops::Bound};

use super::{
    OutboundLog,
    peer::{Peer, PeerState},
};
use crate::membership::NodeName;

impl OutboundLog {
    /// The addresses of the peers that are sent new messages.
    pub(in crate::dissemination) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.values().filter(|peer| peer.state != PeerState::Unproven).map(|peer| peer.addr)
    }

    /// The names of all peers.
    pub(in crate::dissemination) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.peers.keys()
    }

    /// The positions of proven peers: first those after `name`, then the others up to it.
    pub(in crate::dissemination) fn positions_after(&self, name: &[u8]) -> impl Iterator<Item = (&NodeName, u64)> {
        let after = self.peers.range::<[u8], _>((Bound::Excluded(name), Bound::Unbounded));
        let before = self.peers.range::<[u8], _>((Bound::Unbounded, Bound::Included(name)));
        let told = after.chain(before).filter(|(_, peer)| peer.state != PeerState::Unproven);
        told.map(|(name, peer)| (name, peer.acked))
    }

    /// How many messages each live peer has not acknowledged.
    pub(in crate::dissemination) fn lags(&self) -> BTreeMap<&NodeName, u64> {
        let meant = self.peers.iter().filter(|(_, peer)| peer.state.is_live());
        meant.map(|(name, peer)| (name, self.next().saturating_sub(peer.acked))).collect()
    }

    /// A number that changes whenever a lag changes, or who is cut loose.
    pub(in crate::dissemination) fn changes(&self) -> u64 {
        self.positions.changes.wrapping_add(self.next())
    }

    /// Whether a live peer has been cut loose.
    pub(in crate::dissemination) fn is_loose(&self, name: &NodeName) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.state == PeerState::Loose)
    }

    /// A member goes away: receipts name it for what it lacks by now.
    pub(in crate::dissemination) fn note_gone(&mut self, name: &NodeName, left: bool) {
        let next = self.next();
        let Some(peer) = self.peers.get(name).filter(|peer| peer.state.is_live()) else { return };
        self.departures.add(name, left, peer.acked.max(peer.joined_at)..next);
    }

    /// Who has failed, and who has left, without message `seq` and has not come back.
    pub(in crate::dissemination) fn departed_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        let is_back = |peer: &Peer| peer.state.is_live() && peer.joined_at <= seq;
        self.departures.without(seq, |name| self.peers.get(name).is_some_and(is_back))
    }

    /// How many live members have message `seq`, and which do not. Members that came after it are neither.
    pub(in crate::dissemination) fn acked_by(&self, seq: u64) -> (usize, Vec<NodeName>) {
        let is_meant = |peer: &Peer| peer.state.is_live() && peer.joined_at <= seq;
        let meant = self.peers.iter().filter(|(_, peer)| is_meant(peer));
        let (with, without): (Vec<_>, Vec<_>) = meant.partition(|(_, peer)| peer.acked > seq);
        (with.len(), without.into_iter().map(|(name, _)| name.clone()).collect())
    }
}
