//! The pre-shared keys of sessions, derived from the cluster's current keys.

use std::{net::IpAddr, sync::Arc};

use broadcast::Handle;
use tokio::sync::watch;

use crate::noise::Psk;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Keys {
    /// The one that gossip encrypts with comes first. Never empty.
    pub(crate) psks: Vec<Psk>,
    /// The cluster has no key, and everybody knows the one that is used instead.
    pub(crate) keyless: bool,
}

impl Keys {
    async fn of(node: &Handle) -> Self {
        let keys = node.keys().await;
        let keyless = keys.is_empty();
        let psks =
            if keyless { vec![Psk::keyless()] } else { keys.iter().map(|key| Psk::derive(key.as_bytes())).collect() };
        Self { psks, keyless }
    }

    /// Whether a session with this key may go on.
    pub(crate) fn has(&self, psk: &Psk) -> bool {
        self.psks.contains(psk)
    }

    /// Whether sessions with a node at this address are allowed.
    pub(crate) fn admits(&self, ip: IpAddr, insecure: bool) -> bool {
        !self.keyless || insecure || ip.to_canonical().is_loopback()
    }
}

/// A node's keys, and a future that keeps them up to date while the node runs.
pub(crate) async fn follow(node: &Handle) -> (watch::Receiver<Arc<Keys>>, impl Future<Output = ()> + use<>) {
    let mut changes = node.watch_keys();
    changes.mark_unchanged();
    let (sender, keys) = watch::channel(Arc::new(Keys::of(node).await));
    let node = node.clone();
    let following = async move {
        while changes.changed().await.is_ok() {
            let keys = Keys::of(&node).await;
            // A node that has stopped returns no keys.
            if changes.has_changed().is_err() {
                break;
            }
            sender.send_replace(Arc::new(keys));
        }
        // Keeps the channel open: its end would look like a change.
        std::future::pending::<()>().await;
    };
    (keys, following)
}
