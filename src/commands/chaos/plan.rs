//! What is broken next, and for how long: by chance, and the same for the same seed.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::fault::Fault;

/// What is to be broken.
pub(super) struct Choice {
    pub(super) fault: Fault,
    pub(super) nodes: Vec<String>,
    pub(super) time: Duration,
}

/// Chooses, so that never all nodes suffer at the same time, and at most a third of them is ended.
pub(super) struct Plan {
    rng: Xoshiro256PlusPlus,
    nodes: Vec<String>,
    /// Those that were ended.
    victims: BTreeSet<String>,
}

impl Plan {
    pub(super) fn new(nodes: Vec<String>, seed: u32) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed.into()), nodes, victims: BTreeSet::new() }
    }

    /// What takes nodes from the others, or ends them. Nothing if all that could be chosen suffer already.
    pub(super) fn hard(&mut self, suffering: &[String]) -> Option<Choice> {
        let kinds = [Fault::Partition, Fault::Pause, Fault::Kill, Fault::Restart];
        let fault = kinds[self.rng.random_range(0..kinds.len())].clone();
        let time = Duration::from_secs(self.rng.random_range(5..17));
        let mut free = self.others(suffering);
        let nodes = if matches!(fault, Fault::Kill | Fault::Restart) {
            if self.victims.len() >= self.nodes.len() / 3 {
                free.retain(|name| self.victims.contains(name));
            }
            let picked = self.pick(1, free);
            self.victims.extend(picked.iter().cloned());
            picked
        } else {
            self.some(free)
        };
        (!nodes.is_empty()).then_some(Choice { fault, nodes, time })
    }

    /// What spoils what nodes send.
    pub(super) fn soft(&mut self, suffering: &[String]) -> Option<Choice> {
        let time = Duration::from_secs(self.rng.random_range(5..21));
        let fault = if self.rng.random_range(0..2) == 0 {
            Fault::Loss(self.rng.random_range(10_u32..41).into())
        } else {
            Fault::Delay(format!("5ms..{}ms", self.rng.random_range(50..250)))
        };
        let free = self.others(suffering);
        let nodes = self.some(free);
        (!nodes.is_empty()).then_some(Choice { fault, nodes, time })
    }

    /// How long to leave all at rest.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_secs(self.rng.random_range(2..7))
    }

    fn others(&self, suffering: &[String]) -> Vec<String> {
        self.nodes.iter().filter(|name| !suffering.contains(name)).cloned().collect()
    }

    /// One or two, but less than half of all.
    fn some(&mut self, of: Vec<String>) -> Vec<String> {
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
            let mut plan = Plan::new(nodes, seed);
            let (mut hard, mut ended) = (Vec::new(), BTreeSet::new());
            for _ in 0..100 {
                let soft = plan.soft(&hard).map(|choice| choice.nodes).unwrap_or_default();
                let Some(choice) = plan.hard(&soft) else { continue };
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
            let mut plan = Plan::new((1..=7).map(|i| format!("node{i}")).collect(), seed);
            let names = |choice: Option<Choice>| choice.map(|choice| (choice.fault.to_string(), choice.nodes));
            (0..20).map(|_| (names(plan.hard(&[])), plan.pause(), names(plan.soft(&[])))).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
    }
}
