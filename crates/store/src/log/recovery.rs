//! Reading the segments again, as a crash may have left them.

use std::collections::VecDeque;
use std::sync::Arc;

use super::journal::{self, ActiveSegment, Journal, SealedSegment};
use super::record::Record;
use super::segment::{RecordLocation, RecordScanner, RecordStep, SPARE, START, SegmentHeader, file_name, sequence};
use super::view::{RecordLocations, SharedLog};
use super::{LogError, LogOptions, LogState};
use crate::disk::{Disk, DiskFile, Ids};

/// What the records so far have led to.
struct Replay<F> {
    state: LogState,
    locations: RecordLocations<F>,
    /// Up to which index entries are missing, because their segments were removed: a later record must say that they are
    /// purged.
    missing: Option<u64>,
    begun: bool,
}

pub(super) fn open<D: Disk>(disk: D, ids: Ids, options: LogOptions) -> Result<Journal<D>, LogError> {
    let folder = disk.name();
    let names = disk.list().map_err(LogError::io(&folder, "list its files"))?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence(name)).collect();
    sequences.sort_unstable();
    // A process that ended may have given a segment its name without making that durable.
    disk.sync_folder().map_err(LogError::io(&folder, "sync the folder"))?;
    let spare = reuse_spare(&disk, &names, &options);
    let mut replay =
        Replay { state: LogState::default(), locations: RecordLocations::default(), missing: None, begun: false };
    let (mut sealed, mut active, mut seal) = (VecDeque::new(), None, None);
    for (at, sequence) in sequences.iter().copied().enumerate() {
        let name = file_name(sequence);
        if at > 0 && sequences[at - 1] + 1 != sequence {
            let missing = file_name(sequences[at - 1] + 1);
            return Err(LogError::Damaged { file: missing, offset: 0, problem: "the file is missing".into() });
        }
        let file = Arc::new(disk.open(&name).map_err(LogError::io(&name, "open"))?);
        let last = at + 1 == sequences.len();
        let segment = replay.segment(file, &name, ids, sequence, seal, last)?;
        seal = segment.sealed.then_some(segment.active.previous);
        if segment.sealed {
            sealed.push_back(SealedSegment { sequence, size: segment.active.size, highest: segment.active.highest });
        }
        active = Some(segment.active);
    }
    replay.check(active.as_ref())?;
    let spare = match spare {
        Some(file) => Some(file),
        // Without room the log opens all the same, as long as it has a segment to write to.
        None => journal::preallocate(&disk, &options).ok(),
    };
    let shared = Arc::new(SharedLog::new(options, replay.state, replay.locations));
    let (active, spare) = match active {
        Some(active) if seal.is_none() => (active, spare),
        // There is none yet, or the process ended after it sealed one and before it began the next.
        active => {
            let (number, crc) = active.map_or((1, 0), |active| (active.sequence + 1, active.previous));
            let file = match spare {
                Some(file) => file,
                None => journal::preallocate(&disk, &options).map_err(LogError::io(SPARE, "make room"))?,
            };
            (
                journal::begin_segment(&disk, ids, number, crc, replay.state, file)?,
                journal::preallocate(&disk, &options).ok(),
            )
        }
    };
    let mut journal = Journal { disk, ids, options, shared, state: replay.state, sealed, active, spare };
    journal.remove_purged();
    journal.publish_space();
    Ok(journal)
}

// It has nothing but zeros, or a header and a state that the next segment will overwrite.
fn reuse_spare<D: Disk>(disk: &D, names: &[String], options: &LogOptions) -> Option<D::File> {
    if !names.iter().any(|name| name == SPARE) {
        return None;
    }
    let file = disk.open(SPARE).ok()?;
    (file.size().ok()? == options.segment).then_some(file)
}

struct Segment<F> {
    active: ActiveSegment<F>,
    sealed: bool,
}

