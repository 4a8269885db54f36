//! Puts entries into rows in causal order, as they come.
//!
//! It has no clock, no input and no output: entries and `now` go in, rows come out.
//!
//! Two things about the order are certain (Lamport, *Time, Clocks, and the Ordering of Events in a Distributed System*,
//! 1978): what a node reports first happened there first, and a message was sent before it was received. The rows always
//! respect both. What this leaves open is decided by the sender's Lamport clock, if the message has one, and then by time. A
//! message has one row for its sending and one for its receptions. If two nodes received two messages in different orders,
//! one of the messages gets two rows.
//!
//! A row of receptions waits for all nodes that are expected to receive the message, but only for [`LATE`]. Then it is drawn
//! with the nodes that have it, and each later reception gets a row of its own. A node that was waited for in vain is not
//! expected again until it reports something. So a node that is gone causes one pause.
//!
//! A node that reports a reception names the sender. If the sender itself reports nothing, because it is not followed or its
//! log is missing, its sending is drawn nevertheless, marked as reported by others. A reception that nobody reported is never
//! drawn.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::entry::{Entry, EntryKind, MessageText};

/// How long a row waits for more receptions.
const LATE: Duration = Duration::from_secs(1);
/// How long a sending waits for entries that may have happened before it.
const SETTLE: Duration = Duration::from_millis(50);
/// After this long an entry is drawn, whatever it waits for: it contradicts other entries.
const OVERDUE: Duration = Duration::from_secs(3);
/// How long a drawn message is remembered.
const REMEMBERED: Duration = Duration::from_secs(30);
/// How many entries may wait to be drawn.
const MAX_PENDING: usize = 10_000;
/// How many more messages are remembered, and how many receptions in all.
const MAX_MESSAGES: usize = 10_000;
const MAX_RECEPTIONS: usize = 200_000;
/// How many messages with equal texts are told apart, if they have no ids.
const MAX_ALIKE: usize = 256;
/// How many nodes are drawn.
pub(super) const MAX_NODES: usize = 1024;

/// The index of a node, in the order in which they came.
pub(super) type Column = usize;

/// A line of the picture: what happened to one message at several nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) message: MessageText,
    /// Who sent it, if that is known.
    pub(super) sender: Option<Column>,
    pub(super) cells: BTreeMap<Column, Cell>,
}

/// What happened to the message at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) kind: EntryKind,
    /// Whether others report it, and not the node itself.
    pub(super) by_others: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Timeline {
    nodes: Vec<Node>,
    columns: HashMap<String, Column>,
    messages: HashMap<u64, MessageState>,
    /// The numbers of messages by id, and the last numbers for each text.
    by_id: HashMap<u64, u64>,
    alike: HashMap<u64, VecDeque<u64>>,
    /// The first number that is remembered, and the next new one.
    numbers: (u64, u64),
    pending: usize,
    /// How many receptions are remembered.
    receptions: usize,
    /// How many entries were dropped because there are too many nodes.
    left_out: u64,
}

/// Who reports what happens at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Witness {
    /// Nobody knows yet.
    Unknown,
    /// Only others: the node is not followed.
    Others,
    /// The node itself.
    Itself,
}

/// A node that is drawn.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) witness: Witness,
    /// Its entries that are not drawn yet, in its order.
    pending: VecDeque<PendingEntry>,
    /// Whether rows wait for it.
    is_expected: bool,
    /// Its Lamport clock, as far as its entries show it.
    clock: u64,
}

/// Whether the next entry of a node can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// Its row is complete, or has waited long enough.
    Ready,
    /// More receptions may come.
    Awaits,
    /// The sending comes first, and is not drawn yet.
    Blocked,
}

/// A row that can be drawn next: its rank, whether it is a sending, and the number of the message.
type Candidate = ((u64, u64, u64), bool, u64);

/// An entry that is not drawn yet.
#[derive(Clone, Copy, Debug)]
struct PendingEntry {
    number: u64,
    cell: Cell,
    since: Duration,
}

