//! Changing the injected faults of a running node.

use super::{Handle, fault_injector::FaultInjector};
use crate::{ConfigError, Faults};

/// Why a node's injected faults could not be changed. See [`Handle::set_faults`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// The faults are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node was started without faults.
    #[error(
        "this node was started without `faults`; start it with some, or with \"ready\" for none so far, for tests only"
    )]
    Off,
    /// The node has left.
    #[error("this node has left its cluster and no longer sends anything; start another")]
    Stopped,
}

impl Handle {
    /// From now on, injects these faults into the datagrams that this node sends, or none. Datagrams that are delayed already
    /// are still sent. The node must have been [configured](crate::Config::faults) with faults, at least with
    /// [none so far](Faults::default).
    ///
    /// # Errors
    ///
    /// See [`FaultsError`].
    ///
    /// ```
    /// use broadcast::{Config, Faults, Profile, start};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = Config::new("node1").bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
    /// let node = start(config.faults(Faults::default())).await?;
    /// node.set_faults(Some("loss=0.1,delay=5ms..50ms".parse()?)).await?;
    /// assert!(node.faults().await.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn set_faults(&self, faults: Option<Faults>) -> Result<(), FaultsError> {
        let faults = faults.unwrap_or_default();
        faults.validate()?;
        let set = self.ask(|event_loop| event_loop.faults.as_mut().map(|injector| injector.set(faults))).await;
        set.ok_or(FaultsError::Stopped)?.ok_or(FaultsError::Off)
    }

    /// The injected faults, with the seed that repeats them. `None` if there are none, and once the node has stopped.
    pub async fn faults(&self) -> Option<Faults> {
        self.ask(|event_loop| event_loop.faults.as_ref().and_then(FaultInjector::faults).cloned()).await.flatten()
    }
}
