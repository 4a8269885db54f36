//! What is to happen, in order of time, and of its entry for what happens at the same time.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Virtual time, in nanoseconds since the network's start.
pub(super) type Time = u64;

/// See the [module](self). The heap orders places of a slab, so that it moves 24 bytes about and not
/// whole items.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    heap: BinaryHeap<Reverse<(Time, u64, u32)>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    entered: u64,
}

impl<T> Agenda<T> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), items: Vec::new(), free: Vec::new(), entered: 0 }
    }

    pub(super) fn push(&mut self, at: Time, item: T) {
        let place = match self.free.pop() {
            Some(place) => {
                self.items[place as usize] = Some(item);
                place
            }
            None => {
                self.items.push(Some(item));
                u32::try_from(self.items.len() - 1).expect("no memory holds that many items")
            }
        };
        self.heap.push(Reverse((at, self.entered, place)));
        self.entered += 1;
    }

    /// Takes what comes next, no later than `end`.
    pub(super) fn pop(&mut self, end: Time) -> Option<(Time, T)> {
        let Reverse((at, ..)) = self.heap.peek()?;
        if *at > end {
            return None;
        }
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        let item = self.items[place as usize].take().expect("each place is in the heap once");
        Some((at, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_earliest_first_and_keeps_the_order_of_entry() {
        let mut agenda = Agenda::new();
        for (at, item) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c')] {
            agenda.push(at, item);
        }
        assert_eq!(agenda.pop(0), None);
        assert_eq!(agenda.pop(2), Some((1, 'a')));
        agenda.push(2, 'x');
        let rest: Vec<_> = std::iter::from_fn(|| agenda.pop(9)).map(|(_, item)| item).collect();
        assert_eq!(rest, ['b', 'c', 'x', 'd']);
    }
}
