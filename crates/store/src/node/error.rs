//! Why the store does not do what it is asked for.

use std::time::Duration;

use broadcast_session::Refusal;

use crate::{
    Error,
    codec::{Reader, Writer},
    raft::ConsensusError,
};

/// Why the store did not answer, or refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The request cannot be carried out. Nothing has changed.
    #[error(transparent)]
    Refused(#[from] Error),
    /// Nobody votes, as far as this node knows.
    #[error(
        "this cluster has no store: no live member has the role voter; give three nodes that role, and their names in \
         `voters` on each of them"
    )]
    NoVoters,
    /// Voters were asked, and none leads.
    #[error("no voter leads within {within:?}, so nothing can be agreed on: {problem}")]
    NoLeader {
        /// How long was waited.
        within: Duration,
        /// What the last one said.
        problem: String,
    },
    /// The request may have been carried out, and may yet be.
    #[error("it is not known whether that was done: {problem}; read before you try again")]
    Unknown {
        /// What happened.
        problem: String,
    },
    /// The leader's disk is full. Nothing has changed.
    #[error("the disk of the leader is full, and nothing is written until there is room")]
    DiskFull,
    /// As many backups as may be are on their way from the voter that leads.
    #[error("{node} writes as many backups as it may already; try again when one of them has ended")]
    Busy {
        /// The voter.
        node: String,
    },
    /// All voters had lost what they knew, and have founded another store since.
    #[error(
        "the store is another one now, {now:016x}: its voters have lost the one that this was about; read again, and start \
         watches anew"
    )]
    OtherStore {
        /// The store that there is now.
        now: u64,
    },
    /// It cannot be asked for.
    #[error("{why}")]
    NotPossible {
        /// Why.
        why: String,
    },
    /// Whoever answered is of another release, or broken.
    #[error("{node} answers what cannot be read: {problem}")]
    Answer {
        /// Who.
        node: String,
        /// What is wrong.
        problem: String,
    },
    /// This node has left its cluster, or its store has stopped.
    #[error("the store of this node has stopped: {0}")]
    Stopped(String),
}

/// What a voter says when it does not do something. Numbers are part of what is said between releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Another one leads, by name, or nobody is known to.
    NotLeader(Option<String>),
    Unknown,
    NoQuorum,
    Full,
    Refused(Error),
    Stopped(String),
    /// It is not part of a cluster yet.
    Waiting,
    /// It is of another store than the question.
    OtherStore(u64),
    /// It does as much of that as it may already.
    Busy,
    /// The question makes no sense to it.
    NotPossible(String),
}

impl Said {
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::NotLeader(leader) => Refusal::new(1, leader.clone().unwrap_or_default()),
            Self::Unknown => Refusal::new(2, "it is not known whether that was agreed on"),
            Self::NoQuorum => Refusal::new(3, "too few voters answer"),
            Self::Full => Refusal::new(4, "the disk is full"),
            Self::Refused(error) => Refusal::new(5, to_text(error)),
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
            5 => from_text(&refusal.text).map_or_else(|| Self::Stopped(refusal.text.clone()), Self::Refused),
            7 => Self::Waiting,
            10 => Self::Busy,
            9 => Self::NotPossible(refusal.text.clone()),
            8 => refusal.text.parse().map_or_else(|_| Self::Stopped(refusal.text.clone()), Self::OtherStore),
            _ => Self::Stopped(refusal.text.clone()),
        }
    }
}

/// A refusal travels as text: an error of the state in digits of base 16.
fn to_text(error: &Error) -> String {
    let mut to = Writer::new();
    error.write(&mut to);
    to.finish().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_text(text: &str) -> Option<Error> {
    let digits = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    let bytes = bytes?;
    let mut from = Reader::new(&bytes);
    let error = Error::read(&mut from).ok()?;
    from.end().ok().map(|()| error)
}

impl From<ConsensusError> for Said {
    fn from(error: ConsensusError) -> Self {
        match error {
            // The name is for who knows the voters to find.
            ConsensusError::NotLeader { .. } => Self::NotLeader(None),
            ConsensusError::Unknown => Self::Unknown,
            ConsensusError::NoQuorum => Self::NoQuorum,
            ConsensusError::Full => Self::Full,
            ConsensusError::Refused(why) | ConsensusError::Stopped(why) => Self::Stopped(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let compacted = Error::Compacted { requested: 7, compacted: 9 };
        for said in [
            Said::NotLeader(None),
            Said::NotLeader(Some("node2".into())),
            Said::Unknown,
            Said::NoQuorum,
            Said::Full,
            Said::Refused(compacted),
            Said::Stopped("why".into()),
            Said::Waiting,
            Said::OtherStore(u64::MAX),
            Said::NotPossible("why".into()),
            Said::Busy,
        ] {
            assert_eq!(Said::read(&said.refusal()), said);
        }
        assert_eq!(Said::read(&Refusal::new(5, "zz")), Said::Stopped("zz".into()));
        assert_eq!(Said::read(&Refusal::new(99, "new")), Said::Stopped("new".into()));
    }
}
