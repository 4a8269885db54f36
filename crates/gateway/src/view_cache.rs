//! What members believed of each other when they were last asked.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Texts that are kept at the same time, where clients are still reading the former ones.
const MAX_CACHED_AT_ONCE: usize = 16;

/// What was answered last, by whoever has had its turn.
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

/// A text that is given out.
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
