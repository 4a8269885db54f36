//! What readers see of the log: the newest entries from memory, older ones from disk.
//!
//! Two times meet here. What was asked for is at once what everybody reads: state and cache. What the writer has written
//! comes later: where the records are. An entry leaves the cache only after it was written; so an entry that is not in
//! the cache is where the writer says, and no truncation of it is waiting.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::figures::LogFigures;
use super::record::Record;
use super::segment::{Location, file_name};
use super::{Entry, LogError, Options, Position, State, Vote};
use crate::disk::DiskFile;

#[derive(Debug)]
pub(super) struct Shared<F> {
    pub(super) options: Options,
    pub(super) figures: Arc<LogFigures>,
    failed: OnceLock<String>,
    view: Mutex<View<F>>,
}

#[derive(Debug)]
pub(super) struct View<F> {
    pub(super) state: State,
    /// The index of the first entry; `None` if there is none.
    first: Option<u64>,
    /// Up to which number the writer has written what was asked for.
    written: u64,
    cache: VecDeque<Cached>,
    cached_bytes: usize,
    locations: Locations<F>,
    /// Bytes for entries in the segment in use, and in the spare one.
    pub(super) free: u64,
    pub(super) spare: Option<u64>,
}

#[derive(Debug)]
struct Cached {
    /// The number of the append that it came with.
    number: u64,
    entry: Entry,
}

/// Where the records of a run of entries are.
#[derive(Debug)]
pub(super) struct Locations<F> {
    first: u64,
    locations: VecDeque<Location<F>>,
}

impl<F> Default for Locations<F> {
    fn default() -> Self {
        Self { first: 0, locations: VecDeque::new() }
    }
}

impl<F> Locations<F> {
    pub(super) fn put(&mut self, index: u64, location: Location<F>) {
        if self.locations.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(index, self.first + self.locations.len() as u64, "entries follow on each other");
        self.locations.push_back(location);
    }

    /// Forgets all from this index on.
    pub(super) fn cut(&mut self, from: u64) {
        self.locations.truncate(from.saturating_sub(self.first) as usize);
    }

    /// Forgets all up to this index.
    pub(super) fn purge(&mut self, up_to: u64) {
        let gone = (up_to + 1).saturating_sub(self.first).min(self.locations.len() as u64);
        self.locations.drain(..gone as usize);
        self.first += gone;
    }

    pub(super) fn first(&self) -> Option<u64> {
        (!self.locations.is_empty()).then_some(self.first)
    }

    fn get(&self, index: u64) -> Option<&Location<F>> {
        self.locations.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }
}

/// What the writer did to the locations.
pub(super) enum Update<F> {
    Put(u64, Location<F>),
    Cut(u64),
    Purge(u64),
}

