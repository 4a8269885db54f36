//! The limits of the serving side: how many handshakes, sessions, calls and buffered bytes there may be at once, in all and of
//! each member or address, so that no one can take what the others need.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use broadcast::NodeName;
use tokio::sync::Semaphore;

use crate::config::{
    MAX_BUFFERED, MAX_BUFFERED_PER_MEMBER, MAX_CALLS, MAX_CALLS_ISOLATED, MAX_CALLS_PER_MEMBER, MAX_HANDSHAKES,
    MAX_HANDSHAKES_PER_HOST, MAX_SESSIONS, MAX_SESSIONS_PER_MEMBER, MAX_STREAMS,
};

/// So many units at once in all, and so many for each key: a member, or an address.
#[derive(Debug)]
pub(crate) struct KeyedQuota<K>(Arc<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    total: usize,
    per_key: usize,
    usage: Mutex<Usage<K>>,
}

#[derive(Debug)]
struct Usage<K> {
    total: usize,
    by_key: HashMap<K, usize>,
}

/// Units of a [`KeyedQuota`], given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation<K: Eq + Hash + Clone> {
    quota: Arc<Inner<K>>,
    key: K,
    count: usize,
}

impl<K: Eq + Hash + Clone> Inner<K> {
    fn usage(&self) -> MutexGuard<'_, Usage<K>> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a reservation from `from` to `to` units, if there are so many.
    fn change(&self, key: &K, from: usize, to: usize) -> bool {
        let mut usage = self.usage();
        let others = usage.total - from;
        let of_key = usage.by_key.get(key).copied().unwrap_or_default() - from;
        if to > from && (to > self.total - others || to > self.per_key.saturating_sub(of_key)) {
            return false;
        }
        usage.total = others + to;
        if of_key + to == 0 {
            usage.by_key.remove(key);
        } else {
            usage.by_key.insert(key.clone(), of_key + to);
        }
        true
    }
}

impl<K: Eq + Hash + Clone> KeyedQuota<K> {
    pub(crate) fn new(total: usize, per_key: usize) -> Self {
        let usage = Mutex::new(Usage { total: 0, by_key: HashMap::new() });
        Self(Arc::new(Inner { total, per_key, usage }))
    }

    /// Whether there is a unit for this key now.
    pub(crate) fn has_room(&self, key: &K) -> bool {
        let usage = self.0.usage();
        usage.total < self.0.total && usage.by_key.get(key).is_none_or(|count| *count < self.0.per_key)
    }

    /// Reserves one unit.
    pub(crate) fn take(&self, key: K) -> Option<Reservation<K>> {
        let mut reservation = self.empty(key);
        reservation.resize(1).then_some(reservation)
    }

    /// A reservation of nothing yet.
    pub(crate) fn empty(&self, key: K) -> Reservation<K> {
        Reservation { quota: Arc::clone(&self.0), key, count: 0 }
    }
}

impl<K: Eq + Hash + Clone> Reservation<K> {
    /// Changes the reservation to so many units. If there are not so many, it stays as it is, and this is `false`.
    pub(crate) fn resize(&mut self, count: usize) -> bool {
        let changed = count == self.count || self.quota.change(&self.key, self.count, count);
        if changed {
            self.count = count;
        }
        changed
    }

    /// The most that this can reserve.
    pub(crate) fn max(&self) -> usize {
        self.quota.per_key
    }
}

impl<K: Eq + Hash + Clone> Drop for Reservation<K> {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// What the calls of one service, or of several together, may use; calls of other services do not count (a bulkhead).
#[derive(Debug)]
pub(crate) struct ServiceQuota {
    /// Calls that are being answered.
    pub(crate) calls: KeyedQuota<NodeName>,
    /// Bytes of gathered requests, and of responses that are being sent.
    pub(crate) buffered: KeyedQuota<NodeName>,
}

impl ServiceQuota {
    /// For a service of its own.
    pub(crate) fn isolated() -> Self {
        Self {
            calls: KeyedQuota::new(MAX_CALLS_ISOLATED, MAX_CALLS_ISOLATED / 2),
            buffered: KeyedQuota::new(MAX_BUFFERED, MAX_BUFFERED_PER_MEMBER),
        }
    }
}

/// All limits of the serving side.
#[derive(Debug)]
pub(crate) struct SessionLimits {
    pub(crate) handshakes: KeyedQuota<IpAddr>,
    pub(crate) sessions: KeyedQuota<NodeName>,
    /// Shared by all services that have no quota of their own.
    pub(crate) shared: Arc<ServiceQuota>,
    /// Responses in pieces that are being sent.
    pub(crate) streams: Arc<Semaphore>,
}

impl Default for SessionLimits {
    fn default() -> Self {
        let shared = ServiceQuota {
            calls: KeyedQuota::new(MAX_CALLS, MAX_CALLS_PER_MEMBER),
            buffered: KeyedQuota::new(MAX_BUFFERED, MAX_BUFFERED_PER_MEMBER),
        };
        Self {
            handshakes: KeyedQuota::new(MAX_HANDSHAKES, MAX_HANDSHAKES_PER_HOST),
            sessions: KeyedQuota::new(MAX_SESSIONS, MAX_SESSIONS_PER_MEMBER),
            shared: Arc::new(shared),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(quota: &KeyedQuota<&str>) -> (usize, usize) {
        let usage = quota.0.usage();
        assert_eq!(usage.total, usage.by_key.values().sum::<usize>());
        (usage.total, usage.by_key.len())
    }

    #[test]
    fn nobody_takes_all_places() {
        let quota = KeyedQuota::new(5, 2);
        let one: Vec<_> = std::iter::from_fn(|| quota.take("one")).collect();
        assert_eq!(one.len(), 2);
        let rest = [quota.take("two"), quota.take("two"), quota.take("three")];
        assert!(rest.iter().all(Option::is_some) && quota.take("four").is_none());
        drop(one);
        assert!(quota.has_room(&"four") && quota.take("four").is_some());
        assert_eq!(held(&quota), (3, 2));
        drop(rest);
        assert_eq!(held(&quota), (0, 0), "nothing is kept of who is gone");
    }

    #[test]
    fn a_place_grows_as_far_as_there_is_room_and_gives_back_what_it_had() {
        let quota = KeyedQuota::new(100, 60);
        let (mut one, mut more, mut other) = (quota.empty("one"), quota.empty("one"), quota.empty("other"));
        assert!(one.resize(40) && !more.resize(21) && more.resize(20) && !one.resize(41));
        assert!(!other.resize(41) && other.resize(40));
        assert_eq!(held(&quota), (100, 2));
        assert!(one.resize(10) && other.resize(60) && !other.resize(61));
        drop(other);
        assert_eq!(held(&quota), (30, 1));
        assert!(!one.resize(usize::MAX) && one.resize(0));
        drop((one, more));
        assert_eq!(held(&quota), (0, 0));
    }
}
