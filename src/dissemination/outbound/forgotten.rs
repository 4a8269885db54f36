//! Peers that were away for so long that they are not kept for any more, and had never said how far they are.
//!
//! Who has acknowledged something has a position of its own, and goes on from there when it comes back. Who has
//! not would be taken for a newcomer, and begin at the present number in silence. Which of the two came back only
//! its life tells, by two clocks: where these differ by more than it was away, the guess may be wrong.

use std::time::Instant;

use super::Outbound;
use crate::membership::NodeName;

/// How many peers are remembered that were forgotten before they had acknowledged anything.
const MAX_FORGOTTEN: usize = 256;

/// A peer that had never acknowledged anything when it was away for too long. If it comes back as it was, it has
/// no position of its own to go on from, and is told what it missed.
#[derive(Debug)]
pub(super) struct Forgotten {
    pub(super) name: NodeName,
    acked: u64,
    /// A life that began before this, by this node's clock, is the one that went away.
    lost_at: u64,
}

impl Forgotten {
    /// Where that life began, if it is the one.
    pub(super) fn start_of(&self, life: u64) -> Option<u64> {
        (life < self.lost_at).then_some(self.acked)
    }
}

impl Outbound {
    /// A peer was away for too long. Where it was, is remembered for one that has never said it itself.
    pub(super) fn forget_peer(&mut self, name: &NodeName, away: Instant) {
        if let Some(peer) = self.peers.get(name).filter(|peer| peer.life == 0) {
            let elapsed = u64::try_from(away.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX);
            let lost_at = self.epoch.saturating_add(elapsed.saturating_mul(2));
            self.forgotten.retain(|forgotten| forgotten.name != *name);
            self.forgotten.push_back(Forgotten { name: name.clone(), acked: peer.acked, lost_at });
            if self.forgotten.len() > MAX_FORGOTTEN {
                self.forgotten.pop_front();
            }
        }
        self.remove_peer(name);
    }

    /// Where that life of a peer began which was forgotten.
    pub(super) fn forgotten_start(&self, name: &[u8], life: u64) -> Option<u64> {
        self.forgotten.iter().find(|forgotten| *forgotten.name.as_bytes() == *name)?.start_of(life)
    }
}
