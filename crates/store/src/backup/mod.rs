//! Backups: the whole state in a file, and founding a new store from one, or from what is left of a store. etcd has
//! `etcdctl snapshot save`, `etcdutl snapshot restore` and `--force-new-cluster` for this.
//!
//! # Saving
//!
//! A backup is written by the leader, from a copy of its state at a confirmed read index; see
//! [`Store::save`](crate::Store::save). It is a stream: a header that says what it is of ([`BackupHeader`]), the state, and a
//! checksum of all of it. A file of one is read twice, and no part of it counts before the checksum fits.
//!
//! # Founding anew
//!
//! [`restore`] makes the folder of a voter from a backup, [`recover`] from the folder of a voter whose store has lost its
//! majority. Both found *another* store, with this voter alone: it has a new id, so that nobody of the former one can take
//! part in it, and what is asked of the former one is refused. What has a revision of the former one was, or may have been,
//! lost. So revisions go on where the clock is, in microseconds since 1970, and history is compacted there. No store changes
//! that often, so a store that is founded later goes on later, from whatever backup. If the clock is behind that, they go on
//! [`REVISION_JUMP`](crate::machine::REVISION_JUMP) further. Leases run anew, as under any new leader; machines decide what
//! of theirs is of the former store. The other voters are taken in with empty folders, as any new voter is.
//!
//! [`recover`] takes all entries of the log as agreed on. The last may not have been; but whoever asked for those has not
//! been answered, while each that was acknowledged is there, if this voter was one of those that had it.
//!
//! # What can go wrong
//!
//! - *The file is cut or changed, or of a later release*: it is refused, and nothing is written.
//! - *The process ends*: the folder is made beside the one whose place it takes, whole, and renamed. Between two renames of
//!   [`recover`] there is no folder of the name, and no voter starts until that was done again.
//! - *The former voters are there again*, with their folders: they agree on the former store. Have them end, and empty these.

mod file;
mod offline;

use std::{io, path::Path};

use crate::{ApplyError, CodecError, disk::DataFolderError, log::LogError, snapshot};

pub(crate) use file::write;
pub use file::{Backup, BackupHeader};
pub use offline::{NewStore, check_voter, recover, restore};

/// Why a backup cannot be used, or a new store cannot be founded. [`restore`] returns it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk fails, or does not let this process do what it has to.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{file} is no backup of a store; name a file that was saved as one")]
    NoBackup {
        /// The file.
        file: String,
    },
    /// A later release wrote it.
    #[error("{file} has format {found}, and this program knows {known}; use the program that wrote it, or a later one")]
    Format {
        /// The file.
        file: String,
        /// The format that was found.
        found: u32,
        /// The format that this release writes.
        known: u32,
    },
    /// It is not what was saved.
    #[error("{file} {problem}; use another backup")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The state in it cannot be read, though it is as it was saved: it may be of a later release.
    #[error("{file}: {source}")]
    State {
        /// The file.
        file: String,
        /// Why not.
        source: crate::SnapshotError,
    },
    /// There are no revisions left.
    #[error("the store cannot go on: {0}")]
    NoRoom(CodecError),
    /// What was there would be lost.
    #[error("{folder} is not empty, it has {file}; a store is restored to an empty folder")]
    NotEmpty {
        /// The folder.
        folder: String,
        /// A file in it.
        file: String,
    },
    /// There is nothing to recover.
    #[error("{folder} has no store; name the folder of a voter whose store was founded")]
    NoStore {
        /// The folder.
        folder: String,
    },
    /// The voter was taken out of its store before.
    #[error("{folder} is of node {node:016x}, which has no vote in its store any more; recover from another voter's")]
    NoVote {
        /// The folder.
        folder: String,
        /// Whose it is.
        node: u64,
    },
    /// What an earlier recovery has kept is there yet.
    #[error("{folder} is there, from an earlier recovery; remove it, or keep it elsewhere")]
    Kept {
        /// The folder.
        folder: String,
    },
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The snapshots cannot be read, or one cannot be written.
    #[error(transparent)]
    Snapshot(#[from] snapshot::SnapshotFileError),
    /// An entry of the log cannot be applied.
    #[error(transparent)]
    Entry(#[from] ApplyError),
}

impl BackupError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { what, path, source }
    }
}
