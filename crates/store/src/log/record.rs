//! RecordScanner: how each change of the log is written.
//!
//! Little endian, each record at a multiple of 8 bytes:
//!
//! | bytes | |
//! |---|---|
//! | 0..4 | CRC-32 of all that follows, without the padding |
//! | 4..8 | the segment's salt: no payload passes for a record of this segment by chance |
//! | 8..12 | length of the body |
//! | 12..16 | CRC of the record before, or of the segment's header |
//! | 16..20 | up to which offset / 8 the segment was synced when this was written |
//! | 20..24 | own offset / 8 |
//! | 24..25 | kind |
//! | 25..32 | zero |
//! | 32.. | body, then zeros up to a multiple of 8 |

use bytes::Bytes;

use super::{Entry, LogId, LogState, Vote};

pub(super) const ALIGN: u64 = 8;
pub(super) const HEADER: u64 = 32;
/// Term, index and kind.
pub(super) const ENTRY_HEADER: u64 = 17;

const STATE: u8 = 1;
const VOTE: u8 = 2;
const ENTRY: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;
const COMMITTED: u8 = 6;
const SEAL: u8 = 7;

/// A change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// What earlier segments, which may be gone, have led to. Only the first of a segment.
    State(LogState),
    Vote(Vote),
    Entry(Entry),
    /// Cuts all entries after this one; all of them if there is none.
    Truncate(Option<LogId>),
    /// All entries up to this one are gone.
    Purge(LogId),
    Committed(Option<LogId>),
    /// The end of a segment that another follows.
    Seal,
}

/// Where a record is chained to.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordLink {
    pub(super) salt: u32,
    /// CRC of the record before.
    pub(super) previous: u32,
    /// Own offset.
    pub(super) offset: u64,
    /// Up to where the segment is synced.
    pub(super) synced: u64,
}

/// What a record's header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) crc: u32,
    pub(super) body: u32,
    pub(super) previous: u32,
    pub(super) synced: u64,
    kind: u8,
}

impl RecordHeader {
    /// Reads a header that could be one of this segment at this offset.
    pub(super) fn parse(bytes: &[u8; HEADER as usize], salt: u32, offset: u64) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let fits = word(4) == salt && u64::from(word(20)) * ALIGN == offset && bytes[25..] == [0; 7];
        fits.then(|| Self {
            crc: word(0),
            body: word(8),
            previous: word(12),
            synced: u64::from(word(16)) * ALIGN,
            kind: bytes[24],
        })
    }

    /// The record's bytes, with padding.
    pub(super) fn size(&self) -> u64 {
        padded(HEADER + u64::from(self.body))
    }

    /// Whether this is the checksum of the whole record, without padding.
    pub(super) fn fits(&self, record: &[u8]) -> bool {
        crc32fast::hash(&record[4..]) == self.crc
    }
}

pub(super) fn padded(size: u64) -> u64 {
    size.next_multiple_of(ALIGN)
}

impl Record {
    /// The bytes it takes, with padding.
    pub(super) fn size(&self) -> u64 {
        let body = match self {
            Self::State(_) => 18 + 3 * 17,
            Self::Vote(_) => 17,
            Self::Entry(entry) => ENTRY_HEADER + entry.payload.len() as u64,
            Self::Truncate(_) | Self::Committed(_) => 17,
            Self::Purge(_) => 16,
            Self::Seal => 0,
        };
        padded(HEADER + body)
    }

