//! Snapshots as files (etcd's `snap`): the whole state up to an entry of the log.
//!
//! # A file
//!
//! `TERM-INDEX.snapshot`: a header of 64 bytes (format, cluster, length of what follows, how long the description is, all
//! with a checksum), the description ([`SnapshotMeta`]), then the state in pieces of at most 64 KiB, each with its length and its
//! checksum, and an empty piece at the end. It is written and read piece by piece, and no byte of a piece is given to
//! whoever reads it before its checksum fits.
//!
//! # Order
//!
//! A snapshot is written under a temporary name, its header last; then synced, given its name, and the folder synced. Only
//! then are older ones removed, and only then may the log be purged. One that comes from another node goes the same way:
//! it is received under a temporary name, read through, and kept as one that was built here.
//!
//! # What can go wrong
//!
//! - The process ends before a snapshot has its name: it is removed at the next start, and the older one is there yet.
//! - It ends after that, before the log is purged or older snapshots are removed: the newer one is used.
//! - The newest is damaged: an older one, or none, is used if the log still has all entries since; else the store does not
//!   open ([`SnapshotFileError::Gap`]), for it would have lost what others believe it has.
//! - The disk is full: the snapshot is given up, the older one stays, and so does the log; it is tried again
//!   after more entries, or a minute later if the log has no room left. The log keeps room of its own.

mod file;
mod pieces;
mod store;

pub use file::SnapshotFile;
pub use store::{SnapshotReceiver, Snapshots};

use std::io;

use crate::log::LogId;

/// What a snapshot has: up to which entry, and which members. [`Snapshots`] has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The log id of the last entry in it.
    pub last: Option<LogId>,
    /// The membership, as bytes that this module does not look at.
    pub membership: Vec<u8>,
}

/// Why a snapshot's file cannot be written or read. [`Snapshots::open`] returns it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// The disk failed.
    #[error("{file}: cannot {what}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("{file}: {problem}; get a snapshot from another node: let this one join anew with an empty folder")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// It is of another cluster.
    #[error("{file}: is of cluster {found:016x}, not of {expected:016x}; use a snapshot of this cluster")]
    Foreign {
        /// The file.
        file: String,
        /// The cluster it is of.
        found: u64,
        /// This cluster.
        expected: u64,
    },
    /// A later version of this program wrote it.
    #[error(
        "{file}: has format {found}, and this program knows {known}; run the program that wrote it, or a later one"
    )]
    Format {
        /// The file.
        file: String,
        /// The format that was found.
        found: u32,
        /// The format that this program writes.
        known: u32,
    },
    /// Between the newest snapshot that can be read and the log entries are missing.
    #[error(
        "the log has no entries up to {purged}, and the newest snapshot that can be read has them up to {snapshot:?}\
         {damaged}; let this node join anew with an empty folder"
    )]
    Gap {
        /// The index up to which the log was purged.
        purged: u64,
        /// The last index of that snapshot; `None` if there is none.
        snapshot: Option<u64>,
        /// Why newer ones cannot be read.
        damaged: String,
    },
    /// Whoever writes or reads the state failed.
    #[error("{file}: the state: {source}")]
    State {
        /// The file.
        file: String,
        /// What it says.
        source: io::Error,
    },
}

impl SnapshotFileError {
    /// Whether it is for want of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::State { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    fn io(file: &str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, what, source }
    }
}

impl From<SnapshotFileError> for io::Error {
    fn from(error: SnapshotFileError) -> Self {
        let kind = match &error {
            SnapshotFileError::Io { source, .. } | SnapshotFileError::State { source, .. } => source.kind(),
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
