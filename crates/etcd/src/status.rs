//! The status of a call that fails: gRPC's codes, and the texts of etcd's package `rpctypes`. Clients compare these texts to
//! tell errors apart, so they are etcd's to the letter.

use std::borrow::Cow;

use broadcast_store::{Error, StoreError};

/// gRPC's codes, as far as they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// The status of a call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
}

/// Errors that etcd has under these names.
pub(crate) const EMPTY_KEY: Status = Status::of(Code::InvalidArgument, "etcdserver: key is not provided");
pub(crate) const KEY_NOT_FOUND: Status = Status::of(Code::InvalidArgument, "etcdserver: key not found");
pub(crate) const LEASE_NOT_FOUND: Status = Status::of(Code::NotFound, "etcdserver: requested lease not found");
pub(crate) const LEASE_EXIST: Status = Status::of(Code::FailedPrecondition, "etcdserver: lease already exists");
pub(crate) const MEMBER_NOT_FOUND: Status = Status::of(Code::NotFound, "etcdserver: member not found");
pub(crate) const NO_LEADER: Status = Status::of(Code::Unavailable, "etcdserver: no leader");
pub(crate) const NOT_LEADER: Status = Status::of(Code::FailedPrecondition, "etcdserver: not leader");
pub(crate) const BAD_LEADER_TRANSFEREE: Status =
    Status::of(Code::FailedPrecondition, "etcdserver: bad leader transferee");
pub(crate) const AUTH_NOT_ENABLED: Status =
    Status::of(Code::FailedPrecondition, "etcdserver: authentication is not enabled");
pub(crate) const AUTH_FAILED: Status =
    Status::of(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");
const TIMEOUT: Status = Status::of(Code::Unavailable, "etcdserver: request timed out");
const STOPPED: Status = Status::of(Code::Unavailable, "etcdserver: server stopped");
const NO_SPACE: Status = Status::of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
pub(crate) const TOO_MANY_REQUESTS: Status = Status::of(Code::ResourceExhausted, "etcdserver: too many requests");
const REQUEST_TOO_LARGE: Status = Status::of(Code::InvalidArgument, "etcdserver: request is too large");

impl Status {
    pub(crate) const fn of(code: Code, message: &'static str) -> Self {
        Self { code, message: Cow::Borrowed(message) }
    }

    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: Cow::Owned(message.into()) }
    }

    /// etcd has this call, and this service has not.
    pub(crate) fn unimplemented(why: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, why)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, message) = match error {
            Error::Compacted { .. } => (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            Error::FutureRevision { .. } => {
                (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
            }
            Error::LeaseNotFound { .. } => return LEASE_NOT_FOUND,
            Error::LeaseExists { .. } => return LEASE_EXIST,
            Error::LeaseTtlTooLarge { .. } => (Code::OutOfRange, "etcdserver: too large lease TTL"),
            Error::NoSpace { .. } => return NO_SPACE,
            Error::TooManyOps => (Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            Error::DuplicateKey { .. } => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Error::KeyNotProvided => return EMPTY_KEY,
            Error::KeyNotFound { .. } => return KEY_NOT_FOUND,
            Error::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
            Error::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
            Error::RequestTooLarge { .. } => return REQUEST_TOO_LARGE,
            Error::TooManyWatchers { .. } => return TOO_MANY_REQUESTS,
            // etcd has no such errors, so its clients know no text for them.
            error @ Error::ResponseTooLarge => return Self::new(Code::ResourceExhausted, error.to_string()),
            error @ (Error::TermPassed { .. }
            | Error::UnknownClient { .. }
            | Error::RequestForgotten { .. }
            | Error::AlreadyApplied { .. }) => return Self::new(Code::Internal, error.to_string()),
        };
        Self::of(code, message)
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(error) => error.into(),
            StoreError::NoVoters | StoreError::NoLeader { .. } => NO_LEADER,
            // The command may have been carried out. etcd says this then, too.
            StoreError::Unknown { .. } => TIMEOUT,
            StoreError::DiskFull => NO_SPACE,
            StoreError::Busy { .. } => TOO_MANY_REQUESTS,
            StoreError::OtherStore { .. } | StoreError::Stopped(_) => STOPPED,
            StoreError::NotPossible { why } => Self::new(Code::FailedPrecondition, why),
            error @ StoreError::Answer { .. } => Self::new(Code::Internal, error.to_string()),
        }
    }
}
