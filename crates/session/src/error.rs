//! Errors of calls.

use std::time::Duration;

use crate::{body::BodyError, handshake::HandshakeRefusal};

/// A service's own error: the response to a call that it does not carry out.
///
/// ```
/// use broadcast_session::Refusal;
///
/// let refusal = Refusal::new(3, "there is no such account");
/// assert_eq!(refusal.to_string(), "there is no such account");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The service's own error code.
    pub code: u32,
    /// A text, of which the caller gets the first 4 KiB.
    pub text: String,
}

impl Refusal {
    /// With this code and text.
    pub fn new(code: u32, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Why a call has no response.
///
/// Two cases tell whether the service has done anything: [`Refused`](Self::Refused) is the service's own word, and where
/// [`has_begun`](Self::has_begun) is `false`, the call has not reached it, so that it is safe to try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No live member has that name.
    #[error("no live member of the cluster is named {0}")]
    NoMember(String),
    /// The member is a plain memberlist node, one of an earlier release, or one that serves no calls; or it has only just
    /// started.
    #[error("{0} takes no calls from other nodes; it may be of an earlier release, or have just started")]
    NoSessions(String),
    /// A node cannot call itself.
    #[error("{0} is this node itself")]
    SelfCall(String),
    /// The cluster has no key, and the other node is on another host.
    #[error(
        "calls to {0} are not made without a key, as it is on another host; give all nodes a key, or allow \
         `insecure_sessions` on all"
    )]
    Insecure(String),
    /// No connection, or no session with room for the call in time. The call was not sent.
    #[error("cannot reach {to}: {problem}")]
    Unreachable {
        /// Who was called.
        to: String,
        /// What happened.
        problem: String,
    },
    /// The other node refuses sessions with this one.
    #[error("{to} refuses calls of this node: {why}")]
    SessionRefused {
        /// Who was called.
        to: String,
        /// Why.
        why: HandshakeRefusal,
    },
    /// The other node has no such service.
    #[error("{to} has no service {method}; it may be of another release")]
    NoService {
        /// Who was called.
        to: String,
        /// What was called.
        method: String,
    },
    /// The other node answers as many calls as it may. The call has not begun.
    #[error("{0} has as many calls to answer as it may; try again later")]
    Busy(String),
    /// No response came in time.
    #[error("{to} did not answer within {within:?}")]
    Deadline {
        /// Who was called.
        to: String,
        /// The time it had.
        within: Duration,
    },
    /// The service returned an error.
    #[error("{to} refuses: {refusal}")]
    Refused {
        /// Who was called.
        to: String,
        /// The service's error.
        refusal: Refusal,
    },
    /// The session ended, or the service failed, before the response was complete.
    #[error("the call to {to} was broken off: {problem}")]
    Broken {
        /// Who was called.
        to: String,
        /// What happened.
        problem: String,
    },
    /// The response is longer than the limit.
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
    /// Whether the service may have begun to carry out the call.
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