    /// Appends the record and gives its checksum. The caller has checked that it fits into a segment.
    pub(super) fn write(&self, link: RecordLink, out: &mut Vec<u8>) -> u32 {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER as usize]);
        let kind = match self {
            Self::State(state) => {
                put_optional_vote(out, state.vote);
                for log_id in [state.committed, state.purged, state.last] {
                    put_optional(out, log_id);
                }
                STATE
            }
            Self::Vote(vote) => {
                put_vote(out, *vote);
                VOTE
            }
            Self::Entry(entry) => {
                put(out, entry.log_id);
                out.push(entry.kind);
                out.extend_from_slice(&entry.payload);
                ENTRY
            }
            Self::Truncate(log_id) => {
                put_optional(out, *log_id);
                TRUNCATE
            }
            Self::Purge(log_id) => {
                put(out, *log_id);
                PURGE
            }
            Self::Committed(log_id) => {
                put_optional(out, *log_id);
                COMMITTED
            }
            Self::Seal => SEAL,
        };
        let body = u32::try_from(out.len() - start - HEADER as usize).expect("it fits into a segment");
        let offsets = [link.synced, link.offset].map(|offset| u32::try_from(offset / ALIGN).expect("within a segment"));
        let words = [link.salt, body, link.previous, offsets[0], offsets[1]];
        for (at, word) in words.into_iter().enumerate() {
            out[start + 4 + at * 4..][..4].copy_from_slice(&word.to_le_bytes());
        }
        out[start + 24] = kind;
        let crc = crc32fast::hash(&out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + padded((out.len() - start) as u64) as usize, 0);
        crc
    }

    /// Reads the body of a record whose checksum fits; `None` if it is of no known kind or has another length.
    pub(super) fn parse(head: &RecordHeader, body: Bytes) -> Option<Self> {
        let mut rest = body;
        let record = match head.kind {
            STATE => Self::State(LogState {
                vote: take_optional_vote(&mut rest)?,
                committed: take_optional(&mut rest)?,
                purged: take_optional(&mut rest)?,
                last: take_optional(&mut rest)?,
            }),
            VOTE => Self::Vote(take_vote(&mut rest)?),
            ENTRY => {
                let log_id = take(&mut rest)?;
                let kind = take_bytes::<1>(&mut rest)?[0];
                Self::Entry(Entry { log_id, kind, payload: std::mem::take(&mut rest) })
            }
            TRUNCATE => Self::Truncate(take_optional(&mut rest)?),
            PURGE => Self::Purge(take(&mut rest)?),
            COMMITTED => Self::Committed(take_optional(&mut rest)?),
            SEAL => Self::Seal,
            _ => return None,
        };
        rest.is_empty().then_some(record)
    }
}

fn put(out: &mut Vec<u8>, log_id: LogId) {
    out.extend_from_slice(&log_id.term.to_le_bytes());
    out.extend_from_slice(&log_id.index.to_le_bytes());
}

fn put_optional(out: &mut Vec<u8>, log_id: Option<LogId>) {
    out.push(log_id.is_some().into());
    put(out, log_id.unwrap_or_default());
}

fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    out.extend_from_slice(&vote.term.to_le_bytes());
    out.extend_from_slice(&vote.node.to_le_bytes());
    out.push(vote.committed.into());
}

fn put_optional_vote(out: &mut Vec<u8>, vote: Option<Vote>) {
    out.push(vote.is_some().into());
    put_vote(out, vote.unwrap_or(Vote { term: 0, node: 0, committed: false }));
}

fn take_bytes<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    let taken = *bytes.first_chunk::<N>()?;
    let _ = bytes.split_to(N);
    Some(taken)
}

fn take_flag(bytes: &mut Bytes) -> Option<bool> {
    match take_bytes::<1>(bytes)?[0] {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn take(bytes: &mut Bytes) -> Option<LogId> {
    let term = u64::from_le_bytes(take_bytes(bytes)?);
    let index = u64::from_le_bytes(take_bytes(bytes)?);
    Some(LogId { term, index })
}

fn take_optional(bytes: &mut Bytes) -> Option<Option<LogId>> {
    let some = take_flag(bytes)?;
    let log_id = take(bytes)?;
    Some(some.then_some(log_id))
}

fn take_vote(bytes: &mut Bytes) -> Option<Vote> {
    let term = u64::from_le_bytes(take_bytes(bytes)?);
    let node = u64::from_le_bytes(take_bytes(bytes)?);
    Some(Vote { term, node, committed: take_flag(bytes)? })
}

fn take_optional_vote(bytes: &mut Bytes) -> Option<Option<Vote>> {
    let some = take_flag(bytes)?;
    let vote = take_vote(bytes)?;
    Some(some.then_some(vote))
}
