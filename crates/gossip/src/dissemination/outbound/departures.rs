//! Peers that went away before they had everything: receipts name them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use crate::membership::NodeName;

/// How many departures are remembered for receipts. More name more of those that went away; fewer cost less memory.
const MAX_DEPARTURES: usize = 256;

/// One peer that went away.
#[derive(Debug)]
struct Departure {
    name: NodeName,
    left: bool,
    /// What it was owed and had not acknowledged when it went.
    lacked: Range<u64>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// The latest is last.
    departures: VecDeque<Departure>,
}

impl Departures {
    /// Notes that a peer has left or failed without these messages.
    pub(super) fn add(&mut self, name: &NodeName, left: bool, lacked: Range<u64>) {
        if !lacked.is_empty() {
            self.departures.push_back(Departure { name: name.clone(), left, lacked });
        }
        if self.departures.len() > MAX_DEPARTURES {
            self.departures.pop_front();
        }
    }

    /// Who has failed, and who has left, without message `seq` and has not come back.
    pub(super) fn without(&self, seq: u64, is_back: impl Fn(&NodeName) -> bool) -> (Vec<NodeName>, Vec<NodeName>) {
        let without = self.departures.iter().filter(|gone| gone.lacked.contains(&seq) && !is_back(&gone.name));
        // A peer that went away twice counts as it did last.
        let without: BTreeMap<_, _> = without.map(|gone| (&gone.name, gone.left)).collect();
        let (left, failed): (Vec<_>, Vec<_>) = without.into_iter().partition(|(_, left)| *left);
        let names = |gone: Vec<(&NodeName, bool)>| gone.into_iter().map(|(name, _)| name.clone()).collect();
        (names(failed), names(left))
    }
}
