//! How much of everything the callee's side holds at once: for all, and for each who.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use broadcast::NodeName;
use tokio::sync::Semaphore;

use crate::config::{
    CALLS, CALLS_APART, CALLS_OF_ONE, HANDSHAKES, HANDSHAKES_OF_ONE, HELD, HELD_OF_ONE, SESSIONS, SESSIONS_OF_ONE,
    STREAMS,
};

/// So many at once, and so many of each who.
#[derive(Debug)]
pub(crate) struct Places<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    all: usize,
    of_one: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    of: HashMap<K, usize>,
}

/// Some of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash + Clone> {
    places: Arc<Inner<K>>,
    who: K,
    count: usize,
}

impl<K: Eq + Hash + Clone> Inner<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `who` have `to` of them in place of `from`, if there are as many.
    fn change(&self, who: &K, from: usize, to: usize) -> bool {
        let mut taken = self.taken();
        let others = taken.all - from;
        let of_who = taken.of.get(who).copied().unwrap_or_default() - from;
        if to > from && (to > self.all - others || to > self.of_one.saturating_sub(of_who)) {
            return false;
        }
        taken.all = others + to;
        if of_who + to == 0 {
            taken.of.remove(who);
        } else {
            taken.of.insert(who.clone(), of_who + to);
        }
        true
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(crate) fn new(all: usize, of_one: usize) -> Self {
        let taken = Mutex::new(Taken { all: 0, of: HashMap::new() });
        Self(Arc::new(Inner { all, of_one, taken }))
    }

    /// Whether it can be given a place now.
    pub(crate) fn has_room(&self, who: &K) -> bool {
        let taken = self.0.taken();
        taken.all < self.0.all && taken.of.get(who).is_none_or(|count| *count < self.0.of_one)
    }

    pub(crate) fn take(&self, who: K) -> Option<Place<K>> {
        let mut place = self.none(who);
        place.resize(1).then_some(place)
    }

    /// None yet.
    pub(crate) fn none(&self, who: K) -> Place<K> {
        Place { places: Arc::clone(&self.0), who, count: 0 }
    }
}

impl<K: Eq + Hash + Clone> Place<K> {
    /// Has so many of them from now on. If there are not as many, it has what it had, and this is `false`.
    pub(crate) fn resize(&mut self, count: usize) -> bool {
        let changed = count == self.count || self.places.change(&self.who, self.count, count);
        if changed {
            self.count = count;
        }
        changed
    }

    /// The most that it can have.
    pub(crate) fn most(&self) -> usize {
        self.places.of_one
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// What calls of some services have together, and no other calls.
#[derive(Debug)]
pub(crate) struct Share {
    /// Those that are answered at once.
    pub(crate) calls: Places<NodeName>,
    /// Bytes of what was gathered of them, and of answers that are being sent.
    pub(crate) held: Places<NodeName>,
}

impl Share {
    pub(crate) fn apart() -> Self {
        Self { calls: Places::new(CALLS_APART, CALLS_APART / 2), held: Places::new(HELD, HELD_OF_ONE) }
    }
}

/// What the callee's side has of everything.
#[derive(Debug)]
pub(crate) struct Bounds {
    pub(crate) handshakes: Places<IpAddr>,
    pub(crate) sessions: Places<NodeName>,
    pub(crate) share: Arc<Share>,
    pub(crate) streams: Arc<Semaphore>,
}

impl Default for Bounds {
    fn default() -> Self {
        let share = Share { calls: Places::new(CALLS, CALLS_OF_ONE), held: Places::new(HELD, HELD_OF_ONE) };
        Self {
            handshakes: Places::new(HANDSHAKES, HANDSHAKES_OF_ONE),
            sessions: Places::new(SESSIONS, SESSIONS_OF_ONE),
            share: Arc::new(share),
            streams: Arc::new(Semaphore::new(STREAMS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(places: &Places<&str>) -> (usize, usize) {
        let taken = places.0.taken();
        assert_eq!(taken.all, taken.of.values().sum::<usize>());
        (taken.all, taken.of.len())
    }

    #[test]
    fn nobody_takes_all_places() {
        let places = Places::new(5, 2);
        let one: Vec<_> = std::iter::from_fn(|| places.take("one")).collect();
        assert_eq!(one.len(), 2);
        let rest = [places.take("two"), places.take("two"), places.take("three")];
        assert!(rest.iter().all(Option::is_some) && places.take("four").is_none());
        drop(one);
        assert!(places.has_room(&"four") && places.take("four").is_some());
        assert_eq!(held(&places), (3, 2));
        drop(rest);
        assert_eq!(held(&places), (0, 0), "nothing is kept of who is gone");
    }

    #[test]
    fn a_place_grows_as_far_as_there_is_room_and_gives_back_what_it_had() {
        let places = Places::new(100, 60);
        let (mut one, mut more, mut other) = (places.none("one"), places.none("one"), places.none("other"));
        assert!(one.resize(40) && !more.resize(21) && more.resize(20) && !one.resize(41));
        assert!(!other.resize(41) && other.resize(40));
        assert_eq!(held(&places), (100, 2));
        assert!(one.resize(10) && other.resize(60) && !other.resize(61));
        drop(other);
        assert_eq!(held(&places), (30, 1));
        assert!(!one.resize(usize::MAX) && one.resize(0));
        drop((one, more));
        assert_eq!(held(&places), (0, 0));
    }
}
