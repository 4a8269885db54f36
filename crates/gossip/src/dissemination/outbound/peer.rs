//! A peer, and what peers of each standing have acknowledged.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

/// When a life of a peer began, in microseconds after this node did; negative before.
pub(in crate::dissemination) type Began = i64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Unproven,
    Current,
    Lagging,
    Loose,
    Away { since: Instant, until: Instant },
}

impl Standing {
    pub(super) fn is_live(self) -> bool {
        !matches!(self, Self::Unproven | Self::Away { .. })
    }
}

#[derive(Debug)]
pub(super) struct Peer {
    /// Where it is reached.
    pub(super) addr: SocketAddr,
    pub(super) standing: Standing,
    /// Whether it has answered, or acknowledged anything, where it is.
    pub(super) proven: bool,
    /// It has everything below.
    pub(super) acked: u64,
    /// What comes before is not for it.
    pub(super) joined_at: u64,
    /// Where it begins, should it turn out to be a new life.
    pub(super) rejoined_at: u64,
    /// Which life of it acknowledges; 0 until it has.
    pub(super) life: u64,
    /// When that life began, as far as it was said.
    pub(super) began: Began,
    /// Whether it has ever acknowledged anything, and goes on from there whatever this node knows of it.
    pub(super) acknowledged: bool,
    /// Since when it is behind without acknowledging more.
    pub(super) behind_since: Option<Instant>,
    /// What it had acknowledged when it was last looked at.
    pub(super) seen: u64,
    pub(super) backoff: u32,
    pub(super) periods_left: u32,
    /// What its acknowledgements are to carry, if it is one that is told so.
    pub(super) cookie: Option<u64>,
}

impl Peer {
    /// It says which of its lives it is in.
    pub(super) fn begin_life(&mut self, life: u64) {
        if self.life != 0 && self.life != life {
            self.joined_at = self.rejoined_at;
        }
        self.life = life;
    }
}

/// How many peers have acknowledged how much.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<u64, usize>);

impl Counts {
    /// The least that one of them has.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    /// The most that one of them has.
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

/// What the peers of each standing have acknowledged.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// Of the current and the lagging ones.
    pub(super) held: Counts,
    /// Of the current ones.
    pub(super) current: Counts,
    /// Of those that are loose.
    pub(super) loose: Counts,
    /// Of those that are not proven, nor waited for.
    pub(super) newcomers: Counts,
    /// Of those that are away.
    pub(super) kept: Counts,
    /// How often one of these changed.
    pub(super) changes: u64,
}

impl Positions {
    fn of(&mut self, standing: Standing) -> &mut Counts {
        match standing {
            Standing::Current | Standing::Lagging => &mut self.held,
            Standing::Loose => &mut self.loose,
            Standing::Unproven => &mut self.newcomers,
            Standing::Away { .. } => &mut self.kept,
        }
    }

    pub(super) fn add(&mut self, standing: Standing, acked: u64) {
        self.changes += 1;
        self.of(standing).add(acked);
        if standing == Standing::Current {
            self.current.add(acked);
        }
    }

    pub(super) fn remove(&mut self, standing: Standing, acked: u64) {
        self.changes += 1;
        self.of(standing).remove(acked);
        if standing == Standing::Current {
            self.current.remove(acked);
        }
    }
}
