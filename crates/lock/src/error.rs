//! Why an operation on a lock fails.

use broadcast_store::StoreError;

use crate::{message::Holder, name::NameError, refusal::Refusal};

/// Why an operation on a lock failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LockError {
    /// The state machine refused it; nothing has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Others hold the lock, and it was not granted in time.
    #[error("the lock is held by {}", by(holders))]
    Taken {
        /// Who holds it, or some of them.
        holders: Vec<Holder>,
    },
    /// The session ended while it waited, or somebody gave up its entry.
    #[error("session {session:016x} has ended, or its place was given up")]
    SessionEnded {
        /// The session.
        session: i64,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The answer cannot be read: another release has sent it.
    #[error("the store answers about locks what cannot be read: {0}")]
    UnexpectedAnswer(String),
}

impl From<NameError> for LockError {
    fn from(error: NameError) -> Self {
        Refusal::Invalid(error.to_string()).into()
    }
}

/// The holders, in words.
fn by(holders: &[Holder]) -> String {
    let Some(first) = holders.first() else { return "others who wait".into() };
    let label = if first.label.is_empty() { String::new() } else { format!(" ({})", first.label) };
    let others = match holders.len() {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    format!("session {:016x} of {}{label}, token {}{others}", first.session, first.node, first.token)
}
