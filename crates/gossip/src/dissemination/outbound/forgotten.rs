//! Peers that were away for so long that they are not kept for any more, and had never said how far they are.
//!
//! Who has acknowledged something has a position of its own, and goes on from there when it comes back. Who has
//! not would be taken for a newcomer, and begin at the present number in silence. Which of the two came back its age
//! tells, or its clock: who has been running for longer than it was away is the one that went. A newcomer that is
//! mistaken for it is told too much; the other way round something would be skipped in silence.

use std::collections::VecDeque;

use super::peer::Began;
use crate::membership::NodeName;

/// How many peers are remembered that were forgotten before they had acknowledged anything.
const MAX_FORGOTTEN: usize = 256;

/// A peer that had never acknowledged anything when it was away for too long. If it comes back as it was, it has
/// no position of its own to go on from, and is told what it missed.
#[derive(Debug)]
struct Forgotten {
    name: NodeName,
    acked: u64,
    /// When it went away.
    gone_at: Began,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct ForgottenPeers {
    /// The latest last.
    peers: VecDeque<Forgotten>,
}

impl ForgottenPeers {
    /// A peer that went away then is forgotten. As far as was known it had all below that number.
    pub(super) fn add(&mut self, name: &NodeName, acked: u64, gone_at: Began) {
        self.remove(name.as_bytes());
        self.peers.push_back(Forgotten { name: name.clone(), acked, gone_at });
        if self.peers.len() > MAX_FORGOTTEN {
            self.peers.pop_front();
        }
    }

    /// A peer has said itself where it is.
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.peers.retain(|forgotten| *forgotten.name.as_bytes() != *name);
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.peers.iter().any(|forgotten| *forgotten.name.as_bytes() == *name)
    }

    /// Where the life of a peer begins that began then, if it is the one that was forgotten.
    pub(super) fn start_of(&self, name: &[u8], began: Began) -> Option<u64> {
        let forgotten = self.peers.iter().find(|forgotten| *forgotten.name.as_bytes() == *name)?;
        (began < forgotten.gone_at).then_some(forgotten.acked)
    }
}
