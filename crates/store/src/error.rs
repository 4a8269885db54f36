//! Errors: why a command or a read was refused, why a member has to stop, and what is wrong with a snapshot.

use bytes::Bytes;

pub use crate::codec::CodecError;
use crate::{
    codec::{ByteReader, ByteWriter},
    limits::{MAGIC, MAX_OPS, MAX_REQUEST, MAX_TTL, MAX_TXN_KEYS, MAX_TXN_READ},
};

/// Why the state machine refused a command or a read. The state is as it was before; only [`Error::NoSpace`] also raises the
/// alarm.
///
/// Where etcd has the same error, it means the same.
///
/// ```
/// use broadcast_store::{Error, machine::State, keys::Range};
///
/// let future = State::new().keys().range(&Range { revision: 9, ..Range::of("color") });
/// assert_eq!(future, Err(Error::FutureRevision { requested: 9, current: 1 }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The revision is compacted.
    #[error("revision {requested} has been compacted: read at revision {compacted} or later")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// The first revision that can be read.
        compacted: u64,
    },
    /// The revision is in the future.
    #[error("revision {requested} is in the future: the store is at {current}")]
    FutureRevision {
        /// What was asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
    /// The lease has ended, or was never granted.
    #[error("lease {lease:x} is not there: it ended, or was never granted; grant a new one")]
    LeaseNotFound {
        /// The lease's id.
        lease: i64,
    },
    /// The lease exists already.
    #[error("lease {lease:x} exists already: choose another id")]
    LeaseExists {
        /// The lease's id.
        lease: i64,
    },
    /// The time to live is too long.
    #[error("a lease cannot live for {ttl} s: the most is {MAX_TTL} s")]
    LeaseTtlTooLarge {
        /// What was asked for, in seconds.
        ttl: i64,
    },
    /// The leader of another term proposed the expiry: its clock counts no more.
    #[error("lease {lease:x} was found expired in term {named}, but the term is {term}: its time runs anew")]
    TermPassed {
        /// The lease's id.
        lease: i64,
        /// The term in which the expiry was proposed.
        named: u64,
        /// The term of the entry.
        term: u64,
    },
    /// The machine's quota is used up, or its alarm has not been disarmed since.
    #[error(
        "machine {machine} has no space left: {bytes} of {quota} bytes are taken; delete, compact, then disarm the alarm"
    )]
    NoSpace {
        /// The machine's name.
        machine: String,
        /// The most bytes that it may take.
        quota: u64,
        /// The bytes that it takes.
        bytes: u64,
    },
    /// The transaction has too many operations or comparisons.
    #[error("a transaction has more than {MAX_OPS} operations: split it")]
    TooManyOps,
    /// The transaction changes a key twice.
    #[error("a transaction changes key {:?} twice: a key changes once a revision", String::from_utf8_lossy(key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// The request has no key.
    #[error("a key is not provided: it needs a byte at least")]
    KeyNotProvided,
    /// The put keeps the value or lease of a key that does not exist.
    #[error("key {:?} is not there: it has no value or lease to keep", String::from_utf8_lossy(key))]
    KeyNotFound {
        /// The key.
        key: Bytes,
    },
    /// The put has a value, and keeps the key's own.
    #[error("a value is provided, but the key's own is to be kept: leave one out")]
    ValueProvided,
    /// The put has a lease, and keeps the key's own.
    #[error("a lease is provided, but the key's own is to be kept: leave one out")]
    LeaseProvided,
    /// The request is too large.
    #[error("a request of {size} bytes is too large: the most is {MAX_REQUEST}")]
    RequestTooLarge {
        /// Its size.
        size: u64,
    },
    /// The transaction reads too much.
    #[error(
        "a transaction reads more than {MAX_TXN_READ} bytes or {MAX_TXN_KEYS} keys: narrow its ranges, or read outside \
         of it"
    )]
    ResponseTooLarge,
    /// The client was never opened, or was forgotten in favour of others.
    #[error("client {client} is not known: open one, and ask again unless the request may have been applied")]
    UnknownClient {
        /// The client's id.
        client: u64,
    },
    /// The outcome of this request is no longer kept. It may have been applied.
    #[error("request {serial} of client {client} was answered or forgotten: look at the store for what became of it")]
    RequestForgotten {
        /// The client's id.
        client: u64,
        /// The request's serial.
        serial: u64,
    },
    /// The request was applied, and its outcome was too large to keep.
    #[error(
        "the request was applied, at revision {revision} at the latest, with an outcome too large to keep: read again"
    )]
    AlreadyApplied {
        /// The current revision after it.
        revision: u64,
    },
    /// The member has as many watchers as it may have.
    #[error("there are {most} watchers, and no more are taken: cancel some, or ask another node")]
    TooManyWatchers {
        /// The most that it may have.
        most: u64,
    },
}

