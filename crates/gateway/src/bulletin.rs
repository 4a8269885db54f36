//! What those who follow what happens are told of members and acknowledgements: put into words once for all of them.
//!
//! Each event is kept for a while, for all. Whoever follows has a position among them, not a queue of its own, and is given
//! copies of pieces: what is not kept any more is not held by anybody. One that does not keep up goes on with what is
//! kept, in which there are always the members as they are now; acknowledgements are told again every few seconds. One that
//! is overtaken within an event is cut off. While nobody follows, nothing is looked at.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use broadcast::{Acks, NodeName};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::sync::{Notify, watch};

use super::{
    events::{Form, Read, event, event_of_text},
    pieces::PIECE,
};

/// The longest text of members that is told, about, in bytes; how many are left out is told.
pub(crate) const MAX_MEMBERS: usize = 4 << 20;
/// What is kept, in events and in bytes.
pub(crate) const MAX_ENTRIES: usize = 1024;
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Bulletin {
    state: Mutex<State>,
    news: watch::Sender<()>,
    /// Told when somebody begins to follow.
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Bytes>,
    bytes: usize,
    /// The place of the first entry.
    first: u64,
    /// The place of the entry that has the members as they are now.
    members: Option<u64>,
    ended: bool,
}

/// A follower, and how far it has read.
#[derive(Debug)]
pub(super) struct Reader {
    news: watch::Receiver<()>,
    /// The number of entries before.
    at: u64,
    /// Bytes of that entry that have been told.
    within: usize,
}

impl Bulletin {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), news: watch::Sender::new(()), came: Notify::new() }
    }

    /// Somebody follows from now on, beginning with all members.
    pub(super) fn follow(&self) -> Reader {
        let news = self.news.subscribe();
        self.came.notify_one();
        let state = self.lock();
        Reader { news, at: state.members.unwrap_or(state.end()), within: 0 }
    }

    /// What comes next at a reader, which moves on.
    pub(super) fn read(&self, reader: &mut Reader) -> Read {
        let state = self.lock();
        if reader.at < state.first {
            if std::mem::take(&mut reader.within) > 0 {
                return Read::Torn;
            }
            let missed = state.first - reader.at;
            reader.at = state.first;
            return Read::Lagged(missed);
        }
        let Some(text) = state.entries.get((reader.at - state.first) as usize) else {
            return if state.ended { Read::Closed } else { Read::Empty };
        };
        let rest = &text[reader.within..];
        let piece = &rest[..rest.len().min(PIECE)];
        (reader.at, reader.within) =
            if piece.len() == rest.len() { (reader.at + 1, 0) } else { (reader.at, reader.within + PIECE) };
        Read::Text(Bytes::copy_from_slice(piece))
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Tells the members, as JSON, unless they are as before.
    pub(super) fn tell_members(&self, members: &str) {
        let members = event_of_text(Form::Events, "members", members);
        if self.lock().members().is_none_or(|before| *before != members) {
            self.change(|state| {
                state.members = Some(state.end());
                state.add(members.into());
            });
        }
    }

    pub(super) fn tell_acks(&self, acks: &Acks) {
        let text = event(Form::Events, "acks", &AcksEvent::new(acks));
        self.change(|state| state.add(text.into()));
    }

    /// Nobody follows any more.
    pub(super) fn forget(&self) {
        self.change(|state| *state = State { first: state.end(), ended: state.ended, ..State::default() });
    }

    pub(super) async fn somebody_follows(&self) {
        while self.news.receiver_count() == 0 {
            self.came.notified().await;
        }
    }

    /// Resolves when nobody follows any more.
    pub(super) async fn nobody_follows(&self) {
        self.news.closed().await;
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.news.send_replace(());
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
                // They are told once more, instead of being forgotten.
                self.members = Some(self.end() + 1);
                self.entries.push_back(oldest);
            } else {
                self.bytes -= oldest.len();
            }
            self.first += 1;
        }
    }
}

impl Reader {
    /// Waits for more than there was when that was last [marked](Self::mark_seen).
    pub(super) async fn changed(&mut self) {
        // The bulletin is there as long as its server.
        let _ = self.news.changed().await;
    }

