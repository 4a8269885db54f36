//! Who has acknowledged what, as receipts, watchers and measures are told; and who has gone without.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::{Bound, Range},
};

use super::{Outbound, Peer, Standing};
use crate::membership::NodeName;

/// How many of those who went away are remembered for receipts.
const MAX_GONE: usize = 256;

/// A peer that went away before it had all that was on its way to it.
#[derive(Debug)]
pub(super) struct Gone {
    name: NodeName,
    left: bool,
    /// What it was to get and had not got when it went.
    lacked: Range<u64>,
}

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

    /// Whether a live peer has been cut loose.
    pub(in crate::dissemination) fn is_loose(&self, name: &NodeName) -> bool {
        self.peers.get(name).is_some_and(|peer| peer.standing == Standing::Loose)
    }

    /// A member goes away. What it has not got by now receipts name it for.
    pub(in crate::dissemination) fn note_gone(&mut self, name: &NodeName, left: bool) {
        let next = self.next();
        let Some(peer) = self.peers.get(name).filter(|peer| peer.standing.is_live()) else { return };
        let lacked = peer.acked.max(peer.joined_at)..next;
        if !lacked.is_empty() {
            self.gone.push_back(Gone { name: name.clone(), left, lacked });
        }
        if self.gone.len() > MAX_GONE {
            self.gone.pop_front();
        }
    }

    /// Who has failed, and who has left, without having got a message that was on its way, and is not back.
    pub(in crate::dissemination) fn gone_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        let is_back = |name| self.peers.get(name).is_some_and(|peer| peer.standing.is_live() && peer.joined_at <= seq);
        let without = self.gone.iter().filter(|gone| gone.lacked.contains(&seq) && !is_back(&gone.name));
        // As it was last.
        let without: BTreeMap<_, _> = without.map(|gone| (&gone.name, gone.left)).collect();
        let (left, failed): (Vec<_>, Vec<_>) = without.into_iter().partition(|(_, left)| *left);
        let names = |gone: Vec<(&NodeName, bool)>| gone.into_iter().map(|(name, _)| name.clone()).collect();
        (names(failed), names(left))
    }

    /// How many live members have a message, and which do not. Those that came after it are neither.
    pub(in crate::dissemination) fn reached(&self, seq: u64) -> (usize, Vec<NodeName>) {
        let is_meant = |peer: &Peer| peer.standing.is_live() && peer.joined_at <= seq;
        let meant = self.peers.iter().filter(|(_, peer)| is_meant(peer));
        let (with, without): (Vec<_>, Vec<_>) = meant.partition(|(_, peer)| peer.acked > seq);
        (with.len(), without.into_iter().map(|(name, _)| name.clone()).collect())
    }
}