/// What is known about a message.
#[derive(Debug)]
struct MessageState {
    message: MessageText,
    id: Option<u64>,
    origin: Option<Column>,
    sent: SendState,
    /// Who received it, and whether that is drawn.
    receivers: BTreeMap<Column, bool>,
    /// The nodes that are expected to receive it, a bit for each column.
    expected: Vec<u64>,
    since: Duration,
    /// Decides the order where causality does not: the Lamport clock, the time, the number.
    rank: (u64, u64, u64),
}

/// How far the sending of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// Nobody has reported it.
    Unknown,
    Pending,
    Drawn,
}

impl Timeline {
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many entries were dropped because there are too many nodes.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Adds a node, or finds it. Gives nothing if there are too many nodes.
    pub(super) fn add_node(&mut self, name: &str, witness: Witness) -> Option<Column> {
        if let Some(column) = self.columns.get(name) {
            let node = &mut self.nodes[*column];
            node.witness = node.witness.max(witness);
            return Some(*column);
        }
        if self.nodes.len() == MAX_NODES {
            return None;
        }
        let column = self.nodes.len();
        let name = name.to_owned();
        self.columns.insert(name.clone(), column);
        self.nodes.push(Node { name, witness, pending: VecDeque::new(), is_expected: true, clock: 0 });
        Some(column)
    }

    /// Whether rows wait for a node.
    pub(super) fn expect(&mut self, name: &str, is_expected: bool) {
        if let Some(column) = self.columns.get(name) {
            self.nodes[*column].is_expected = is_expected;
        }
    }

    /// Takes an entry.
    pub(super) fn take(&mut self, now: Duration, entry: Entry) {
        let by_others = entry.kind == EntryKind::Acknowledged;
        let witness = if by_others { Witness::Others } else { Witness::Itself };
        let Some(column) = self.add_node(&entry.node, witness) else {
            self.left_out += 1;
            return;
        };
        if by_others && self.nodes[column].witness == Witness::Itself {
            return;
        }
        self.nodes[column].is_expected = true;
        let origin = match (entry.kind, &entry.origin) {
            (EntryKind::Sent, _) => Some(column),
            (_, Some(origin)) => self.add_node(origin, Witness::Unknown),
            (_, None) => None,
        };
        let number = match self.find(&entry, column, origin) {
            Some(number) => number,
            None if self.is_known(&entry, column) => return,
            None => self.begin(now, &entry, column, origin),
        };
        let Some(known) = self.messages.get_mut(&number) else { return };
        if known.id.is_none()
            && let Some(id) = entry.id
        {
            known.id = Some(id);
            self.by_id.insert(id, number);
        }
        known.origin = known.origin.or(origin);
        if entry.kind == EntryKind::Sent {
            known.sent = SendState::Pending;
        } else {
            known.receivers.insert(column, false);
            self.receptions += 1;
        }
        let node = &mut self.nodes[column];
        node.clock = node.clock.max(known.rank.0.saturating_add(1));
        node.pending.push_back(PendingEntry { number, cell: Cell { kind: entry.kind, by_others }, since: now });
        self.pending += 1;
    }

    /// Finds the message that an entry is about: one that is not drawn yet, if possible.
    fn find(&self, entry: &Entry, column: Column, origin: Option<Column>) -> Option<u64> {
        let is_open = |number: &&u64| self.messages.get(number).is_some_and(|known| !known.is_drawn());
        let is_news = |number: &&u64| self.messages.get(number).is_some_and(|known| known.is_news(entry.kind, column));
        if let Some(number) = entry.id.and_then(|id| self.by_id.get(&id)) {
            return Some(number).filter(is_news).copied();
        }
        // By its text, if one of the two has no id.
        let fits = |number: &&u64| {
            self.messages.get(number).is_some_and(|known| {
                let may_be_same = known.id.is_none() || entry.id.is_none();
                may_be_same && (known.origin.is_none() || origin.is_none() || known.origin == origin)
            })
        };
        let alike = self.alike.get(&entry.message.digest)?;
        let fitting = alike.iter().filter(fits).filter(is_news);
        fitting.clone().find(is_open).or_else(|| fitting.clone().next()).copied()
    }

