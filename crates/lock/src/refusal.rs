//! Why the state machine refuses a command.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Why the state machine refuses a command. A refused command has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The command is wrong in itself. The client says why, before it asks the voters. The voters leave the text empty: each of
    /// their releases must come to the same outcome.
    #[error("{}", if .0.is_empty() { "the voters know other limits than this node: upgrade them" } else { .0 })]
    Invalid(String),
    /// The token is higher than any that was issued.
    #[error("token {token} was given to nobody yet: the newest is {newest} at most")]
    TokenNotIssued {
        /// The token.
        token: u64,
        /// The newest revision.
        newest: u64,
    },
    /// The session has as many entries as it may.
    #[error("session {session:016x} has {most} places, which is as many as it may: open another one")]
    TooManyEntries {
        /// The session.
        session: i64,
        /// How many it may have.
        most: u64,
    },
    /// There are as many fences as there may be.
    #[error("there are {most} fences, which is as many as there may be: have some forgotten")]
    TooManyFences {
        /// How many there may be.
        most: u64,
    },
    /// There is no such session: it has ended, or never was.
    #[error("there is no session {session:016x}; it has ended, or is of another store: open one")]
    NoSession {
        /// Its id.
        session: i64,
    },
    /// A session or another lease has that id.
    #[error("there is a session {session:016x} already; draw another id")]
    SessionExists {
        /// Its id.
        session: i64,
    },
    /// The session has an entry in the queue of the lock already.
    #[error(
        "session {session:016x} holds or waits for {name} already, with token {token}; release that, or use another session"
    )]
    AlreadyQueued {
        /// The session.
        session: i64,
        /// The lock.
        name: Name,
        /// The token of that entry.
        token: u64,
    },
    /// The session has no entry with that token, or that entry does not hold the lock.
    #[error("token {token} does not hold this lock (any more)")]
    NotHeld {
        /// The token.
        token: u64,
    },
    /// Nobody holds the lock.
    #[error("nobody holds {name}")]
    Free {
        /// The lock.
        name: Name,
    },
    /// The fence of the resource has seen a higher token.
    #[error("token {token} is too old: {name} has seen {highest}")]
    StaleToken {
        /// The resource.
        name: Name,
        /// The token.
        token: u64,
        /// The highest that it has seen.
        highest: u64,
    },
    /// Locks take as many bytes as they may.
    #[error("locks take {bytes} bytes, of {quota} that they may; have sessions end, or fences forgotten")]
    NoSpace {
        /// What they may take.
        quota: u64,
        /// What they take.
        bytes: u64,
    },
    /// A client of etcd waits for the lock, so entries are keys, and keys take as many bytes as they may.
    #[error(
        "keys take {bytes} bytes, of {quota} that they may; clients of etcd wait for this lock, so it takes keys: delete some, \
         compact, then disarm the alarm"
    )]
    KeysFull {
        /// What they may take.
        quota: u64,
        /// What they take.
        bytes: u64,
    },
}
