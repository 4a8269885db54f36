//! Writing: from changes to records in segments, and the order of the syncs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::record::{Record, RecordLink};
use super::segment::{RecordLocation, SPARE, START, SegmentHeader, file_name};
use super::view::{LocationUpdate, SharedLog};
use super::{LogError, LogOptions, LogState};
use crate::disk::{Disk, DiskFile, Ids};

const SEAL: u64 = 32;

/// The segments, and where the next record goes. It is the writer's alone.
#[derive(Debug)]
pub(super) struct Journal<D: Disk> {
    pub(super) disk: D,
    pub(super) ids: Ids,
    pub(super) options: LogOptions,
    pub(super) shared: Arc<SharedLog<D::File>>,
    /// What the records written so far have led to.
    pub(super) state: LogState,
    pub(super) sealed: VecDeque<SealedSegment>,
    pub(super) active: ActiveSegment<D::File>,
    pub(super) spare: Option<D::File>,
}

/// A segment that no more records come to.
#[derive(Debug)]
pub(super) struct SealedSegment {
    pub(super) sequence: u64,
    pub(super) size: u64,
    /// The highest index of its entries.
    pub(super) highest: Option<u64>,
}

/// The segment in use.
#[derive(Debug)]
pub(super) struct ActiveSegment<F> {
    pub(super) file: Arc<F>,
    pub(super) name: String,
    pub(super) sequence: u64,
    pub(super) salt: u32,
    pub(super) size: u64,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Up to where it is synced.
    pub(super) synced: u64,
    /// CRC of the last record.
    pub(super) previous: u32,
    pub(super) highest: Option<u64>,
    /// The last bytes before `end`, which are not written yet.
    pub(super) buffer: Vec<u8>,
}

/// What one turn of the writer writes.
#[derive(Debug)]
pub(super) struct WriteBatch<F> {
    updates: Vec<LocationUpdate<F>>,
    purged: bool,
}

impl<F> std::fmt::Debug for LocationUpdate<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put(index, _) => write!(f, "Put({index})"),
            Self::Cut(from) => write!(f, "Cut({from})"),
            Self::Purge(up_to) => write!(f, "Purge({up_to})"),
        }
    }
}

impl<F> Default for WriteBatch<F> {
    fn default() -> Self {
        Self { updates: Vec::new(), purged: false }
    }
}

impl<F> ActiveSegment<F> {
    fn room(&self, reserve: u64) -> u64 {
        self.size.saturating_sub(self.end + SEAL + reserve)
    }

    fn push(&mut self, record: &Record) -> u64 {
        let link = RecordLink { salt: self.salt, previous: self.previous, offset: self.end, synced: self.synced };
        self.previous = record.write(link, &mut self.buffer);
        let offset = self.end;
        self.end += record.size();
        offset
    }
}

impl<F: DiskFile> ActiveSegment<F> {
    fn flush(&mut self) -> Result<(), LogError> {
        if !self.buffer.is_empty() {
            let offset = self.end - self.buffer.len() as u64;
            self.file.write_at(&self.buffer, offset).map_err(LogError::io(&self.name, "write records"))?;
            self.buffer.clear();
            // One large turn must not hold its memory for ever.
            self.buffer.shrink_to(1 << 20);
        }
        Ok(())
    }

    /// Gives whether there was anything to sync.
    fn sync(&mut self) -> Result<bool, LogError> {
        self.flush()?;
        let is_due = self.synced < self.end;
        if is_due {
            self.file.sync().map_err(LogError::io(&self.name, "sync"))?;
            self.synced = self.end;
        }
        Ok(is_due)
    }
}

