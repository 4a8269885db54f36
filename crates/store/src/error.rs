//! Why a command or a read was refused, and why a member has to stop.

use bytes::Bytes;

pub use crate::codec::Malformed;
use crate::{
    codec::{Reader, Writer},
    limits::{MAGIC, MAX_OPS, MAX_REQUEST, MAX_TTL, MAX_TXN_KEYS, MAX_TXN_READ},
};

/// A command or a read that was refused. The state is as it was before, but for [`Error::NoSpace`], which raises the
/// alarm.
///
/// Where etcd has such an error, it is meant as there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// History before a revision is gone.
    #[error("revision {requested} has been compacted: read at revision {compacted} or later")]
    Compacted {
        /// What was asked for.
        requested: u64,
        /// The first revision that can be read.
        compacted: u64,
    },
    /// A revision that is not there yet.
    #[error("revision {requested} is in the future: the store is at {current}")]
    FutureRevision {
        /// What was asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
    /// A request names a lease that ended, or never was.
    #[error("lease {lease:x} is not there: it ended, or was never granted; grant a new one")]
    LeaseNotFound {
        /// The lease's id.
        lease: i64,
    },
    /// A lease cannot be granted twice.
    #[error("lease {lease:x} exists already: choose another id")]
    LeaseExists {
        /// The lease's id.
        lease: i64,
    },
    /// A time to live out of bounds.
    #[error("a lease cannot live for {ttl} s: the most is {MAX_TTL} s")]
    LeaseTtlTooLarge {
        /// What was asked for, in seconds.
        ttl: i64,
    },
    /// An expiry that a leader of another term has found due: its clock counts no more.
    #[error("lease {lease:x} was found expired in term {named}, but the term is {term}: its time runs anew")]
    TermPassed {
        /// The lease's id.
        lease: i64,
        /// The term of who found it expired.
        named: u64,
        /// The term of the entry.
        term: u64,
    },
    /// A machine has as much as its quota, or its alarm has not been disarmed since.
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
    /// A transaction with too many operations or comparisons.
    #[error("a transaction has more than {MAX_OPS} operations: split it")]
    TooManyOps,
    /// A transaction changes a key twice.
    #[error("a transaction changes key {:?} twice: a key changes once a revision", String::from_utf8_lossy(key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// A request without a key.
    #[error("a key is not provided: it needs a byte at least")]
    KeyNotProvided,
    /// A request keeps the value or lease of a key that is not there.
    #[error("key {:?} is not there: it has no value or lease to keep", String::from_utf8_lossy(key))]
    KeyNotFound {
        /// The key.
        key: Bytes,
    },
    /// A value is given, and the key's own is to be kept.
    #[error("a value is provided, but the key's own is to be kept: leave one out")]
    ValueProvided,
    /// A lease is given, and the key's own is to be kept.
    #[error("a lease is provided, but the key's own is to be kept: leave one out")]
    LeaseProvided,
    /// A request that is too large.
    #[error("a request of {size} bytes is too large: the most is {MAX_REQUEST}")]
    RequestTooLarge {
        /// Its size.
        size: u64,
    },
    /// A transaction that reads too much.
    #[error(
        "a transaction reads more than {MAX_TXN_READ} bytes or {MAX_TXN_KEYS} keys: narrow its ranges, or read outside \
         of it"
    )]
    ResponseTooLarge,
    /// A client that was never opened, or was forgotten in favour of others.
    #[error("client {client} is not known: open one, and ask again unless the request may have been applied")]
    UnknownClient {
        /// The client's id.
        client: u64,
    },
    /// A request whose outcome is kept no longer. It may have been applied.
    #[error("request {serial} of client {client} was answered or forgotten: look at the store for what became of it")]
    RequestForgotten {
        /// The client's id.
        client: u64,
        /// The request's serial.
        serial: u64,
    },
    /// A request that was applied, with an outcome too large to keep.
    #[error(
        "the request was applied, at revision {revision} at the latest, with an outcome too large to keep: read again"
    )]
    AlreadyApplied {
        /// The newest revision after it.
        revision: u64,
    },
    /// A hub has as many watchers as it may have.
    #[error("there are {most} watchers, and no more are taken: cancel some, or ask another node")]
    TooManyWatchers {
        /// The most that it may have.
        most: u64,
    },
}

impl Error {
    pub(crate) fn write(&self, to: &mut Writer) {
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

    pub(crate) fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
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
            tag => return Err(Malformed::Tag { what: "error", tag }),
        })
    }
}

/// Why a member cannot apply a command, and has to stop: to skip it would give it another state than the others have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A command of a later release.
    #[error("a command for machine {machine} needs version {needs}, but this node knows {knows}: upgrade it")]
    Unknown {
        /// The machine's name.
        machine: String,
        /// The version that the command appeared in.
        needs: u16,
        /// The version of the machine here; 0 if there is no such machine.
        knows: u16,
    },
    /// A command that cannot be read.
    #[error("a command for machine {machine} cannot be read: {malformed}; restore this node's disk, or replace it")]
    Malformed {
        /// The machine's name, or nothing if that cannot be read, either.
        machine: String,
        /// What is wrong.
        malformed: Malformed,
    },
    /// An entry of the log that comes before one that has been applied.
    #[error("entry {index} comes after entry {applied} has been applied: the log is out of order")]
    OutOfOrder {
        /// The entry.
        index: u64,
        /// The last one that was applied.
        applied: u64,
    },
}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The source fails, or ends too early.
    #[error("the snapshot cannot be read to its end: {0}")]
    Io(#[from] std::io::Error),
    /// It is no snapshot of this store, or of a later release.
    #[error("this is no snapshot that can be read here: format {found}, known is {known}; upgrade this node")]
    Format {
        /// The format that was found.
        found: u16,
        /// The format that is known.
        known: u16,
    },
    /// It does not begin as a snapshot does.
    #[error("this is no snapshot: it does not begin with {:?}", MAGIC)]
    Magic,
    /// It is larger than it may be.
    #[error("the snapshot is larger than the {most} bytes that are expected")]
    TooLarge {
        /// The most.
        most: u64,
    },
    /// A record is larger than one may be.
    #[error("a record of {size} bytes is larger than the most, {most}: the snapshot is damaged")]
    RecordTooLarge {
        /// Its size.
        size: u64,
        /// The most.
        most: u64,
    },
    /// The state of a machine that is not there.
    #[error(
        "the snapshot has the state of machine {machine} in version {needs}, but this node knows {knows}: upgrade it"
    )]
    UnknownMachine {
        /// The machine's name.
        machine: String,
        /// The version of the state.
        needs: u16,
        /// The version that is known; 0 if there is no such machine.
        knows: u16,
    },
    /// A record is not what it should be.
    #[error("the snapshot is damaged in {section}: {malformed}")]
    Malformed {
        /// The part of the snapshot.
        section: String,
        /// What is wrong.
        malformed: Malformed,
    },
}
