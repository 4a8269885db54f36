//! What clients tell the state machine, and what that answers: commands, questions and events, and their bytes.
//!
//! They are written by `postcard`. A variant that is added comes last, and raises [`VERSION`](crate::machine::VERSION).

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{name::Name, refusal::Refusal};

/// The most bytes of a value.
pub const MAX_VALUE: usize = 4096;
/// The most bytes of a label.
pub const MAX_LABEL: usize = 255;
/// The most locks that are taken at once.
pub const MAX_NAMES: usize = 16;
/// The most permits of a semaphore.
pub const MAX_PERMITS: u16 = 1000;
/// The shortest and the longest time to live of a session, in seconds. A shorter one would not survive an election.
pub const MIN_TTL: u32 = 2;
/// See [`MIN_TTL`].
pub const MAX_TTL: u32 = 86_400;
/// The most places of a session.
pub const MAX_PLACES_OF_SESSION: usize = 1000;
/// The most fences.
pub const MAX_FENCES: usize = 1 << 16;
/// Which ids sessions have: those from this one on. No other lease has one of them, so neither is taken for the other. They
/// are few of all, since clients of etcd may choose the ids of leases.
pub const SESSION: i64 = 0x7f << 56;
/// The longest lock-delay, in seconds.
pub const MAX_LOCK_DELAY: u32 = 3600;

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// By one, and nobody else.
    #[default]
    Exclusive,
    /// By all that ask for it so.
    Shared,
    /// By so many at a time as there are permits. If those in a queue name different numbers, the smallest counts for
    /// whoever comes after it.
    Semaphore {
        /// How many: 1 to [`MAX_PERMITS`].
        permits: u16,
    },
}

/// What a session is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// How long it lives when nobody keeps it alive, in seconds: [`MIN_TTL`] to [`MAX_TTL`]. Shorter, and what a lost
    /// client held is free sooner; longer, and a slow network or a change of leaders ends it less easily.
    pub ttl: u32,
    /// How long what it held stays taken beyond that, in seconds, up to [`MAX_LOCK_DELAY`]: time for a holder that does not
    /// know yet. It protects all clients, and is not waited for when the session is ended, or a lock released.
    pub lock_delay: u32,
    /// Whether it ends when the cluster has taken its node for failed for as long as the lock-delay, sooner than its time to
    /// live says. The gossip may be wrong about that, so then only the token protects.
    pub release_on_failure: bool,
    /// The node that it was opened through.
    pub node: String,
    /// What it is for, for people: up to [`MAX_LABEL`] bytes.
    pub label: String,
    /// When it was opened, in milliseconds since 1970, by the clock of that node. It is shown, and decides nothing.
    pub since: u64,
}

