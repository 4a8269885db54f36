//! Who went away before it had all that was on its way to it: receipts name it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
};

use crate::membership::NodeName;

/// How many of those who went away are remembered for receipts.
const MAX_DEPARTURES: usize = 256;

#[derive(Debug)]
struct Departure {
    name: NodeName,
    left: bool,
    /// What it was to get and had not got when it went.
    lacked: Range<u64>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// The latest last.
    departures: VecDeque<Departure>,
}

impl Departures {
    /// A peer has left, or has failed, and lacked these.
    pub(super) fn add(&mut self, name: &NodeName, left: bool, lacked: Range<u64>) {
        if !lacked.is_empty() {
            self.departures.push_back(Departure { name: name.clone(), left, lacked });
        }
        if self.departures.len() > MAX_DEPARTURES {
            self.departures.pop_front();
        }
    }

    /// Who has failed, and who has left, without having got a message, of those that are not back.
    pub(super) fn without(&self, seq: u64, is_back: impl Fn(&NodeName) -> bool) -> (Vec<NodeName>, Vec<NodeName>) {
        let without = self.departures.iter().filter(|gone| gone.lacked.contains(&seq) && !is_back(&gone.name));
        // As it was last.
        let without: BTreeMap<_, _> = without.map(|gone| (&gone.name, gone.left)).collect();
        let (left, failed): (Vec<_>, Vec<_>) = without.into_iter().partition(|(_, left)| *left);
        let names = |gone: Vec<(&NodeName, bool)>| gone.into_iter().map(|(name, _)| name.clone()).collect();
        (names(failed), names(left))
    }
}
