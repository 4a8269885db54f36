//! Key rotation: changing a running node's keys.
//!
//! A cluster changes its key without a pause and without losing a message in three rounds over all nodes:
//! [`install_key`](Handle::install_key) the new key on every node; then [`use_key`](Handle::use_key) it on every node; then
//! [`remove_key`](Handle::remove_key) the old one.

use tokio::sync::watch;

use super::{EventLoop, Handle};
use crate::{
    node::KeyChange,
    wire::{KeyError, SecretKey},
};

/// Why a node's keys could not be changed. [`Handle::install_key`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// This change is not possible.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The node has left.
    #[error("this node has left its cluster and no longer encrypts anything; start another")]
    Stopped,
}

impl Handle {
    /// From now on this node can decrypt with `key`. Installing a key twice is no error.
    ///
    /// # Errors
    ///
    /// [`KeyError::Full`], [`KeyError::Off`] or [`KeysError::Stopped`].
    ///
    /// ```
    /// use broadcast::{
    ///     Config, Envelope, Profile, start,
    ///     wire::{Keyring, SecretKey},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (old, new) = (SecretKey::new(vec![1; 32])?, SecretKey::new(vec![2; 32])?);
    /// let envelope = Envelope { keyring: Keyring::new([old.clone()])?, ..Envelope::default() };
    /// let config = Config::new("node1").bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local).envelope(envelope);
    /// let node = start(config).await?;
    /// // Each step on every node of the cluster, before the next one.
    /// node.install_key(new.clone()).await?;
    /// node.use_key(new.clone()).await?;
    /// node.remove_key(old).await?;
    /// assert_eq!(node.keys().await, [new]);
    /// # Ok(()) }
    /// ```
    pub async fn install_key(&self, key: SecretKey) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Install(key)).await
    }

    /// From now on this node encrypts with `key`, which must be installed.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unknown`], [`KeyError::Off`] or [`KeysError::Stopped`].
    pub async fn use_key(&self, key: SecretKey) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Use(key)).await
    }

    /// From now on this node no longer decrypts with `key`.
    ///
    /// # Errors
    ///
    /// [`KeyError::InUse`], [`KeyError::Off`] or [`KeysError::Stopped`].
    pub async fn remove_key(&self, key: SecretKey) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Remove(key)).await
    }

    /// Replaces all of this node's keys. It encrypts with the first one.
    ///
    /// # Errors
    ///
    /// [`KeyError::Full`] or [`KeysError::Stopped`]; [`KeyError::Off`] when this would turn encryption on or
    /// off.
    pub async fn set_keys(&self, keys: Vec<SecretKey>) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Replace(keys)).await
    }

    /// The keys; this node encrypts with the first one. Empty without encryption, and once the node has stopped.
    pub async fn keys(&self) -> Vec<SecretKey> {
        self.ask(|event_loop| event_loop.node.keys()).await.unwrap_or_default()
    }

    /// Changes whenever the [`keys`](Self::keys) may have changed. The number itself has no meaning. Ends when the node stops.
    #[must_use]
    pub fn watch_keys(&self) -> watch::Receiver<u64> {
        self.0.key_changes.clone()
    }

    async fn change_keys(&self, change: KeyChange) -> Result<(), KeysError> {
        let change = |event_loop: &mut EventLoop| {
            let changed = event_loop.node.change_keys(change);
            event_loop.application.key_changes.send_modify(|changes| *changes = changes.wrapping_add(1));
            changed
        };
        Ok(self.ask(change).await.ok_or(KeysError::Stopped)??)
    }
}
