//! What members believed of each other when they were last asked.

use std::sync::Arc;

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Texts that are kept at the same time, where clients are still reading the former ones.
const KEPT_AT_ONCE: usize = 16;

/// What was answered last, by whoever has had its turn.
#[derive(Debug)]
pub(super) struct Views {
    pub(super) last: Arc<Mutex<Recent>>,
    pub(super) room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) asked_at: Option<Instant>,
    pub(super) kept: Option<Arc<Kept>>,
}

/// A text that is given out.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) at: Instant,
    pub(super) pieces: Vec<Bytes>,
    pub(super) _room: OwnedSemaphorePermit,
}

impl Views {
    pub(super) fn new() -> Self {
        Self { last: Arc::default(), room: Arc::new(Semaphore::new(KEPT_AT_ONCE)) }
    }
}