    /// What there is now has been seen.
    pub(super) fn mark_seen(&mut self) {
        self.news.mark_unchanged();
    }

    /// Whether an event has been told in part: what comes next is its rest.
    pub(super) fn is_within(&self) -> bool {
        self.within > 0
    }
}

/// How far members are with an origin, as followers are told it.
#[derive(Serialize)]
struct AcksEvent<'a> {
    origin: String,
    epoch: u64,
    #[serde(serialize_with = "by_name")]
    members: &'a [(NodeName, u64)],
}

impl<'a> AcksEvent<'a> {
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

    fn acks_told(next: u64) -> Read {
        let data = format!(r#"{{"origin":"a","epoch":7,"members":{{"b":{next}}}}}"#);
        Read::Text(format!("event: acks\ndata: {data}\n\n").into())
    }

    fn members_told(text: &str) -> Read {
        Read::Text(format!("event: members\ndata: {text}\n\n").into())
    }

    #[test]
    fn whoever_comes_is_told_the_members_as_they_are_and_then_all_that_happens() {
        let bulletin = Bulletin::new();
        bulletin.tell_acks(&acks(1));
        let mut early = bulletin.follow();
        assert_eq!(bulletin.read(&mut early), Read::Empty);
        bulletin.tell_members("one");
        bulletin.tell_members("two");
        bulletin.tell_members("two");
        let mut late = bulletin.follow();
        bulletin.tell_acks(&acks(2));
        assert_eq!(bulletin.read(&mut early), members_told("one"));
        for reader in [&mut early, &mut late] {
            assert_eq!(bulletin.read(reader), members_told("two"));
            assert_eq!([bulletin.read(reader), bulletin.read(reader)], [acks_told(2), Read::Empty]);
        }
        bulletin.end();
        assert_eq!(bulletin.read(&mut early), Read::Closed);
    }

    #[test]
    fn who_does_not_keep_up_goes_on_with_what_is_kept_and_the_members_are_kept() {
        let bulletin = Bulletin::new();
        let mut reader = bulletin.follow();
        bulletin.tell_members("all");
        (0..MAX_ENTRIES as u64 + 5).for_each(|next| bulletin.tell_acks(&acks(next)));
        assert_eq!(bulletin.lock().entries.len(), MAX_ENTRIES);
        assert!(matches!(bulletin.read(&mut reader), Read::Lagged(_)));
        let mut told: Vec<_> =
            std::iter::from_fn(|| Some(bulletin.read(&mut reader)).filter(|told| *told != Read::Empty)).collect();
        assert_eq!(told.len(), MAX_ENTRIES);
        assert_eq!(told.pop(), Some(acks_told(MAX_ENTRIES as u64 + 4)));
        assert_eq!(told.iter().filter(|told| **told == members_told("all")).count(), 1);
        let mut late = bulletin.follow();
        assert_eq!(bulletin.read(&mut late), members_told("all"));
        bulletin.forget();
        assert_eq!(bulletin.lock().bytes, 0);
        bulletin.tell_acks(&acks(6));
        assert_eq!(bulletin.read(&mut reader), acks_told(6));
    }

    #[test]
    fn what_is_long_is_told_in_pieces_and_bounded() {
        let bulletin = Bulletin::new();
        let long = "x".repeat(MAX_MEMBERS);
        let mut reader = bulletin.follow();
        bulletin.tell_members(&long);
        let mut text = Vec::new();
        while let Read::Text(piece) = bulletin.read(&mut reader) {
            assert!(piece.len() <= PIECE);
            text.extend_from_slice(&piece);
            assert_eq!(reader.is_within(), !text.ends_with(b"\n\n"));
        }
        assert_eq!(text, format!("event: members\ndata: {long}\n\n").into_bytes());
        bulletin.tell_members(&long[1..]);
        assert!(matches!(bulletin.read(&mut reader), Read::Text(_)) && reader.is_within());
        for i in 2..20 {
            bulletin.tell_members(&long[i..]);
            let state = bulletin.lock();
            assert!(state.bytes <= MAX_BYTES && state.bytes == state.entries.iter().map(Bytes::len).sum::<usize>());
        }
        assert_eq!(bulletin.read(&mut reader), Read::Torn);
    }
}
