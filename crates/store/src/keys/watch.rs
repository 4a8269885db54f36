//! Watches: every change of some keys, each revision once, in order.
//!
//! A watcher is a place in the history, not a queue: it reads what it has not had yet from the history when it polls. So it
//! takes the same few bytes however slow it is. Only compaction limits it: a watcher that the compaction overtakes is
//! cancelled, with the revision from which it can start again. No change is skipped silently.
//!
//! [`WatchHub`] finds the watchers that a change is for, so that a watcher of other keys is not woken. It does no I/O. Its
//! owner calls [`WatchHub::observe`] after each command and wakes the watchers that it names; these call [`WatchHub::poll`].
//! State and hub are behind one lock: a watcher never gets what the hub has not seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{KeyRange, KeyValue, Keys};
use crate::error::Error;

/// How many changes one poll looks at: the lock is held meanwhile.
const MAX_SCAN: usize = 4096;

/// Which changes to watch (etcd's `WatchCreateRequest`). [`Store::watch`](crate::Store::watch) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The keys.
    pub keys: KeyRange,
    /// The first revision to deliver, which may be in the future. 0: the one after the last that the serving node has
    /// applied; a node that lags behind then tells what was agreed on just before, too. The first
    /// [`WatchEvent::Progress`] says where a watch begins.
    pub start_revision: u64,
    /// Gives each event the key as it was before.
    pub prev_kv: bool,
    /// Leaves out puts.
    pub no_put: bool,
    /// Leaves out deletes.
    pub no_delete: bool,
}

/// The number of a watcher in its [`WatchHub`].
pub type WatchId = u64;

/// A change of a key. See [`WatchEvent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEvent {
    /// The key as it is now; a [tombstone](KeyValue::is_tombstone) if it was deleted.
    pub kv: Arc<KeyValue>,
    /// The key as it was before, if the watch asked for it, the key existed, and that version is not compacted.
    pub prev: Option<Arc<KeyValue>>,
}

/// An event of a watch. [`Store::watch`](crate::Store::watch) has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of a revision.
    Changes {
        /// The revision.
        revision: u64,
        /// The changes in their order; at least one.
        events: Vec<KeyEvent>,
    },
    /// All changes up to a revision have been delivered.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// The watch has ended.
    Cancelled(CancelReason),
}

/// Why a watch was cancelled. To go on, read the keys and watch from the compacted revision on. See [`WatchEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelReason {
    /// Its start revision is compacted.
    #[error("the watch starts at revision {start}, which is compacted: start at {compacted} or later, and read first")]
    Compacted {
        /// The start revision.
        start: u64,
        /// The first revision that can be watched.
        compacted: u64,
    },
    /// It read more slowly than the history was compacted.
    #[error(
        "the watch was too slow: changes from revision {next} on are compacted; start at {compacted}, and read first"
    )]
    Slow {
        /// The first revision that it did not deliver.
        next: u64,
        /// The first revision that can be watched.
        compacted: u64,
    },
}

/// What [`WatchHub::poll`] has for a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchPoll {
    /// An event.
    Ready(WatchEvent),
    /// Nothing so far, but more history to look through: poll again, after others had the lock.
    Again,
    /// Nothing until [`WatchHub::observe`] names the watcher.
    Idle,
}

#[derive(Clone, Debug)]
struct Watcher {
    watch: Watch,
    /// The first revision that it may still have to deliver. If nothing is pending, it has delivered all before the head.
    next: u64,
    /// Whether there may be something between `next` and the head.
    pending: bool,
    /// Whether it has delivered anything, or all there was, since it was created.
    started: bool,
    /// Whether a progress event was requested.
    progress: bool,
    cancelled: Option<CancelReason>,
}

impl Watcher {
    fn matches(&self, version: &KeyValue) -> bool {
        let filtered = if version.is_tombstone() { self.watch.no_delete } else { self.watch.no_put };
        !filtered && self.watch.keys.contains(&version.key)
    }