/// A place that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acquire {
    /// Whose it is to be.
    pub session: i64,
    /// Opens that session first, if it is to be a new one. If there is to be no place, there is no session, either.
    pub open: Option<SessionConfig>,
    /// The locks: 1 to [`MAX_NAMES`], each once. Several are exclusive.
    pub names: Vec<Name>,
    /// How.
    pub mode: Mode,
    /// Whether it waits. If not, it is granted now or refused.
    pub waits: bool,
    /// What the holder says of itself.
    pub value: Bytes,
    /// When it was asked for, as [`SessionConfig::since`].
    pub since: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Opens a session with this id, which whoever asks has drawn at random: see [`is_session`]. [`Outcome::Done`].
    Open {
        /// Its id.
        session: i64,
        /// What it is.
        config: SessionConfig,
    },
    /// Ends a session, with all that it holds and waits for. [`Outcome::Done`].
    End {
        /// Its id.
        session: i64,
    },
    /// Takes a place. [`Outcome::Placed`] or [`Outcome::Taken`].
    Acquire(Acquire),
    /// Gives up a place, granted or not. [`Outcome::Released`].
    Release {
        /// Whose it is.
        session: i64,
        /// Which.
        token: u64,
        /// A lock that it is for, if that is to be looked at.
        name: Option<Name>,
    },
    /// Takes a lock from all that hold it, and ends their sessions: so they are told by the next keepalive at the latest.
    /// [`Outcome::Released`].
    Force {
        /// The lock.
        name: Name,
    },
    /// The holder of an exclusive lock says something else of itself. [`Outcome::Done`].
    Proclaim {
        /// The lock.
        name: Name,
        /// Whose place it is.
        session: i64,
        /// Which.
        token: u64,
        /// What.
        value: Bytes,
    },
    /// Remembers a token of a resource, unless a higher one was seen. [`Outcome::Done`].
    Fence {
        /// The resource.
        name: Name,
        /// The token.
        token: u64,
    },
    /// Forgets the tokens of a resource. [`Outcome::Done`].
    Forget {
        /// The resource.
        name: Name,
    },
    /// Carries out a command for users' keys, if a place still holds an exclusive lock. [`Outcome::Keys`].
    Fenced {
        /// The lock.
        name: Name,
        /// The place.
        token: u64,
        /// The command, as [`broadcast_store::keys::KeysCommand::encode`] has it.
        keys: Bytes,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was refused, and has changed nothing.
    Refused(Refusal),
    /// It is done.
    Done,
    /// A place was taken.
    Placed {
        /// Its token.
        token: u64,
        /// Whether it is granted.
        granted: bool,
    },
    /// The lock is held, or waited for, by others; no place was taken.
    Taken {
        /// Who holds it, up to [`MAX_HOLDERS`].
        holders: Vec<Holder>,
    },
    /// Places were given up.
    Released {
        /// Their tokens.
        tokens: Vec<u64>,
    },
    /// What became of a command for users' keys, as [`broadcast_store::machine::Outcome::encode`] has it.
    Keys(Bytes),
}

/// How many holders are told to whoever was refused a lock.
pub const MAX_HOLDERS: usize = 16;

/// A place, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its token.
    pub token: u64,
    /// Its session.
    pub session: i64,
    /// The node that the session was opened through.
    pub node: String,
    /// What the session is for.
    pub label: String,
    /// How the lock is held.
    pub mode: Mode,
    /// What it says of itself.
    pub value: Bytes,
    /// When it was asked for, in milliseconds since 1970.
    pub since: u64,
}

/// What is asked. Lists have at most [`MAX_LISTED`] entries and about [`MAX_LIST_BYTES`] bytes; they say whether there are
/// more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// How these places are, [`MAX_PLACES`] at most: [`PlaceState`]s, in this order.
    Places(Vec<u64>),
    /// How many places are before one that waits, in the longest of its queues: an optional number.
    Ahead(u64),
    /// A lock: an optional [`Lock`].
    Lock(Name),
    /// Who holds any of these locks, [`MAX_HOLDERS`] at most: [`Holder`]s.
    Holders(Vec<Name>),
    /// Locks: a [`List`] of [`Lock`]s without their queues, whose names begin so.
    Locks {
        /// How they begin.
        prefix: String,
        /// The last one of the list before.
        after: Option<Name>,
        /// How many at most.
        limit: u32,
    },
    /// A session: an optional [`SessionState`].
    Session(i64),
    /// Sessions: a [`List`] of [`SessionState`]s.
    Sessions {
        /// The last one of the list before.
        after: Option<i64>,
        /// How many at most.
        limit: u32,
    },
    /// The highest token seen of a resource: an optional number.
    Fence(Name),
}

/// The most places that are asked for at once.
pub const MAX_PLACES: usize = 10_000;
/// The most entries of a list.
pub const MAX_LISTED: u32 = 1000;
/// About how many bytes a list has at most.
pub const MAX_LIST_BYTES: usize = 1 << 20;

/// How a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlaceState {
    /// There is none of that token (any more).
    Gone,
    /// It waits.
    Waits,
    /// It is granted.
    Held,
}

/// A lock that somebody holds or waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Its name.
    pub name: Name,
    /// Who holds it.
    pub holders: Vec<Holder>,
    /// How many wait.
    pub waiting: u64,
    /// Who waits, in order, if that was asked for.
    pub queue: Vec<Holder>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Its id.
    pub session: i64,
    /// What it is.
    pub config: SessionConfig,
    /// How long it lives if nobody keeps it alive, in milliseconds, without its lock-delay.
    pub left: Option<u64>,
    /// What it holds: locks and tokens.
    pub holds: Vec<(Name, u64)>,
    /// What it waits for.
    pub waits: Vec<(Name, u64)>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Whether more follow.
    pub more: bool,
}

