//! The journal: the messages that the node received, written once for all followers, bounded and numbered.
//!
//! A message is formatted when it comes, once. A follower has a position in the journal, not a queue of its own: so a thousand
//! followers cost a thousand numbers. A follower that does not read costs its position, which is overtaken in the end, and its
//! last chunk, which is a copy: nobody holds what the journal has dropped.
//!
//! A [`Cursor`] names a position for the client. A client that comes back with one goes on from there, and is told if what
//! comes next is not kept any more.

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
    chunks::CHUNK_BYTES,
    problem,
    stream_format::{Cursor, Notice, ReadOutcome, StreamFormat},
};

/// How much is kept, in entries and in bytes.
pub(crate) const MAX_ENTRIES: usize = 65_536;
pub(crate) const MAX_BYTES: usize = 16 << 20;
/// What an entry takes besides its text.
const ENTRY_OVERHEAD: usize = 128;

/// Which messages a follower wants.
#[derive(Clone, Debug, Default)]
pub(super) struct MessageFilter {
    /// The prefix of their keys.
    pub(super) key_prefix: String,
    /// Their origin; `None` for any.
    pub(super) origin: Option<NodeName>,
}

/// An entry in both formats: the text is an event, `id: …\ndata: {…}\n\n`, and a part of it is the line.
#[derive(Debug)]
struct JournalEntry {
    text: Bytes,
    line: (u32, u32),
    /// Of a message; `None` for notices, which go to everybody.
    origin_and_key: Option<(NodeName, Box<str>)>,
}

impl JournalEntry {
    fn size(&self) -> usize {
        self.text.len() + self.origin_and_key.as_ref().map_or(0, |(_, key)| key.len()) + ENTRY_OVERHEAD
    }

    fn passes(&self, filter: &MessageFilter) -> bool {
        self.origin_and_key.as_ref().is_none_or(|(origin, key)| {
            key.starts_with(&filter.key_prefix) && filter.origin.as_ref().is_none_or(|wanted| wanted == origin)
        })
    }

    fn text(&self, format: StreamFormat) -> Bytes {
        match format {
            StreamFormat::EventStream => self.text.clone(),
            StreamFormat::JsonLines => self.text.slice(self.line.0 as usize..self.line.1 as usize),
        }
    }
}

/// A follower's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadPosition {
    /// How many entries come before.
    at: u64,
    /// How many bytes of the entry were read.
    within: usize,
}

impl ReadPosition {
    fn before(at: u64) -> Self {
        Self { at, within: 0 }
    }

    /// Whether a part of an entry was read: its rest comes next.
    pub(super) fn is_inside_entry(self) -> bool {
        self.within > 0
    }
}

/// The journal of a server.
#[derive(Debug)]
pub(super) struct Journal {
    journal_id: u64,
    state: Mutex<State>,
    /// The position behind the last entry.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<JournalEntry>,
    bytes: usize,
    /// The position of the first entry.
    first: u64,
    ended: bool,
}

impl Journal {
    /// `journal_id` distinguishes it from all other journals.
    pub(super) fn new(journal_id: u64) -> Self {
        Self { journal_id, state: Mutex::default(), end: watch::Sender::new(0) }
    }

    /// Adds messages that came at this time.
    pub(super) fn add(&self, messages: &mut Vec<Message>, at: SystemTime) {
        // The format has no times before 1970.
        let received = humantime::format_rfc3339_micros(at.max(SystemTime::UNIX_EPOCH)).to_string();
        let mut state = self.lock();
        for message in messages.drain(..) {
            let cursor = Cursor { journal_id: self.journal_id, position: state.end() + 1 };
            let origin_and_key = (message.origin().clone(), message.key().into());
            state.add(cursor, None, Some(origin_and_key), &MessageJson::text(&message, &received, cursor));
        }
        self.announce(state);
    }

    /// Adds a notice, which all followers get.
    pub(super) fn add_notice(&self, notice: Notice<'_>) {
        let mut state = self.lock();
        let cursor = Cursor { journal_id: self.journal_id, position: state.end() + 1 };
        let name = notice.name();
        state.add(cursor, Some(name), None, &problem::to_json(&notice.with_cursor(cursor)));
        self.announce(state);
    }

    /// Ends the journal.
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

