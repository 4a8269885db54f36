//! What readers see of the log: the newest entries from memory, older ones from disk.
//!
//! State and cache change at once with each write that is queued; the locations of records change later, once the writer has
//! written them. An entry leaves the cache only after it was written. So an entry that is not in the cache is where its location
//! says, and no truncation of it is queued.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::record::Record;
use super::segment::{RecordLocation, file_name};
use super::stats::LogStats;
use super::{Entry, LogError, LogId, LogOptions, LogState, Vote};
use crate::disk::DiskFile;

#[derive(Debug)]
pub(super) struct SharedLog<F> {
    pub(super) options: LogOptions,
    pub(super) stats: Arc<LogStats>,
    failed: OnceLock<String>,
    view: Mutex<LogView<F>>,
}

#[derive(Debug)]
pub(super) struct LogView<F> {
    pub(super) state: LogState,
    /// The index of the first entry; `None` if there is none.
    first: Option<u64>,
    /// The number of the last write that the writer has finished.
    written: u64,
    cache: VecDeque<Cached>,
    cached_bytes: usize,
    locations: RecordLocations<F>,
    /// Bytes for entries in the segment in use, and in the spare one.
    pub(super) free: u64,
    pub(super) spare: Option<u64>,
    /// The highest index in the segments that no more records come to.
    pub(super) sealed: Option<u64>,
}

#[derive(Debug)]
struct Cached {
    /// The number of the append that it came with.
    number: u64,
    entry: Entry,
}

/// Where the records of a run of entries are.
#[derive(Debug)]
pub(super) struct RecordLocations<F> {
    first: u64,
    locations: VecDeque<RecordLocation<F>>,
}

impl<F> Default for RecordLocations<F> {
    fn default() -> Self {
        Self { first: 0, locations: VecDeque::new() }
    }
}

impl<F> RecordLocations<F> {
    pub(super) fn put(&mut self, index: u64, location: RecordLocation<F>) {
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

    fn get(&self, index: u64) -> Option<&RecordLocation<F>> {
        self.locations.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }
}

/// What the writer did to the locations.
pub(super) enum LocationUpdate<F> {
    Put(u64, RecordLocation<F>),
    Cut(u64),
    Purge(u64),
}

impl<F> SharedLog<F> {
    pub(super) fn new(options: LogOptions, state: LogState, locations: RecordLocations<F>) -> Self {
        let view = LogView {
            state,
            first: locations.first(),
            written: 0,
            cache: VecDeque::new(),
            cached_bytes: 0,
            locations,
            free: 0,
            spare: None,
            sealed: None,
        };
        Self { options, stats: Arc::default(), failed: OnceLock::new(), view: Mutex::new(view) }
    }

    pub(super) fn view(&self) -> MutexGuard<'_, LogView<F>> {
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
    pub(super) fn written(&self, number: u64, updates: Vec<LocationUpdate<F>>) {
        let view = &mut *self.view();
        for update in updates {
            match update {
                LocationUpdate::Put(index, location) => view.locations.put(index, location),
                LocationUpdate::Cut(from) => view.locations.cut(from),
                LocationUpdate::Purge(up_to) => view.locations.purge(up_to),
            }
        }
        view.written = view.written.max(number);
        view.evict(self.options.cache);
    }
}

impl<F> LogView<F> {
    /// Checks that entries follow on what is there.
    pub(super) fn check_order(&self, entries: &[Entry]) -> Result<(), LogError> {
        let mut last = self.state.last;
        for entry in entries {
            let found = entry.log_id.index;
            // A log that never had an entry may begin anywhere: with a snapshot, entries come from the middle.
            if last.is_some_and(|last| last.index.checked_add(1) != Some(found)) {
                return Err(LogError::Order { last: last.map(|last| last.index), found });
            }
            last = Some(entry.log_id);
        }
        Ok(())
    }

    pub(super) fn append(&mut self, number: u64, entries: &[Entry]) {
        for entry in entries {
            self.first.get_or_insert(entry.log_id.index);
            self.state.last = Some(entry.log_id);
            self.cached_bytes += bytes(entry);
            self.cache.push_back(Cached { number, entry: entry.clone() });
        }
    }

    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        self.state.truncate(last);
        let from = self.state.last.map_or(0, |last| last.index + 1);
        while self.cache.back().is_some_and(|cached| cached.entry.log_id.index >= from) {
            self.cached_bytes -= self.cache.pop_back().map_or(0, |cached| bytes(&cached.entry));
        }
        if self.first.is_some_and(|first| first >= from) {
            self.first = None;
        }
    }

