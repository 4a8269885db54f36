//! Puts the collected entries of several nodes into an order in which they can have happened.
//!
//! Collected logs come as they were read: all of one container first, perhaps, and then all of the next. Two things are
//! certain (Lamport, 1978): the order of each node's own entries, and that a message was sent before it was received. For the
//! rest, time decides, as far as clocks agree. An entry that would come too early moves to the time of what came before it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use super::entry::{Entry, EntryKind};

/// The entries in order, each with the time at which it can have happened, since 1970.
pub(super) fn ordered(entries: Vec<Entry>) -> Vec<(Duration, Entry)> {
    let mut merge = Merge::new(&entries);
    let mut order = Vec::with_capacity(entries.len());
    let mut now = 0;
    while let Some((time, entry)) = merge.next(now) {
        now = time;
        order.push((time, entry));
    }
    let mut entries: Vec<_> = entries.into_iter().map(Some).collect();
    let timed = |(time, entry): (u64, usize)| Some((Duration::from_millis(time), entries[entry].take()?));
    order.into_iter().filter_map(timed).collect()
}

/// A merge of the nodes' entries, which takes what can happen next. Entries are named by their index.
struct Merge<'a> {
    entries: &'a [Entry],
    /// For each reception, the sending of its message.
    sendings: Vec<Option<usize>>,
    /// When the entries happened that were taken.
    happened: Vec<Option<u64>>,
    /// The entries of each node that are not taken yet.
    nodes: Vec<VecDeque<usize>>,
    /// Nodes whose next entry can happen, sorted by its time.
    ready: BTreeSet<(u64, usize)>,
    /// Nodes whose next entry waits for a sending, by that sending.
    waiting: HashMap<usize, Vec<usize>>,
}

impl<'a> Merge<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut nodes: Vec<VecDeque<usize>> = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let number = *numbers.entry(&entry.node).or_insert(nodes.len());
            if number == nodes.len() {
                nodes.push(VecDeque::new());
            }
            nodes[number].push_back(i);
        }
        let mut merge = Self {
            entries,
            sendings: sendings(entries),
            happened: vec![None; entries.len()],
            nodes,
            ready: BTreeSet::new(),
            waiting: HashMap::new(),
        };
        (0..merge.nodes.len()).for_each(|node| merge.await_next(node, 0));
        merge
    }

    /// The next entry, and when it happens.
    fn next(&mut self, now: u64) -> Option<(u64, usize)> {
        let (time, node) = match self.ready.pop_first() {
            Some((time, node)) => (time.max(now), node),
            // All wait for each other: the logs contradict each other.
            None => (now, self.give_up_waiting()?),
        };
        let entry = self.nodes[node].pop_front()?;
        self.happened[entry] = Some(time);
        for node in self.waiting.remove(&entry).into_iter().flatten().chain([node]) {
            self.await_next(node, time);
        }
        Some((time, entry))
    }

    fn await_next(&mut self, node: usize, now: u64) {
        let Some(&next) = self.nodes[node].front() else { return };
        match self.sendings[next] {
            Some(sending) if self.happened[sending].is_none() => self.waiting.entry(sending).or_default().push(node),
            _ => {
                self.ready.insert((self.entries[next].time.max(now), node));
            }
        }
    }

    /// Picks the waiting node whose next entry is the earliest.
    fn give_up_waiting(&mut self) -> Option<usize> {
        let next = |node: usize| Some(self.entries[*self.nodes[node].front()?].time);
        let waiting = self.waiting.iter().flat_map(|(sending, nodes)| nodes.iter().map(|node| (*sending, *node)));
        let (sending, node) = waiting.min_by_key(|(_, node)| (next(*node), *node))?;
        self.waiting.entry(sending).or_default().retain(|other| *other != node);
        Some(node)
    }
}