impl<D: Disk> Journal<D> {
    /// Puts a record behind the others; [`finish`](Self::finish) writes it.
    pub(super) fn put(&mut self, batch: &mut WriteBatch<D::File>, record: &Record) -> Result<(), LogError> {
        let size = record.size();
        let reserve = if matches!(record, Record::Entry(_)) { self.options.reserve } else { 0 };
        if size > self.active.room(reserve) {
            self.roll()?;
        }
        if size > self.active.room(reserve) {
            // A segment of an earlier start may be smaller than the options of this one say.
            return Err(LogError::Full { file: self.active.name.clone() });
        }
        let offset = self.active.push(record);
        match record {
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                self.state.last = Some(entry.log_id);
                self.active.highest = self.active.highest.max(Some(index));
                let location = RecordLocation {
                    file: self.active.file.clone(),
                    sequence: self.active.sequence,
                    offset,
                    size: (super::record::HEADER + super::record::ENTRY_HEADER) as u32 + entry.payload.len() as u32,
                    salt: self.active.salt,
                };
                batch.updates.push(LocationUpdate::Put(index, location));
            }
            Record::Vote(vote) => self.state.vote = Some(*vote),
            Record::Committed(log_id) => self.state.committed = *log_id,
            Record::Truncate(last) => {
                self.state.truncate(*last);
                batch.updates.push(LocationUpdate::Cut(self.state.last.map_or(0, |last| last.index + 1)));
            }
            Record::Purge(up_to) => {
                self.state.purge(*up_to);
                batch.updates.push(LocationUpdate::Purge(up_to.index));
                batch.purged = true;
            }
            Record::State(_) | Record::Seal => {}
        }
        Ok(())
    }

    /// Writes all that was put, and syncs it if somebody waits for it. `number` is that of the last thing that was asked
    /// for.
    pub(super) fn finish(&mut self, batch: &mut WriteBatch<D::File>, sync: bool, number: u64) -> Result<(), LogError> {
        // What says that entries are purged must be durable before their segment goes.
        if sync || (batch.purged && self.removable()) {
            self.sync()?
        } else {
            self.active.flush()?
        }
        self.shared.written(number, std::mem::take(&mut batch.updates));
        self.publish_space();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let began = Instant::now();
        if self.active.sync()? {
            self.shared.stats.synced(began.elapsed());
        }
        Ok(())
    }

    /// What can be done after those who wait were told: removes segments, and prepares the spare one.
    pub(super) fn tidy(&mut self, batch: &WriteBatch<D::File>, prepare_spare: bool) {
        let removed = batch.purged && self.remove_purged();
        if self.spare.is_none() && (prepare_spare || removed) {
            self.prepare();
        }
        self.publish_space();
    }

    fn removable(&self) -> bool {
        let purged = self.state.purged.map(|purged| purged.index);
        self.sealed.front().is_some_and(|sealed| sealed.highest <= purged)
    }

    /// Removes segments from the front that have only purged entries.
    pub(super) fn remove_purged(&mut self) -> bool {
        let mut removed = false;
        while self.removable() {
            let Some(sealed) = self.sealed.pop_front() else { break };
            // What stays is removed at the next start.
            match self.disk.remove(&file_name(sealed.sequence)) {
                Ok(()) => removed = true,
                Err(error) => {
                    tracing::warn!(segment = sealed.sequence, %error, "cannot remove a purged segment of the log")
                }
            }
        }
        removed
    }

    /// Preallocates the spare segment, if there is room.
    pub(super) fn prepare(&mut self) -> bool {
        match preallocate(&self.disk, &self.options) {
            Ok(file) => self.spare = Some(file),
            Err(error) => {
                tracing::warn!(%error, "no room for another segment of the log: proposals are refused until there is");
                let _ = self.disk.remove(SPARE);
            }
        }
        self.spare.is_some()
    }

    pub(super) fn publish_space(&self) {
        let spare = self.spare.as_ref().map_or(0, |_| self.options.segment);
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.size).sum();
        self.shared.stats.set_bytes(sealed + self.active.size + spare);
        let highest = self.sealed.iter().filter_map(|sealed| sealed.highest).max();
        let mut view = self.shared.view();
        view.sealed = highest;
        view.free = self.active.room(self.options.reserve);
        view.spare = self.spare.is_some().then(|| max_entry_bytes(&self.options));
    }

    /// Seals the segment and begins the next.
    pub(super) fn roll(&mut self) -> Result<(), LogError> {
        if self.spare.is_none() && !self.prepare() {
            return Err(LogError::Full { file: self.active.name.clone() });
        }
        let Some(file) = self.spare.take() else {
            return Err(LogError::Full { file: self.active.name.clone() });
        };
        self.active.push(&Record::Seal);
        self.sync()?;
        let next =
            begin_segment(&self.disk, self.ids, self.active.sequence + 1, self.active.previous, self.state, file)?;
        let old = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(SealedSegment { sequence: old.sequence, size: old.size, highest: old.highest });
        self.prepare();
        Ok(())
    }
}

/// The most bytes that a record of an entry can have: it fits into a segment that has nothing else.
pub(super) fn max_entry_bytes(options: &LogOptions) -> u64 {
    let taken = START + Record::State(LogState::default()).size() + SEAL + options.reserve;
    options.segment.saturating_sub(taken)
}

/// Makes the file of the spare segment.
pub(super) fn preallocate<D: Disk>(disk: &D, options: &LogOptions) -> io::Result<D::File> {
    let file = disk.create(SPARE)?;
    file.preallocate(options.segment)?;
    Ok(file)
}

/// Makes the spare file a segment: written and synced first, and only then given its name.
pub(super) fn begin_segment<D: Disk>(
    disk: &D,
    ids: Ids,
    sequence: u64,
    previous: u32,
    state: LogState,
    file: D::File,
) -> Result<ActiveSegment<D::File>, LogError> {
    let name = file_name(sequence);
    let header = SegmentHeader { ids, sequence, previous };
    let (bytes, crc) = header.write();
    let size = file.size().map_err(LogError::io(&name, "read its length"))?;
    let mut active = ActiveSegment {
        file: Arc::new(file),
        name,
        sequence,
        salt: header.salt(),
        size,
        end: START,
        synced: 0,
        previous: crc,
        highest: None,
        buffer: bytes.to_vec(),
    };
    active.push(&Record::State(state));
    active.sync()?;
    disk.rename(SPARE, &active.name).map_err(LogError::io(&active.name, "give it its name"))?;
    disk.sync_folder().map_err(LogError::io(&active.name, "sync the folder"))?;
    Ok(active)
}
