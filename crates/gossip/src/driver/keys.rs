//! Changing a running node's keys.
//!
//! A cluster changes its key without a pause, or a message lost, in three rounds over all its nodes:
//! [`install_key`](Handle::install_key) the new one everywhere; when that is done,
//! [`use_key`](Handle::use_key) it everywhere; when that is done, [`remove_key`](Handle::remove_key) the
//! old one.

use tokio::sync::watch;

use super::{EventLoop, Handle};
use crate::{
    node::KeyChange,
    wire::{KeyError, SecretKey},
};

/// Why a node's keys stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// They cannot be changed like that.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The node has left.
    #[error("this node has left its cluster and no longer encrypts anything; start another")]
    Stopped,
}

impl Handle {
    /// From now on this node reads what is encrypted with `key`. A key that is installed already stays.
    ///
    /// # Errors
    ///
    /// [`KeyError::Full`], [`KeyError::Off`] or [`KeysError::Stopped`].
    pub async fn install_key(&self, key: SecretKey) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Install(key)).await
    }

    /// From now on this node encrypts with `key`, which is installed.
    ///
    /// # Errors
    ///
    /// [`KeyError::Unknown`], [`KeyError::Off`] or [`KeysError::Stopped`].
    pub async fn use_key(&self, key: SecretKey) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Use(key)).await
    }

    /// From now on this node does not read any more what is encrypted with `key`.
    ///
    /// # Errors
    ///
    /// [`KeyError::InUse`], [`KeyError::Off`] or [`KeysError::Stopped`].
    pub async fn remove_key(&self, key: SecretKey) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Remove(key)).await
    }

    /// From now on `keys` are all this node's keys, the first of which encrypts.
    ///
    /// # Errors
    ///
    /// [`KeyError::Full`] or [`KeysError::Stopped`]; [`KeyError::Off`] when this would turn encryption on or
    /// off.
    pub async fn set_keys(&self, keys: Vec<SecretKey>) -> Result<(), KeysError> {
        self.change_keys(KeyChange::Replace(keys)).await
    }

    /// The keys, the one that encrypts first. None without encryption, or once the node has stopped.
    pub async fn keys(&self) -> Vec<SecretKey> {
        self.ask(|event_loop| event_loop.node.keys()).await.unwrap_or_default()
    }

    /// Changes when the [`keys`](Self::keys) may have. The number itself says nothing. Ends when the node stops.
    #[must_use]
    pub fn watch_keys(&self) -> watch::Receiver<u64> {
        self.0.key_changes.clone()
    }

    async fn change_keys(&self, change: KeyChange) -> Result<(), KeysError> {
        let change = |event_loop: &mut EventLoop| {
            let changed = event_loop.node.change_keys(change);
            event_loop.application.changed_keys.send_modify(|changes| *changes = changes.wrapping_add(1));
            changed
        };
        Ok(self.ask(change).await.ok_or(KeysError::Stopped)??)
    }
}
