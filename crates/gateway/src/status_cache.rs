//! What the node says of itself and its cluster, asked for once at a time, however many ask here: those who come while it
//! is asked share the next answer.

use std::sync::Arc;

use broadcast::{Handle, Metrics, Overview};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

/// Clients that are told more than that at the same time: each may hold all that the node knows of its members.
pub(crate) const MAX_LONG_RESPONSES: usize = 4;

/// The right to be told a long answer.
#[derive(Debug)]
pub(super) struct LongResponses(pub(super) Arc<Semaphore>);

impl LongResponses {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LONG_RESPONSES)))
    }
}

/// How a node is, and its cluster.
#[derive(Debug)]
pub(super) struct NodeStatus {
    pub(super) overview: Overview,
    pub(super) metrics: Metrics,
}

/// What the node has answered last, and when it was asked.
#[derive(Debug, Default)]
pub(super) struct StatusCache(Mutex<Option<(Instant, Arc<NodeStatus>)>>);

impl StatusCache {
    /// How the node is now.
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
