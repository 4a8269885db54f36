//! What fails.

use broadcast_store::StoreError;

use crate::{message::Holder, name::NameError, refusal::Refusal};

/// Why something was not done with a lock.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LockError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Others hold it, and it was not granted in time.
    #[error("the lock is held by {}", by(holders))]
    Taken {
        /// Who holds it, or some of them.
        holders: Vec<Holder>,
    },
    /// The session has ended while it waited, or somebody has given up its place.
    #[error("session {session:016x} has ended, or its place was given up")]
    Ended {
        /// The session.
        session: i64,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was answered cannot be read: another release has answered.
    #[error("the store answers about locks what cannot be read: {0}")]
    Answer(String),
}

impl From<NameError> for LockError {
    fn from(error: NameError) -> Self {
        Refusal::Invalid(error.to_string()).into()
    }
}

fn by(holders: &[Holder]) -> String {
    let Some(first) = holders.first() else { return "others who wait".into() };
    let label = if first.label.is_empty() { String::new() } else { format!(" ({})", first.label) };
    let others = match holders.len() {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    format!("session {:016x} of {}{label}, token {}{others}", first.session, first.node, first.token)
}
