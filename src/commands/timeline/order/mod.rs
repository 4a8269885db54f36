//! Puts what nodes say into rows, one below the other in causal order, as it comes.
//!
//! It has no clock, no input and no output: entries and `now` go in, rows come out.
//!
//! Two things are certain of the order (Lamport, 1978): what a node says first happened there first, and a message was
//! sent before it was received. Both always hold among the rows. What neither decides is decided by the sender's
//! Lamport clock, where a message has it, then by the time. A message has one row for its sending and one for its
//! receptions; where one node received two messages in one order, and another in the other, one of them gets two rows.
//!
//! A row of receptions waits until all nodes that are expected to receive the message have, but not for ever: after
//! [`LATE`] it is drawn with those that have, and what comes later gets a row of its own. Who was waited for in vain is
//! not expected again until it says something. So a node that has gone costs one pause.
//!
//! A node that reports what it received names the sender. Where the sender itself says nothing, because it was not asked
//! or its log is not there, the row of the sending is drawn all the same, as told by others. A reception that nobody
//! reported is never drawn.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use super::entry::{Entry, Message, What};

/// How long the rest of a row is waited for.
const LATE: Duration = Duration::from_secs(1);
/// How long a sending waits for what may have happened before it, and comes later.
const SETTLE: Duration = Duration::from_millis(50);
/// After that something is drawn whatever it waits for: it contradicts what others say.
const HARD: Duration = Duration::from_secs(3);
/// How long a message is known that was drawn.
const REMEMBERED: Duration = Duration::from_secs(30);
/// What is held at most that was not drawn yet.
const MAX_HELD: usize = 10_000;
/// Messages that are known at most beside those, and their receptions.
const MAX_MESSAGES: usize = 10_000;
const MAX_RECEPTIONS: usize = 200_000;
/// Messages with the same words that are told apart at most, where they have no ids.
const MAX_ALIKE: usize = 256;
/// Nodes that are drawn at most.
pub(super) const MAX_NODES: usize = 1024;

/// Which column, in the order in which they came.
pub(super) type Column = usize;

/// A line of the picture: what has happened to one message, to each of these nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) message: Message,
    /// Who sent it, if that is known.
    pub(super) sender: Option<Column>,
    pub(super) cells: BTreeMap<Column, Cell>,
}

/// What has happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) what: What,
    /// Whether others say so, and not the node itself.
    pub(super) by_others: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Timeline {
    nodes: Vec<Node>,
    columns: HashMap<String, Column>,
    messages: HashMap<u64, Known>,
    /// The numbers of messages by their ids, and of the last with the same words.
    by_id: HashMap<u64, u64>,
    alike: HashMap<u64, VecDeque<u64>>,
    /// The first number that is known, and the next one.
    numbers: (u64, u64),
    held: usize,
    /// How many receptions are known of.
    receptions: usize,
    /// Entries of nodes for which there was no more room.
    left_out: u64,
}

/// Who tells of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Voice {
    /// Nobody knows yet.
    Unknown,
    /// Others only: it was not asked.
    Others,
    /// It itself.
    Own,
}

/// A node that is drawn.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) voice: Voice,
    /// What it has said and is not drawn, in its order.
    held: VecDeque<Held>,
    /// Whether rows wait for it.
    is_expected: bool,
    /// Its Lamport clock, by what it has said.
    clock: u64,
}

/// What comes next at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that belongs into its row is there, or has been waited for long enough.
    Ready,
    /// More may come.
    Awaits,
    /// It comes below its sending, which is not drawn yet.
    Blocked,
}

/// What may be drawn next: its rank, whether it is a sending, and the message's number.
type Candidate = ((u64, u64, u64), bool, u64);

#[derive(Clone, Copy, Debug)]
struct Held {
    number: u64,
    cell: Cell,
    since: Duration,
}

/// What is known of a message.
#[derive(Debug)]
struct Known {
    message: Message,
    id: Option<u64>,
    origin: Option<Column>,
    sent: Sent,
    /// Who has it, and whether that is drawn.
    receivers: BTreeMap<Column, bool>,
    /// Who was there when it came, and is expected to receive it: a bit for each column.
    expected: Vec<u64>,
    since: Duration,
    /// Decides between what neither happened before the other: the Lamport clock, the time, the number.
    rank: (u64, u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Nobody has said so.
    Unknown,
    Held,
    Drawn,
}

impl Timeline {
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Entries of nodes for which there was no more room.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// There is a node of this name. Nothing, if there are too many.
    pub(super) fn add_node(&mut self, name: &str, voice: Voice) -> Option<Column> {
        if let Some(column) = self.columns.get(name) {
            let node = &mut self.nodes[*column];
            node.voice = node.voice.max(voice);
            return Some(*column);
        }
        if self.nodes.len() == MAX_NODES {
            return None;
        }
        let column = self.nodes.len();
        let name = name.to_owned();
        self.columns.insert(name.clone(), column);
        self.nodes.push(Node { name, voice, held: VecDeque::new(), is_expected: true, clock: 0 });
        Some(column)
    }

