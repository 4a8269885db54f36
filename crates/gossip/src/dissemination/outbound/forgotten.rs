//! Peers that were away for so long that they are not kept for any more, and had never said how far they are.
//!
//! Who has acknowledged something has a position of its own, and goes on from there when it comes back. Who has
//! not would be taken for a newcomer, and begin at the present number in silence. Which of the two came back its age
//! tells, or its clock: who has been running for longer than it was away is the one that went. A newcomer that is
//! mistaken for it is told too much; the other way round something would be skipped in silence.

use std::time::Instant;

use super::{Began, Outbound};
use crate::membership::NodeName;

/// How many peers are remembered that were forgotten before they had acknowledged anything.
const MAX_FORGOTTEN: usize = 256;

/// A peer that had never acknowledged anything when it was away for too long. If it comes back as it was, it has
/// no position of its own to go on from, and is told what it missed.
#[derive(Debug)]
pub(super) struct Forgotten {
    pub(super) name: NodeName,
    acked: u64,
    /// When it went away.
    gone_at: Began,
}

impl Outbound {
    /// A peer was away for too long. Where it was, is remembered for one that has never said it itself.
    pub(super) fn forget_peer(&mut self, name: &NodeName, away: Instant) {
        if let Some(peer) = self.peers.get(name).filter(|peer| !peer.acknowledged) {
            let (acked, gone_at) = (peer.acked, self.began(away, 0));
            self.forgotten.retain(|forgotten| forgotten.name != *name);
            self.forgotten.push_back(Forgotten { name: name.clone(), acked, gone_at });
            if self.forgotten.len() > MAX_FORGOTTEN {
                self.forgotten.pop_front();
            }
        }
        self.remove_peer(name);
    }

    pub(super) fn is_forgotten(&self, name: &[u8]) -> bool {
        self.forgotten.iter().any(|forgotten| *forgotten.name.as_bytes() == *name)
    }

    /// Where the life of a peer begins that began then, if it is the one that was forgotten.
    pub(super) fn forgotten_start(&self, name: &[u8], began: Began) -> Option<u64> {
        let forgotten = self.forgotten.iter().find(|forgotten| *forgotten.name.as_bytes() == *name)?;
        (began < forgotten.gone_at).then_some(forgotten.acked)
    }
}