    /// Whether the entry was reported before.
    fn is_known(&self, entry: &Entry, column: Column) -> bool {
        let number = entry.id.and_then(|id| self.by_id.get(&id));
        let known = number.and_then(|number| self.messages.get(number));
        known.is_some_and(|known| !known.is_news(entry.kind, column))
    }

    fn begin(&mut self, now: Duration, entry: &Entry, column: Column, origin: Option<Column>) -> u64 {
        self.forget(now);
        let number = self.numbers.1;
        self.numbers.1 += 1;
        // Without a clock's value, the clock of the node that reports it.
        let lamport = entry.message.lamport.unwrap_or(self.nodes[column].clock);
        let mut expected = vec![0; self.nodes.len().div_ceil(64)];
        for (column, _) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_expected) {
            expected[column / 64] |= 1 << (column % 64);
        }
        let known = MessageState {
            message: entry.message.clone(),
            // Set by the caller, with the index of ids.
            id: None,
            origin,
            sent: SendState::Unknown,
            receivers: BTreeMap::new(),
            expected,
            since: now,
            rank: (lamport, entry.time, number),
        };
        let alike = self.alike.entry(entry.message.digest).or_default();
        alike.push_back(number);
        if alike.len() > MAX_ALIKE {
            alike.pop_front();
        }
        self.messages.insert(number, known);
        number
    }

    /// Forgets messages that were drawn long ago, or earlier if there are too many.
    fn forget(&mut self, now: Duration) {
        while self.numbers.0 < self.numbers.1 {
            let number = self.numbers.0;
            if let Some(known) = self.messages.get(&number) {
                let too_many = self.messages.len() > MAX_MESSAGES || self.receptions > MAX_RECEPTIONS;
                let is_old = now.saturating_sub(known.since) > REMEMBERED || too_many;
                if !known.is_drawn() || !is_old {
                    return;
                }
                let digest = known.message.digest;
                if let Some(alike) = self.alike.get_mut(&digest) {
                    alike.retain(|other| *other != number);
                    if alike.is_empty() {
                        self.alike.remove(&digest);
                    }
                }
                if let Some(id) = known.id {
                    self.by_id.remove(&id);
                }
                self.receptions -= known.receivers.len();
                self.messages.remove(&number);
            }
            self.numbers.0 += 1;
        }
    }

    /// The next row, if one is due.
    pub(super) fn row(&mut self, now: Duration) -> Option<Row> {
        let (mut first, mut split): (Option<Candidate>, Option<Candidate>) = (None, None);
        let (mut waits, is_full) = (false, self.pending > MAX_PENDING);
        for node in &self.nodes {
            let Some(pending) = node.pending.front() else { continue };
            let Some(known) = self.messages.get(&pending.number) else { continue };
            let overdue = is_full || now.saturating_sub(pending.since) >= OVERDUE;
            let state = if overdue { Readiness::Ready } else { self.state(now, *pending, known) };
            if state != Readiness::Ready {
                waits |= state == Readiness::Awaits;
                continue;
            }
            let best = if overdue || self.is_first_for_all(pending.number, known) { &mut first } else { &mut split };
            // If too many wait, the oldest goes first, so that it can be forgotten.
            let rank = if is_full { (0, 0, pending.number) } else { known.rank };
            let candidate = (rank, pending.cell.kind == EntryKind::Sent, pending.number);
            if best.as_ref().is_none_or(|(rank, ..)| candidate.0 < *rank) {
                *best = Some(candidate);
            }
        }
        // If nothing else may come, two nodes received two messages in different orders.
        let (_, is_sending, number) = first.or(split.filter(|_| !waits))?;
        Some(if is_sending { self.draw_sending(number) } else { self.draw_receptions(now, number) })
    }

    fn state(&self, now: Duration, pending: PendingEntry, known: &MessageState) -> Readiness {
        let age = now.saturating_sub(known.since);
        let is_whole = || known.missing().all(|column| !self.nodes[column].is_expected);
        let is_ready = match (pending.cell.kind, known.sent) {
            (EntryKind::Sent, _) => age >= SETTLE || is_whole(),
            (_, SendState::Pending) => return Readiness::Blocked,
            // Nobody will report the sending.
            (_, SendState::Unknown)
                if known.origin.is_some_and(|origin| self.nodes[origin].witness == Witness::Others) =>
            {
                true
            }
            (_, SendState::Unknown) => age >= LATE,
            (_, SendState::Drawn) => age >= LATE || is_whole(),
        };
        if is_ready { Readiness::Ready } else { Readiness::Awaits }
    }

    /// Whether the message is next for every node that received it.
    fn is_first_for_all(&self, number: u64, known: &MessageState) -> bool {
        let mut waiting = known.receivers.iter().filter(|(_, drawn)| !**drawn).map(|(column, _)| *column);
        waiting.all(|column| self.nodes[column].pending.front().is_some_and(|pending| pending.number == number))
            || known.sent == SendState::Pending
    }

    fn draw_sending(&mut self, number: u64) -> Row {
        let known = self.messages.get_mut(&number).expect("a pending entry's message is known");
        known.sent = SendState::Drawn;
        let sender = known.origin;
        let mut row = Row { message: known.message.clone(), sender, cells: BTreeMap::new() };
        if let Some(column) = sender {
            let pending = self.nodes[column]
                .pending
                .front()
                .filter(|pending| pending.number == number && pending.cell.kind == EntryKind::Sent);
            let cell = pending.map_or(Cell { kind: EntryKind::Sent, by_others: true }, |pending| pending.cell);
            if !cell.by_others {
                self.nodes[column].pending.pop_front();
                self.pending -= 1;
            }
            row.cells.insert(column, cell);
        }
        row
    }

    fn draw_receptions(&mut self, now: Duration, number: u64) -> Row {
        let known = self.messages.get_mut(&number).expect("a pending entry's message is known");
        if known.sent == SendState::Unknown && known.origin.is_some() {
            return self.draw_sending(number);
        }
        let mut row = Row { message: known.message.clone(), sender: known.origin, cells: BTreeMap::new() };
        for (column, drawn) in known.receivers.iter_mut().filter(|(_, drawn)| !**drawn) {
            let node = &mut self.nodes[*column];
            let Some(pending) = node.pending.front().filter(|pending| pending.number == number).copied() else {
                continue;
            };
            node.pending.pop_front();
            self.pending -= 1;
            *drawn = true;
            row.cells.insert(*column, pending.cell);
        }
        // A node that was waited for in vain is not waited for again.
        if now.saturating_sub(known.since) >= LATE {
            let since = known.since;
            for column in known.missing() {
                let node = &mut self.nodes[column];
                node.is_expected &= node.pending.iter().any(|pending| pending.since > since);
            }
        }
        row
    }

    /// When the next row may be due, if no entry comes before.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let heads = self.nodes.iter().filter_map(|node| node.pending.front());
        let due = heads.filter_map(|pending| {
            let since = self.messages.get(&pending.number)?.since;
            [since + SETTLE, since + LATE, pending.since + OVERDUE].into_iter().find(|due| *due > now)
        });
        due.min()
    }
}

impl MessageState {
    /// Whether this has not been reported yet.
    fn is_news(&self, kind: EntryKind, column: Column) -> bool {
        match kind {
            EntryKind::Sent => self.sent == SendState::Unknown && !self.receivers.contains_key(&column),
            _ => self.origin != Some(column) && !self.receivers.contains_key(&column),
        }
    }

    /// Whether everything that is known about it is drawn.
    fn is_drawn(&self) -> bool {
        self.sent != SendState::Pending && self.receivers.values().all(|drawn| *drawn)
    }

    /// The nodes that are expected to receive it and have not.
    fn missing(&self) -> impl Iterator<Item = Column> {
        let columns =
            (0..64 * self.expected.len()).filter(|column| self.expected[column / 64] >> (column % 64) & 1 == 1);
        columns.filter(|column| Some(*column) != self.origin && !self.receivers.contains_key(column))
    }
}

#[cfg(test)]
mod tests;
