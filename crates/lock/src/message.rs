//! The messages between clients and the state machine: commands, queries, events, and their bytes.
//!
//! A [`LockCommand`] changes something, and has a [`LockOutcome`]. A [`LockQuery`] asks. A [`LockEvent`] tells those who
//! follow the machine what happened to an entry of a queue.
//!
//! They are written by `postcard`, which goes by the order of variants and fields. A new variant comes last, and raises
//! [`VERSION`](crate::machine::VERSION).

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{name::Name, refusal::Refusal};

/// The most bytes of a holder's value.
pub const MAX_VALUE_BYTES: usize = 4096;
/// The most bytes of a session's label, and of the name of its node.
pub const MAX_LABEL_BYTES: usize = 255;
/// The most locks that one request takes at once.
pub const MAX_NAMES: usize = 16;
/// The most permits of a semaphore.
pub const MAX_PERMITS: u16 = 1000;
/// The shortest time to live of a session, in seconds. A shorter one would not survive the election of another leader.
pub const MIN_TTL: u32 = 2;
/// The longest time to live of a session, in seconds: a day.
pub const MAX_TTL: u32 = 86_400;
/// How many locks a session may hold and wait for; several at once count as one.
pub const MAX_ENTRIES_PER_SESSION: usize = 1000;
/// How many resources may have a fence.
pub const MAX_FENCES: usize = 1 << 16;
/// The first id of a session; all above it are of sessions, too. No other lease has such an id, so neither is taken for the
/// other. The range is a small part of all ids, since clients of etcd may choose the ids of their leases.
pub const FIRST_SESSION_ID: i64 = 0x7f << 56;
/// The longest lock delay, in seconds.
pub const MAX_LOCK_DELAY: u32 = 3600;

/// How a lock is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// One holds it, and nobody else.
    #[default]
    Exclusive,
    /// All hold it together that ask for it in this mode, as readers do.
    Shared,
    /// As many hold it as there are permits. Each request names their number. Where requests in a queue name different
    /// numbers, the smallest so far counts.
    Semaphore {
        /// The number of permits: 1 to [`MAX_PERMITS`].
        permits: u16,
    },
}

/// The configuration of a lock session. [`LockClient::session_config`](crate::LockClient::session_config) makes one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockSessionConfig {
    /// The time to live, in seconds, [`MIN_TTL`] to [`MAX_TTL`]: how long the session lives without a keep-alive. The longer,
    /// the less easily a slow network or an election ends the session of a client that is well; and the longer others wait
    /// for the locks of a client that is lost.
    pub ttl: u32,
    /// The lock delay, in seconds, up to [`MAX_LOCK_DELAY`]: how long the locks of an expired session stay taken beyond its
    /// time to live. The longer, the more time has a holder that has not noticed yet to stop; and the longer others wait.
    /// Nobody waits for it when the session is ended, or a lock released. (Chubby has it under this name.)
    pub lock_delay: u32,
    /// Whether the session ends as soon as the gossip has taken its node for failed for as long as the lock delay. So locks
    /// of a failed node are free before the time to live is over. But the gossip may be wrong: then two may hold a lock at
    /// the same time, and only the fencing token protects what they write to.
    pub release_on_failure: bool,
    /// The node through which the session was opened.
    pub node: String,
    /// What the session is for, in words for people: up to [`MAX_LABEL_BYTES`] bytes.
    pub label: String,
    /// When the session was opened, in milliseconds since 1970, by the clock of that node. It is shown, and decides nothing.
    pub since: u64,
}

/// A request for locks, as it is in the log. See [`LockCommand::Acquire`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireCommand {
    /// The session that acquires them.
    pub session: i64,
    /// Opens that session first, if it is a new one. Where the request is refused, the session is not opened, either.
    pub open: Option<LockSessionConfig>,
    /// The locks: 1 to [`MAX_NAMES`], each once. Several at once are exclusive.
    pub names: Vec<Name>,
    /// How they are to be held.
    pub mode: Mode,
    /// Whether the request waits. If not, it is granted now or not at all.
    pub waits: bool,
    /// What the holder publishes about itself.
    pub value: Bytes,
    /// When the client asked, as [`LockSessionConfig::since`].
    pub since: u64,
}

