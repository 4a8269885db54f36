//! The order of rows: whatever comes first, and however much.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NONE: Duration = Duration::ZERO;

fn entry(node: &str, kind: EntryKind, key: &str, value: u64) -> Entry {
    Entry::new(node, kind, MessageText::new(key, &value.to_string()), 0)
}

fn sent(node: &str, value: u64) -> Entry {
    entry(node, EntryKind::Sent, &format!("I am {node}"), value)
}

fn received(node: &str, from: &str, value: u64) -> Entry {
    entry(node, EntryKind::Received, &format!("I am {from}"), value)
}

fn of(names: &[&str]) -> Timeline {
    let mut timeline = Timeline::default();
    names.iter().for_each(|name| assert!(timeline.add_node(name, Witness::Itself).is_some()));
    timeline
}

/// A row in words: what happened, the value, and to whom.
fn words(timeline: &Timeline, row: &Row) -> String {
    let cell = |(column, cell): (&Column, &Cell)| {
        let name = &timeline.nodes[*column].name;
        let verb = match cell.kind {
            EntryKind::Sent => "send",
            EntryKind::Received => "received",
            EntryKind::Acknowledged => "acknowledged",
        };
        if cell.by_others && cell.kind == EntryKind::Sent {
            format!("({name} {verb})")
        } else {
            format!("{name} {verb}")
        }
    };
    let cells: Vec<_> = row.cells.iter().map(cell).collect();
    format!("{}: {}", row.message.value, cells.join(", "))
}

fn rows(timeline: &mut Timeline, now: Duration) -> Vec<String> {
    std::iter::from_fn(|| timeline.row(now)).collect::<Vec<_>>().iter().map(|row| words(timeline, row)).collect()
}

#[test]
fn a_row_is_drawn_as_soon_as_it_is_whole() {
    let mut timeline = of(&["node1", "node2", "node3"]);
    timeline.take(NONE, sent("node2", 0));
    timeline.take(NONE, received("node1", "node2", 0));
    assert_eq!(rows(&mut timeline, NONE), [""; 0], "something may have come before");
    assert_eq!(timeline.due(NONE), Some(SETTLE));
    timeline.take(NONE, received("node3", "node2", 0));
    assert_eq!(rows(&mut timeline, NONE), ["0: node2 send", "0: node1 received, node3 received"]);
    assert_eq!(timeline.due(NONE), None);
}

#[test]
fn a_sending_stands_above_its_receptions_even_if_it_is_told_later() {
    let mut timeline = of(&["node1", "node2", "node3"]);
    for entry in [
        received("node1", "node3", 1),
        received("node1", "node2", 2),
        received("node3", "node2", 0),
        sent("node3", 1),
        sent("node2", 0),
        received("node2", "node3", 1),
        sent("node2", 2),
    ] {
        timeline.take(NONE, entry);
    }
    let expected = ["0: node2 send", "0: node3 received", "1: node3 send"];
    assert_eq!(rows(&mut timeline, SETTLE), expected[..1], "node1 may have received 0");
    assert_eq!(rows(&mut timeline, LATE)[..2], expected[1..]);
}

#[test]
fn what_comes_late_gets_a_row_of_its_own_and_holds_up_nobody_twice() {
    let mut timeline = of(&["node1", "node2", "node3"]);
    timeline.take(NONE, sent("node2", 0));
    timeline.take(NONE, received("node1", "node2", 0));
    assert_eq!(rows(&mut timeline, SETTLE), ["0: node2 send"]);
    assert_eq!(rows(&mut timeline, LATE - SETTLE), [""; 0]);
    assert_eq!(timeline.due(SETTLE), Some(LATE));
    assert_eq!(rows(&mut timeline, LATE), ["0: node1 received"]);
    // node3 is not waited for.
    timeline.take(LATE, sent("node2", 1));
    timeline.take(LATE, received("node1", "node2", 1));
    assert_eq!(rows(&mut timeline, LATE), ["1: node2 send", "1: node1 received"]);
    timeline.take(2 * LATE, received("node3", "node2", 0));
    assert_eq!(rows(&mut timeline, 2 * LATE), ["0: node3 received"]);
    // It is again.
    timeline.take(2 * LATE, sent("node2", 2));
    timeline.take(2 * LATE, received("node1", "node2", 2));
    assert_eq!(rows(&mut timeline, 2 * LATE + SETTLE), ["2: node2 send"]);
    timeline.take(2 * LATE + SETTLE, received("node3", "node2", 2));
    assert_eq!(rows(&mut timeline, 2 * LATE + SETTLE), ["2: node1 received, node3 received"]);
}

