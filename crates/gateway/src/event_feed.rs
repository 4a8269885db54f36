//! The event feed: members and acknowledgements, written once for all followers.
//!
//! The feed keeps the last events for a while. A follower has a position in it, not a queue of its own, and is given copies: so
//! nobody holds what the feed has dropped. A follower that does not keep up goes on with what is kept. There it finds the
//! members as they are now, always; acknowledgements come again every few seconds. A follower that is overtaken within an event
//! is cut off. While nobody follows, nothing is written.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use broadcast::{Acks, NodeName};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::sync::{Notify, watch};

use super::{
    chunks::CHUNK_BYTES,
    stream_format::{ReadOutcome, StreamFormat, format_event, format_event_text},
};

/// About how long a list of members may be, in bytes; it says how many are left out.
pub(crate) const MAX_MEMBERS_BYTES: usize = 4 << 20;
/// How much is kept, in events and in bytes.
pub(crate) const MAX_ENTRIES: usize = 1024;
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// The event feed of a server.
#[derive(Debug)]
pub(super) struct EventFeed {
    state: Mutex<State>,
    updates: watch::Sender<()>,
    /// Notified when somebody begins to follow.
    follower_came: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Bytes>,
    bytes: usize,
    /// The position of the first entry.
    first: u64,
    /// The position of the entry that has the members as they are now.
    members: Option<u64>,
    ended: bool,
}

/// A follower's position.
#[derive(Debug)]
pub(super) struct FeedReader {
    updates: watch::Receiver<()>,
    /// How many entries come before.
    at: u64,
    /// How many bytes of the entry were read.
    within: usize,
}

impl EventFeed {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), updates: watch::Sender::new(()), follower_came: Notify::new() }
    }

    /// Follows from now on, beginning with the members as they are.
    pub(super) fn follow(&self) -> FeedReader {
        let updates = self.updates.subscribe();
        self.follower_came.notify_one();
        let state = self.lock();
        FeedReader { updates, at: state.members.unwrap_or(state.end()), within: 0 }
    }

    /// The next event, or a part of it. The reader moves on.
    pub(super) fn read(&self, reader: &mut FeedReader) -> ReadOutcome {
        let state = self.lock();
        if reader.at < state.first {
            if std::mem::take(&mut reader.within) > 0 {
                return ReadOutcome::Torn;
            }
            let missed = state.first - reader.at;
            reader.at = state.first;
            return ReadOutcome::Lagged(missed);
        }
        let Some(text) = state.entries.get((reader.at - state.first) as usize) else {
            return if state.ended { ReadOutcome::Closed } else { ReadOutcome::Empty };
        };
        let rest = &text[reader.within..];
        let piece = &rest[..rest.len().min(CHUNK_BYTES)];
        (reader.at, reader.within) =
            if piece.len() == rest.len() { (reader.at + 1, 0) } else { (reader.at, reader.within + CHUNK_BYTES) };
        ReadOutcome::Chunk(Bytes::copy_from_slice(piece))
    }

    /// Ends the feed.
    pub(super) fn end(&self) {
        self.update(|state| state.ended = true);
    }

    /// Publishes the members, in JSON, unless they are as before.
    pub(super) fn publish_members(&self, members: &str) {
        let members = format_event_text(StreamFormat::EventStream, "members", members);
        if self.lock().members().is_none_or(|before| *before != members) {
            self.update(|state| {
                state.members = Some(state.end());
                state.add(members.into());
            });
        }
    }

    pub(super) fn publish_acks(&self, acks: &Acks) {
        let text = format_event(StreamFormat::EventStream, "acks", &AcksJson::new(acks));
        self.update(|state| state.add(text.into()));
    }

    /// Drops all events, since nobody follows.
    pub(super) fn clear(&self) {
        self.update(|state| *state = State { first: state.end(), ended: state.ended, ..State::default() });
    }

    pub(super) async fn wait_for_followers(&self) {
        while self.updates.receiver_count() == 0 {
            self.follower_came.notified().await;
        }
    }

    /// Resolves when nobody follows any more.
    pub(super) async fn wait_for_no_followers(&self) {
        self.updates.closed().await;
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.updates.send_replace(());
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

    /// The members as they are now.
    fn members(&self) -> Option<&Bytes> {
        self.entries.get((self.members? - self.first) as usize)
    }

    fn add(&mut self, text: Bytes) {
        self.bytes += text.len();
        self.entries.push_back(text);
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES && self.entries.len() > 1 {
            let Some(oldest) = self.entries.pop_front() else { break };
            if self.members == Some(self.first) {
                // The members must stay: move them to the end.
                self.members = Some(self.end() + 1);
                self.entries.push_back(oldest);
            } else {
                self.bytes -= oldest.len();
            }
            self.first += 1;
        }
    }
}

impl FeedReader {
    /// Waits for a change since the last [`mark_seen`](Self::mark_seen).
    pub(super) async fn changed(&mut self) {
        // The feed lives as long as the server.
        let _ = self.updates.changed().await;
    }