/// A command: it goes through the log, and all voters carry it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockCommand {
    /// Opens a session. The client draws its id at random; see [`is_session`]. [`LockOutcome::Done`].
    OpenSession {
        /// Its id.
        session: i64,
        /// What it is.
        config: LockSessionConfig,
    },
    /// Ends a session, with all that it holds and waits for. [`LockOutcome::Done`].
    EndSession {
        /// Its id.
        session: i64,
    },
    /// Puts an entry into the queue of each lock. [`LockOutcome::Queued`] or [`LockOutcome::Taken`].
    Acquire(AcquireCommand),
    /// Gives up an entry, granted or not. [`LockOutcome::Released`].
    Release {
        /// The session that has it.
        session: i64,
        /// Its token.
        token: u64,
        /// A lock that the entry must be for, if that is to be checked.
        name: Option<Name>,
    },
    /// Takes a lock away from all its holders, and ends their sessions: so they learn of it by their next keep-alive at the
    /// latest. [`LockOutcome::Released`].
    ForceRelease {
        /// The lock.
        name: Name,
    },
    /// Replaces the value that the holder of an exclusive lock publishes. [`LockOutcome::Done`].
    Proclaim {
        /// The lock.
        name: Name,
        /// The holder's session.
        session: i64,
        /// The holder's token.
        token: u64,
        /// The new value.
        value: Bytes,
    },
    /// Raises the fence of a resource to a token, unless it has seen a higher one. [`LockOutcome::Done`].
    RaiseFence {
        /// The resource.
        name: Name,
        /// The token.
        token: u64,
    },
    /// Forgets the fence of a resource: the next token may be any. [`LockOutcome::Done`].
    ForgetFence {
        /// The resource.
        name: Name,
    },
    /// Carries out a command for users' keys, if this token still holds an exclusive lock. [`LockOutcome::Keys`].
    FencedWrite {
        /// The lock.
        name: Name,
        /// The holder's token.
        token: u64,
        /// The command, as [`broadcast_store::keys::KeysCommand::encode`] has it.
        keys: Bytes,
    },
}

/// The outcome of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockOutcome {
    /// It was refused, and has changed nothing.
    Refused(Refusal),
    /// It is done.
    Done,
    /// An entry was put into the queue.
    Queued {
        /// Its token.
        token: u64,
        /// Whether the lock was granted at once.
        granted: bool,
    },
    /// Others hold the lock, or wait for it, and the request does not wait: it has no entry.
    Taken {
        /// Who holds it, up to [`MAX_HOLDERS`].
        holders: Vec<Holder>,
    },
    /// Entries were given up.
    Released {
        /// Their tokens.
        tokens: Vec<u64>,
    },
    /// The outcome of a command for users' keys, as [`broadcast_store::machine::Outcome::encode`] has it.
    Keys(Bytes),
}

/// How many holders are named to whoever was refused a lock.
pub const MAX_HOLDERS: usize = 16;

/// Who holds a lock, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its fencing token.
    pub token: u64,
    /// Its session.
    pub session: i64,
    /// The node through which the session was opened.
    pub node: String,
    /// What the session is for.
    pub label: String,
    /// How the lock is held.
    pub mode: Mode,
    /// What it publishes about itself.
    pub value: Bytes,
    /// When it asked for the lock, in milliseconds since 1970.
    pub since: u64,
}

/// A query: the leader answers it, and nothing changes. Each variant says of what type its answer is. Lists come in pages, of
/// at most [`MAX_PAGE_ENTRIES`] entries and about [`MAX_PAGE_BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockQuery {
    /// The states of the entries with these tokens, [`MAX_ENTRIES_PER_QUERY`] at most: [`EntryState`]s, in this order.
    EntryStates(Vec<u64>),
    /// How many entries are ahead of one that waits, in the longest of its queues: an optional number.
    Ahead(u64),
    /// A lock: an optional [`LockState`].
    Lock(Name),
    /// Who holds any of these locks, [`MAX_HOLDERS`] at most: [`Holder`]s.
    Holders(Vec<Name>),
    /// Locks whose names begin with a prefix: a [`ListPage`] of [`LockState`]s, without their queues.
    Locks {
        /// The prefix.
        prefix: String,
        /// The last name of the page before.
        after: Option<Name>,
        /// How many at most.
        limit: u32,
    },
    /// A session: an optional [`SessionState`].
    Session(i64),
    /// Sessions: a [`ListPage`] of [`SessionState`]s.
    Sessions {
        /// The last id of the page before.
        after: Option<i64>,
        /// How many at most.
        limit: u32,
    },
    /// The highest token that a fence has seen: an optional number.
    Fence(Name),
}

