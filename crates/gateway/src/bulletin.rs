//! What those who follow what happens are told of members and acknowledgements: put into words once for all of them.
//!
//! Each event is kept for a while, for all. Whoever follows has a place among them, not a queue of its own, and is given
//! copies of pieces: what is not kept any more is not held by anybody. One that does not keep up goes on with what is
//! kept, in which there are always the members as they are now; acknowledgements are told again every few seconds. One that
//! is overtaken within an event is cut off. While nobody follows, nothing is looked at.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use broadcast::Acks;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{App, follow::event, journal::Form, look, pieces::PIECE};

/// How often members are looked at for changes; in a large cluster more rarely, so that it takes no more than a tenth of
/// the time.
const LOOK: Duration = Duration::from_millis(250);
const SHARE: u32 = 10;
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

/// Somebody who follows, and how far it has been told.
#[derive(Debug)]
pub(super) struct Place {
    news: watch::Receiver<()>,
    /// The number of entries before.
    at: u64,
    /// Bytes of that entry that have been told.
    within: usize,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// An event, or a piece of it.
    Text(Bytes),
    /// Nothing yet.
    Nothing,
    /// The event that was told in part is not kept any more.
    Torn,
    /// The node has left.
    End,
}

impl Bulletin {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), news: watch::Sender::new(()), came: Notify::new() }
    }

    /// Somebody follows from now on, beginning with all members.
    pub(super) fn follow(&self) -> Place {
        let news = self.news.subscribe();
        self.came.notify_one();
        let state = self.lock();
        Place { news, at: state.members.unwrap_or(state.end()), within: 0 }
    }

    /// What comes next at a place, which moves on.
    pub(super) fn read(&self, place: &mut Place) -> Told {
        let state = self.lock();
        if place.at < state.first {
            if std::mem::take(&mut place.within) > 0 {
                return Told::Torn;
            }
            place.at = state.first;
        }
        let Some(text) = state.entries.get((place.at - state.first) as usize) else {
            return if state.ended { Told::End } else { Told::Nothing };
        };
        let rest = &text[place.within..];
        let piece = &rest[..rest.len().min(PIECE)];
        (place.at, place.within) =
            if piece.len() == rest.len() { (place.at + 1, 0) } else { (place.at, place.within + PIECE) };
        Told::Text(Bytes::copy_from_slice(piece))
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Tells the members, as JSON, unless they are as before.
    fn tell_members(&self, members: &str) {
        let members = event(Form::Events, "members", members);
        if self.lock().members().is_none_or(|before| *before != members) {
            self.change(|state| {
                state.members = Some(state.end());
                state.add(members.into());
            });
        }
    }

    fn tell_acks(&self, acks: &Acks) {
        let text = event(Form::Events, "acks", &acks_text(acks));
        self.change(|state| state.add(text.into()));
    }

    /// Nobody follows any more.
    fn forget(&self) {
        self.change(|state| *state = State { first: state.end(), ended: state.ended, ..State::default() });
    }

    async fn somebody_follows(&self) {
        while self.news.receiver_count() == 0 {
            self.came.notified().await;
        }
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

impl Place {
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

impl App {
    /// Puts down how members are and what they acknowledge, while somebody follows that.
    pub(super) async fn keep_bulletin(&self) -> Infallible {
        loop {
            self.bulletin.somebody_follows().await;
            let mut acks = self.node.acks();
            let mut pause = Duration::ZERO;
            let looking = async {
                loop {
                    sleep(pause).await;
                    let began = Instant::now();
                    if let Some(members) = look::members_text(self, MAX_MEMBERS).await {
                        self.bulletin.tell_members(&members);
                    }
                    pause = LOOK.max(SHARE * began.elapsed());
                }
            };
            let hearing = async {
                // What is missed, the next ones make up for.
                while let Some(told) = acks.recv().await {
                    told.iter().for_each(|acks| self.bulletin.tell_acks(acks));
                }
                // The end is told by who puts down the messages, once they have ended.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = looking => {}
                () = hearing => {}
                () = self.bulletin.news.closed() => {}
            }
            self.bulletin.forget();
        }
    }
}

fn acks_text(acks: &Acks) -> String {
    let Acks { origin, epoch, members } = acks;
    let members: Map<String, Value> = members.iter().map(|(name, next)| (name.to_string(), (*next).into())).collect();
    json!({ "origin": origin.to_string(), "epoch": epoch, "members": members }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(next: u64) -> Acks {
        Acks { origin: "a".into(), epoch: 7, members: vec![("b".into(), next)] }
    }

    fn acks_told(next: u64) -> Told {
        let data = format!(r#"{{"origin":"a","epoch":7,"members":{{"b":{next}}}}}"#);
        Told::Text(format!("event: acks\ndata: {data}\n\n").into())
    }

    fn members_told(text: &str) -> Told {
        Told::Text(format!("event: members\ndata: {text}\n\n").into())
    }

    #[test]
    fn whoever_comes_is_told_the_members_as_they_are_and_then_all_that_happens() {
        let bulletin = Bulletin::new();
        bulletin.tell_acks(&acks(1));
        let mut early = bulletin.follow();
        assert_eq!(bulletin.read(&mut early), Told::Nothing);
        bulletin.tell_members("one");
        bulletin.tell_members("two");
        bulletin.tell_members("two");
        let mut late = bulletin.follow();
        bulletin.tell_acks(&acks(2));
        assert_eq!(bulletin.read(&mut early), members_told("one"));
        for place in [&mut early, &mut late] {
            assert_eq!(bulletin.read(place), members_told("two"));
            assert_eq!([bulletin.read(place), bulletin.read(place)], [acks_told(2), Told::Nothing]);
        }
        bulletin.end();
        assert_eq!(bulletin.read(&mut early), Told::End);
    }

    #[test]
    fn who_does_not_keep_up_goes_on_with_what_is_kept_and_the_members_are_kept() {
        let bulletin = Bulletin::new();
        let mut place = bulletin.follow();
        bulletin.tell_members("all");
        (0..MAX_ENTRIES as u64 + 5).for_each(|next| bulletin.tell_acks(&acks(next)));
        assert_eq!(bulletin.lock().entries.len(), MAX_ENTRIES);
        let mut told: Vec<_> =
            std::iter::from_fn(|| Some(bulletin.read(&mut place)).filter(|told| *told != Told::Nothing)).collect();
        assert_eq!(told.len(), MAX_ENTRIES);
        assert_eq!(told.pop(), Some(acks_told(MAX_ENTRIES as u64 + 4)));
        assert_eq!(told.iter().filter(|told| **told == members_told("all")).count(), 1);
        let mut late = bulletin.follow();
        assert_eq!(bulletin.read(&mut late), members_told("all"));
        bulletin.forget();
        assert_eq!(bulletin.lock().bytes, 0);
        bulletin.tell_acks(&acks(6));
        assert_eq!(bulletin.read(&mut place), acks_told(6));
    }

    #[test]
    fn what_is_long_is_told_in_pieces_and_bounded() {
        let bulletin = Bulletin::new();
        let long = "x".repeat(MAX_MEMBERS);
        let mut place = bulletin.follow();
        bulletin.tell_members(&long);
        let mut text = Vec::new();
        while let Told::Text(piece) = bulletin.read(&mut place) {
            assert!(piece.len() <= PIECE);
            text.extend_from_slice(&piece);
            assert_eq!(place.is_within(), !text.ends_with(b"\n\n"));
        }
        assert_eq!(text, format!("event: members\ndata: {long}\n\n").into_bytes());
        bulletin.tell_members(&long[1..]);
        assert!(matches!(bulletin.read(&mut place), Told::Text(_)) && place.is_within());
        for i in 2..20 {
            bulletin.tell_members(&long[i..]);
            let state = bulletin.lock();
            assert!(state.bytes <= MAX_BYTES && state.bytes == state.entries.iter().map(Bytes::len).sum::<usize>());
        }
        assert_eq!(bulletin.read(&mut place), Told::Torn);
    }
}
