//! What callers are told.

use std::time::Duration;

use crate::{body::BodyError, handshake::Refused};

/// What a service answers to a call that it does not carry out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The service's own number for it.
    pub code: u32,
    /// In words, of which 4 KiB arrive.
    pub text: String,
}

impl Refusal {
    /// With this number, in these words.
    pub fn new(code: u32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Why a call has no answer.
///
/// Whether the service has done something is known in two cases: with [`Refused`](Self::Refused) it says so itself, and
/// where [`has_begun`](Self::has_begun) is `false` it never heard of the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No live member has that name.
    #[error("no live member of the cluster is named {0}")]
    NoMember(String),
    /// It is a plain memberlist node, one of an earlier release, one that serves no calls, or so new that it has not told.
    #[error("{0} takes no calls from other nodes; it may be of an earlier release, or have just started")]
    NoSessions(String),
    /// This node was called by itself.
    #[error("{0} is this node itself")]
    Myself(String),
    /// The cluster has no key, and the other node is on another host.
    #[error(
        "calls to {0} are not made without a key, as it is on another host; give all nodes a key, or allow \
         `insecure_sessions` on all"
    )]
    Insecure(String),
    /// It could not be connected to, or no session with it took the call in time: the call was not sent.
    #[error("cannot reach {to}: {problem}")]
    Unreachable {
        /// Who was called.
        to: String,
        /// What happened.
        problem: String,
    },
    /// It does not take this node for one that may call.
    #[error("{to} refuses calls of this node: {why}")]
    Shut {
        /// Who was called.
        to: String,
        /// Why.
        why: Refused,
    },
    /// It has no such service.
    #[error("{to} has no service {method}; it may be of another release")]
    NoService {
        /// Who was called.
        to: String,
        /// What was called.
        method: String,
    },
    /// It has too much to do.
    #[error("{0} has as many calls to answer as it may; try again later")]
    Busy(String),
    /// No answer came in time.
    #[error("{to} did not answer within {within:?}")]
    Deadline {
        /// Who was called.
        to: String,
        /// The time it had.
        within: Duration,
    },
    /// The service says no.
    #[error("{to} refuses: {refusal}")]
    Refused {
        /// Who was called.
        to: String,
        /// What it says.
        refusal: Refusal,
    },
    /// The session ended, or the service failed, before there was an answer.
    #[error("the call to {to} was broken off: {problem}")]
    Broken {
        /// Who was called.
        to: String,
        /// What happened.
        problem: String,
    },
    /// The answer is longer than is taken.
    #[error("the answer of {to} is longer than {max} bytes, the limit")]
    TooLong {
        /// Who was called.
        to: String,
        /// The limit, in bytes.
        max: usize,
    },
    /// This node has left its cluster.
    #[error("this node has left its cluster and can no longer call others; start another")]
    Stopped,
}

impl CallError {
    /// Whether the other node may have begun to do what it was called for.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Refused { .. } | Self::Broken { .. } | Self::TooLong { .. })
    }

    pub(crate) fn of_body(to: &str, error: BodyError) -> Self {
        match error {
            BodyError::TooLong { max } => Self::TooLong { to: to.into(), max },
            BodyError::Broken(problem) => Self::Broken { to: to.into(), problem },
            error @ (BodyError::Full | BodyError::Slow { .. }) => {
                Self::Broken { to: to.into(), problem: error.to_string() }
            }
        }
    }
}
