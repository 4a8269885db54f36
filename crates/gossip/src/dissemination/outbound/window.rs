//! Congestion control: how fast an origin may send.
//!
//! A window bounds the bytes under way to the slowest current peer. It grows with acknowledgements and is halved when
//! something is asked for again, as TCP's does (RFC 5681, sections 3.1 and 3.2; once per window, as in RFC 6582).

/// The size of the window in bytes: the first one, the least and the most. A larger window uses more of a fast network; a
/// smaller one loses less where a slow one is full.
const FIRST_WINDOW: u64 = 128 << 10;
const MIN_WINDOW: u64 = 32 << 10;
const MAX_WINDOW: u64 = 4 << 20;
/// By how many bytes the window grows per window, once it has been halved.
const GROWTH: u64 = 16 << 10;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct CongestionWindow {
    bytes: u64,
    /// At this size slow start ends, and it grows slowly.
    slow_start_threshold: u64,
    /// It is not halved again before this number is acknowledged.
    recovery_point: u64,
}

impl Default for CongestionWindow {
    fn default() -> Self {
        Self { bytes: FIRST_WINDOW, slow_start_threshold: u64::MAX, recovery_point: 0 }
    }
}

impl CongestionWindow {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The slowest current peer has acknowledged `acked_bytes` more, up to message `acked`.
    pub(super) fn grow(&mut self, acked_bytes: u64, acked: u64) {
        if acked < self.recovery_point {
            return;
        }
        let growth =
            if self.bytes < self.slow_start_threshold { acked_bytes } else { GROWTH * acked_bytes / self.bytes };
        self.bytes = (self.bytes + growth).min(MAX_WINDOW);
    }

    /// A message was lost on its way to the slowest current peer, which has everything below `slowest`.
    pub(super) fn halve(&mut self, slowest: u64, sent: u64) {
        if slowest >= self.recovery_point {
            self.bytes = (self.bytes / 2).max(MIN_WINDOW);
            self.slow_start_threshold = self.bytes;
            self.recovery_point = sent;
        }
    }
}
