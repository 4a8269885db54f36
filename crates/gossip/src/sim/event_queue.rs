//! The queue of a discrete-event simulation: events in order of time, and in order of insertion at the same time.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Virtual time, in nanoseconds since the network's start.
pub(super) type VirtualTime = u64;

/// A duration in virtual time.
///
/// # Panics
///
/// It is longer than 500 years, which no run is.
pub(super) fn nanos(time: Duration) -> VirtualTime {
    u64::try_from(time.as_nanos()).expect("a run is shorter than 500 years")
}

/// See the [module](self). The heap orders the slots of a slab, so that it moves 24 bytes and not whole events.
#[derive(Debug)]
pub(super) struct EventQueue<T> {
    heap: BinaryHeap<Reverse<(VirtualTime, u64, u32)>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    pushed: u64,
}

impl<T> EventQueue<T> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), items: Vec::new(), free: Vec::new(), pushed: 0 }
    }

    pub(super) fn push(&mut self, at: VirtualTime, item: T) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.items[slot as usize] = Some(item);
                slot
            }
            None => {
                self.items.push(Some(item));
                u32::try_from(self.items.len() - 1).expect("no memory holds that many items")
            }
        };
        self.heap.push(Reverse((at, self.pushed, slot)));
        self.pushed += 1;
    }

    /// Takes the next event, no later than `end`.
    pub(super) fn pop(&mut self, end: VirtualTime) -> Option<(VirtualTime, T)> {
        let Reverse((at, ..)) = self.heap.peek()?;
        if *at > end {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let item = self.items[slot as usize].take().expect("each slot is in the heap once");
        Some((at, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_earliest_first_and_keeps_the_order_of_entry() {
        let mut event_queue = EventQueue::new();
        for (at, item) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c')] {
            event_queue.push(at, item);
        }
        assert_eq!(event_queue.pop(0), None);
        assert_eq!(event_queue.pop(2), Some((1, 'a')));
        event_queue.push(2, 'x');
        let rest: Vec<_> = std::iter::from_fn(|| event_queue.pop(9)).map(|(_, item)| item).collect();
        assert_eq!(rest, ['b', 'c', 'x', 'd']);
    }
}
