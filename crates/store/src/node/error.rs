//! Why the store does not answer, or refuses.

use std::time::Duration;

use broadcast_session::{CallError, Refusal};

use crate::{
    Error,
    codec::{ByteReader, ByteWriter},
    raft::ConsensusError,
};

/// Why the store did not answer, or refused.
///
/// ```
/// use broadcast_store::StoreError;
///
/// /// Whether it is safe to send a command again.
/// fn is_certain(error: &StoreError) -> bool {
///     !matches!(error, StoreError::Unknown { .. })
/// }
/// assert!(is_certain(&StoreError::DiskFull));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The state machine refuses the request. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] Error),
    /// This node knows no voter.
    #[error(
        "this cluster has no store: no live member has the role voter; give three nodes that role, and their names in \
         `voters` on each of them"
    )]
    NoVoters,
    /// No voter that answers leads: there is no quorum, or an election took too long.
    #[error("no voter leads within {within:?}, so nothing can be agreed on: {problem}")]
    NoLeader {
        /// How long the request waited.
        within: Duration,
        /// Why the last attempt failed.
        problem: String,
    },
    /// The request may have taken effect, and may yet: read before you send it again.
    #[error("it is not known whether that was done: {problem}; read before you try again")]
    Unknown {
        /// What happened.
        problem: String,
    },
    /// The leader's disk is full. Nothing has changed.
    #[error("the disk of the leader is full, and nothing is written until there is room")]
    DiskFull,
    /// The leader writes as many backups as it may already.
    #[error("{node} writes as many backups as it may already; try again when one of them has ended")]
    Busy {
        /// The voter.
        node: String,
    },
    /// The voters lost all they had, and have founded another store since.
    #[error(
        "the store is another one now, {now:016x}: its voters have lost the one that this was about; read again, and start \
         watches anew"
    )]
    OtherStore {
        /// The id of the current store.
        now: u64,
    },
    /// The request makes no sense, or not at this node.
    #[error("{why}")]
    NotPossible {
        /// Why.
        why: String,
    },
    /// The answer cannot be read: the voter has another release, or is broken.
    #[error("{node} answers what cannot be read: {problem}")]
    Answer {
        /// The node that answered.
        node: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// This node has left its cluster, or its store has stopped.
    #[error("the store of this node has stopped: {0}")]
    Stopped(String),
}

/// Why a voter refuses a request. On the wire it is a [`Refusal`] with a number, which all releases have to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RefusalReason {
    /// This voter does not lead. The name of the leader, if it knows one.
    NotLeader(Option<String>),
    /// The leader changed meanwhile: the command may have been committed.
    Unknown,
    NoQuorum,
    /// The disk is full.
    Full,
    /// The state machine refuses the request: nothing has changed.
    State(Error),
    Stopped(String),
    /// This voter belongs to no store yet.
    Waiting,
    /// This voter is of another store, with this id.
    OtherStore(u64),
    /// This voter does as much of that as it may already.
    Busy,
    /// The request makes no sense to this voter.
    NotPossible(String),
}

impl RefusalReason {
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::NotLeader(leader) => Refusal::new(1, leader.clone().unwrap_or_default()),
            Self::Unknown => Refusal::new(2, "it is not known whether that was agreed on"),
            Self::NoQuorum => Refusal::new(3, "too few voters answer"),
            Self::Full => Refusal::new(4, "the disk is full"),
            Self::State(error) => Refusal::new(5, to_text(error)),
            Self::Stopped(why) => Refusal::new(6, why.clone()),
            Self::OtherStore(now) => Refusal::new(8, now.to_string()),
            Self::NotPossible(why) => Refusal::new(9, why.clone()),
            Self::Busy => Refusal::new(10, "it does as much of that as it may already"),
            Self::Waiting => Refusal::new(7, "it waits to be made a voter of this cluster"),
        }
    }

    pub(super) fn read(refusal: &Refusal) -> Self {
        match refusal.code {
            1 => Self::NotLeader(Some(refusal.text.clone()).filter(|name| !name.is_empty())),
            2 => Self::Unknown,
            3 => Self::NoQuorum,
            4 => Self::Full,
            5 => from_text(&refusal.text).map_or_else(|| Self::Stopped(refusal.text.clone()), Self::State),
            7 => Self::Waiting,
            10 => Self::Busy,
            9 => Self::NotPossible(refusal.text.clone()),
            8 => refusal.text.parse().map_or_else(|_| Self::Stopped(refusal.text.clone()), Self::OtherStore),
            _ => Self::Stopped(refusal.text.clone()),
        }
    }
}

/// A refusal is text on the wire: an error of the state machine is in hexadecimal digits.
fn to_text(error: &Error) -> String {
    let mut to = ByteWriter::new();
    error.write(&mut to);
    to.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_text(text: &str) -> Option<Error> {
    let digits = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    let bytes = bytes?;
    let mut from = ByteReader::new(&bytes);
    let error = Error::read(&mut from).ok()?;
    from.end().ok().map(|()| error)
}

impl From<ConsensusError> for RefusalReason {
    fn from(error: ConsensusError) -> Self {
        match error {
            // `Voter::refusal` adds the name.
            ConsensusError::NotLeader { .. } => Self::NotLeader(None),
            ConsensusError::Unknown => Self::Unknown,
            ConsensusError::NoQuorum => Self::NoQuorum,
            ConsensusError::Full => Self::Full,
            ConsensusError::Refused(why) | ConsensusError::Stopped(why) => Self::Stopped(why),
        }
    }
}

/// Why one attempt at one voter failed.
pub(super) enum AttemptError {
    /// The voter answered, and refused.
    Refused(RefusalReason),
    /// The call itself failed.
    Call(CallError),
}

impl From<RefusalReason> for AttemptError {
    fn from(reason: RefusalReason) -> Self {
        Self::Refused(reason)
    }
}

impl From<CallError> for AttemptError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { refusal, .. } => Self::Refused(RefusalReason::read(&refusal)),
            other => Self::Call(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_read_again() {
        let compacted = Error::Compacted { requested: 7, compacted: 9 };
        for reason in [
            RefusalReason::NotLeader(None),
            RefusalReason::NotLeader(Some("node2".into())),
            RefusalReason::Unknown,
            RefusalReason::NoQuorum,
            RefusalReason::Full,
            RefusalReason::State(compacted),
            RefusalReason::Stopped("why".into()),
            RefusalReason::Waiting,
            RefusalReason::OtherStore(u64::MAX),
            RefusalReason::NotPossible("why".into()),
            RefusalReason::Busy,
        ] {
            assert_eq!(RefusalReason::read(&reason.refusal()), reason);
        }
        assert_eq!(RefusalReason::read(&Refusal::new(5, "zz")), RefusalReason::Stopped("zz".into()));
        assert_eq!(RefusalReason::read(&Refusal::new(99, "new")), RefusalReason::Stopped("new".into()));
    }
}
