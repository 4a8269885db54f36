//! Peers that were dropped after a long absence without ever having acknowledged anything.
//!
//! A peer that has acknowledged something knows its own position and continues from there when it comes back. One that
//! has not would look like a newcomer, and would start at the present number and skip messages in silence. Its age or
//! its clock tells the two apart: a node that has run for longer than the peer was away is the peer itself. A newcomer
//! that is mistaken for the peer is only told too much; the opposite mistake would lose messages in silence.

use std::collections::VecDeque;

use super::peer::StartTime;
use crate::membership::NodeName;

/// How many such peers are remembered.
const MAX_FORGOTTEN: usize = 256;

/// A peer that was dropped before it had acknowledged anything. If the same run of it comes back, it has no position of
/// its own to continue from, and is told what it missed.
#[derive(Debug)]
struct ForgottenPeer {
    name: NodeName,
    acked: u64,
    /// When it went away.
    gone_at: StartTime,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct ForgottenPeers {
    /// The latest is last.
    peers: VecDeque<ForgottenPeer>,
}

impl ForgottenPeers {
    /// Drops a peer that went away at `gone_at`. As far as is known, it had everything below `acked`.
    pub(super) fn add(&mut self, name: &NodeName, acked: u64, gone_at: StartTime) {
        self.remove(name.as_bytes());
        self.peers.push_back(ForgottenPeer { name: name.clone(), acked, gone_at });
        if self.peers.len() > MAX_FORGOTTEN {
            self.peers.pop_front();
        }
    }

    /// Removes a peer that has stated its own position.
    pub(super) fn remove(&mut self, name: &[u8]) {
        self.peers.retain(|forgotten| *forgotten.name.as_bytes() != *name);
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.peers.iter().any(|forgotten| *forgotten.name.as_bytes() == *name)
    }

    /// Where a peer starts that was started at `started_at`, if it is the one that was dropped.
    pub(super) fn start_of(&self, name: &[u8], started_at: StartTime) -> Option<u64> {
        let forgotten = self.peers.iter().find(|forgotten| *forgotten.name.as_bytes() == *name)?;
        (started_at < forgotten.gone_at).then_some(forgotten.acked)
    }
}
