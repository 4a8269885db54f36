//! Chooses the next fault at random, and the same faults for the same seed.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::fault::Fault;

/// A fault to cause.
pub(super) struct PlannedFault {
    pub(super) fault: Fault,
    pub(super) nodes: Vec<String>,
    pub(super) time: Duration,
}

/// Chooses faults so that never all nodes are affected at the same time, and at most a third of them is killed or restarted.
pub(super) struct FaultPlan {
    rng: Xoshiro256PlusPlus,
    nodes: Vec<String>,
    /// The nodes that were killed or restarted.
    victims: BTreeSet<String>,
}

impl FaultPlan {
    pub(super) fn new(nodes: Vec<String>, seed: u32) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed.into()), nodes, victims: BTreeSet::new() }
    }

    /// An outage: a partition, a pause, a kill or a restart. Gives nothing if no node is free for it.
    pub(super) fn outage(&mut self, affected: &[String]) -> Option<PlannedFault> {
        let kinds = [Fault::Partition, Fault::Pause, Fault::Kill, Fault::Restart];
        let fault = kinds[self.rng.random_range(0..kinds.len())].clone();
        let time = Duration::from_secs(self.rng.random_range(5..17));
        let mut free = self.others(affected);
        let nodes = if matches!(fault, Fault::Kill | Fault::Restart) {
            if self.victims.len() >= self.nodes.len() / 3 {
                free.retain(|name| self.victims.contains(name));
            }
            let picked = self.pick(1, free);
            self.victims.extend(picked.iter().cloned());
            picked
        } else {
            self.pick_some(free)
        };
        (!nodes.is_empty()).then_some(PlannedFault { fault, nodes, time })
    }

    /// An impairment of what nodes send: loss or delay.
    pub(super) fn impairment(&mut self, affected: &[String]) -> Option<PlannedFault> {
        let time = Duration::from_secs(self.rng.random_range(5..21));
        let fault = if self.rng.random_range(0..2) == 0 {
            Fault::Loss(self.rng.random_range(10_u32..41).into())
        } else {
            Fault::Delay(format!("5ms..{}ms", self.rng.random_range(50..250)))
        };
        let free = self.others(affected);
        let nodes = self.pick_some(free);
        (!nodes.is_empty()).then_some(PlannedFault { fault, nodes, time })
    }

    /// How long to wait until the next fault.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_secs(self.rng.random_range(2..7))
    }

    fn others(&self, affected: &[String]) -> Vec<String> {
        self.nodes.iter().filter(|name| !affected.contains(name)).cloned().collect()
    }

    /// Picks one or two nodes, but less than half of all.
    fn pick_some(&mut self, of: Vec<String>) -> Vec<String> {
        let most = ((self.nodes.len() - 1) / 2).clamp(1, 2);
        let count = self.rng.random_range(1..=most);
        self.pick(count, of)
    }

    fn pick(&mut self, count: usize, mut of: Vec<String>) -> Vec<String> {
        let count = count.min(of.len());
        (0..count).map(|_| of.remove(self.rng.random_range(0..of.len()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_all_suffer_and_at_most_a_third_is_ended() {
        for seed in 0..50 {
            let nodes: Vec<_> = (1..=7).map(|i| format!("node{i}")).collect();
            let mut plan = FaultPlan::new(nodes, seed);
            let (mut hard, mut ended) = (Vec::new(), BTreeSet::new());
            for _ in 0..100 {
                let soft = plan.impairment(&hard).map(|choice| choice.nodes).unwrap_or_default();
                let Some(choice) = plan.outage(&soft) else { continue };
                assert!(choice.nodes.iter().all(|name| !soft.contains(name)), "{:?} and {soft:?}", choice.nodes);
                assert!((5..17).contains(&choice.time.as_secs()) && (1..=2).contains(&choice.nodes.len()));
                if matches!(choice.fault, Fault::Kill | Fault::Restart) {
                    ended.extend(choice.nodes.clone());
                }
                hard = choice.nodes;
            }
            assert_eq!(ended.len(), 2, "seed {seed}: a third of seven");
        }
    }

    #[test]
    fn a_seed_says_all() {
        let choices = |seed| {
            let mut plan = FaultPlan::new((1..=7).map(|i| format!("node{i}")).collect(), seed);
            let names = |choice: Option<PlannedFault>| choice.map(|choice| (choice.fault.to_string(), choice.nodes));
            (0..20).map(|_| (names(plan.outage(&[])), plan.pause(), names(plan.impairment(&[])))).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }
}