    /// From now on, [`changed`](Self::changed) waits for what comes next.
    pub(super) fn mark_seen(&mut self) {
        self.updates.mark_unchanged();
    }

    /// Whether a part of an event was read: its rest comes next.
    pub(super) fn is_inside_entry(&self) -> bool {
        self.within > 0
    }
}

/// How far members are with an origin's messages, in JSON.
#[derive(Serialize)]
struct AcksJson<'a> {
    origin: String,
    epoch: u64,
    #[serde(serialize_with = "by_name")]
    members: &'a [(NodeName, u64)],
}

impl<'a> AcksJson<'a> {
    fn new(Acks { origin, epoch, members }: &'a Acks) -> Self {
        Self { origin: origin.to_string(), epoch: *epoch, members }
    }
}

fn by_name<S: Serializer>(members: &&[(NodeName, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(members.iter().map(|(name, next)| (name.to_string(), next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(next: u64) -> Acks {
        Acks { origin: "a".into(), epoch: 7, members: vec![("b".into(), next)] }
    }

    fn acks_event(next: u64) -> ReadOutcome {
        let data = format!(r#"{{"origin":"a","epoch":7,"members":{{"b":{next}}}}}"#);
        ReadOutcome::Chunk(format!("event: acks\ndata: {data}\n\n").into())
    }

    fn members_event(text: &str) -> ReadOutcome {
        ReadOutcome::Chunk(format!("event: members\ndata: {text}\n\n").into())
    }

    #[test]
    fn whoever_comes_is_told_the_members_as_they_are_and_then_all_that_happens() {
        let event_feed = EventFeed::new();
        event_feed.publish_acks(&acks(1));
        let mut early = event_feed.follow();
        assert_eq!(event_feed.read(&mut early), ReadOutcome::Empty);
        event_feed.publish_members("one");
        event_feed.publish_members("two");
        event_feed.publish_members("two");
        let mut late = event_feed.follow();
        event_feed.publish_acks(&acks(2));
        assert_eq!(event_feed.read(&mut early), members_event("one"));
        for reader in [&mut early, &mut late] {
            assert_eq!(event_feed.read(reader), members_event("two"));
            assert_eq!([event_feed.read(reader), event_feed.read(reader)], [acks_event(2), ReadOutcome::Empty]);
        }
        event_feed.end();
        assert_eq!(event_feed.read(&mut early), ReadOutcome::Closed);
    }

    #[test]
    fn who_does_not_keep_up_goes_on_with_what_is_kept_and_the_members_are_kept() {
        let event_feed = EventFeed::new();
        let mut reader = event_feed.follow();
        event_feed.publish_members("all");
        (0..MAX_ENTRIES as u64 + 5).for_each(|next| event_feed.publish_acks(&acks(next)));
        assert_eq!(event_feed.lock().entries.len(), MAX_ENTRIES);
        assert!(matches!(event_feed.read(&mut reader), ReadOutcome::Lagged(_)));
        let mut events: Vec<_> =
            std::iter::from_fn(|| Some(event_feed.read(&mut reader)).filter(|event| *event != ReadOutcome::Empty))
                .collect();
        assert_eq!(events.len(), MAX_ENTRIES);
        assert_eq!(events.pop(), Some(acks_event(MAX_ENTRIES as u64 + 4)));
        assert_eq!(events.iter().filter(|event| **event == members_event("all")).count(), 1);
        let mut late = event_feed.follow();
        assert_eq!(event_feed.read(&mut late), members_event("all"));
        event_feed.clear();
        assert_eq!(event_feed.lock().bytes, 0);
        event_feed.publish_acks(&acks(6));
        assert_eq!(event_feed.read(&mut reader), acks_event(6));
    }

    #[test]
    fn what_is_long_is_told_in_pieces_and_bounded() {
        let event_feed = EventFeed::new();
        let long = "x".repeat(MAX_MEMBERS_BYTES);
        let mut reader = event_feed.follow();
        event_feed.publish_members(&long);
        let mut text = Vec::new();
        while let ReadOutcome::Chunk(piece) = event_feed.read(&mut reader) {
            assert!(piece.len() <= CHUNK_BYTES);
            text.extend_from_slice(&piece);
            assert_eq!(reader.is_inside_entry(), !text.ends_with(b"\n\n"));
        }
        assert_eq!(text, format!("event: members\ndata: {long}\n\n").into_bytes());
        event_feed.publish_members(&long[1..]);
        assert!(matches!(event_feed.read(&mut reader), ReadOutcome::Chunk(_)) && reader.is_inside_entry());
        for i in 2..20 {
            event_feed.publish_members(&long[i..]);
            let state = event_feed.lock();
            assert!(state.bytes <= MAX_BYTES && state.bytes == state.entries.iter().map(Bytes::len).sum::<usize>());
        }
        assert_eq!(event_feed.read(&mut reader), ReadOutcome::Torn);
    }
}
