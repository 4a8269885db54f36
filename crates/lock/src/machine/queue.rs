//! The queue: who is granted a lock, and when.
//!
//! A queue is two ordered sets of tokens: those that hold the lock, and those that wait. The waiting ones are granted from
//! the front, as long as what is before them leaves enough for their mode. So nobody overtakes, and a writer is not starved
//! by readers.

use broadcast_store::machine::{ApplyContext, CowMap};

use super::{Locks, QueueEntry, emit};
use crate::{
    message::{EntryChange, Holder, Mode, lease_digits},
    name::Name,
};

/// What holders, and those who wait before somebody, leave of a lock.
#[derive(Clone, Copy, Debug)]
enum Availability {
    /// Nobody holds it.
    Free,
    /// Readers share it: another reader may join them.
    Shared,
    /// A semaphore: how many of its permits are taken.
    Permits { taken: u16, permits: u16 },
    /// One holds all of it.
    Exhausted,
}

impl Availability {
    fn admits(self, mode: Mode) -> bool {
        match (self, mode) {
            (Self::Free, _) | (Self::Shared, Mode::Shared) => true,
            (Self::Permits { taken, permits }, Mode::Semaphore { permits: asked }) => taken < permits.min(asked),
            _ => false,
        }
    }

    /// What is left after one more grant.
    fn with(self, mode: Mode) -> Self {
        match (self, mode) {
            (Self::Free | Self::Shared, Mode::Shared) => Self::Shared,
            (Self::Free, Mode::Semaphore { permits }) => Self::Permits { taken: 1, permits },
            (Self::Permits { taken, permits }, Mode::Semaphore { permits: asked }) => {
                Self::Permits { taken: taken.saturating_add(1), permits: permits.min(asked) }
            }
            _ => Self::Exhausted,
        }
    }
}

/// The tokens in the queue of a lock, in order.
fn tokens(queue: &CowMap<(Name, u64), ()>, name: &Name) -> impl Iterator<Item = u64> {
    let all = queue.iter_from(&(name.clone(), 0));
    all.take_while(move |((each, _), ())| each == name).map(|((_, token), ())| *token)
}

impl Locks {
    /// The tokens that hold a lock.
    pub(super) fn held(&self, name: &Name) -> impl Iterator<Item = u64> {
        tokens(&self.held, name)
    }

    /// The tokens that wait for a lock.
    pub(super) fn waiting(&self, name: &Name) -> impl Iterator<Item = u64> {
        tokens(&self.waiting, name)
    }

    /// The locks that a session holds or waits for, with its tokens.
    pub(super) fn of_session(&self, session: i64) -> impl Iterator<Item = (&Name, u64)> {
        let all = self.of_session.iter_from(&(session, Name::lowest()));
        all.take_while(move |((each, _), _)| *each == session).map(|((_, name), token)| (name, *token))
    }

    /// Whether a token holds a lock.
    pub(super) fn holds(&self, name: &Name, token: u64) -> bool {
        self.held.get(&(name.clone(), token)).is_some()
    }

    fn mode(&self, token: u64) -> Mode {
        self.entries.get(&token).map_or(Mode::Exclusive, |entry| entry.mode)
    }

    /// What the holders of a lock leave of it. Holders are all of one mode, so only those of a semaphore have to be counted.
    fn availability(&self, name: &Name) -> Availability {
        let mut held = self.held(name).map(|token| self.mode(token)).peekable();
        match held.peek() {
            Some(Mode::Semaphore { .. }) => held.fold(Availability::Free, Availability::with),
            first => first.map_or(Availability::Free, |mode| Availability::Free.with(*mode)),
        }
    }

    /// Whether a new entry would be granted this lock at once: nobody waits, and the holders leave enough.
    pub(super) fn would_grant(&self, name: &Name, mode: Mode) -> bool {
        self.waiting(name).next().is_none() && self.availability(name).admits(mode)
    }

