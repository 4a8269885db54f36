//! Who has acknowledged what, as receipts, watchers and measures are told; and who has gone without.

use std::{collections::BTreeMap, net::SocketAddr, ops::Bound};

use super::{
    Outbound,
    peer::{Peer, Standing},
};
use crate::membership::NodeName;

impl Outbound {
    /// Where the peers are that are sent what is new.
    pub(in crate::dissemination) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.peers.values().filter(|peer| peer.standing != Standing::Unproven).map(|peer| peer.addr)
    }

    /// Who the peers are.
    pub(in crate::dissemination) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.peers.keys()
    }

    /// What the peers have acknowledged that are proven, from the one after a name on and around to that.
    pub(in crate::dissemination) fn positions_after(&self, name: &[u8]) -> impl Iterator<Item = (&NodeName, u64)> {
        let after = self.peers.range::<[u8], _>((Bound::Excluded(name), Bound::Unbounded));
        let before = self.peers.range::<[u8], _>((Bound::Unbounded, Bound::Included(name)));
        let told = after.chain(before).filter(|(_, peer)| peer.standing != Standing::Unproven);
        told.map(|(name, peer)| (name, peer.acked))
    }

    /// How many messages each live peer has not acknowledged.
    pub(in crate::dissemination) fn lags(&self) -> BTreeMap<&NodeName, u64> {
        let meant = self.peers.iter().filter(|(_, peer)| peer.standing.is_live());
        meant.map(|(name, peer)| (name, self.next().saturating_sub(peer.acked))).collect()
    }

    /// The same as before when neither a lag nor who is loose has changed.
    pub(in crate::dissemination) fn changes(&self) -> u64 {
        self.positions.changes.wrapping_add(self.next())
    }

    /// Whether a live peer has been cut loose.
    pub(in crate::dissemination) fn is_loose(&self, name: &NodeName) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.standing == Standing::Loose)
    }

    /// A member goes away. What it has not got by now receipts name it for.
    pub(in crate::dissemination) fn note_gone(&mut self, name: &NodeName, left: bool) {
        let next = self.next();
        let Some(peer) = self.peers.get(name).filter(|peer| peer.standing.is_live()) else { return };
        self.departures.add(name, left, peer.acked.max(peer.joined_at)..next);
    }

    /// Who has failed, and who has left, without having got a message that was on its way, and is not back.
    pub(in crate::dissemination) fn departed_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        let is_back = |peer: &Peer| peer.standing.is_live() && peer.joined_at <= seq;
        self.departures.without(seq, |name| self.peers.get(name).is_some_and(is_back))
    }

    /// How many live members have a message, and which do not. Those that came after it are neither.
    pub(in crate::dissemination) fn acked_by(&self, seq: u64) -> (usize, Vec<NodeName>) {
        let is_meant = |peer: &Peer| peer.standing.is_live() && peer.joined_at <= seq;
        let meant = self.peers.iter().filter(|(_, peer)| is_meant(peer));
        let (with, without): (Vec<_>, Vec<_>) = meant.partition(|(_, peer)| peer.acked > seq);
        (with.len(), without.into_iter().map(|(name, _)| name.clone()).collect())
    }
}