    /// Changes whenever entries are added.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    pub(super) fn cursor(&self, position: ReadPosition) -> Cursor {
        Cursor { journal_id: self.journal_id, position: position.at }
    }

    /// The position behind the last entry.
    pub(super) fn end_position(&self) -> ReadPosition {
        ReadPosition::before(self.lock().end())
    }

    /// The position of the last `count` entries that pass the filter.
    pub(super) fn position_of_last(&self, count: usize, filter: &MessageFilter) -> ReadPosition {
        let state = self.lock();
        let passing = state.entries.iter().enumerate().rev().filter(|(_, entry)| entry.passes(filter));
        ReadPosition::before(passing.take(count).last().map_or(state.end(), |(i, _)| state.first + i as u64))
    }

    /// The position that a cursor names, and `true`; for a cursor of another journal the first position, and `false`.
    pub(super) fn position_of(&self, cursor: Cursor) -> (ReadPosition, bool) {
        let state = self.lock();
        if cursor.journal_id == self.journal_id && cursor.position <= state.end() {
            (ReadPosition::before(cursor.position), true)
        } else {
            (ReadPosition::before(state.first), false)
        }
    }

    /// Moves a position on to what is kept. Gives how many entries that leaves out.
    pub(super) fn skip_missing(&self, position: &mut ReadPosition) -> u64 {
        let first = self.lock().first;
        let missed = first.saturating_sub(position.at);
        position.at += missed;
        missed
    }

    /// The next entries that pass the filter, or a part of one. The position moves on.
    pub(super) fn read(
        &self,
        position: &mut ReadPosition,
        filter: &MessageFilter,
        format: StreamFormat,
    ) -> ReadOutcome {
        let state = self.lock();
        if position.at < state.first {
            if std::mem::take(&mut position.within) > 0 {
                return ReadOutcome::Torn;
            }
            let missed = state.first - position.at;
            position.at = state.first;
            return ReadOutcome::Lagged(missed);
        }
        let mut chunk = BytesMut::new();
        for entry in state.entries.range((position.at - state.first) as usize..) {
            if entry.passes(filter) {
                let text = entry.text(format);
                let rest = &text[position.within..];
                if rest.len() > CHUNK_BYTES && chunk.is_empty() {
                    position.within += CHUNK_BYTES;
                    return ReadOutcome::Chunk(Bytes::copy_from_slice(&rest[..CHUNK_BYTES]));
                }
                if chunk.len() + rest.len() > CHUNK_BYTES {
                    break;
                }
                chunk.extend_from_slice(rest);
            }
            *position = ReadPosition { at: position.at + 1, within: 0 };
        }
        match chunk.is_empty() {
            false => ReadOutcome::Chunk(chunk.freeze()),
            true if state.ended => ReadOutcome::Closed,
            true => ReadOutcome::Empty,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only lack of memory can panic under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn add(
        &mut self,
        cursor: Cursor,
        event_name: Option<&str>,
        origin_and_key: Option<(NodeName, Box<str>)>,
        data: &str,
    ) {
        let mut text = format!("id: {cursor}\n");
        if let Some(name) = event_name {
            text.extend(["event: ", name, "\n"]);
        }
        text.push_str("data: ");
        let start = text.len();
        text.push_str(data);
        text.push_str("\n\n");
        let line = (start as u32, text.len() as u32 - 1);
        let entry = JournalEntry { text: text.into(), line, origin_and_key };
        self.bytes += entry.size();
        self.entries.push_back(entry);
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.size();
            self.first += 1;
        }
    }
}

/// A message in JSON.
#[derive(Serialize)]
struct MessageJson<'a> {
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

