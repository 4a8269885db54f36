//! What was said, as those who follow it are told: kept once for all of them, bounded, and numbered.
//!
//! Each message is put into the form it is told in when it comes, once. Whoever follows has a position in the
//! journal, not a queue of its own: a thousand followers cost a thousand numbers. One that does not read costs
//! its position, which is overtaken in the end, and the piece that it was given last, a copy: what is not kept any
//! more is not held by anybody.
//!
//! A [`Cursor`] names a place. Whoever comes back with one goes on from there; what is not kept any more is told.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use broadcast::{Message, NodeName};
use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::{
    events::{Cursor, Form, Notice, Read},
    pieces::PIECE,
    problem,
};

/// What is kept at most, in entries and in bytes.
pub(crate) const MAX_ENTRIES: usize = 65_536;
pub(crate) const MAX_BYTES: usize = 16 << 20;
/// What an entry takes beside its text.
const OVERHEAD: usize = 128;

/// What somebody wants to hear.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// What the key begins with.
    pub(super) key: String,
    /// Who says it; anybody if that is not set.
    pub(super) from: Option<NodeName>,
}

/// An entry, in both forms: the text is `id: …\ndata: {…}\n\n`, of which a part is the line.
#[derive(Debug)]
struct Entry {
    text: Bytes,
    line: (u32, u32),
    /// Nothing for what everybody is to know.
    said: Option<(NodeName, Box<str>)>,
}

impl Entry {
    fn size(&self) -> usize {
        self.text.len() + self.said.as_ref().map_or(0, |(_, key)| key.len()) + OVERHEAD
    }

    fn passes(&self, filter: &Filter) -> bool {
        self.said.as_ref().is_none_or(|(origin, key)| {
            key.starts_with(&filter.key) && filter.from.as_ref().is_none_or(|from| from == origin)
        })
    }

    fn text(&self, form: Form) -> Bytes {
        match form {
            Form::Events => self.text.clone(),
            Form::Lines => self.text.slice(self.line.0 as usize..self.line.1 as usize),
        }
    }
}

/// How far a follower has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The number of entries before.
    at: u64,
    /// Bytes of that entry that have been told.
    within: usize,
}

impl Position {
    fn before(at: u64) -> Self {
        Self { at, within: 0 }
    }

