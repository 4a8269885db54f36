//! What is counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What a node's sessions have come to since it started them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figures {
    /// Sessions of others that are open now.
    pub sessions: u64,
    /// Calls of others that are being answered now.
    pub calls: u64,
    /// Calls of others that came.
    pub calls_served: u64,
    /// Calls that this node made.
    pub calls_made: u64,
    /// Connections and calls that were not served: no or another key, no member, too many.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    sessions: AtomicU64,
    calls: AtomicU64,
    calls_served: AtomicU64,
    calls_made: AtomicU64,
    refused: AtomicU64,
}

/// One of those that are there now, until it is dropped.
pub(crate) struct Current(Arc<Counts>, fn(&Counts) -> &AtomicU64);

impl Current {
    fn new(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) -> Self {
        which(counts).fetch_add(1, Relaxed);
        Self(Arc::clone(counts), which)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Relaxed);
    }
}

impl Counts {
    pub(crate) fn session_served(self: &Arc<Self>) -> Current {
        Current::new(self, |counts| &counts.sessions)
    }

    pub(crate) fn call_served(self: &Arc<Self>) -> Current {
        self.calls_served.fetch_add(1, Relaxed);
        Current::new(self, |counts| &counts.calls)
    }

    pub(crate) fn called(&self) {
        self.calls_made.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn take(&self) -> Figures {
        let Self { sessions, calls, calls_served, calls_made, refused } = self;
        let [sessions, calls, calls_served, calls_made, refused] =
            [sessions, calls, calls_served, calls_made, refused].map(|count| count.load(Relaxed));
        Figures { sessions, calls, calls_served, calls_made, refused }
    }
}