impl Error {
    pub(crate) fn write(&self, to: &mut ByteWriter) {
        let mut fields = |tag: u8, numbers: &[u64]| {
            to.byte(tag);
            numbers.iter().for_each(|number| to.number(*number));
        };
        match self {
            Self::Compacted { requested, compacted } => fields(0, &[*requested, *compacted]),
            Self::FutureRevision { requested, current } => fields(1, &[*requested, *current]),
            Self::LeaseNotFound { lease } => fields(2, &[*lease as u64]),
            Self::LeaseExists { lease } => fields(3, &[*lease as u64]),
            Self::LeaseTtlTooLarge { ttl } => fields(4, &[*ttl as u64]),
            Self::TermPassed { lease, named, term } => fields(5, &[*lease as u64, *named, *term]),
            Self::NoSpace { machine, quota, bytes } => {
                fields(6, &[*quota, *bytes]);
                to.bytes(machine.as_bytes());
            }
            Self::TooManyOps => fields(7, &[]),
            Self::DuplicateKey { key } => {
                fields(8, &[]);
                to.bytes(key);
            }
            Self::KeyNotProvided => fields(9, &[]),
            Self::KeyNotFound { key } => {
                fields(10, &[]);
                to.bytes(key);
            }
            Self::ValueProvided => fields(11, &[]),
            Self::LeaseProvided => fields(12, &[]),
            Self::RequestTooLarge { size } => fields(13, &[*size]),
            Self::ResponseTooLarge => fields(14, &[]),
            Self::UnknownClient { client } => fields(15, &[*client]),
            Self::RequestForgotten { client, serial } => fields(16, &[*client, *serial]),
            Self::AlreadyApplied { revision } => fields(17, &[*revision]),
            Self::TooManyWatchers { most } => fields(18, &[*most]),
        }
    }

    pub(crate) fn read(from: &mut ByteReader<'_>) -> Result<Self, CodecError> {
        Ok(match from.byte()? {
            0 => Self::Compacted { requested: from.number()?, compacted: from.number()? },
            1 => Self::FutureRevision { requested: from.number()?, current: from.number()? },
            2 => Self::LeaseNotFound { lease: from.number()? as i64 },
            3 => Self::LeaseExists { lease: from.number()? as i64 },
            4 => Self::LeaseTtlTooLarge { ttl: from.number()? as i64 },
            5 => Self::TermPassed { lease: from.number()? as i64, named: from.number()?, term: from.number()? },
            6 => {
                let (quota, bytes) = (from.number()?, from.number()?);
                Self::NoSpace { machine: from.text()?, quota, bytes }
            }
            7 => Self::TooManyOps,
            8 => Self::DuplicateKey { key: from.bytes()? },
            9 => Self::KeyNotProvided,
            10 => Self::KeyNotFound { key: from.bytes()? },
            11 => Self::ValueProvided,
            12 => Self::LeaseProvided,
            13 => Self::RequestTooLarge { size: from.number()? },
            14 => Self::ResponseTooLarge,
            15 => Self::UnknownClient { client: from.number()? },
            16 => Self::RequestForgotten { client: from.number()?, serial: from.number()? },
            17 => Self::AlreadyApplied { revision: from.number()? },
            18 => Self::TooManyWatchers { most: from.number()? },
            tag => return Err(CodecError::Tag { what: "error", tag }),
        })
    }
}

/// Why a member cannot apply an entry and has to stop. To skip the entry would give the member another state than the others
/// have. [`State::apply`](crate::machine::State::apply) returns it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The command is of a later release.
    #[error("a command for machine {machine} needs version {needs}, but this node knows {knows}: upgrade it")]
    Unknown {
        /// The machine's name.
        machine: String,
        /// The version in which the command appeared.
        needs: u16,
        /// The version of the machine here; 0 if this member has no such machine.
        knows: u16,
    },
    /// The command cannot be decoded.
    #[error("a command for machine {machine} cannot be read: {malformed}; restore this node's disk, or replace it")]
    Malformed {
        /// The machine's name; empty if that cannot be decoded, either.
        machine: String,
        /// What is wrong.
        malformed: CodecError,
    },
    /// The entry comes after one with a higher index.
    #[error("entry {index} comes after entry {applied} has been applied: the log is out of order")]
    OutOfOrder {
        /// The index of the entry.
        index: u64,
        /// The index that was applied last.
        applied: u64,
    },
}

/// Why the state cannot be read from a snapshot. [`State::read_snapshot`](crate::machine::State::read_snapshot) returns it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The source failed, or ends too early.
    #[error("the snapshot cannot be read to its end: {0}")]
    Io(#[from] std::io::Error),
    /// The format is another one, perhaps that of a later release.
    #[error("this is no snapshot that can be read here: format {found}, known is {known}; upgrade this node")]
    Format {
        /// The format that was found.
        found: u16,
        /// The format that is known.
        known: u16,
    },
    /// The first bytes are not those of a snapshot.
    #[error("this is no snapshot: it does not begin with {:?}", MAGIC)]
    Magic,
    /// The snapshot is larger than it may be.
    #[error("the snapshot is larger than the {most} bytes that are expected")]
    TooLarge {
        /// The most.
        most: u64,
    },
    /// A record is larger than it may be.
    #[error("a record of {size} bytes is larger than the most, {most}: the snapshot is damaged")]
    RecordTooLarge {
        /// Its size.
        size: u64,
        /// The most.
        most: u64,
    },
    /// The snapshot has a machine, or a version of one, that this release does not know.
    #[error(
        "the snapshot has the state of machine {machine} in version {needs}, but this node knows {knows}: upgrade it"
    )]
    UnknownMachine {
        /// The machine's name.
        machine: String,
        /// The version of the state.
        needs: u16,
        /// The version that this release knows; 0 if it has no such machine.
        knows: u16,
    },
    /// A record is damaged, or contradicts another one.
    #[error("the snapshot is damaged in {section}: {malformed}")]
    Malformed {
        /// The part of the snapshot.
        section: String,
        /// What is wrong.
        malformed: CodecError,
    },
}