impl MessageJson<'_> {
    fn text(message: &Message, received: &str, cursor: Cursor) -> String {
        let (origin, value) = (message.origin().to_string(), message.value_on_one_line());
        let id = message.id();
        problem::to_json(&MessageJson {
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

    fn message(key: &str, value: &str) -> Message {
        Message::of_others("go", key, value)
    }

    fn journal(keys: &[&str]) -> Journal {
        let journal = Journal::new(7);
        keys.iter().for_each(|key| journal.add(&mut vec![message(key, "1")], SystemTime::UNIX_EPOCH));
        journal
    }

    fn keys(outcome: ReadOutcome) -> Vec<String> {
        let ReadOutcome::Chunk(text) = outcome else { panic!("{outcome:?}") };
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["key"].to_string()).collect()
    }

    fn at(position: u64) -> ReadPosition {
        ReadPosition::before(position)
    }

    #[test]
    fn an_entry_is_one_event_or_one_line() {
        let journal = Journal::new(0xab);
        journal.add(&mut vec![message("a\n", "{\n\"x\": \"y\\nz\"}")], SystemTime::UNIX_EPOCH);
        let object = concat!(
            r#"{"id":null,"origin":"go","epoch":null,"seq":null,"key":"a\n","value":{ "x": "y\nz"},"hops":0,"#,
            r#""received":"1970-01-01T00:00:00.000000Z","cursor":"ab.1"}"#
        );
        let read = |format| journal.read(&mut at(0), &MessageFilter::default(), format);
        assert_eq!(read(StreamFormat::EventStream), ReadOutcome::Chunk(format!("id: ab.1\ndata: {object}\n\n").into()));
        assert_eq!(read(StreamFormat::JsonLines), ReadOutcome::Chunk(format!("{object}\n").into()));
        journal.add_notice(Notice::Missed { origin: "node2", epoch: 1, from: 2, to: 3 });
        let notice = journal.read(
            &mut at(1),
            &MessageFilter { key_prefix: "b".into(), origin: None },
            StreamFormat::EventStream,
        );
        let event = concat!(
            "id: ab.2\nevent: missed\n",
            "data: {\"event\":\"missed\",\"origin\":\"node2\",\"epoch\":1,\"from\":2,\"to\":3,\"cursor\":\"ab.2\"}\n\n"
        );
        assert_eq!(notice, ReadOutcome::Chunk(event.into()), "everybody is told");
    }

    #[test]
    fn whoever_comes_back_goes_on_where_it_was() {
        let journal = journal(&["a", "b", "ab", "c"]);
        let all = MessageFilter::default();
        let mut position = at(1);
        assert_eq!(keys(journal.read(&mut position, &all, StreamFormat::JsonLines)), [r#""b""#, r#""ab""#, r#""c""#]);
        assert_eq!((position, journal.read(&mut position, &all, StreamFormat::JsonLines)), (at(4), ReadOutcome::Empty));
        let cursor: Cursor = "7.3".parse().unwrap();
        assert_eq!(journal.position_of(cursor), (at(3), true));
        assert_eq!(journal.position_of("8.3".parse().unwrap()), (at(0), false), "of another life");
        assert_eq!(journal.position_of("7.5".parse().unwrap()), (at(0), false), "of what has not been said");
        for text in ["", "7", "7.", ".3", "x.3", "7.-1", "7.3.1"] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
        let a = MessageFilter { key_prefix: "a".into(), origin: None };
        assert_eq!(keys(journal.read(&mut at(0), &a, StreamFormat::JsonLines)), [r#""a""#, r#""ab""#]);
        let of_x = MessageFilter { origin: Some("x".into()), ..a.clone() };
        assert_eq!(journal.read(&mut at(0), &of_x, StreamFormat::JsonLines), ReadOutcome::Empty);
        assert_eq!([1, 2, 9, 0].map(|count| journal.position_of_last(count, &a)), [2, 0, 0, 4].map(at));
        journal.end();
        assert_eq!(journal.read(&mut position, &all, StreamFormat::JsonLines), ReadOutcome::Closed);
    }

    #[test]
    fn it_is_bounded_and_says_what_is_gone() {
        let journal = Journal::new(7);
        let mut many: Vec<_> = (0..MAX_ENTRIES + 3).map(|_| message("k", "1")).collect();
        journal.add(&mut many, SystemTime::UNIX_EPOCH);
        assert!(journal.lock().bytes <= MAX_BYTES && journal.lock().entries.len() <= MAX_ENTRIES);
        let first = journal.lock().first;
        let mut position = at(0);
        assert_eq!(
            journal.read(&mut position, &MessageFilter::default(), StreamFormat::EventStream),
            ReadOutcome::Lagged(first)
        );
        assert!(matches!(
            journal.read(&mut position, &MessageFilter::default(), StreamFormat::EventStream),
            ReadOutcome::Chunk(_)
        ));

        let large = format!("\"{}\"", "x".repeat(MAX_BYTES / 3));
        journal.add(&mut (0..4).map(|_| message("k", &large)).collect(), SystemTime::UNIX_EPOCH);
        assert!(journal.lock().bytes <= MAX_BYTES);
        let (mut position, mut all) = (at(journal.end_position().at - 2), Vec::new());
        while let ReadOutcome::Chunk(chunk) =
            journal.read(&mut position, &MessageFilter::default(), StreamFormat::JsonLines)
        {
            assert!(chunk.len() <= CHUNK_BYTES);
            all.extend_from_slice(&chunk);
        }
        let lines = all.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let values = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["value"].to_string());
        assert!(values.eq([large.clone(), large.clone()]));

        let mut position = at(journal.end_position().at - 2);
        assert!(matches!(
            journal.read(&mut position, &MessageFilter::default(), StreamFormat::EventStream),
            ReadOutcome::Chunk(_)
        ));
        journal.add(&mut (0..3).map(|_| message("k", &large)).collect(), SystemTime::UNIX_EPOCH);
        assert_eq!(
            journal.read(&mut position, &MessageFilter::default(), StreamFormat::EventStream),
            ReadOutcome::Torn
        );
    }
}
