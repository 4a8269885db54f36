//! `TransmitLimitedQueue`: the news that a node still has to send, and how often it has sent each piece.
//!
//! This is memberlist's queue (`queue.go`): it gives out each message a limited number of times,
//! `mult · ceil(log10(n + 1))`, which reaches `n` members with high probability. Messages that were sent least often go
//! first; among those the longest that still fits, then the newest. A message with a name replaces the older one with
//! that name.
//!
//! `n` is the number of live members. The membership gives it at each
//! [`take_broadcasts`](TransmitLimitedQueue::take_broadcasts), so the application has no `NumNodes` to maintain.
//!
//! # What can go wrong
//!
//! - *A message fits in no packet*: it would stay for ever, so callers do not queue it.
//! - *A flood*: the queue has a capacity; beyond it, the message that was sent most often gives way.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use bytes::Bytes;

use super::NodeName;

/// The order in which messages go: fewest transmissions first, then the longest, then the newest.
type Rank = (u32, Reverse<usize>, Reverse<u64>);

#[derive(Debug)]
struct QueuedBroadcast {
    message: Bytes,
    name: Option<NodeName>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct TransmitLimitedQueue {
    retransmit_mult: u32,
    capacity: usize,
    items: BTreeMap<Rank, QueuedBroadcast>,
    named: HashMap<NodeName, Rank>,
    next_id: u64,
}

/// How many times a message is sent by a node that knows of `n` live members.
pub(crate) fn retransmit_limit(mult: u32, n: usize) -> u32 {
    mult * digits(n)
}

/// `ceil(log10(n + 1))`: the number of decimal digits of `n`.
pub(crate) fn digits(n: usize) -> u32 {
    n.checked_ilog10().map_or(0, |log| log + 1)
}

impl TransmitLimitedQueue {
    /// An empty queue that holds at most `capacity` messages.
    pub(crate) fn new(retransmit_mult: u32, capacity: usize) -> Self {
        Self { retransmit_mult, capacity, items: BTreeMap::new(), named: HashMap::new(), next_id: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the message with that name is still to be sent.
    pub(crate) fn contains(&self, name: &NodeName) -> bool {
        self.named.contains_key(name)
    }

    /// Takes out the message with that name, if it is still to be sent.
    pub(crate) fn remove(&mut self, name: &NodeName) -> Option<Bytes> {
        let rank = self.named.remove(name)?;
        self.items.remove(&rank).map(|item| item.message)
    }

    /// Queues a message. Gives how many messages gave way for it: 0 or 1.
    pub(crate) fn push(&mut self, message: Bytes) -> usize {
        self.insert(message, None)
    }

    /// Queues a message that replaces the older one with that name. Gives how many others gave way for it: 0 or 1.
    pub(crate) fn push_named(&mut self, name: NodeName, message: Bytes) -> usize {
        self.remove(&name);
        self.insert(message, Some(name))
    }

    fn insert(&mut self, message: Bytes, name: Option<NodeName>) -> usize {
        let rank = (0, Reverse(message.len()), Reverse(self.next_id));
        self.next_id += 1;
        self.put(rank, QueuedBroadcast { message, name });
        if self.items.len() <= self.capacity {
            return 0;
        }
        let (_, item) = self.items.pop_last().expect("the queue is over its capacity, so not empty");
        if let Some(name) = item.name {
            self.named.remove(&name);
        }
        1
    }

    fn put(&mut self, rank: Rank, item: QueuedBroadcast) {
        if let Some(name) = &item.name {
            self.named.insert(name.clone(), rank);
        }
        self.items.insert(rank, item);
    }

    /// Appends messages for one packet to `out`, in a cluster of `n` live members: memberlist's `GetBroadcasts`. Each takes
    /// its length and `overhead` of the `budget`, in bytes. Gives the number of bytes used. A message that has now been
    /// sent often enough leaves the queue.
    pub(crate) fn take_broadcasts(&mut self, n: usize, overhead: usize, budget: usize, out: &mut Vec<Bytes>) -> usize {
        let limit = retransmit_limit(self.retransmit_mult, n);
        let mut used = 0;
        let mut again = Vec::new();
        let mut tier = 0;
        while let Some(room) = (budget - used).checked_sub(overhead) {
            // The longest message of this tier that fits; if there is none, on to the next tier.
            let Some((&rank, _)) = self.items.range((tier, Reverse(room), Reverse(u64::MAX))..).next() else { break };
            if rank.0 != tier {
                tier = rank.0;
                continue;
            }
            let item = self.items.remove(&rank).expect("the range has just given this key");
            used += item.message.len() + overhead;
            out.push(item.message.clone());
            let (transmits, len, id) = rank;
            if transmits + 1 < limit {
                again.push(((transmits + 1, len, id), item));
            } else if let Some(name) = item.name {
                self.named.remove(&name);
            }
        }
        for (rank, item) in again {
            self.put(rank, item);
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(mult: u32) -> TransmitLimitedQueue {
        TransmitLimitedQueue::new(mult, 1000)
    }

    fn take(queue: &mut TransmitLimitedQueue, n: usize, overhead: usize, budget: usize) -> Vec<String> {
        let mut out = Vec::new();
        let used = queue.take_broadcasts(n, overhead, budget, &mut out);
        assert_eq!(used, out.iter().map(|m| m.len() + overhead).sum::<usize>());
        assert!(used <= budget);
        out.iter().map(|m| String::from_utf8(m.to_vec()).expect("test messages are text")).collect()
    }

    #[test]
    fn limit_grows_with_the_digits_of_n() {
        let table = [
            (1, 1, 1),
            (1, 9, 1),
            (1, 10, 2),
            (1, 99, 2),
            (1, 100, 3),
            (4, 9, 4),
            (4, 10, 8),
            (4, 100, 12),
            (4, 999, 12),
            (4, 1000, 16),
            (4, 66_000, 20),
            (4, 0, 0),
            (0, 10, 0),
        ];
        for (mult, n, limit) in table {
            assert_eq!(retransmit_limit(mult, n), limit, "mult {mult}, n {n}");
        }
    }

    #[test]
    fn longest_then_newest_first_among_the_unsent() {
        let mut queue = queue(1);
        for text in ["m1", "m2", "m3", "longer4", "m5"] {
            queue.push(Bytes::from(text));
        }
        assert_eq!(take(&mut queue, 5, 2, 1400), ["longer4", "m5", "m3", "m2", "m1"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn least_sent_first() {
        let mut queue = queue(2);
        queue.push(Bytes::from("a long one"));
        assert_eq!(take(&mut queue, 5, 0, 100), ["a long one"]);
        queue.push(Bytes::from("new"));
        assert_eq!(take(&mut queue, 5, 0, 13), ["new", "a long one"]);
        assert_eq!(take(&mut queue, 5, 0, 100), ["new"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn budget_and_overhead_are_respected_to_the_byte() {
        let mut queue = queue(4);
        queue.push(Bytes::from("12345"));
        assert!(take(&mut queue, 5, 2, 6).is_empty());
        assert_eq!(take(&mut queue, 5, 2, 7), ["12345"]);

        // memberlist's TestTransmitLimited_GetBroadcasts: 18-byte messages, 80 bytes.
        for (overhead, fit) in [(2, 4), (3, 3)] {
            let mut queue = TransmitLimitedQueue::new(3, 100);
            for i in 0..4 {
                queue.push(Bytes::from(format!("{i}. this is a test.")));
            }
            assert_eq!(take(&mut queue, 10, overhead, 80).len(), fit, "overhead {overhead}");
        }
    }

    #[test]
    fn each_message_goes_out_as_often_as_the_limit_says() {
        let mut queue = queue(1);
        for i in 0..4 {
            queue.push(Bytes::from(format!("{i}. this is a test.")));
        }
        // n = 10: two transmissions each; 80 bytes take three of 18 + 3.
        let counts: Vec<_> = (0..4).map(|_| take(&mut queue, 10, 3, 80).len()).collect();
        assert_eq!(counts, [3, 3, 2, 0]);
    }

    #[test]
    fn without_members_a_message_is_still_sent_once() {
        let mut queue = queue(4);
        queue.push(Bytes::from("alone"));
        assert_eq!(take(&mut queue, 0, 2, 100), ["alone"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_name_replaces_its_older_message_only() {
        let mut queue = queue(4);
        queue.push_named("a".into(), Bytes::from("old of a"));
        queue.push_named("b".into(), Bytes::from("b"));
        queue.push(Bytes::from("nameless"));
        assert_eq!(take(&mut queue, 5, 0, 8), ["nameless"]);
        queue.push_named("a".into(), Bytes::from("a"));
        assert_eq!(queue.len(), 3);
        assert_eq!(take(&mut queue, 5, 0, 100), ["a", "b", "nameless"]);
        assert!(queue.contains(&"a".into()));
        while !queue.is_empty() {
            take(&mut queue, 5, 0, 100);
        }
        assert!(!queue.contains(&"a".into()));
    }

    #[test]
    fn an_emptied_queue_does_not_mix_messages_up() {
        // In Go the ids start over when the queue runs empty, and one message can replace another.
        let mut queue = queue(4);
        queue.push(Bytes::from("first"));
        assert_eq!(take(&mut queue, 5, 0, 5), ["first"]);
        queue.push(Bytes::from("other"));
        assert_eq!(take(&mut queue, 5, 0, 5), ["other"]);
        assert_eq!(queue.len(), 2);
    }

    #[test]
    fn over_capacity_the_most_sent_gives_way() {
        let mut queue = TransmitLimitedQueue::new(4, 2);
        queue.push_named("a".into(), Bytes::from("sent"));
        take(&mut queue, 5, 0, 100);
        queue.push(Bytes::from("one"));
        assert_eq!(queue.push(Bytes::from("two")), 1);
        assert!(!queue.contains(&"a".into()));
        assert_eq!(take(&mut queue, 5, 0, 100), ["two", "one"]);
    }
}