/// The most entries that one query asks for.
pub const MAX_ENTRIES_PER_QUERY: usize = 10_000;
/// The most entries of a page.
pub const MAX_PAGE_ENTRIES: u32 = 1000;
/// About how many bytes a page has at most.
pub const MAX_PAGE_BYTES: usize = 1 << 20;

/// The state of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryState {
    /// No entry has that token (any more).
    Gone,
    /// It waits.
    Waiting,
    /// It holds its locks.
    Held,
}

/// A lock that somebody holds or waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockState {
    /// Its name.
    pub name: Name,
    /// Who holds it.
    pub holders: Vec<Holder>,
    /// How many wait.
    pub waiting: u64,
    /// Who waits, in order, where that was asked for.
    pub queue: Vec<Holder>,
}

/// A session, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Its id.
    pub session: i64,
    /// Its configuration.
    pub config: LockSessionConfig,
    /// How much longer it lives without a keep-alive, in milliseconds, its lock delay left out.
    pub left: Option<u64>,
    /// The locks that it holds, with their tokens.
    pub holds: Vec<(Name, u64)>,
    /// The locks that it waits for, with their tokens.
    pub waits: Vec<(Name, u64)>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Whether more pages follow.
    pub more: bool,
}

/// What happened to an entry, as those who follow the machine are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockEvent {
    /// Its token.
    pub token: u64,
    /// Its session.
    pub session: i64,
    /// Its locks.
    pub names: Vec<Name>,
    /// What happened.
    pub change: EntryChange,
}

/// What may happen to an entry. See [`LockEvent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryChange {
    /// It waits.
    Queued,
    /// It was granted its locks.
    Granted,
    /// Its holder publishes another value.
    Proclaimed,
    /// Its session gave it up.
    Released,
    /// Somebody else took its lock away.
    Forced,
    /// Its session was ended.
    Ended,
    /// Its session expired.
    Expired,
}

/// Writes a message as bytes.
pub(crate) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("memory takes all there is")
}

/// Reads a message from bytes, all of them.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

impl LockEvent {
    /// Reads an event that the machine has told.
    ///
    /// # Errors
    ///
    /// Another release has written it.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        decode(bytes)
    }
}

impl LockCommand {
    /// Writes it as bytes, for the log.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Checks what does not depend on the state: lengths, counts and ids.
    ///
    /// # Errors
    ///
    /// [`Refusal::Invalid`].
    pub fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::OpenSession { session, config } => check_session(*session, config),
            Self::Acquire(acquire) => acquire.check(),
            Self::Proclaim { value, .. } => check_value(value),
            Self::EndSession { .. }
            | Self::Release { .. }
            | Self::ForceRelease { .. }
            | Self::RaiseFence { .. }
            | Self::ForgetFence { .. }
            | Self::FencedWrite { .. } => Ok(()),
        }
    }
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(why.into()))
}

fn check_value(value: &Bytes) -> Result<(), Refusal> {
    if value.len() > MAX_VALUE_BYTES {
        return invalid(format!("the value has {} bytes; it may have {MAX_VALUE_BYTES}", value.len()));
    }
    Ok(())
}

/// A lease's id in hexadecimal digits, as Go writes it. So etcd's clients have it in the key of an entry, `NAME/LEASE`.
pub fn lease_digits(lease: i64) -> String {
    format!("{}{:x}", if lease < 0 { "-" } else { "" }, lease.unsigned_abs())
}

/// Whether an id is that of a session, and not of another lease.
pub fn is_session(id: i64) -> bool {
    id >= FIRST_SESSION_ID
}

fn check_session(session: i64, config: &LockSessionConfig) -> Result<(), Refusal> {
    let LockSessionConfig { ttl, lock_delay, label, node, .. } = config;
    if !is_session(session) {
        return invalid(format!("{session} is no id of a session"));
    }
    if !(MIN_TTL..=MAX_TTL).contains(ttl) {
        return invalid(format!("a time to live of {ttl} s; it must be from {MIN_TTL} to {MAX_TTL} s"));
    }
    if *lock_delay > MAX_LOCK_DELAY {
        return invalid(format!("a lock-delay of {lock_delay} s; it may be {MAX_LOCK_DELAY} s"));
    }
    if label.len() > MAX_LABEL_BYTES || node.len() > MAX_LABEL_BYTES {
        return invalid(format!("the label has {} bytes; it may have {MAX_LABEL_BYTES}", label.len().max(node.len())));
    }
    Ok(())
}

impl AcquireCommand {
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