    /// Whether those before an entry leave it enough of this lock.
    pub(super) fn is_turn(&self, name: &Name, token: u64) -> bool {
        let mut before: Vec<u64> = self.held(name).filter(|each| *each != token).collect();
        before.extend(self.waiting(name));
        before.retain(|each| *each < token);
        let left = before.into_iter().map(|each| self.mode(each)).fold(Availability::Free, Availability::with);
        left.admits(self.mode(token))
    }

    /// Whether nobody holds a lock, and this entry is the first that waits for it.
    fn is_first(&self, name: &Name, token: u64) -> bool {
        self.held(name).next().is_none() && self.waiting(name).next() == Some(token)
    }

    /// Grants a lock to those at the front of its queue, as many as may have it.
    pub(super) fn grant(&mut self, context: &mut ApplyContext<'_>, name: &Name) {
        let mut left = self.availability(name);
        let mut granted = Vec::new();
        for token in self.waiting(name) {
            let Some(entry) = self.entries.get(&token) else { continue };
            if !left.admits(entry.mode) {
                break;
            }
            // An entry for several locks is exclusive. While it waits for another one of them, it keeps its turn here.
            if entry.names.iter().all(|each| each == name || self.is_first(each, token)) {
                granted.push(token);
            }
            left = left.with(entry.mode);
        }
        for token in granted {
            let Some(entry) = self.entries.get(&token).cloned() else { continue };
            for name in &entry.names {
                self.waiting.remove(&(name.clone(), token));
                self.held.insert((name.clone(), token), ());
            }
            self.totals.grants += 1;
            emit(context, token, &entry, EntryChange::Granted);
        }
    }

    /// Puts an entry into its queues.
    pub(super) fn insert(&mut self, token: u64, entry: QueueEntry, held: bool) {
        self.bytes += entry.bytes();
        for name in &entry.names {
            if entry.is_etcd_entry() {
                self.count_etcd_entry(name, true);
            }
            let queue = if held { &mut self.held } else { &mut self.waiting };
            queue.insert((name.clone(), token), ());
            self.of_session.insert((entry.session, name.clone()), token);
        }
        self.entries.insert(token, entry.into());
    }

    /// Takes entries out of their queues, and grants what is free then. First all are taken out: otherwise one of them could
    /// be granted what another one had.
    pub(super) fn remove(&mut self, context: &mut ApplyContext<'_>, tokens: &[u64], change: EntryChange) {
        let mut names = Vec::new();
        for token in tokens {
            // A token stands here once for each of its locks.
            let Some(entry) = self.entries.remove(token) else { continue };
            self.bytes -= entry.bytes();
            let mut was_held = false;
            for name in &entry.names {
                was_held |= self.held.remove(&(name.clone(), *token)).is_some();
                self.waiting.remove(&(name.clone(), *token));
                self.of_session.remove(&(entry.session, name.clone()));
                if entry.is_etcd_entry() {
                    self.count_etcd_entry(name, false);
                }
            }
            if entry.has_keys {
                Self::delete_keys(context, &entry);
            }
            if was_held {
                match change {
                    EntryChange::Forced => self.totals.forced += 1,
                    EntryChange::Expired => self.totals.expired += 1,
                    _ => self.totals.releases += 1,
                }
            }
            emit(context, *token, &entry, change);
            names.extend(entry.names.iter().cloned());
        }
        names.sort_unstable();
        names.dedup();
        names.iter().for_each(|name| self.grant(context, name));
    }

    /// An entry, as clients are told of it.
    pub(super) fn holder(&self, token: u64) -> Option<Holder> {
        let entry = self.entries.get(&token)?;
        let (node, label) = match self.sessions.get(&entry.session) {
            Some(config) => (config.node.clone(), config.label.clone()),
            None => (String::new(), format!("etcd lease {}", lease_digits(entry.session))),
        };
        Some(Holder {
            token,
            session: entry.session,
            node,
            label,
            mode: entry.mode,
            value: entry.value.clone(),
            since: entry.since,
        })
    }
}
