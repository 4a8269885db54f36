//! How fast an origin may go on.
//!
//! Bytes on the way to the slowest current peer are bounded by a window that grows as acknowledgements
//! come and is halved when something is asked for again, as TCP's is (RFC 5681, sections 3.1 and 3.2;
//! one halving a window, as in RFC 6582).

/// The window, in bytes: at first, and its bounds.
const FIRST_WINDOW: u64 = 128 << 10;
const MIN_WINDOW: u64 = 32 << 10;
const MAX_WINDOW: u64 = 4 << 20;
/// What the window grows by in the course of one window, once it has been halved.
const GROWTH: u64 = 16 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Window {
    bytes: u64,
    /// From here on it grows slowly.
    threshold: u64,
    /// No further halving before this number is acknowledged.
    recovered_at: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { bytes: FIRST_WINDOW, threshold: u64::MAX, recovered_at: 0 }
    }
}

impl Window {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The slowest current peer has acknowledged so many bytes more, up to that message.
    pub(super) fn widen(&mut self, acked_bytes: u64, acked: u64) {
        if acked < self.recovered_at {
            return;
        }
        let growth = if self.bytes < self.threshold { acked_bytes } else { GROWTH * acked_bytes / self.bytes };
        self.bytes = (self.bytes + growth).min(MAX_WINDOW);
    }

    /// Something was lost that is not acknowledged by the slowest current peer, which has all below `slowest`.
    pub(super) fn halve(&mut self, slowest: u64, sent: u64) {
        if slowest >= self.recovered_at {
            self.bytes = (self.bytes / 2).max(MIN_WINDOW);
            self.threshold = self.bytes;
            self.recovered_at = sent;
        }
    }
}
