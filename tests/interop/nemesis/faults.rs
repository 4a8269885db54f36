//! Which faults a nemesis causes: by chance, and each kind once before any comes again.

use std::{collections::BTreeMap, fmt};

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::client;

/// Chooses faults, and counts those that were caused.
pub(crate) struct Faults {
    seed: u64,
    random: Xoshiro256PlusPlus,
    kinds: usize,
    /// The kinds still to come before all begin again.
    left: Vec<usize>,
    counts: BTreeMap<&'static str, u32>,
}

impl Faults {
    /// Of that many kinds.
    pub(crate) fn new(kinds: usize) -> Self {
        let seed = client::now().as_nanos() as u64;
        let random = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { seed, random, kinds, left: Vec::new(), counts: BTreeMap::new() }
    }

    /// A random number below `most`.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.random.next_u64() % most as u64).expect("it is below a usize")
    }

    /// The kind of the next fault.
    pub(crate) fn next_kind(&mut self) -> usize {
        if self.left.is_empty() {
            self.left = (0..self.kinds).collect();
        }
        let next = self.below(self.left.len());
        self.left.swap_remove(next)
    }

    /// Counts a fault that was caused.
    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {:?}", self.seed, self.counts)
    }
}