impl<F> Shared<F> {
    pub(super) fn new(options: Options, state: State, locations: Locations<F>) -> Self {
        let view = View {
            state,
            first: locations.first(),
            written: 0,
            cache: VecDeque::new(),
            cached_bytes: 0,
            locations,
            free: 0,
            spare: None,
        };
        Self { options, figures: Arc::default(), failed: OnceLock::new(), view: Mutex::new(view) }
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View<F>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail(&self, why: &str) {
        // The first failure is the cause of the others.
        let _ = self.failed.set(why.to_owned());
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        match self.failed.get() {
            Some(why) => Err(LogError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    /// Takes over what the writer has written, up to what was asked for with this number.
    pub(super) fn written(&self, number: u64, updates: Vec<Update<F>>) {
        let view = &mut *self.view();
        for update in updates {
            match update {
                Update::Put(index, location) => view.locations.put(index, location),
                Update::Cut(from) => view.locations.cut(from),
                Update::Purge(up_to) => view.locations.purge(up_to),
            }
        }
        view.written = view.written.max(number);
        view.evict(self.options.cache);
    }
}

impl<F> View<F> {
    /// Checks that entries follow on what is there.
    pub(super) fn check_order(&self, entries: &[Entry]) -> Result<(), LogError> {
        let mut last = self.state.last;
        for entry in entries {
            let found = entry.position.index;
            // A log that never had an entry may begin anywhere: with a snapshot, entries come from the middle.
            if last.is_some_and(|last| last.index.checked_add(1) != Some(found)) {
                return Err(LogError::Order { last: last.map(|last| last.index), found });
            }
            last = Some(entry.position);
        }
        Ok(())
    }

    pub(super) fn append(&mut self, number: u64, entries: &[Entry]) {
        for entry in entries {
            self.first.get_or_insert(entry.position.index);
            self.state.last = Some(entry.position);
            self.cached_bytes += bytes(entry);
            self.cache.push_back(Cached { number, entry: entry.clone() });
        }
    }

    pub(super) fn truncate(&mut self, last: Option<Position>) {
        self.state.truncate(last);
        let from = self.state.last.map_or(0, |last| last.index + 1);
        while self.cache.back().is_some_and(|cached| cached.entry.position.index >= from) {
            self.cached_bytes -= self.cache.pop_back().map_or(0, |cached| bytes(&cached.entry));
        }
        if self.first.is_some_and(|first| first >= from) {
            self.first = None;
        }
    }

    pub(super) fn purge(&mut self, up_to: Position) {
        self.state.purge(up_to);
        while self.cache.front().is_some_and(|cached| cached.entry.position.index <= up_to.index) {
            self.cached_bytes -= self.cache.pop_front().map_or(0, |cached| bytes(&cached.entry));
        }
        if let Some(first) = self.first
            && first <= up_to.index
        {
            let next = up_to.index + 1;
            self.first = self.state.last.filter(|last| last.index >= next).map(|_| next);
        }
    }

    fn evict(&mut self, limit: usize) {
        let written = self.written;
        while self.cached_bytes > limit && self.cache.front().is_some_and(|cached| cached.number <= written) {
            self.cached_bytes -= self.cache.pop_front().map_or(0, |cached| bytes(&cached.entry));
        }
    }
}

fn bytes(entry: &Entry) -> usize {
    entry.payload.len() + size_of::<Cached>()
}

impl State {
    pub(super) fn truncate(&mut self, last: Option<Position>) {
        let next = last.map_or(0, |last| last.index + 1);
        if self.last.is_none_or(|last| last.index < next) {
            return;
        }
        // What was purged cannot be cut.
        self.last =
            if self.purged.is_some_and(|purged| purged.index >= next) { self.purged } else { last.or(self.purged) };
        if self.committed.map(|position| position.index) > self.last.map(|position| position.index) {
            self.committed = None;
        }
    }

    pub(super) fn purge(&mut self, up_to: Position) {
        if self.purged.is_some_and(|purged| purged.index >= up_to.index) {
            return;
        }
        self.purged = Some(up_to);
        if self.last.is_none_or(|last| last.index <= up_to.index) {
            self.last = Some(up_to);
        }
    }
}

/// Reads the log, beside whoever writes it. Clones read the same log.
#[derive(Debug)]
pub struct Reader<F> {
    pub(super) shared: Arc<Shared<F>>,
}

impl<F> Clone for Reader<F> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

enum Source<F> {
    Memory(Entry),
    Disk(Location<F>),
}

/// Entries that were found, and that may have to be read from disk yet: with [`Found::read`].
pub struct Found<F> {
    sources: Vec<Source<F>>,
}

/// The first index of a range, and the one behind its last.
pub(crate) fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl<F: DiskFile> Reader<F> {
    /// The last vote that is durable.
    pub fn vote(&self) -> Result<Option<Vote>, LogError> {
        self.shared.check()?;
        Ok(self.shared.view().state.vote)
    }

    /// Finds the entries of a range that there are: at most about `limit` bytes of them, but at least one.
    pub fn find(&self, range: impl RangeBounds<u64>, limit: usize) -> Result<Found<F>, LogError> {
        self.shared.check()?;
        let view = self.shared.view();
        let (mut sources, mut taken) = (Vec::new(), 0);
        let (Some(first), Some(last)) = (view.first, view.state.last) else {
            return Ok(Found { sources });
        };
        let (start, end) = bounds(&range);
        let first_cached = view.cache.front().map_or(u64::MAX, |cached| cached.entry.position.index);
        for index in start.max(first)..end.min(last.index + 1) {
            let (source, size) = if index >= first_cached {
                let entry = &view.cache[(index - first_cached) as usize].entry;
                (Source::Memory(entry.clone()), bytes(entry))
            } else {
                // It has left the cache, or was there when the log was opened: it is on disk.
                let location = view.locations.get(index).ok_or_else(|| LogError::Damaged {
                    file: "the log".into(),
                    offset: 0,
                    problem: format!("entry {index} is neither in memory nor on disk"),
                })?;
                (Source::Disk(location.clone()), location.size as usize)
            };
            if !sources.is_empty() && taken + size > limit {
                break;
            }
            taken += size;
            sources.push(source);
        }
        Ok(Found { sources })
    }

    /// Finds and reads, as [`find`](Self::find) and [`Found::read`].
    pub fn read(&self, range: impl RangeBounds<u64>, limit: usize) -> Result<Vec<Entry>, LogError> {
        self.find(range, limit)?.read()
    }

    /// How large things are.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }
}

impl<F: DiskFile> Found<F> {
    /// Whether all entries are in memory, so that reading them does not block.
    pub fn in_memory(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, Source::Memory(_)))
    }

    /// Reads the entries. Blocks if not all of them are in memory.
    pub fn read(self) -> Result<Vec<Entry>, LogError> {
        let read = |source| match source {
            Source::Memory(entry) => Ok(entry),
            Source::Disk(location) => match location.read()? {
                Record::Entry(entry) => Ok(entry),
                _ => Err(LogError::Damaged {
                    file: file_name(location.sequence),
                    offset: location.offset,
                    problem: "no entry, where one was written".into(),
                }),
            },
        };
        self.sources.into_iter().map(read).collect()
    }
}