    /// Whether an entry has been told in part: what comes next is its rest.
    pub(super) fn is_within(self) -> bool {
        self.within > 0
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Journal {
    life: u64,
    state: Mutex<State>,
    /// The place after the last entry.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The place of the first entry.
    first: u64,
    ended: bool,
}

impl Journal {
    /// `life` differs from that of all others.
    pub(super) fn new(life: u64) -> Self {
        Self { life, state: Mutex::default(), end: watch::Sender::new(0) }
    }

    /// Adds messages that came at this time.
    pub(super) fn add(&self, messages: &mut Vec<Message>, at: SystemTime) {
        // It cannot be written for a clock that stands before 1970.
        let received = humantime::format_rfc3339_micros(at.max(SystemTime::UNIX_EPOCH)).to_string();
        let mut state = self.lock();
        for message in messages.drain(..) {
            let cursor = Cursor { life: self.life, position: state.end() + 1 };
            let said = (message.origin().clone(), message.key().into());
            state.add(cursor, None, Some(said), &Heard::text(&message, &received, cursor));
        }
        self.announce(state);
    }

    /// Adds something that everybody is to know.
    pub(super) fn tell(&self, notice: Notice<'_>) {
        let mut state = self.lock();
        let cursor = Cursor { life: self.life, position: state.end() + 1 };
        let name = notice.name();
        state.add(cursor, Some(name), None, &problem::text(&notice.at(cursor)));
        self.announce(state);
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        self.announce(state);
    }

    fn announce(&self, state: MutexGuard<'_, State>) {
        let end = state.end();
        drop(state);
        self.end.send_replace(end);
    }

    /// Changes whenever there is more.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    pub(super) fn cursor(&self, place: Position) -> Cursor {
        Cursor { life: self.life, position: place.at }
    }

    /// The place after the last entry.
    pub(super) fn now(&self) -> Position {
        Position::before(self.lock().end())
    }

    /// The place of the last `count` entries that pass.
    pub(super) fn last(&self, count: usize, filter: &Filter) -> Position {
        let state = self.lock();
        let passing = state.entries.iter().enumerate().rev().filter(|(_, entry)| entry.passes(filter));
        Position::before(passing.take(count).last().map_or(state.end(), |(i, _)| state.first + i as u64))
    }

    /// The place that a cursor names; the first there is, and `false`, for one of another life.
    pub(super) fn place(&self, cursor: Cursor) -> (Position, bool) {
        let state = self.lock();
        if cursor.life == self.life && cursor.position <= state.end() {
            (Position::before(cursor.position), true)
        } else {
            (Position::before(state.first), false)
        }
    }

    /// Moves a place on to what is kept; how many entries that leaves out.
    pub(super) fn skip(&self, place: &mut Position) -> u64 {
        let first = self.lock().first;
        let missed = first.saturating_sub(place.at);
        place.at += missed;
        missed
    }

    /// What there is at a place that passes; the place moves on.
    pub(super) fn read(&self, place: &mut Position, filter: &Filter, form: Form) -> Read {
        let state = self.lock();
        if place.at < state.first {
            if std::mem::take(&mut place.within) > 0 {
                return Read::Torn;
            }
            let missed = state.first - place.at;
            place.at = state.first;
            return Read::Lagged(missed);
        }
        let mut told = BytesMut::new();
        for entry in state.entries.range((place.at - state.first) as usize..) {
            if entry.passes(filter) {
                let text = entry.text(form);
                let rest = &text[place.within..];
                if rest.len() > PIECE && told.is_empty() {
                    place.within += PIECE;
                    return Read::Text(Bytes::copy_from_slice(&rest[..PIECE]));
                }
                if told.len() + rest.len() > PIECE {
                    break;
                }
                told.extend_from_slice(rest);
            }
            *place = Position { at: place.at + 1, within: 0 };
        }
        match told.is_empty() {
            false => Read::Text(told.freeze()),
            true if state.ended => Read::Closed,
            true => Read::Empty,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic under this lock but for want of memory.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn add(&mut self, cursor: Cursor, name: Option<&str>, said: Option<(NodeName, Box<str>)>, data: &str) {
        let mut text = format!("id: {cursor}\n");
        if let Some(name) = name {
            text.extend(["event: ", name, "\n"]);
        }
        text.push_str("data: ");
        let start = text.len();
        text.push_str(data);
        text.push_str("\n\n");
        let line = (start as u32, text.len() as u32 - 1);
        let entry = Entry { text: text.into(), line, said };
        self.bytes += entry.size();
        self.entries.push_back(entry);
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.size();
            self.first += 1;
        }
    }
}

/// A message, as followers are told it.
#[derive(Serialize)]
struct Heard<'a> {
    id: Option<String>,
    origin: &'a str,
    epoch: Option<u64>,
    seq: Option<u64>,
    key: &'a str,
    value: &'a RawValue,
    hops: u8,
    received: &'a str,
    cursor: Cursor,
}

impl Heard<'_> {
    fn text(message: &Message, received: &str, cursor: Cursor) -> String {
        let (origin, value) = (message.origin().to_string(), message.value_on_one_line());
        let id = message.id();
        problem::text(&Heard {
            id: id.map(|id| id.of(&origin)),
            origin: &origin,
            epoch: id.map(|id| id.epoch),
            seq: id.map(|id| id.seq),
            key: message.key(),
            value: serde_json::from_str(&value).expect("a message's value is JSON"),
            hops: message.hops(),
            received,
            cursor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(key: &str, value: &str) -> Message {
        Message::of_others("go", key, value)
    }

    fn journal(keys: &[&str]) -> Journal {
        let journal = Journal::new(7);
        keys.iter().for_each(|key| journal.add(&mut vec![said(key, "1")], SystemTime::UNIX_EPOCH));
        journal
    }

    fn keys(told: Read) -> Vec<String> {
        let Read::Text(text) = told else { panic!("{told:?}") };
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["key"].to_string()).collect()
    }

    fn at(position: u64) -> Position {
        Position::before(position)
    }

    #[test]
    fn an_entry_is_one_event_or_one_line() {
        let journal = Journal::new(0xab);
        journal.add(&mut vec![said("a\n", "{\n\"x\": \"y\\nz\"}")], SystemTime::UNIX_EPOCH);
        let object = concat!(
            r#"{"id":null,"origin":"go","epoch":null,"seq":null,"key":"a\n","value":{ "x": "y\nz"},"hops":0,"#,
            r#""received":"1970-01-01T00:00:00.000000Z","cursor":"ab.1"}"#
        );
        let told = |form| journal.read(&mut at(0), &Filter::default(), form);
        assert_eq!(told(Form::Events), Read::Text(format!("id: ab.1\ndata: {object}\n\n").into()));
        assert_eq!(told(Form::Lines), Read::Text(format!("{object}\n").into()));
        journal.tell(Notice::Missed { origin: "node2", epoch: 1, from: 2, to: 3 });
        let told = journal.read(&mut at(1), &Filter { key: "b".into(), from: None }, Form::Events);
        let event = concat!(
            "id: ab.2\nevent: missed\n",
            "data: {\"event\":\"missed\",\"origin\":\"node2\",\"epoch\":1,\"from\":2,\"to\":3,\"cursor\":\"ab.2\"}\n\n"
        );
        assert_eq!(told, Read::Text(event.into()), "everybody is told");
    }

    #[test]
    fn whoever_comes_back_goes_on_where_it_was() {
        let journal = journal(&["a", "b", "ab", "c"]);
        let all = Filter::default();
        let mut place = at(1);
        assert_eq!(keys(journal.read(&mut place, &all, Form::Lines)), [r#""b""#, r#""ab""#, r#""c""#]);
        assert_eq!((place, journal.read(&mut place, &all, Form::Lines)), (at(4), Read::Empty));
        let cursor: Cursor = "7.3".parse().unwrap();
        assert_eq!(journal.place(cursor), (at(3), true));
        assert_eq!(journal.place("8.3".parse().unwrap()), (at(0), false), "of another life");
        assert_eq!(journal.place("7.5".parse().unwrap()), (at(0), false), "of what has not been said");
        for text in ["", "7", "7.", ".3", "x.3", "7.-1", "7.3.1"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
        let a = Filter { key: "a".into(), from: None };
        assert_eq!(keys(journal.read(&mut at(0), &a, Form::Lines)), [r#""a""#, r#""ab""#]);
        let of_x = Filter { from: Some("x".into()), ..a.clone() };
        assert_eq!(journal.read(&mut at(0), &of_x, Form::Lines), Read::Empty);
        assert_eq!([1, 2, 9, 0].map(|count| journal.last(count, &a)), [2, 0, 0, 4].map(at));
        journal.end();
        assert_eq!(journal.read(&mut place, &all, Form::Lines), Read::Closed);
    }

    #[test]
    fn it_is_bounded_and_says_what_is_gone() {
        let journal = Journal::new(7);
        let mut many: Vec<_> = (0..MAX_ENTRIES + 3).map(|_| said("k", "1")).collect();
        journal.add(&mut many, SystemTime::UNIX_EPOCH);
        assert!(journal.lock().bytes <= MAX_BYTES && journal.lock().entries.len() <= MAX_ENTRIES);
        let first = journal.lock().first;
        let mut place = at(0);
        assert_eq!(journal.read(&mut place, &Filter::default(), Form::Events), Read::Lagged(first));
        assert!(matches!(journal.read(&mut place, &Filter::default(), Form::Events), Read::Text(_)));

        let large = format!("\"{}\"", "x".repeat(MAX_BYTES / 3));
        journal.add(&mut (0..4).map(|_| said("k", &large)).collect(), SystemTime::UNIX_EPOCH);
        assert!(journal.lock().bytes <= MAX_BYTES);
        let (mut place, mut told) = (at(journal.now().at - 2), Vec::new());
        while let Read::Text(text) = journal.read(&mut place, &Filter::default(), Form::Lines) {
            assert!(text.len() <= PIECE);
            told.extend_from_slice(&text);
        }
        let lines = told.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let values = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["value"].to_string());
        assert!(values.eq([large.clone(), large.clone()]));

        let mut place = at(journal.now().at - 2);
        assert!(matches!(journal.read(&mut place, &Filter::default(), Form::Events), Read::Text(_)));
        journal.add(&mut (0..3).map(|_| said("k", &large)).collect(), SystemTime::UNIX_EPOCH);
        assert_eq!(journal.read(&mut place, &Filter::default(), Form::Events), Read::Torn);
    }
}
