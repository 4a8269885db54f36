//! Who is granted a lock, and when.

use broadcast_store::machine::{ApplyContext, CowMap};

use super::{Locks, Place, tell};
use crate::{
    message::{Change, Holder, Mode, lease_digits},
    name::Name,
};

/// What those who hold a lock, or wait for it before somebody, leave of it.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// All of it.
    All,
    /// A part, for those who share it as well.
    Shared,
    /// Permits of a semaphore: how many are taken, and how many there are.
    Permits { taken: u16, permits: u16 },
    /// Nothing.
    Nothing,
}

impl Left {
    fn admits(self, mode: Mode) -> bool {
        match (self, mode) {
            (Self::All, _) | (Self::Shared, Mode::Shared) => true,
            (Self::Permits { taken, permits }, Mode::Semaphore { permits: asked }) => taken < permits.min(asked),
            _ => false,
        }
    }

    /// What is left when one more has its part.
    fn with(self, mode: Mode) -> Self {
        match (self, mode) {
            (Self::All | Self::Shared, Mode::Shared) => Self::Shared,
            (Self::All, Mode::Semaphore { permits }) => Self::Permits { taken: 1, permits },
            (Self::Permits { taken, permits }, Mode::Semaphore { permits: asked }) => {
                Self::Permits { taken: taken.saturating_add(1), permits: permits.min(asked) }
            }
            _ => Self::Nothing,
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

    /// What a session holds or waits for.
    pub(super) fn of_session(&self, session: i64) -> impl Iterator<Item = (&Name, u64)> {
        let all = self.of_session.iter_from(&(session, Name::lowest()));
        all.take_while(move |((each, _), _)| *each == session).map(|((_, name), token)| (name, *token))
    }

    /// Whether a token holds a lock.
    pub(super) fn holds(&self, name: &Name, token: u64) -> bool {
        self.held.get(&(name.clone(), token)).is_some()
    }

    fn mode(&self, token: u64) -> Mode {
        self.places.get(&token).map_or(Mode::Exclusive, |place| place.mode)
    }

    /// What the holders of a lock leave of it. Those that share it are all alike, so that is known from the first.
    fn left(&self, name: &Name) -> Left {
        let mut held = self.held(name).map(|token| self.mode(token)).peekable();
        match held.peek() {
            Some(Mode::Semaphore { .. }) => held.fold(Left::All, Left::with),
            first => first.map_or(Left::All, |mode| Left::All.with(*mode)),
        }
    }

    /// Whether a place that is taken now would be granted at once, as far as this lock goes: those that wait come first.
    pub(super) fn would_grant(&self, name: &Name, mode: Mode) -> bool {
        self.waiting(name).next().is_none() && self.left(name).admits(mode)
    }

    /// Whether nobody who is before a place keeps it from this lock.
    pub(super) fn is_turn(&self, name: &Name, token: u64) -> bool {
        let mut before: Vec<u64> = self.held(name).filter(|each| *each != token).collect();
        before.extend(self.waiting(name));
        before.retain(|each| *each < token);
        let left = before.into_iter().map(|each| self.mode(each)).fold(Left::All, Left::with);
        left.admits(self.mode(token))
    }

    /// Whether a place is the first in the queue of a lock that nobody holds.
    fn is_first(&self, name: &Name, token: u64) -> bool {
        self.held(name).next().is_none() && self.waiting(name).next() == Some(token)
    }

    /// Grants a lock to whoever's turn it is.
    pub(super) fn grant(&mut self, context: &mut ApplyContext<'_>, name: &Name) {
        let mut left = self.left(name);
        let mut granted = Vec::new();
        for token in self.waiting(name) {
            let Some(place) = self.places.get(&token) else { continue };
            if !left.admits(place.mode) {
                break;
            }
            // Several locks at once are exclusive. Whoever waits for another of them keeps its turn here.
            if place.names.iter().all(|each| each == name || self.is_first(each, token)) {
                granted.push(token);
            }
            left = left.with(place.mode);
        }
        for token in granted {
            let Some(place) = self.places.get(&token).cloned() else { continue };
            for name in &place.names {
                self.waiting.remove(&(name.clone(), token));
                self.held.insert((name.clone(), token), ());
            }
            self.totals.grants += 1;
            tell(context, token, &place, Change::Granted);
        }
    }

    /// Puts a place into its queues.
    pub(super) fn insert(&mut self, token: u64, place: Place, held: bool) {
        self.bytes += place.bytes();
        for name in &place.names {
            if place.is_foreign() {
                self.count_foreign(name, true);
            }
            let queue = if held { &mut self.held } else { &mut self.waiting };
            queue.insert((name.clone(), token), ());
            self.of_session.insert((place.session, name.clone()), token);
        }
        self.places.insert(token, place.into());
    }

    /// Takes places out of their queues, and grants what is free then. All are taken out first, so that none of them is
    /// granted in the place of another.
    pub(super) fn remove(&mut self, context: &mut ApplyContext<'_>, tokens: &[u64], change: Change) {
        let mut names = Vec::new();
        for token in tokens {
            // Several locks of a session may be one place.
            let Some(place) = self.places.remove(token) else { continue };
            self.bytes -= place.bytes();
            let mut was_held = false;
            for name in &place.names {
                was_held |= self.held.remove(&(name.clone(), *token)).is_some();
                self.waiting.remove(&(name.clone(), *token));
                self.of_session.remove(&(place.session, name.clone()));
                if place.is_foreign() {
                    self.count_foreign(name, false);
                }
            }
            if place.shown {
                Self::hide(context, &place);
            }
            if was_held {
                match change {
                    Change::Forced => self.totals.forced += 1,
                    Change::Expired => self.totals.expired += 1,
                    _ => self.totals.releases += 1,
                }
            }
            tell(context, *token, &place, change);
            names.extend(place.names.iter().cloned());
        }
        names.sort_unstable();
        names.dedup();
        names.iter().for_each(|name| self.grant(context, name));
    }

    /// A place as it is shown.
    pub(super) fn holder(&self, token: u64) -> Option<Holder> {
        let place = self.places.get(&token)?;
        let (node, label) = match self.sessions.get(&place.session) {
            Some(config) => (config.node.clone(), config.label.clone()),
            None => (String::new(), format!("etcd lease {}", lease_digits(place.session))),
        };
        Some(Holder {
            token,
            session: place.session,
            node,
            label,
            mode: place.mode,
            value: place.value.clone(),
            since: place.since,
        })
    }
}
