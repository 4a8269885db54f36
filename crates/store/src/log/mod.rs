//! Raft's log on disk (etcd's `wal`): entries, and with them the vote, the committed and the purged log id.
//!
//! # Files
//!
//! The log is a row of segments, from `00000000000000000001.log` on. Each is preallocated (64 MiB) and has a header that says
//! whose it is; records follow. A record has a length, a checksum, the checksum of the record before it, its own
//! offset, and the offset up to which the segment was synced when the record was written. Each segment begins with a record of the state
//! ([`LogState`]: vote, committed, purged, last), so that older segments can be removed; all but the last end with a seal.
//! One more segment is kept preallocated under another name, so that a full disk is noticed 64 MiB before it matters.
//!
//! # Order
//!
//! Everything that changes the log goes through one queue to one [`LogWriter`]. It takes all that waits, writes it at once, syncs
//! once, and only then calls back (group commit). So nothing overtakes anything:
//!
//! - A vote is durable when [`Log::save_vote`] returns.
//! - Everybody can read entries, from memory, when [`Log::append`] returns; they are durable when its callback is called.
//! - A truncation is ahead of the entries that replace what it cut, in the same sync or an earlier one.
//! - The committed log id needs no sync of its own; it goes with the next write. It is never ahead of the entries, for it is
//!   behind them in the file.
//! - A segment is removed after the sync of the record that says its entries are purged; and from the front only, so that
//!   a truncation is never removed before what it cuts.
//! - A new segment begins in these steps: seal the old one and sync it; write header and state into the spare one, sync it, give
//!   it its name, and sync the directory. Whichever segment is the last after a crash, all those before it are whole.
//! - At a start the log syncs what it finds before anybody sees it: a process that ended while the host ran on may have written
//!   it and not synced it.
//!
//! # What can go wrong
//!
//! - **A torn tail.** What was written and not synced may be on the disk in part. The last segment is cut at the first
//!   record that does not fit, if no record behind it says that this place was synced: nobody was told that it is safe.
//!   The rest is zeroed, so that nothing of it can ever pass for a record.
//! - **A damaged record**, with one behind it that says this place was synced, or in a segment that has a seal or should
//!   have: an error that names file and offset. The log does not start; a new disk and a new id are the remedy. The very
//!   last records of a log cannot be told from a torn tail; then an entry is lost that others have.
//! - **A failed sync or write.** Linux may forget the pages that it could not write, and the next sync would succeed.
//!   So it is never tried again: everybody who waits gets the error, and so does every later call; [`Log::failure`] tells
//!   the program, which must end.
//! - **A full disk.** While no spare segment can be had, [`LogSpace::accepts_proposals`] is false. What is on its way still
//!   fits into the segment in use, up to its last [`LogOptions::reserve`] bytes, which only votes and the like may take. An entry
//!   that does not fit is as fatal as a failed disk: check [`Log::space`] before proposing, and before giving a leader's
//!   entries to Raft. [`Log::prepare_spare`] tries again.
//!
//! # Why not a database
//!
//! A log needs nothing that a B-tree is good for, and would pay for it with each sync. With 256-byte entries on a shared disk, one
//! sync of each kind in turn, the median of 900 (as fast as this disk was in any of four runs, for only ratios count):
//!
//! | entries a sync | 1 | 16 | 64 |
//! |---|---|---|---|
//! | preallocated file | 0.33 ms | 0.80 ms | 1.9 ms |
//! | the same, zeroed before | 0.37 ms | 0.62 ms | 1.4 ms |
//! | growing file | 0.42 ms | 0.87 ms | 3.1 ms |
//! | redb 4.6 | 0.85 ms | 2.4 ms | 4.1 ms |
//!
//! While the disk was at its limit of syncs all took 4 ms, and redb 8 ms where a file took 5, in one of ten. Zeroing
//! writes everything twice, and gained nothing with one entry a sync; `examples/log_speed.rs` measures this log.

mod error;
mod journal;
mod record;
mod recovery;
mod segment;
mod stats;
mod view;
mod writer;

use bytes::Bytes;

pub use crate::log_id::LogId;
pub use error::LogError;
pub use stats::{LogStats, SyncStats};
pub(crate) use view::bounds;
pub use view::{EntryBatch, LogReader};
pub use writer::{DurableCallback, Log, LogSpaceReader, LogWriter};

/// A vote in Raft: for whom a node voted in a term. It must be durable before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The node.
    pub node: u64,
    /// Whether a quorum is known to have voted so: then the node leads in this term.
    pub committed: bool,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its log id.
    pub log_id: LogId,
    /// The kind of its payload; the log does not look at it.
    pub kind: u8,
    /// The payload.
    pub payload: Bytes,
}

/// What a log knows besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last entry that is known to be committed.
    pub committed: Option<LogId>,
    /// The last purged entry; all up to it are gone, and in a snapshot.
    pub purged: Option<LogId>,
    /// The last entry; `purged` if there is none.
    pub last: Option<LogId>,
}

/// The sizes of a log's parts.
///
/// ```
/// use broadcast_store::log::LogOptions;
///
/// // For a log in memory.
/// let small = LogOptions { segment: 8 << 20, cache: 1 << 20, ..LogOptions::default() };
/// assert!(small.reserve < small.segment);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The bytes of a segment; 64 MiB by default. Larger ones make fewer files and syncs of the directory, and notice a full disk
    /// earlier. Smaller ones take less room, for two are preallocated at any time, and give purged entries back sooner.
    pub segment: u64,
    /// The bytes at the end of a segment that entries may not take; 1 MiB by default. More lets a voter vote longer on a full
    /// disk, and wastes as much of each segment.
    pub reserve: u64,
    /// The bytes of entries that may wait for the writer; 16 MiB by default. More makes larger batches, and takes memory; with
    /// less, appends wait sooner.
    pub queue: u32,
    /// The bytes of the newest entries that are kept in memory; 16 MiB by default. More serves followers that are further behind
    /// without reading the disk, and takes memory.
    pub cache: usize,
    /// The bytes of entries that one read returns, but at least one entry; 1 MiB by default. More makes fewer and larger messages
    /// to followers, which then may take longer than a heartbeat.
    pub read: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment: 64 << 20, reserve: 1 << 20, queue: 16 << 20, cache: 16 << 20, read: 1 << 20 }
    }
}

/// How much fits into the log. [`Log::space`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpace {
    /// The bytes of entries that certainly fit after all that waits. An entry takes [`LogSpace::bytes`].
    pub free: u64,
    /// Whether there is a spare segment. Without one a leader should refuse proposals: the disk is full.
    pub accepts_proposals: bool,
}

impl LogSpace {
    /// The most bytes that an entry takes whose payload has `payload` bytes.
    pub const fn bytes(payload: u64) -> u64 {
        record::HEADER + record::ENTRY_HEADER + payload + record::ALIGN
    }
}
