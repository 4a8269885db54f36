//! Counters and gauges.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The counters and gauges of a node's sessions. See [`Sessions::stats`](crate::Sessions::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Incoming sessions that are open now.
    pub sessions: u64,
    /// Incoming calls that are being answered now.
    pub calls: u64,
    /// All incoming calls.
    pub calls_served: u64,
    /// All outgoing calls.
    pub calls_made: u64,
    /// Connections and calls that were refused: no key or another one, not a member, too many.
    pub refused: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    sessions: AtomicU64,
    calls: AtomicU64,
    calls_served: AtomicU64,
    calls_made: AtomicU64,
    refused: AtomicU64,
}

/// Counts in a gauge until it is dropped.
pub(crate) struct InFlight(Arc<Counters>, fn(&Counters) -> &AtomicU64);

impl InFlight {
    fn new(counters: &Arc<Counters>, which: fn(&Counters) -> &AtomicU64) -> Self {
        which(counters).fetch_add(1, Relaxed);
        Self(Arc::clone(counters), which)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Relaxed);
    }
}

impl Counters {
    pub(crate) fn session_served(self: &Arc<Self>) -> InFlight {
        InFlight::new(self, |counters| &counters.sessions)
    }

    pub(crate) fn call_served(self: &Arc<Self>) -> InFlight {
        self.calls_served.fetch_add(1, Relaxed);
        InFlight::new(self, |counters| &counters.calls)
    }

    pub(crate) fn called(&self) {
        self.calls_made.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> SessionStats {
        let Self { sessions, calls, calls_served, calls_made, refused } = self;
        let [sessions, calls, calls_served, calls_made, refused] =
            [sessions, calls, calls_served, calls_made, refused].map(|count| count.load(Relaxed));
        SessionStats { sessions, calls, calls_served, calls_made, refused }
    }
}
