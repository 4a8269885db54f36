//! Segments: their names and headers, and reading their records one after the other.

use std::sync::Arc;

use bytes::Bytes;

use super::LogError;
use super::record::{ALIGN, HEADER, Record, RecordHeader};
use crate::disk::{DiskFile, Ids};

const MAGIC: [u8; 8] = *b"bcstlog\n";
const FORMAT: u32 = 1;
/// The bytes of a segment's header.
pub(super) const START: u64 = 64;
/// The name of the segment that is preallocated for later.
pub(super) const SPARE: &str = "spare.log.tmp";

pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:020}.log")
}

pub(super) fn sequence(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) ids: Ids,
    pub(super) sequence: u64,
    /// CRC of the seal of the segment before.
    pub(super) previous: u32,
}

impl SegmentHeader {
    /// Another one for each segment, so that no record of one passes for one of another.
    pub(super) fn salt(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.ids.cluster, self.ids.node, self.sequence] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.finalize() | 1
    }

    /// The header, and its checksum.
    pub(super) fn write(&self) -> ([u8; START as usize], u32) {
        let mut bytes = [0; START as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous.to_le_bytes());
        for (at, number) in [self.ids.cluster, self.ids.node, self.sequence].into_iter().enumerate() {
            bytes[16 + at * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads the header of the segment `sequence`, which must be of this node.
    pub(super) fn read<F: DiskFile>(file: &F, name: &str, ids: Ids, sequence: u64) -> Result<(Self, u32), LogError> {
        let damaged = |problem: &str| LogError::Damaged { file: name.into(), offset: 0, problem: problem.into() };
        let mut bytes = [0; START as usize];
        file.read_exact_at(&mut bytes, 0).map_err(LogError::io(name, "read its header"))?;
        if bytes[..8] != MAGIC {
            return Err(damaged("no header of a log"));
        }
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if word(8) != FORMAT {
            return Err(LogError::Format { file: name.into(), found: word(8), known: FORMAT });
        }
        if word(60) != crc32fast::hash(&bytes[..60]) {
            return Err(damaged("the header does not fit its checksum"));
        }
        let header =
            Self { ids: Ids { cluster: number(16), node: number(24) }, sequence: number(32), previous: word(12) };
        if header.ids != ids {
            return Err(LogError::Foreign { file: name.into(), node: header.ids.node, cluster: header.ids.cluster });
        }
        if header.sequence != sequence {
            return Err(damaged("the header is that of another segment"));
        }
        Ok((header, word(60)))
    }
}

/// Where an entry's record is.
#[derive(Debug)]
pub(super) struct RecordLocation<F> {
    pub(super) file: Arc<F>,
    pub(super) sequence: u64,
    pub(super) offset: u64,
    /// Without padding.
    pub(super) size: u32,
    pub(super) salt: u32,
}

impl<F> Clone for RecordLocation<F> {
    fn clone(&self) -> Self {
        Self { file: self.file.clone(), ..*self }
    }
}

impl<F: DiskFile> RecordLocation<F> {
    /// Reads the record again.
    pub(super) fn read(&self) -> Result<Record, LogError> {
        let name = file_name(self.sequence);
        let mut bytes = vec![0; self.size as usize];
        self.file.read_exact_at(&mut bytes, self.offset).map_err(LogError::io(&name, "read a record"))?;
        let head = bytes.first_chunk().and_then(|head| RecordHeader::parse(head, self.salt, self.offset));
        head.filter(|head| u64::from(head.body) + HEADER == bytes.len() as u64 && head.fits(&bytes))
            .and_then(|head| Record::parse(&head, Bytes::from(bytes).slice(HEADER as usize..)))
            .ok_or_else(|| LogError::Damaged {
                file: name,
                offset: self.offset,
                problem: "the record does not fit its checksum".into(),
            })
    }
}

/// Reads records one after the other, without holding more of the file than one of them and a buffer.
pub(super) struct RecordScanner<'a, F> {
    file: &'a F,
    name: &'a str,
    salt: u32,
    length: u64,
    /// CRC of the record before.
    pub(super) previous: u32,
    /// Where the next record begins.
    pub(super) offset: u64,
    buffer: Vec<u8>,
    /// Where the buffer begins.
    base: u64,
}

/// How reading on has ended.
pub(super) enum RecordStep {
    /// A record: where it begins, and its size without padding.
    Record { record: Record, offset: u64, size: u32 },
    /// What follows is no record that fits.
    End { problem: &'static str },
}

const BUFFER: usize = 1 << 18;

impl<'a, F: DiskFile> RecordScanner<'a, F> {
    pub(super) fn new(file: &'a F, name: &'a str, header: &SegmentHeader, crc: u32) -> Result<Self, LogError> {
        let length = file.size().map_err(LogError::io(name, "read its length"))?;
        let (salt, buffer) = (header.salt(), Vec::new());
        Ok(Self { file, name, salt, length, previous: crc, offset: START, buffer, base: 0 })
    }

    /// `size` bytes from `offset`; `None` if the file ends before.
    fn bytes(&mut self, offset: u64, size: u64) -> Result<Option<&[u8]>, LogError> {
        if size > self.length || offset > self.length - size {
            return Ok(None);
        }
        let buffered = self.base..self.base + self.buffer.len() as u64;
        if !(buffered.contains(&offset) && offset + size <= buffered.end) {
            let wanted = (size as usize).max(BUFFER).min((self.length - offset) as usize);
            self.buffer.resize(wanted, 0);
            self.base = offset;
            self.file.read_exact_at(&mut self.buffer, offset).map_err(LogError::io(self.name, "read its records"))?;
        }
        let from = (offset - self.base) as usize;
        Ok(Some(&self.buffer[from..from + size as usize]))
    }

    fn head(&mut self, offset: u64) -> Result<Option<RecordHeader>, LogError> {
        let salt = self.salt;
        Ok(self.bytes(offset, HEADER)?.and_then(|bytes| RecordHeader::parse(bytes.first_chunk()?, salt, offset)))
    }

    pub(super) fn next(&mut self) -> Result<RecordStep, LogError> {
        let offset = self.offset;
        let Some(head) = self.head(offset)? else {
            return Ok(RecordStep::End { problem: "no record" });
        };
        let (size, previous) = (HEADER + u64::from(head.body), self.previous);
        let Some(bytes) = self.bytes(offset, size)? else {
            return Ok(RecordStep::End { problem: "the record is longer than the file" });
        };
        if !head.fits(bytes) {
            return Ok(RecordStep::End { problem: "the record does not fit its checksum" });
        }
        if head.previous != previous {
            return Ok(RecordStep::End { problem: "the record does not follow on the one before" });
        }
        let body = Bytes::copy_from_slice(&bytes[HEADER as usize..]);
        // Its checksum fits: a program wrote it so.
        let record = Record::parse(&head, body).ok_or_else(|| LogError::Damaged {
            file: self.name.into(),
            offset,
            problem: "a record of an unknown kind".into(),
        })?;
        self.previous = head.crc;
        self.offset += head.size();
        Ok(RecordStep::Record { record, offset, size: size as u32 })
    }

    /// Whether any record behind the end says that the end was synced, and where the last byte is that is not zero.
    pub(super) fn scan_tail(&mut self) -> Result<(Option<u64>, u64), LogError> {
        let mut dirty = self.offset;
        let mut at = self.offset;
        while at < self.length {
            let size = (self.length - at).min(BUFFER as u64 / 2);
            let Some(bytes) = self.bytes(at, size)? else { break };
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                dirty = at + last as u64 + 1;
                let mut candidate = at;
                while candidate < at + size {
                    if let Some(head) = self.head(candidate)?
                        && head.synced > self.offset
                        && let Some(bytes) = self.bytes(candidate, HEADER + u64::from(head.body))?
                        && head.fits(bytes)
                    {
                        return Ok((Some(candidate), dirty));
                    }
                    candidate += ALIGN;
                }
            }
            at += size;
        }
        Ok((None, dirty))
    }
}
