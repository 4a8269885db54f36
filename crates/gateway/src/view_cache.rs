//! The last views of all members, cached for a moment.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How many texts may be cached at the same time, while clients are still reading earlier ones.
const MAX_CACHED_AT_ONCE: usize = 16;

/// The cache. Whoever asks the members holds its lock.
#[derive(Debug)]
pub(super) struct ViewCache {
    pub(super) last: Arc<Mutex<LastViews>>,
    pub(super) permits: Arc<Semaphore>,
}

#[derive(Debug, Default)]
pub(super) struct LastViews {
    pub(super) asked_at: Option<Instant>,
    pub(super) cached: Option<Arc<CachedViews>>,
}

/// A text that is given to several clients.
#[derive(Debug)]
pub(super) struct CachedViews {
    pub(super) at: Instant,
    pub(super) chunks: Vec<Bytes>,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl ViewCache {
    pub(super) fn new() -> Self {
        Self { last: Arc::default(), permits: Arc::new(Semaphore::new(MAX_CACHED_AT_ONCE)) }
    }
}
