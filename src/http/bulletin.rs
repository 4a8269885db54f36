//! What those who follow what happens are told of members and acknowledgements: put into words once for all of them.
//!
//! Whoever follows has a place, not a queue of its own. One that does not keep up goes on with what is kept: of the
//! members only the last is told, and acknowledgements are told again every few seconds. While nobody follows, nothing
//! is looked at.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::{
    sync::{Notify, watch},
    time::interval,
};

use super::{App, follow::event, journal::Form, look};
use crate::Acks;

/// How often members are looked at for changes.
const LOOK: Duration = Duration::from_millis(250);
/// What is kept of acknowledgements, in entries and in bytes.
const MAX_ENTRIES: usize = 1024;
const MAX_BYTES: usize = 4 << 20;

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
    /// The members, and how many times they have changed.
    members: Bytes,
    version: u64,
    acks: VecDeque<Bytes>,
    bytes: usize,
    /// How many came before the first of those.
    first: u64,
    ended: bool,
}

/// Somebody who follows, and how far it has been told.
#[derive(Debug)]
pub(super) struct Place {
    news: watch::Receiver<()>,
    version: u64,
    acks: u64,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// An event, as it is sent.
    Event(Bytes),
    /// Nothing yet.
    Nothing,
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
        Place { news, version: 0, acks: state.end() }
    }

    /// What comes next at a place, which moves on.
    pub(super) fn read(&self, place: &mut Place) -> Told {
        let state = self.lock();
        if place.version != state.version && !state.members.is_empty() {
            place.version = state.version;
            return Told::Event(state.members.clone());
        }
        place.acks = place.acks.max(state.first);
        match state.acks.get((place.acks - state.first) as usize) {
            Some(acks) => {
                place.acks += 1;
                Told::Event(acks.clone())
            }
            None if state.ended => Told::End,
            None => Told::Nothing,
        }
    }

    /// There will be no more.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    /// Tells the members, as JSON, unless they are as before.
    fn tell_members(&self, members: &str) {
        let members = Bytes::from(event(Form::Events, "members", members));
        if self.lock().members != members {
            self.change(|state| (state.members, state.version) = (members, state.version + 1));
        }
    }

    fn tell_acks(&self, acks: &Acks) {
        let text = event(Form::Events, "acks", &acks_text(acks));
        self.change(|state| state.add(text.into()));
    }

    /// Nobody follows any more.
    fn forget(&self) {
        self.change(|state| {
            state.first = state.end();
            (state.members, state.bytes) = (Bytes::new(), 0);
            state.acks = VecDeque::new();
        });
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
        self.first + self.acks.len() as u64
    }

    fn add(&mut self, acks: Bytes) {
        self.bytes += acks.len();
        self.acks.push_back(acks);
        while self.acks.len() > MAX_ENTRIES || self.bytes > MAX_BYTES && self.acks.len() > 1 {
            let Some(oldest) = self.acks.pop_front() else { break };
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }
}

impl Place {
    /// Waits for more than there was when it was last [read](Bulletin::read). Nothing is lost where that is not waited for.
    pub(super) async fn changed(&mut self) {
        // The bulletin is there as long as its server.
        let _ = self.news.changed().await;
    }

    /// What there is now has been seen.
    pub(super) fn mark_seen(&mut self) {
        self.news.mark_unchanged();
    }
}

impl App {
    /// Puts down how members are and what they acknowledge, while somebody follows that.
    pub(super) async fn keep_bulletin(&self) -> Infallible {
        loop {
            self.bulletin.somebody_follows().await;
            let (mut acks, mut ticks) = (self.node.acks(), interval(LOOK));
            loop {
                tokio::select! {
                    told = acks.recv() => match told {
                        Some(Ok(acks)) => self.bulletin.tell_acks(&acks),
                        // What comes next makes up for it.
                        Some(Err(_)) => {}
                        // The end is told by who looks after the messages, when they have ended.
                        None => std::future::pending().await,
                    },
                    _ = ticks.tick() => {
                        if let Some(members) = look::members_text(self).await {
                            self.bulletin.tell_members(&members);
                        }
                    }
                    () = self.bulletin.news.closed() => break,
                }
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

    fn text(next: u64) -> Told {
        let data = format!(r#"{{"origin":"a","epoch":7,"members":{{"b":{next}}}}}"#);
        Told::Event(format!("event: acks\ndata: {data}\n\n").into())
    }

    #[test]
    fn each_is_told_the_last_of_the_members_and_all_acknowledgements_from_when_it_came() {
        let bulletin = Bulletin::new();
        bulletin.tell_acks(&acks(1));
        let mut early = bulletin.follow();
        assert_eq!(bulletin.read(&mut early), Told::Nothing);
        bulletin.tell_members("one");
        bulletin.tell_members("two");
        bulletin.tell_acks(&acks(2));
        let mut late = bulletin.follow();
        for place in [&mut early, &mut late] {
            assert_eq!(bulletin.read(place), Told::Event("event: members\ndata: two\n\n".into()));
        }
        assert_eq!((bulletin.read(&mut early), bulletin.read(&mut late)), (text(2), Told::Nothing));
        bulletin.tell_members("two");
        assert_eq!(bulletin.read(&mut early), Told::Nothing, "nothing has changed");
        bulletin.tell_acks(&acks(3));
        bulletin.end();
        for place in [&mut early, &mut late] {
            assert_eq!((bulletin.read(place), bulletin.read(place)), (text(3), Told::End));
        }
    }

    #[test]
    fn who_does_not_keep_up_costs_nothing_and_goes_on_with_what_is_kept() {
        let bulletin = Bulletin::new();
        let mut place = bulletin.follow();
        (0..MAX_ENTRIES as u64 + 5).for_each(|next| bulletin.tell_acks(&acks(next)));
        assert_eq!(bulletin.lock().acks.len(), MAX_ENTRIES);
        assert_eq!(bulletin.read(&mut place), text(5));
        (0..100).for_each(|_| bulletin.change(|state| state.add(vec![b'x'; MAX_BYTES / 10].into())));
        assert_eq!(bulletin.lock().acks.len(), 10);
        assert!(bulletin.lock().bytes <= MAX_BYTES);
        bulletin.forget();
        assert_eq!(bulletin.lock().bytes, 0);
        assert_eq!(bulletin.read(&mut place), Told::Nothing);
        bulletin.tell_acks(&acks(6));
        assert_eq!(bulletin.read(&mut place), text(6));
    }
}