    /// Cancels it if the compaction has overtaken it.
    fn check(&mut self, compacted: u64) {
        if self.pending && self.next < compacted && self.cancelled.is_none() {
            let next = self.next;
            self.cancelled = Some(if self.started {
                CancelReason::Slow { next, compacted }
            } else {
                CancelReason::Compacted { start: next, compacted }
            });
        }
    }
}

/// The watchers of one member.
///
/// ```
/// use broadcast_store::{LogId, keys::{KeyRange, KeysCommand, Put, Watch, WatchEvent, WatchHub, WatchPoll}};
/// use broadcast_store::machine::{Command, State};
///
/// let mut state = State::new();
/// let mut hub = WatchHub::new(100, state.keys());
/// let watcher = hub.watch(Watch { keys: KeyRange::one("color"), ..Watch::default() }, state.keys())?;
///
/// let put = KeysCommand::Put(Put { key: "color".into(), value: "green".into(), ..Put::default() });
/// state.apply(LogId { term: 1, index: 1 }, &Command::keys(&put)?)?;
/// assert_eq!(hub.observe(state.keys()), [watcher]);
/// assert!(matches!(hub.poll(watcher, state.keys()), WatchPoll::Ready(WatchEvent::Changes { revision: 2, .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct WatchHub {
    max_watchers: usize,
    watchers: BTreeMap<WatchId, Watcher>,
    /// The watchers of one key.
    by_key: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// The watchers of a range, by a prefix of all keys in it.
    by_prefix: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// How many of these prefixes have which length, so that a change looks up only such prefixes of its key.
    lengths: BTreeMap<usize, usize>,
    next_id: WatchId,
    /// The revision up to which the hub has seen the changes.
    head: u64,
    compacted: u64,
    woken: BTreeSet<WatchId>,
}

impl WatchHub {
    /// A hub for the changes from now on, which takes at most `max_watchers`.
    pub fn new(max_watchers: usize, keys: &Keys) -> Self {
        Self {
            max_watchers,
            watchers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_prefix: BTreeMap::new(),
            lengths: BTreeMap::new(),
            next_id: 1,
            head: keys.revision(),
            compacted: keys.compacted(),
            woken: BTreeSet::new(),
        }
    }

    /// How many watchers there are.
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Begins a watch. It may have events already: poll it.
    ///
    /// # Errors
    ///
    /// [`Error::KeyNotProvided`] and [`Error::TooManyWatchers`]. A compacted start revision is not an error: the watcher
    /// is cancelled at its first poll, as in etcd.
    pub fn watch(&mut self, watch: Watch, keys: &Keys) -> Result<WatchId, Error> {
        watch.keys.check()?;
        if self.watchers.len() >= self.max_watchers {
            return Err(Error::TooManyWatchers { most: self.max_watchers as u64 });
        }
        let id = self.next_id;
        self.next_id += 1;
        let next = if watch.start_revision == 0 { keys.revision() + 1 } else { watch.start_revision };
        self.index(id, &watch.keys);
        let pending = next <= self.head;
        let mut watcher = Watcher { watch, next, pending, started: !pending, progress: false, cancelled: None };
        watcher.check(keys.compacted());
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    /// Forgets a watcher.
    pub fn cancel(&mut self, id: WatchId) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        self.woken.remove(&id);
        self.unindex(id, &watcher.watch.keys);
    }

    fn index(&mut self, id: WatchId, keys: &KeyRange) {
        if keys.is_one() {
            self.by_key.entry(keys.key.clone()).or_default().insert(id);
            return;
        }
        let prefix = keys.common_prefix();
        let len = prefix.len();
        let ids = self.by_prefix.entry(prefix).or_default();
        if ids.is_empty() {
            *self.lengths.entry(len).or_default() += 1;
        }
        ids.insert(id);
    }

