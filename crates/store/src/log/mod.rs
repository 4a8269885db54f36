//! The log on disk: entries, and with them the vote, how far is committed and how far purged.
//!
//! # Files
//!
//! The log is a row of segments, `00000000000000000001.log` and on. Each is preallocated (64 MiB), has a header that says
//! whose it is, and then records. A record has a length, a checksum, the checksum of the record before it, its own
//! offset, and how far the segment was synced when it was written. Each segment begins with a record of the state
//! ([`LogState`]: vote, committed, purged, last), so that older segments can be removed; all but the last end with a seal.
//! One more segment is kept preallocated under another name, so that a full disk is noticed 64 MiB before it matters.
//!
//! # Order
//!
//! There is one queue for everything that changes the log, and one [`LogWriter`] that empties it: it takes all that waits,
//! writes it at once, syncs once, and only then tells who waits (group commit). So nothing overtakes anything:
//!
//! - A vote is durable when [`Log::save_vote`] returns.
//! - Entries can be read by everybody when [`Log::append`] returns, from memory; they are durable when `done` is called.
//! - A truncation is ahead of the entries that replace what it cut, in the same sync or an earlier one.
//! - How far is committed needs no sync of its own, and is written with what is asked for next. It can never be ahead of the
//!   entries: it is behind them in the file.
//! - A segment is removed after the sync of the record that says its entries are purged; and from the front only, so that
//!   a truncation is never removed before what it cuts.
//! - A segment is begun so: seal the old one, sync it; write header and state into the spare one, sync it, give it its
//!   name, sync the folder. Whatever is the last segment after a crash, all those before it are whole.
//! - What is found at a start is synced before anybody sees it: it may have been written, and not synced, by a process
//!   that ended while the machine went on.
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
//!   fits into the segment in use, up to its last [`LogOptions::reserve`] bytes, which only votes and the like may take. Who
//!   accepts entries all the same, until they do not fit, gets the same fatal error as with a failed disk: check
//!   [`Log::space`] before proposing, and before handing a leader's entries to Raft. [`Log::prepare_spare`] tries again.

//! # Why not a database
//!
//! A log needs none of what a B-tree is for, and pays for it with each sync. With 256-byte entries on a shared disk, one
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

/// For whom a node voted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term.
    pub term: u64,
    /// The node.
    pub node: u64,
    /// Whether it is known that a quorum voted so: the node leads in this term.
    pub committed: bool,
}

/// An entry, with its payload as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the log.
    pub log_id: LogId,
    /// What kind of payload it has; the log does not look at it.
    pub kind: u8,
    /// The payload.
    pub payload: Bytes,
}

/// All that a log knows besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last vote.
    pub vote: Option<Vote>,
    /// The last entry that is known to be committed.
    pub committed: Option<LogId>,
    /// The last entry that was purged; all up to it are gone.
    pub purged: Option<LogId>,
    /// The last entry; `purged` if there is none.
    pub last: Option<LogId>,
}

/// How large things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The bytes of a segment. More is fewer files; two are preallocated at any time.
    pub segment: u64,
    /// The bytes at the end of a segment that entries may not take: they are for votes on a full disk.
    pub reserve: u64,
    /// The bytes of entries that may wait for the writer; who appends more waits.
    pub queue: u32,
    /// The bytes of the newest entries that are kept in memory, for followers that keep up; older ones are read from disk.
    pub cache: usize,
    /// The bytes of entries that one read gives, as long as that is one.
    pub read: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment: 64 << 20, reserve: 1 << 20, queue: 16 << 20, cache: 16 << 20, read: 1 << 20 }
    }
}

/// How much fits into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSpace {
    /// The bytes of entries that are certain to fit, after all that waits. An entry takes [`LogSpace::bytes`].
    pub free: u64,
    /// Whether there is a spare segment. Without one a leader should refuse proposals: the disk is full.
    pub accepts_proposals: bool,
}

impl LogSpace {
    /// The most bytes that an entry with `payload` bytes takes.
    pub const fn bytes(payload: u64) -> u64 {
        record::HEADER + record::ENTRY_HEADER + payload + record::ALIGN
    }
}