#[test]
fn two_that_received_in_different_order_share_no_more_than_one_row() {
    let mut timeline = of(&["node1", "node2", "node3", "node4"]);
    timeline.take(NONE, sent("node2", 0));
    timeline.take(NONE, sent("node3", 1));
    for (node, from, value) in [("node1", "node2", 0), ("node1", "node3", 1), ("node4", "node3", 1)] {
        timeline.take(NONE, received(node, from, value));
    }
    for entry in [received("node4", "node2", 0), received("node2", "node3", 1), received("node3", "node2", 0)] {
        timeline.take(NONE, entry);
    }
    let rows = rows(&mut timeline, NONE);
    let expected = [
        "0: node2 send",
        "1: node3 send",
        "0: node1 received, node3 received",
        "1: node1 received, node2 received, node4 received",
        "0: node4 received",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn what_neither_decides_the_lamport_clock_does_and_then_the_time() {
    let mut timeline = of(&["node1", "node2", "node3", "node4"]);
    let at = |entry: Entry, time| Entry { time, ..entry };
    timeline.take(NONE, at(sent("node3", 7), 1));
    timeline.take(NONE, at(sent("node2", 3), 9));
    timeline.take(NONE, at(entry("node1", EntryKind::Sent, "k", 100), 5));
    timeline.take(NONE, at(entry("node4", EntryKind::Sent, "k", 101), 4));
    let expected = ["101: node4 send", "100: node1 send", "3: node2 send", "7: node3 send"];
    assert_eq!(rows(&mut timeline, SETTLE), expected);
}

#[test]
fn of_who_says_nothing_itself_others_say_what_it_has_sent() {
    let mut timeline = of(&["node1"]);
    for name in ["node2", "node3"] {
        timeline.add_node(name, Witness::Others);
    }
    let of = |entry: Entry| entry.of(Some("node2"), Some("node2.7.0"));
    timeline.take(NONE, of(received("node1", "node2", 0)));
    assert_eq!(rows(&mut timeline, NONE), ["0: (node2 send)"]);
    timeline.take(NONE, of(entry("node3", EntryKind::Acknowledged, "I am node2", 0)));
    assert_eq!(rows(&mut timeline, NONE), ["0: node1 received, node3 acknowledged"]);
    // Those who say so themselves are not told of by others, and nothing is said twice.
    timeline.take(NONE, of(received("node1", "node2", 0)));
    timeline.take(NONE, of(entry("node1", EntryKind::Acknowledged, "I am node2", 0)));
    timeline.take(NONE, of(sent("node2", 0)));
    assert_eq!(rows(&mut timeline, 9 * LATE), [""; 0]);
}

#[test]
fn a_reception_whose_sending_nobody_tells_is_drawn_without_it() {
    let mut timeline = of(&["node1", "node2"]);
    timeline.take(NONE, received("node1", "node9", 0));
    assert_eq!(rows(&mut timeline, LATE / 2), [""; 0]);
    assert_eq!(rows(&mut timeline, LATE), ["0: node1 received"]);
    // Where it is said who it was, that is drawn as others' words.
    timeline.take(LATE, received("node1", "node9", 1).of(Some("node9"), Some("node9.7.1")));
    assert_eq!(rows(&mut timeline, LATE), [""; 0], "it may still say so");
    assert_eq!(rows(&mut timeline, 2 * LATE), ["1: (node9 send)", "1: node1 received"]);
}

#[test]
fn the_same_words_said_again_are_another_message() {
    let mut timeline = of(&["node1", "node2"]);
    let twice = |timeline: &mut Timeline, entry: &dyn Fn(u64) -> Entry| {
        (0..2).for_each(|seq| timeline.take(NONE, entry(seq)));
    };
    let expected = ["0: node2 send", "0: node2 send", "0: node1 received", "0: node1 received"];
    twice(&mut timeline, &|_| sent("node2", 0));
    twice(&mut timeline, &|_| received("node1", "node2", 0));
    let mut drawn = rows(&mut timeline, NONE);
    drawn.sort_by_key(|row| row.contains("received"));
    assert_eq!(drawn, expected);
    let id = |seq| format!("node2.7.{seq}");
    twice(&mut timeline, &|seq| sent("node2", 0).of(None, Some(&id(seq))));
    twice(&mut timeline, &|seq| received("node1", "node2", 0).of(Some("node2"), Some(&id(1 - seq))));
    let drawn = rows(&mut timeline, LATE);
    assert_eq!(drawn, expected, "in whatever order");
}

#[test]
fn what_it_holds_is_bounded() {
    let mut timeline = Timeline::default();
    let (mut drawn, count) = (0, 3 * MAX_PENDING as u64);
    for i in 0..count {
        // Some have ids, and some the same words as others.
        let id = format!("node9.7.{i}");
        let entry = entry(&format!("node{}", i % 4), EntryKind::Received, "k", if i % 2 == 0 { i } else { 1 });
        timeline.take(NONE, if i % 3 == 0 { entry.of(None, Some(&id)) } else { entry });
        drawn += std::iter::from_fn(|| timeline.row(NONE)).count();
        assert!(timeline.pending <= MAX_PENDING && timeline.messages.len() <= MAX_MESSAGES + MAX_PENDING);
    }
    let lists = timeline.alike.values().map(VecDeque::len).max();
    assert_eq!(lists, Some(MAX_ALIKE));
    assert!(timeline.by_id.len() <= timeline.messages.len() && timeline.alike.len() <= timeline.messages.len());
    assert!(drawn > 0);
    let rest: Vec<_> = std::iter::from_fn(|| timeline.row(OVERDUE)).collect();
    assert_eq!((timeline.pending, rest.is_empty()), (0, false));

    (0..2 * MAX_NODES).for_each(|i| timeline.take(NONE, sent(&format!("another{i}"), 0)));
    assert_eq!((timeline.nodes.len(), timeline.left_out()), (MAX_NODES, MAX_NODES as u64 + 4));
}

/// What nodes did, in an order in which it happened; each reception's sending comes before it.
fn history(nodes: usize, steps: &[(usize, usize)]) -> Vec<Entry> {
    let name = |node: usize| format!("node{}", node + 1);
    let mut messages: Vec<(String, u64, BTreeSet<usize>)> = Vec::new();
    let mut clocks = vec![0_u64; nodes];
    let mut history = Vec::new();
    for (node, pick) in steps {
        let node = node % nodes;
        let open: Vec<_> = (0..messages.len()).filter(|i| !messages[*i].2.contains(&node)).collect();
        if pick % 3 == 0 || open.is_empty() {
            let value = clocks[node];
            messages.push((name(node), value, BTreeSet::from([node])));
            clocks[node] += 1;
            history.push(sent(&name(node), value));
        } else {
            let (from, value, have) = &mut messages[open[pick % open.len()]];
            have.insert(node);
            clocks[node] = clocks[node].max(*value + 1);
            history.push(received(&name(node), from, *value));
        }
    }
    history
}

proptest! {
    #[test]
    fn causal_order_holds_whatever_comes_first(
        nodes in 2..6usize,
        steps in prop::collection::vec((0..6usize, 0..1000usize), 1..80),
        picks in prop::collection::vec(0..6usize, 200),
    ) {
        let history = history(nodes, &steps);
        // As collected logs come: each node's lines in their order, and those of different nodes in any.
        let mut queues: Vec<VecDeque<Entry>> = (0..nodes)
            .map(|node| history.iter().filter(|entry| entry.node == format!("node{}", node + 1)).cloned().collect())
            .collect();
        let names: Vec<_> = (1..=nodes).map(|node| format!("node{node}")).collect();
        let mut timeline = of(&names.iter().map(|name| &**name).collect::<Vec<_>>());
        let mut drawn = Vec::new();
        let mut picks = picks.into_iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let node = picks.next().unwrap_or_default() % nodes;
            if let Some(entry) = queues[node].pop_front() {
                timeline.take(NONE, entry);
                drawn.extend(std::iter::from_fn(|| timeline.row(NONE)));
            }
        }
        drawn.extend(std::iter::from_fn(|| timeline.row(LATE)));
        prop_assert_eq!(timeline.pending, 0, "nothing had to be forced");
        // Each column is what its node did, in that order.
        for (column, name) in names.iter().enumerate() {
            let did: Vec<_> = history.iter().filter(|entry| entry.node == *name).map(|entry| (entry.kind, &entry.message)).collect();
            let column: Vec<_> = drawn.iter().filter_map(|row| Some((row.cells.get(&column)?.kind, &row.message))).collect();
            prop_assert_eq!(did, column);
        }
        // Each sending stands above its receptions.
        for (i, row) in drawn.iter().enumerate().filter(|(_, row)| row.cells.values().any(|cell| cell.kind == EntryKind::Sent)) {
            prop_assert!(drawn[..i].iter().all(|earlier| earlier.message != row.message));
        }
    }
}