impl<F: DiskFile> Replay<F> {
    fn segment(
        &mut self,
        file: Arc<F>,
        name: &str,
        ids: Ids,
        sequence: u64,
        seal: Option<u32>,
        last: bool,
    ) -> Result<Segment<F>, LogError> {
        let damaged = |offset: u64, problem: String| LogError::Damaged { file: name.into(), offset, problem };
        let (header, crc) = SegmentHeader::read(&*file, name, ids, sequence)?;
        if seal.is_some_and(|seal| seal != header.previous) {
            return Err(damaged(0, "does not follow on the segment before".into()));
        }
        let mut records = RecordScanner::new(&*file, name, &header, crc)?;
        let mut highest: Option<u64> = None;
        let sealed = loop {
            match records.next()? {
                RecordStep::Record { record: Record::Seal, .. } => break true,
                RecordStep::Record { record, offset, size } => {
                    if let Record::Entry(entry) = &record {
                        highest = highest.max(Some(entry.log_id.index));
                    }
                    let location = RecordLocation { file: file.clone(), sequence, offset, size, salt: header.salt() };
                    self.record(record, location).map_err(|problem| damaged(offset, problem))?;
                }
                RecordStep::End { problem } if last => {
                    if records.offset == START {
                        // The state was synced before the segment had its name.
                        return Err(damaged(START, problem.into()));
                    }
                    let (synced, dirty) = records.scan_tail()?;
                    if let Some(witness) = synced {
                        let problem = format!("{problem}, and the record at byte {witness} says that this was synced");
                        return Err(damaged(records.offset, problem));
                    }
                    clear(&*file, name, records.offset, dirty)?;
                    break false;
                }
                RecordStep::End { problem } => {
                    return Err(damaged(records.offset, format!("{problem}, and another segment follows")));
                }
            }
        };
        let (end, previous) = (records.offset, records.previous);
        let size = file.size().map_err(LogError::io(name, "read its length"))?;
        // What was written before the process ended may not have been synced; whoever reads it now believes it.
        if last {
            file.sync().map_err(LogError::io(name, "sync"))?;
        }
        let active = ActiveSegment {
            file,
            name: name.into(),
            sequence,
            salt: header.salt(),
            size,
            end,
            synced: end,
            previous,
            highest,
            buffer: Vec::new(),
        };
        Ok(Segment { active, sealed })
    }

    fn record(&mut self, record: Record, location: RecordLocation<F>) -> Result<(), String> {
        match record {
            Record::State(state) if !self.begun => {
                self.begun = true;
                self.state = state;
                let purged = state.purged.map(|purged| purged.index);
                self.missing = state.last.map(|last| last.index).filter(|last| Some(*last) > purged);
            }
            _ if !self.begun => return Err("the segment does not begin with a state".into()),
            Record::State(state) => {
                if location.offset != START {
                    return Err("a state in the middle of a segment".into());
                }
                if state != self.state {
                    return Err(format!("begins with {state:?}, and the segments before lead to {:?}", self.state));
                }
            }
            Record::Vote(vote) => self.state.vote = Some(vote),
            Record::Committed(log_id) => self.state.committed = log_id,
            Record::Entry(entry) => {
                let index = entry.log_id.index;
                if self.state.last.is_some_and(|last| last.index.checked_add(1) != Some(index)) {
                    return Err(format!("entry {index} does not follow on {:?}", self.state.last));
                }
                self.state.last = Some(entry.log_id);
                self.locations.put(index, location);
            }
            Record::Truncate(last) => {
                self.state.truncate(last);
                let next = self.state.last.map_or(0, |last| last.index + 1);
                self.locations.cut(next);
                self.missing = self.missing.map(|missing| missing.min(next.saturating_sub(1))).filter(|_| next > 0);
            }
            Record::Purge(up_to) => {
                self.state.purge(up_to);
                self.locations.purge(up_to.index);
                self.missing = self.missing.filter(|missing| *missing > up_to.index);
            }
            Record::Seal => {}
        }
        Ok(())
    }

    fn check(&self, active: Option<&ActiveSegment<F>>) -> Result<(), LogError> {
        let file = active.map(|active| active.name.clone()).unwrap_or_default();
        let damaged = |problem| LogError::Damaged { file, offset: 0, problem };
        let purged = self.state.purged;
        if let Some(missing) = self.missing.filter(|missing| purged.is_none_or(|purged| purged.index < *missing)) {
            return Err(damaged(format!("the entries up to {missing} are missing, and purged is only {purged:?}")));
        }
        if let Some(first) = self.locations.first()
            && let Some(purged) = purged
            && first != purged.index + 1
        {
            return Err(damaged(format!("begins with entry {first}, and purged is {purged:?}")));
        }
        Ok(())
    }
}

// What a crash has left of records behind the end is overwritten: nothing of it can pass for a record later.
fn clear<F: DiskFile>(file: &F, name: &str, from: u64, to: u64) -> Result<(), LogError> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut at = from;
    while at < to {
        let n = (to - at).min(ZEROS.len() as u64);
        file.write_at(&ZEROS[..n as usize], at).map_err(LogError::io(name, "cut the torn tail"))?;
        at += n;
    }
    Ok(())
}
