//! What is refused.

use serde::{Deserialize, Serialize};

use crate::name::Name;

/// Why a command is refused. It has changed nothing then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It is wrong in itself: in words, where it was found before the voters were asked. These say it without: each of their
    /// releases has to say the same.
    #[error("{}", if .0.is_empty() { "the voters know other limits than this node: upgrade them" } else { .0 })]
    Invalid(String),
    /// A token that is higher than any that was given.
    #[error("token {token} was given to nobody yet: the newest is {newest} at most")]
    NotGiven {
        /// The token.
        token: u64,
        /// The newest revision.
        newest: u64,
    },
    /// The session has as many places as it may.
    #[error("session {session:016x} has {most} places, which is as many as it may: open another one")]
    TooManyPlaces {
        /// The session.
        session: i64,
        /// How many.
        most: u64,
    },
    /// There are as many fences as there may be.
    #[error("there are {most} fences, which is as many as there may be: have some forgotten")]
    TooManyFences {
        /// How many.
        most: u64,
    },
    /// There is no such session: it has ended, or never was.
    #[error("there is no session {session:016x}; it has ended, or is of another store: open one")]
    NoSession {
        /// Its id.
        session: i64,
    },
    /// There is a session, or a lease, with that id.
    #[error("there is a session {session:016x} already; draw another id")]
    SessionExists {
        /// Its id.
        session: i64,
    },
    /// The session has a place in the queue of the lock.
    #[error(
        "session {session:016x} holds or waits for {name} already, with token {token}; release that, or use another session"
    )]
    HasPlace {
        /// The session.
        session: i64,
        /// The lock.
        name: Name,
        /// The token of that place.
        token: u64,
    },
    /// Nobody of that session, or of that lock, has a place with that token.
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
    /// A higher token of the resource was seen.
    #[error("token {token} is too old: {name} has seen {highest}")]
    Fenced {
        /// The resource.
        name: Name,
        /// The token.
        token: u64,
        /// The highest seen.
        highest: u64,
    },
    /// There is no room.
    #[error("locks take {bytes} bytes, of {quota} that they may; have sessions end, or fences forgotten")]
    NoSpace {
        /// What they may take.
        quota: u64,
        /// What they take.
        bytes: u64,
    },
    /// A client of etcd waits for the lock, so places are keys, and for these there is no room.
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