    fn unindex(&mut self, id: WatchId, keys: &KeyRange) {
        let one = keys.is_one();
        let (index, key) =
            if one { (&mut self.by_key, keys.key.clone()) } else { (&mut self.by_prefix, keys.common_prefix()) };
        let Some(ids) = index.get_mut(&key) else { return };
        ids.remove(&id);
        if !ids.is_empty() {
            return;
        }
        index.remove(&key);
        if let Some(count) = self.lengths.get_mut(&key.len()).filter(|_| !one) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&key.len());
            }
        }
    }

    /// Looks at the changes since the last time. Returns the watchers that have something to poll now and had nothing before.
    /// Call it after every command, or every few.
    pub fn observe(&mut self, keys: &Keys) -> Vec<WatchId> {
        if keys.compacted() > self.head + 1 {
            // Some changes were compacted before the hub saw them: nobody knows for whom they were.
            return self.observe_snapshot(keys);
        }
        for (revision, changes) in keys.changes_from(self.head + 1) {
            for version in changes.iter() {
                self.changed(revision, version);
            }
        }
        self.head = self.head.max(keys.revision());
        if keys.compacted() > self.compacted {
            self.compacted = keys.compacted();
            for (id, watcher) in &mut self.watchers {
                watcher.check(self.compacted);
                if watcher.cancelled.is_some() {
                    self.woken.insert(*id);
                }
            }
        }
        std::mem::take(&mut self.woken).into_iter().collect()
    }

    fn changed(&mut self, revision: u64, version: &KeyValue) {
        let one = self.by_key.get(&version.key).into_iter();
        let prefixes = self.lengths.keys().filter_map(|len| version.key.get(..*len));
        let ranges = prefixes.filter_map(|prefix| self.by_prefix.get(prefix));
        for id in one.chain(ranges).flatten() {
            let Some(watcher) = self.watchers.get_mut(id) else { continue };
            if !watcher.pending && revision >= watcher.next && watcher.matches(version) {
                watcher.pending = true;
                watcher.next = revision;
                self.woken.insert(*id);
            }
        }
    }

    /// Goes on with a state from a snapshot, in place of the former one. Every watcher has to be woken: it goes on in the new
    /// history, or is cancelled if that begins too late for it.
    pub fn observe_snapshot(&mut self, keys: &Keys) -> Vec<WatchId> {
        for watcher in self.watchers.values_mut() {
            if !watcher.pending {
                watcher.next = watcher.next.max(self.head + 1);
                watcher.pending = watcher.next <= keys.revision();
            }
            watcher.check(keys.compacted());
        }
        self.head = self.head.max(keys.revision());
        self.compacted = keys.compacted();
        self.woken.clear();
        self.watchers.keys().copied().collect()
    }

    /// Requests a [`WatchEvent::Progress`] for a watcher, which comes after all changes so far.
    pub fn request_progress(&mut self, id: WatchId) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.progress = true;
        }
    }

    /// The next event of a watcher. An unknown one is idle.
    pub fn poll(&mut self, id: WatchId, keys: &Keys) -> WatchPoll {
        let Some(watcher) = self.watchers.get_mut(&id) else { return WatchPoll::Idle };
        watcher.check(keys.compacted());
        if let Some(cancelled) = watcher.cancelled {
            self.cancel(id);
            return WatchPoll::Ready(WatchEvent::Cancelled(cancelled));
        }
        if watcher.pending {
            let mut seen = 0;
            for (revision, changes) in keys.changes_from(watcher.next) {
                if revision > self.head {
                    break;
                }
                if seen > MAX_SCAN {
                    watcher.next = revision;
                    return WatchPoll::Again;
                }
                seen += changes.len();
                let events = changes.iter().filter(|version| watcher.matches(version)).map(|version| {
                    let prev = watcher.watch.prev_kv.then(|| keys.version_before(version)).flatten();
                    KeyEvent { kv: version.clone(), prev: prev.cloned() }
                });
                let events: Vec<_> = events.collect();
                if !events.is_empty() {
                    watcher.next = revision + 1;
                    watcher.pending = watcher.next <= self.head;
                    watcher.started = true;
                    return WatchPoll::Ready(WatchEvent::Changes { revision, events });
                }
            }
            watcher.pending = false;
            watcher.started = true;
            watcher.next = self.head + 1;
        }
        if std::mem::take(&mut watcher.progress) {
            return WatchPoll::Ready(WatchEvent::Progress { revision: self.head });
        }
        WatchPoll::Idle
    }
}
