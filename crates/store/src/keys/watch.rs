//! Watches: every change of some keys, each revision once, in order.
//!
//! A watcher is a place in the history, not a queue: what it has not been given yet is read from the history when it
//! asks. So it takes the same few bytes however slow it is. What bounds it is compaction: a watcher that history is
//! compacted past is cancelled, with the revision from which it can start again. Nothing is skipped silently.
//!
//! The hub finds out which watchers a change is for, so that a watcher who waits for other keys is neither woken nor
//! reads what is not for it. It does no I/O. Who applies commands calls [`WatchHub::applied`] after each, wakes those
//! that it names, and these call [`WatchHub::poll`]. State and hub are behind one lock: a watcher is never given what
//! the hub has not seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{KeyRange, KeyValue, Keys};
use crate::error::Error;

/// How many changes one poll looks at, so that the lock is not held for long.
const SCAN: usize = 4096;

/// Which changes to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The keys.
    pub keys: KeyRange,
    /// The first revision to be told of, which may be in the future. 0: the next one.
    pub start_revision: u64,
    /// Whether events have the key as it was before.
    pub prev_kv: bool,
    /// Leaves puts out.
    pub no_put: bool,
    /// Leaves deletes out.
    pub no_delete: bool,
}

/// The number of a watcher in its hub.
pub type WatchId = u64;

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key as it is now; a tombstone, if it was deleted.
    pub kv: Arc<KeyValue>,
    /// The key as it was, if that was asked for, and it was there, and it is not compacted.
    pub prev: Option<Arc<KeyValue>>,
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of a revision.
    Changes {
        /// The revision.
        revision: u64,
        /// The changes, in their order. There is one at least.
        events: Vec<Event>,
    },
    /// All changes up to a revision have been told.
    Progress {
        /// The revision.
        revision: u64,
    },
    /// The watcher is at its end, and is forgotten.
    Cancelled(Cancelled),
}

/// Why a watcher is at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cancelled {
    /// It was to start at a revision that is compacted.
    #[error("the watch starts at revision {start}, which is compacted: start at {compacted} or later, and read first")]
    Compacted {
        /// Where it was to start.
        start: u64,
        /// The first revision that can be watched.
        compacted: u64,
    },
    /// It was told of changes more slowly than history was forgotten.
    #[error(
        "the watch was too slow: changes from revision {next} on are compacted; start at {compacted}, and read first"
    )]
    Slow {
        /// The first revision that it was not told of.
        next: u64,
        /// The first revision that can be watched.
        compacted: u64,
    },
}

/// What there is for a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll {
    /// This.
    Ready(WatchEvent),
    /// Nothing found yet, but not all of the history is looked through: poll again, after others have had the lock.
    Again,
    /// Nothing, until [`WatchHub::applied`] names it.
    Idle,
}

#[derive(Clone, Debug)]
struct Watcher {
    watch: Watch,
    /// The first revision that it may still have to be told of. If nothing is pending, whatever is before the head has
    /// been, too.
    next: u64,
    /// Whether there may be something between `next` and the head.
    pending: bool,
    /// Whether it was told anything, or everything there was, since it was created.
    started: bool,
    progress: bool,
    cancelled: Option<Cancelled>,
}

impl Watcher {
    fn matches(&self, version: &KeyValue) -> bool {
        let filtered = if version.is_tombstone() { self.watch.no_delete } else { self.watch.no_put };
        !filtered && self.watch.keys.contains(&version.key)
    }

    /// Ends it, if what it has not been told of is forgotten.
    fn check(&mut self, compacted: u64) {
        if self.pending && self.next < compacted && self.cancelled.is_none() {
            let next = self.next;
            self.cancelled = Some(if self.started {
                Cancelled::Slow { next, compacted }
            } else {
                Cancelled::Compacted { start: next, compacted }
            });
        }
    }
}

/// The watchers of one member.
#[derive(Clone, Debug)]
pub struct WatchHub {
    most: usize,
    watchers: BTreeMap<WatchId, Watcher>,
    /// Who watches one key.
    by_key: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// Who watches a range, by what all keys in it begin with.
    by_prefix: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// How many of these prefixes have which length: only such prefixes of a changed key are looked for.
    lengths: BTreeMap<usize, usize>,
    next_id: WatchId,
    /// The revision up to which changes have been looked at.
    head: u64,
    compacted: u64,
    woken: BTreeSet<WatchId>,
}

impl WatchHub {
    /// A hub for the changes from now on, with at most so many watchers.
    pub fn new(most: usize, keys: &Keys) -> Self {
        Self {
            most,
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

    /// Starts a watch. It may have something already: poll it.
    ///
    /// # Errors
    ///
    /// [`Error::KeyNotProvided`] and [`Error::TooManyWatchers`]. A start that is compacted is not an error: the watcher
    /// is cancelled at its first poll, as in etcd.
    pub fn watch(&mut self, watch: Watch, keys: &Keys) -> Result<WatchId, Error> {
        watch.keys.check()?;
        if self.watchers.len() >= self.most {
            return Err(Error::TooManyWatchers { most: self.most as u64 });
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

    /// Looks at what has changed since the last time, and names the watchers that have something to poll now and had
    /// nothing before. To be called after every command, or every few.
    pub fn applied(&mut self, keys: &Keys) -> Vec<WatchId> {
        if keys.compacted() > self.head + 1 {
            // What was not looked at yet is partly forgotten: who it was for cannot be told.
            return self.installed(keys);
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

    /// Goes on with a state that was installed from a snapshot, in place of an earlier one. Every watcher is woken: it
    /// goes on from the new history, or is cancelled if that begins too late for it.
    pub fn installed(&mut self, keys: &Keys) -> Vec<WatchId> {
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

    /// Asks that a watcher be told of its progress, once it has been told of all changes so far.
    pub fn request_progress(&mut self, id: WatchId) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.progress = true;
        }
    }

    /// What a watcher is to be told next. One that is not known is idle.
    pub fn poll(&mut self, id: WatchId, keys: &Keys) -> Poll {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Poll::Idle };
        watcher.check(keys.compacted());
        if let Some(cancelled) = watcher.cancelled {
            self.cancel(id);
            return Poll::Ready(WatchEvent::Cancelled(cancelled));
        }
        if watcher.pending {
            let mut seen = 0;
            for (revision, changes) in keys.changes_from(watcher.next) {
                if revision > self.head {
                    break;
                }
                if seen > SCAN {
                    watcher.next = revision;
                    return Poll::Again;
                }
                seen += changes.len();
                let events = changes.iter().filter(|version| watcher.matches(version)).map(|version| {
                    let prev = watcher.watch.prev_kv.then(|| keys.version_before(version)).flatten();
                    Event { kv: version.clone(), prev: prev.cloned() }
                });
                let events: Vec<_> = events.collect();
                if !events.is_empty() {
                    watcher.next = revision + 1;
                    watcher.pending = watcher.next <= self.head;
                    watcher.started = true;
                    return Poll::Ready(WatchEvent::Changes { revision, events });
                }
            }
            watcher.pending = false;
            watcher.started = true;
            watcher.next = self.head + 1;
        }
        if std::mem::take(&mut watcher.progress) {
            return Poll::Ready(WatchEvent::Progress { revision: self.head });
        }
        Poll::Idle
    }
}
