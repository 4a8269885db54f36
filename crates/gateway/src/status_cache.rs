//! The node's status, shared: the node is asked for it once at a time, however many clients want it. Requests that come while
//! it is asked share the next status.

use std::sync::Arc;

use broadcast::{Handle, Metrics, Overview};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

/// How many clients may be sent long responses at the same time: each may hold all that the node knows of its members.
pub(crate) const MAX_LONG_RESPONSES: usize = 4;

/// The permits for long responses.
#[derive(Debug)]
pub(super) struct LongResponses(pub(super) Arc<Semaphore>);

impl LongResponses {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LONG_RESPONSES)))
    }
}

/// The status of the node and its cluster.
#[derive(Debug)]
pub(super) struct NodeStatus {
    pub(super) overview: Overview,
    pub(super) metrics: Metrics,
}

/// The last status, and when the node was asked for it.
#[derive(Debug, Default)]
pub(super) struct StatusCache(Mutex<Option<(Instant, Arc<NodeStatus>)>>);

impl StatusCache {
    /// The status of the node, no older than this call.
    pub(super) async fn take(&self, node: &Handle) -> Arc<NodeStatus> {
        let come = Instant::now();
        let mut last = self.0.lock().await;
        match &*last {
            Some((asked, snapshot)) if *asked > come => Arc::clone(snapshot),
            _ => {
                let asked = Instant::now();
                let (overview, metrics) = (node.overview().await, node.metrics().await);
                let snapshot = Arc::new(NodeStatus { overview, metrics });
                *last = Some((asked, Arc::clone(&snapshot)));
                snapshot
            }
        }
    }
}
