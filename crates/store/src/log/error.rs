//! Why a log cannot be read or written.

use std::io;

/// Why a log cannot be read or written. [`Log::open`](super::Log::open) returns it.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
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
    /// What is on the disk is not what was synced.
    #[error(
        "{file}: damaged at byte {offset}: {problem}; replace the disk, and let this node join anew with an empty folder"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The file is another node's.
    #[error("{file}: belongs to node {node:016x} of cluster {cluster:016x}; put back the folder's own files")]
    Foreign {
        /// The file.
        file: String,
        /// The node that it belongs to.
        node: u64,
        /// The cluster that it belongs to.
        cluster: u64,
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
    /// Entries do not follow the last one.
    #[error("entry {found} does not follow on entry {last:?}; this is a mistake in the program")]
    Order {
        /// The last index that is there.
        last: Option<u64>,
        /// The index that came.
        found: u64,
    },
    /// An entry is larger than a segment.
    #[error("entry {index} has {size} bytes, and a segment has room for {most}; propose smaller ones")]
    TooLarge {
        /// Its index.
        index: u64,
        /// Its bytes in the log.
        size: u64,
        /// The most bytes.
        most: u64,
    },
    /// There is no room for what was accepted.
    #[error("{file}: the disk is full; free some room and start the node again")]
    Full {
        /// The segment that is full.
        file: String,
    },
    /// The log failed before, or its writer has ended.
    #[error("the log has stopped: {0}")]
    Stopped(String),
}

impl LogError {
    pub(super) fn io(file: &str, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { file, what, source }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Io { source, .. } => source.kind(),
            LogError::Full { .. } => io::ErrorKind::StorageFull,
            LogError::Damaged { .. } | LogError::Foreign { .. } | LogError::Format { .. } => io::ErrorKind::InvalidData,
            LogError::Order { .. } | LogError::TooLarge { .. } => io::ErrorKind::InvalidInput,
            LogError::Stopped(_) => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}
