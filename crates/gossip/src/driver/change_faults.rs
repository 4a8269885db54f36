//! Changing what a running node's datagrams suffer.

use super::{Handle, faults::Faulty};
use crate::{ConfigError, Faults};

/// Why a node's faults stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// They cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It was started without any.
    #[error(
        "this node was started without `faults`; start it with some, or with \"ready\" for none so far, for tests only"
    )]
    Off,
    /// The node has left.
    #[error("this node has left its cluster and no longer sends anything; start another")]
    Stopped,
}

impl Handle {
    /// From now on the datagrams this node sends suffer `faults`, or nothing. What was held back is still sent.
    /// The node must have been [configured](crate::Config::faults) with faults, be it with
    /// [none](Faults::default).
    ///
    /// # Errors
    ///
    /// See [`FaultsError`].
    pub async fn set_faults(&self, faults: Option<Faults>) -> Result<(), FaultsError> {
        let faults = faults.unwrap_or_default();
        faults.validate()?;
        let set = self.ask(|event_loop| event_loop.faults.as_mut().map(|faulty| faulty.set(faults))).await;
        set.ok_or(FaultsError::Stopped)?.ok_or(FaultsError::Off)
    }

    /// What the datagrams this node sends suffer, with the seed that repeats it. `None` for nothing, and once
    /// the node has stopped.
    pub async fn faults(&self) -> Option<Faults> {
        self.ask(|event_loop| event_loop.faults.as_ref().and_then(Faulty::faults).cloned()).await.flatten()
    }
}