    /// A node is there, or is gone, and not waited for.
    pub(super) fn expect(&mut self, name: &str, is_expected: bool) {
        if let Some(column) = self.columns.get(name) {
            self.nodes[*column].is_expected = is_expected;
        }
    }

    /// Takes what a node says.
    pub(super) fn take(&mut self, now: Duration, entry: Entry) {
        let by_others = entry.what == What::Acknowledged;
        let voice = if by_others { Voice::Others } else { Voice::Own };
        let Some(column) = self.add_node(&entry.node, voice) else {
            self.left_out += 1;
            return;
        };
        if by_others && self.nodes[column].voice == Voice::Own {
            return;
        }
        self.nodes[column].is_expected = true;
        let origin = match (entry.what, &entry.origin) {
            (What::Sent, _) => Some(column),
            (_, Some(origin)) => self.add_node(origin, Voice::Unknown),
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
        if entry.what == What::Sent {
            known.sent = Sent::Held;
        } else {
            known.receivers.insert(column, false);
            self.receptions += 1;
        }
        let node = &mut self.nodes[column];
        node.clock = node.clock.max(known.rank.0.saturating_add(1));
        node.held.push_back(Held { number, cell: Cell { what: entry.what, by_others }, since: now });
        self.held += 1;
    }

    /// The message that an entry is about: one that is not drawn yet, or else one that is.
    fn find(&self, entry: &Entry, column: Column, origin: Option<Column>) -> Option<u64> {
        let is_open = |number: &&u64| self.messages.get(number).is_some_and(|known| !known.is_drawn());
        let is_news = |number: &&u64| self.messages.get(number).is_some_and(|known| known.is_news(entry.what, column));
        if let Some(number) = entry.id.and_then(|id| self.by_id.get(&id)) {
            return Some(number).filter(is_news).copied();
        }
        // By its words, where the one or the other has no id.
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

    /// Whether exactly that was said before.
    fn is_known(&self, entry: &Entry, column: Column) -> bool {
        let number = entry.id.and_then(|id| self.by_id.get(&id));
        let known = number.and_then(|number| self.messages.get(number));
        known.is_some_and(|known| !known.is_news(entry.what, column))
    }

    fn begin(&mut self, now: Duration, entry: &Entry, column: Column, origin: Option<Column>) -> u64 {
        self.forget(now);
        let number = self.numbers.1;
        self.numbers.1 += 1;
        // Of one that has no clock's value, the clock of whoever says so.
        let lamport = entry.message.lamport.unwrap_or(self.nodes[column].clock);
        let mut expected = vec![0; self.nodes.len().div_ceil(64)];
        for (column, _) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_expected) {
            expected[column / 64] |= 1 << (column % 64);
        }
        let known = Known {
            message: entry.message.clone(),
            // It is put down where the entry is.
            id: None,
            origin,
            sent: Sent::Unknown,
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

    /// Forgets messages that were drawn, long ago or where there are too many.
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

    /// The next row, if there is one by now.
    pub(super) fn row(&mut self, now: Duration) -> Option<Row> {
        let (mut first, mut split): (Option<Candidate>, Option<Candidate>) = (None, None);
        let (mut waits, is_full) = (false, self.held > MAX_HELD);
        for node in &self.nodes {
            let Some(held) = node.held.front() else { continue };
            let Some(known) = self.messages.get(&held.number) else { continue };
            let overdue = is_full || now.saturating_sub(held.since) >= HARD;
            let state = if overdue { State::Ready } else { self.state(now, *held, known) };
            if state != State::Ready {
                waits |= state == State::Awaits;
                continue;
            }
            let best = if overdue || self.is_first_for_all(held.number, known) { &mut first } else { &mut split };
            // Where there is too much, what came first goes first, so that it can be forgotten.
            let rank = if is_full { (0, 0, held.number) } else { known.rank };
            let candidate = (rank, held.cell.what == What::Sent, held.number);
            if best.as_ref().is_none_or(|(rank, ..)| candidate.0 < *rank) {
                *best = Some(candidate);
            }
        }
        // Where nothing else is waited for, two nodes have received two messages in different order.
        let (_, is_sending, number) = first.or(split.filter(|_| !waits))?;
        Some(if is_sending { self.draw_sending(number) } else { self.draw_receptions(now, number) })
    }

    fn state(&self, now: Duration, held: Held, known: &Known) -> State {
        let age = now.saturating_sub(known.since);
        let is_whole = || known.missing().all(|column| !self.nodes[column].is_expected);
        let is_ready = match (held.cell.what, known.sent) {
            (What::Sent, _) => age >= SETTLE || is_whole(),
            (_, Sent::Held) => return State::Blocked,
            // Nobody will say so.
            (_, Sent::Unknown) if known.origin.is_some_and(|origin| self.nodes[origin].voice == Voice::Others) => true,
            (_, Sent::Unknown) => age >= LATE,
            (_, Sent::Drawn) => age >= LATE || is_whole(),
        };
        if is_ready { State::Ready } else { State::Awaits }
    }

    /// Whether it comes next for every node that has received it.
    fn is_first_for_all(&self, number: u64, known: &Known) -> bool {
        let mut waiting = known.receivers.iter().filter(|(_, drawn)| !**drawn).map(|(column, _)| *column);
        waiting.all(|column| self.nodes[column].held.front().is_some_and(|held| held.number == number))
            || known.sent == Sent::Held
    }

    fn draw_sending(&mut self, number: u64) -> Row {
        let known = self.messages.get_mut(&number).expect("what is held is known");
        known.sent = Sent::Drawn;
        let sender = known.origin;
        let mut row = Row { message: known.message.clone(), sender, cells: BTreeMap::new() };
        if let Some(column) = sender {
            let held =
                self.nodes[column].held.front().filter(|held| held.number == number && held.cell.what == What::Sent);
            let cell = held.map_or(Cell { what: What::Sent, by_others: true }, |held| held.cell);
            if !cell.by_others {
                self.nodes[column].held.pop_front();
                self.held -= 1;
            }
            row.cells.insert(column, cell);
        }
        row
    }

    fn draw_receptions(&mut self, now: Duration, number: u64) -> Row {
        let known = self.messages.get_mut(&number).expect("what is held is known");
        if known.sent == Sent::Unknown && known.origin.is_some() {
            return self.draw_sending(number);
        }
        let mut row = Row { message: known.message.clone(), sender: known.origin, cells: BTreeMap::new() };
        for (column, drawn) in known.receivers.iter_mut().filter(|(_, drawn)| !**drawn) {
            let node = &mut self.nodes[*column];
            let Some(held) = node.held.front().filter(|held| held.number == number).copied() else { continue };
            node.held.pop_front();
            self.held -= 1;
            *drawn = true;
            row.cells.insert(*column, held.cell);
        }
        // Who was waited for in vain is not waited for again.
        if now.saturating_sub(known.since) >= LATE {
            let since = known.since;
            for column in known.missing() {
                let node = &mut self.nodes[column];
                node.is_expected &= node.held.iter().any(|held| held.since > since);
            }
        }
        row
    }

    /// When there may be another row, unless something comes before.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let heads = self.nodes.iter().filter_map(|node| node.held.front());
        let due = heads.filter_map(|held| {
            let since = self.messages.get(&held.number)?.since;
            [since + SETTLE, since + LATE, held.since + HARD].into_iter().find(|due| *due > now)
        });
        due.min()
    }
}

impl Known {
    /// Whether that has not been said of it.
    fn is_news(&self, what: What, column: Column) -> bool {
        match what {
            What::Sent => self.sent == Sent::Unknown && !self.receivers.contains_key(&column),
            _ => self.origin != Some(column) && !self.receivers.contains_key(&column),
        }
    }

    /// Whether all that is known of it is drawn.
    fn is_drawn(&self) -> bool {
        self.sent != Sent::Held && self.receivers.values().all(|drawn| *drawn)
    }

    /// Who was expected to receive it, and is not known to have.
    fn missing(&self) -> impl Iterator<Item = Column> {
        let columns =
            (0..64 * self.expected.len()).filter(|column| self.expected[column / 64] >> (column % 64) & 1 == 1);
        columns.filter(|column| Some(*column) != self.origin && !self.receivers.contains_key(column))
    }
}

#[cfg(test)]
mod tests;