/// Finds the sending for each reception. Without ids, a node's receptions of equal messages match their sendings one after
/// the other.
fn sendings(entries: &[Entry]) -> Vec<Option<usize>> {
    let mut by_id = HashMap::new();
    // All sendings of equal messages, and those without an id.
    let mut by_digest: HashMap<u64, [Vec<usize>; 2]> = HashMap::new();
    for (i, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.kind == EntryKind::Sent) {
        let [all, without_id] = by_digest.entry(entry.message.digest).or_default();
        all.push(i);
        match entry.id {
            Some(id) => drop(by_id.insert(id, i)),
            None => without_id.push(i),
        }
    }
    let mut received: HashMap<(&str, u64), usize> = HashMap::new();
    let mut sendings = vec![None; entries.len()];
    for (entry, sending) in entries.iter().zip(&mut sendings).filter(|(entry, _)| entry.kind != EntryKind::Sent) {
        let digest = entry.message.digest;
        let nth = *received.entry((&entry.node, digest)).and_modify(|nth| *nth += 1).or_default();
        let Some([all, without_id]) = by_digest.get(&digest) else { continue };
        *sending = match entry.id {
            Some(id) => by_id.get(&id).or_else(|| without_id.get(nth)).copied(),
            None => all.get(nth).copied(),
        };
    }
    sendings
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::timeline::entry::MessageText;

    fn entry(node: &str, kind: EntryKind, value: u64, time: u64) -> Entry {
        Entry::new(node, kind, MessageText::new("I am it", &value.to_string()), time)
    }

    fn words(ordered: &[(Duration, Entry)]) -> Vec<String> {
        let words = |(time, entry): &(Duration, Entry)| {
            let Entry { node, kind, message, .. } = entry;
            format!("{} {node} {kind:?} {}", time.as_millis(), message.value)
        };
        ordered.iter().map(words).collect()
    }

    #[test]
    fn all_of_one_node_first_is_put_in_order() {
        let entries = vec![
            entry("node1", EntryKind::Received, 0, 12),
            entry("node1", EntryKind::Received, 1, 22),
            entry("node3", EntryKind::Received, 0, 11),
            entry("node3", EntryKind::Sent, 1, 20),
            entry("node2", EntryKind::Sent, 0, 10),
            entry("node2", EntryKind::Received, 1, 21),
        ];
        let expected = [
            "10 node2 Sent 0",
            "11 node3 Received 0",
            "12 node1 Received 0",
            "20 node3 Sent 1",
            "21 node2 Received 1",
            "22 node1 Received 1",
        ];
        assert_eq!(words(&ordered(entries)), expected);
    }

    #[test]
    fn a_clock_that_is_wrong_does_not_change_what_came_first() {
        let entries = vec![
            // Its clock is slow.
            entry("node1", EntryKind::Received, 0, 2),
            entry("node1", EntryKind::Sent, 1, 3),
            entry("node2", EntryKind::Sent, 0, 10),
            entry("node2", EntryKind::Received, 1, 11),
        ];
        let expected = ["10 node2 Sent 0", "10 node1 Received 0", "10 node1 Sent 1", "11 node2 Received 1"];
        assert_eq!(words(&ordered(entries)), expected);
    }

    #[test]
    fn what_contradicts_itself_ends_all_the_same() {
        let entries = vec![
            entry("node1", EntryKind::Received, 1, 5),
            entry("node1", EntryKind::Sent, 0, 6),
            entry("node2", EntryKind::Received, 0, 3),
            entry("node2", EntryKind::Sent, 1, 4),
        ];
        let expected = ["0 node2 Received 0", "4 node2 Sent 1", "5 node1 Received 1", "6 node1 Sent 0"];
        assert_eq!(words(&ordered(entries)), expected);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_each_node_keeps_its_order(
            said in prop::collection::vec((0..4usize, 0..3u8, 0..5u64, 0..100u64), 0..60)
        ) {
            let kind_of = |kind| [EntryKind::Sent, EntryKind::Received, EntryKind::Acknowledged][usize::from(kind)];
            let entries: Vec<_> = said
                .iter()
                .enumerate()
                .map(|(i, (node, kind, value, time))| {
                    // The first part of the time is the entry's place, which tells it from all others.
                    entry(&format!("node{node}"), kind_of(*kind), *value, i as u64 * 1000 + time)
                })
                .collect();
            let ordered = ordered(entries.clone());
            prop_assert_eq!(ordered.len(), entries.len());
            prop_assert!(ordered.is_sorted_by_key(|(time, _)| *time));
            for node in 0..4 {
                let name = format!("node{node}");
                let of = |entry: &&Entry| entry.node == name;
                let before: Vec<_> = entries.iter().filter(of).map(|entry| entry.time).collect();
                let after: Vec<_> = ordered.iter().map(|(_, entry)| entry).filter(of).map(|entry| entry.time).collect();
                prop_assert_eq!(before, after);
            }
        }
    }
}