/// What happens to a place, as it is told to those who follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its token.
    pub token: u64,
    /// Its session.
    pub session: i64,
    /// Its locks.
    pub names: Vec<Name>,
    /// What.
    pub change: Change,
}

/// See [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It waits.
    Waits,
    /// It is granted.
    Granted,
    /// Its holder says something else of itself.
    Proclaimed,
    /// It was given up.
    Released,
    /// Somebody else took it away.
    Forced,
    /// Its session was ended.
    Ended,
    /// Nobody kept its session alive.
    Expired,
}

/// As bytes.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("memory takes all there is")
}

/// From bytes, all of them.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

impl Event {
    /// From bytes that the machine has told.
    ///
    /// # Errors
    ///
    /// Another release has told them.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        decode(bytes)
    }
}

impl Command {
    /// As bytes, for the log.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// What is wrong with it in itself, whatever the state is.
    ///
    /// # Errors
    ///
    /// [`Refusal::Invalid`].
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Open { session, config } => check_session(*session, config),
            Self::Acquire(acquire) => acquire.check(),
            Self::Proclaim { value, .. } => check_value(value),
            Self::End { .. }
            | Self::Release { .. }
            | Self::Force { .. }
            | Self::Fence { .. }
            | Self::Forget { .. }
            | Self::Fenced { .. } => Ok(()),
        }
    }
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(why.into()))
}

fn check_value(value: &Bytes) -> Result<(), Refusal> {
    if value.len() > MAX_VALUE {
        return invalid(format!("the value has {} bytes; it may have {MAX_VALUE}", value.len()));
    }
    Ok(())
}

/// A lease in hexadecimal digits, as Go writes it, and so etcd's clients in the keys of their places: `NAME/LEASE`.
pub fn lease_digits(lease: i64) -> String {
    format!("{}{:x}", if lease < 0 { "-" } else { "" }, lease.unsigned_abs())
}

/// Whether an id is one that a session may have.
pub fn is_session(id: i64) -> bool {
    id >= SESSION
}

fn check_session(session: i64, config: &SessionConfig) -> Result<(), Refusal> {
    let SessionConfig { ttl, lock_delay, label, node, .. } = config;
    if !is_session(session) {
        return invalid(format!("{session} is no id of a session"));
    }
    if !(MIN_TTL..=MAX_TTL).contains(ttl) {
        return invalid(format!("a time to live of {ttl} s; it must be from {MIN_TTL} to {MAX_TTL} s"));
    }
    if *lock_delay > MAX_LOCK_DELAY {
        return invalid(format!("a lock-delay of {lock_delay} s; it may be {MAX_LOCK_DELAY} s"));
    }
    if label.len() > MAX_LABEL || node.len() > MAX_LABEL {
        return invalid(format!("the label has {} bytes; it may have {MAX_LABEL}", label.len().max(node.len())));
    }
    Ok(())
}

impl Acquire {
    fn check(&self) -> Result<(), Refusal> {
        if let Some(config) = &self.open {
            check_session(self.session, config)?;
        }
        check_value(&self.value)?;
        if self.names.is_empty() || self.names.len() > MAX_NAMES {
            return invalid(format!("{} locks at once; it must be 1 to {MAX_NAMES}", self.names.len()));
        }
        if self.names.len() > 1 && self.mode != Mode::Exclusive {
            return invalid("several locks at once are exclusive; ask for each by itself to share it");
        }
        for (at, name) in self.names.iter().enumerate() {
            if self.names[..at].contains(name) {
                return invalid(format!("the lock {name} is named twice"));
            }
        }
        match self.mode {
            Mode::Semaphore { permits } if !(1..=MAX_PERMITS).contains(&permits) => {
                invalid(format!("a semaphore of {permits}; it must be 1 to {MAX_PERMITS}"))
            }
            _ => Ok(()),
        }
    }
}
