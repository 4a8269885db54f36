//! The keys that sessions are made with: those of the cluster, as they are now.

use std::{net::IpAddr, sync::Arc};

use broadcast::Handle;
use tokio::sync::watch;

use crate::noise::Psk;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Keys {
    /// The one that the gossip encrypts with comes first. There is always one.
    pub(crate) psks: Vec<Psk>,
    /// The cluster has no key, and what stands in its place is known to everybody.
    pub(crate) open: bool,
}

impl Keys {
    async fn of(node: &Handle) -> Self {
        let keys = node.keys().await;
        let open = keys.is_empty();
        let psks = if open { vec![Psk::open()] } else { keys.iter().map(|key| Psk::derive(key.as_bytes())).collect() };
        Self { psks, open }
    }

    /// Whether a session that was made with this key may go on.
    pub(crate) fn has(&self, psk: &Psk) -> bool {
        self.psks.contains(psk)
    }

    /// Whether a node at this address may be talked to.
    pub(crate) fn admits(&self, ip: IpAddr, insecure: bool) -> bool {
        !self.open || insecure || ip.to_canonical().is_loopback()
    }
}

/// The keys of a node, and their changes as long as it runs.
pub(crate) async fn follow(node: &Handle) -> (watch::Receiver<Arc<Keys>>, impl Future<Output = ()> + use<>) {
    let mut changes = node.watch_keys();
    changes.mark_unchanged();
    let (sender, keys) = watch::channel(Arc::new(Keys::of(node).await));
    let node = node.clone();
    let following = async move {
        while changes.changed().await.is_ok() {
            let keys = Keys::of(&node).await;
            // A node that has stopped has no keys, and needs none.
            if changes.has_changed().is_err() {
                break;
            }
            sender.send_replace(Arc::new(keys));
        }
        // Who waits for a change is not to take this for one.
        std::future::pending::<()>().await;
    };
    (keys, following)
}
