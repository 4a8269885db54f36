//! One peer, and the positions of all peers by state.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

/// When a peer was started, in microseconds after this node; negative if before.
pub(in crate::dissemination) type StartTime = i64;

/// See [the table](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerState {
    Unproven,
    Current,
    Lagging,
    Loose,
    Away { since: Instant, until: Instant },
}

impl PeerState {
    /// Whether receipts wait for a peer in this state.
    pub(super) fn is_live(self) -> bool {
        !matches!(self, Self::Unproven | Self::Away { .. })
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is reached.
    pub(super) addr: SocketAddr,
    pub(super) state: PeerState,
    /// Whether it has answered or acknowledged anything at its address.
    pub(super) proven: bool,
    /// It has everything below.
    pub(super) acked: u64,
    /// It is owed nothing below.
    pub(super) joined_at: u64,
    /// Where it starts if it turns out to be in a new epoch.
    pub(super) rejoined_at: u64,
    /// The epoch in which it acknowledges; 0 until it has.
    pub(super) epoch: u64,
    /// When that epoch began, as far as is known.
    pub(super) started_at: StartTime,
    /// Whether it has ever acknowledged anything: it then continues from there, whatever this node knows of it.
    pub(super) acknowledged: bool,
    /// Since when it has been behind without acknowledging more.
    pub(super) behind_since: Option<Instant>,
    /// What it had acknowledged at the end of the last period.
    pub(super) acked_at_last_check: u64,
    /// How often it was reminded in vain; the next pause doubles with each.
    pub(super) backoff: u32,
    /// The periods until it is reminded again.
    pub(super) backoff_left: u32,
    /// What its acknowledgements have to carry, if its release knows cookies.
    pub(super) cookie: Option<u64>,
}

impl Peer {
    /// It states in which epoch it is.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        if self.epoch != 0 && self.epoch != epoch {
            self.joined_at = self.rejoined_at;
        }
        self.epoch = epoch;
    }
}

/// How many peers are at each position.
#[derive(Debug, Default)]
pub(super) struct SeqCounts(BTreeMap<u64, usize>);

impl SeqCounts {
    /// The lowest position.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    /// The highest position.
    pub(super) fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(at, _)| *at)
    }

    fn add(&mut self, at: u64) {
        *self.0.entry(at).or_default() += 1;
    }

    fn remove(&mut self, at: u64) {
        if let Some(count) = self.0.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&at);
            }
        }
    }
}

/// The positions of the peers, by state.
#[derive(Debug, Default)]
pub(super) struct PeerPositions {
    /// Those of current and lagging peers, for which publishers wait.
    pub(super) waited_for: SeqCounts,
    /// Those of current peers.
    pub(super) current: SeqCounts,
    /// Those of peers that were cut loose.
    pub(super) loose: SeqCounts,
    /// Those of unproven peers, for which nobody waits.
    pub(super) unproven: SeqCounts,
    /// Those of peers that are away.
    pub(super) away: SeqCounts,
    /// How often any of these has changed.
    pub(super) changes: u64,
}

impl PeerPositions {
    fn of(&mut self, state: PeerState) -> &mut SeqCounts {
        match state {
            PeerState::Current | PeerState::Lagging => &mut self.waited_for,
            PeerState::Loose => &mut self.loose,
            PeerState::Unproven => &mut self.unproven,
            PeerState::Away { .. } => &mut self.away,
        }
    }

    pub(super) fn add(&mut self, state: PeerState, acked: u64) {
        self.changes += 1;
        self.of(state).add(acked);
        if state == PeerState::Current {
            self.current.add(acked);
        }
    }

    pub(super) fn remove(&mut self, state: PeerState, acked: u64) {
        self.changes += 1;
        self.of(state).remove(acked);
        if state == PeerState::Current {
            self.current.remove(acked);
        }
    }
}