    pub(super) fn purge(&mut self, up_to: LogId) {
        self.state.purge(up_to);
        while self.cache.front().is_some_and(|cached| cached.entry.log_id.index <= up_to.index) {
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

impl LogState {
    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |last| last.index + 1);
        if self.last.is_none_or(|last| last.index < next) {
            return;
        }
        // What was purged cannot be cut.
        self.last =
            if self.purged.is_some_and(|purged| purged.index >= next) { self.purged } else { last.or(self.purged) };
        if self.committed.map(|log_id| log_id.index) > self.last.map(|log_id| log_id.index) {
            self.committed = None;
        }
    }

    pub(super) fn purge(&mut self, up_to: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= up_to.index) {
            return;
        }
        self.purged = Some(up_to);
        if self.last.is_none_or(|last| last.index <= up_to.index) {
            self.last = Some(up_to);
        }
    }
}

/// Reads the log beside its owner. Clones read the same log. [`Log::reader`](super::Log::reader) makes one.
#[derive(Debug)]
pub struct LogReader<F> {
    pub(super) shared: Arc<SharedLog<F>>,
}

impl<F> Clone for LogReader<F> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

enum EntrySource<F> {
    Memory(Entry),
    Disk(RecordLocation<F>),
}

/// Some entries in a row, of which some may still have to be read from disk. [`LogReader::find`] returns it.
pub struct EntryBatch<F> {
    sources: Vec<EntrySource<F>>,
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

impl<F: DiskFile> LogReader<F> {
    /// The last vote that is durable.
    pub fn vote(&self) -> Result<Option<Vote>, LogError> {
        self.shared.check()?;
        Ok(self.shared.view().state.vote)
    }

    /// Finds the entries of a range that there are: at most about `limit` bytes of them, but at least one.
    pub fn find(&self, range: impl RangeBounds<u64>, limit: usize) -> Result<EntryBatch<F>, LogError> {
        self.shared.check()?;
        let view = self.shared.view();
        let (mut sources, mut taken) = (Vec::new(), 0);
        let (Some(first), Some(last)) = (view.first, view.state.last) else {
            return Ok(EntryBatch { sources });
        };
        let (start, end) = bounds(&range);
        let first_cached = view.cache.front().map_or(u64::MAX, |cached| cached.entry.log_id.index);
        for index in start.max(first)..end.min(last.index + 1) {
            let (source, size) = if index >= first_cached {
                let entry = &view.cache[(index - first_cached) as usize].entry;
                (EntrySource::Memory(entry.clone()), bytes(entry))
            } else {
                // It has left the cache, or was there when the log was opened: it is on disk.
                let location = view.locations.get(index).ok_or_else(|| LogError::Damaged {
                    file: "the log".into(),
                    offset: 0,
                    problem: format!("entry {index} is neither in memory nor on disk"),
                })?;
                (EntrySource::Disk(location.clone()), location.size as usize)
            };
            if !sources.is_empty() && taken + size > limit {
                break;
            }
            taken += size;
            sources.push(source);
        }
        Ok(EntryBatch { sources })
    }

    /// Finds and reads, as [`find`](Self::find) and [`EntryBatch::read`].
    pub fn read(&self, range: impl RangeBounds<u64>, limit: usize) -> Result<Vec<Entry>, LogError> {
        self.find(range, limit)?.read()
    }

    /// The sizes of the log's parts.
    pub fn options(&self) -> &LogOptions {
        &self.shared.options
    }
}

impl<F: DiskFile> EntryBatch<F> {
    /// Whether all entries are in memory, so that reading them does not block.
    pub fn in_memory(&self) -> bool {
        self.sources.iter().all(|source| matches!(source, EntrySource::Memory(_)))
    }

    /// Reads the entries. Blocks if not all of them are in memory.
    pub fn read(self) -> Result<Vec<Entry>, LogError> {
        let read = |source| match source {
            EntrySource::Memory(entry) => Ok(entry),
            EntrySource::Disk(location) => match location.read()? {
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
