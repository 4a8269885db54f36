//! A set of numbers, stored as ranges: its numbers mostly follow each other.

/// See the [module](self). The ranges include both ends, are sorted, and have gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet(Vec<(u64, u64)>);

impl RangeSet {
    pub(super) fn insert(&mut self, from: u64, to: u64) {
        if let Some((_, last)) = self.0.last_mut()
            && *last + 1 == from
        {
            *last = to;
            return;
        }
        // Merges the ranges that touch the new one.
        let first = self.0.partition_point(|range| range.1 + 1 < from);
        let end = self.0.partition_point(|range| range.0 <= to.saturating_add(1));
        let touched = &self.0[first..end];
        let from = touched.first().map_or(from, |range| range.0.min(from));
        let to = touched.last().map_or(to, |range| range.1.max(to));
        self.0.splice(first..end, [(from, to)]);
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.count(number, number) > 0
    }

    /// How many of the numbers from `from` to `to`, both included, are in the set.
    pub(super) fn count(&self, from: u64, to: u64) -> u64 {
        let first = self.0.partition_point(|range| range.1 < from);
        let within = self.0[first..].iter().take_while(|range| range.0 <= to);
        within.map(|range| range.1.min(to) - range.0.max(from) + 1).sum()
    }

    /// The first of the numbers from `from` to `to`, both included, that is not in the set.
    pub(super) fn first_missing(&self, from: u64, to: u64) -> Option<u64> {
        let mut next = from;
        let first = self.0.partition_point(|range| range.1 < from);
        for range in &self.0[first..] {
            if range.0 > next {
                break;
            }
            next = range.1 + 1;
        }
        (next <= to).then_some(next)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    #[test]
    fn is_a_set() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        for _ in 0..200 {
            let (mut ranges, mut set) = (RangeSet::default(), BTreeSet::new());
            for _ in 0..12 {
                let from = rng.random_range(0..40);
                let to = from + rng.random_range(0..4);
                ranges.insert(from, to);
                set.extend(from..=to);
                let (low, high) = (rng.random_range(0..20), rng.random_range(20..50));
                assert_eq!(ranges.count(low, high), set.range(low..=high).count() as u64);
                assert_eq!(ranges.first_missing(low, high), (low..=high).find(|n| !set.contains(n)));
                assert_eq!(ranges.contains(low), set.contains(&low));
                let all: Vec<u64> = ranges.iter().flat_map(|(from, to)| from..=to).collect();
                assert_eq!(all, set.iter().copied().collect::<Vec<_>>());
                assert!(ranges.0.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{ranges:?}");
            }
        }
    }
}
