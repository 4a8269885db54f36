//! A trace of a run's last steps, to see what led to a violation.

use std::{collections::VecDeque, fmt::Write as _, time::Duration};

use super::event_queue::VirtualTime;

/// See the [module](self). It costs nothing if it is off.
#[derive(Debug)]
pub(crate) struct Trace {
    capacity: usize,
    lines: VecDeque<String>,
}

impl Trace {
    pub(super) fn off() -> Self {
        Self::of(0)
    }

    /// A trace of the last steps, of so many.
    pub(super) fn of(capacity: usize) -> Self {
        Self { capacity, lines: VecDeque::new() }
    }

    pub(super) fn note(&mut self, step: u64, at: VirtualTime, what: impl FnOnce() -> String) {
        if self.capacity == 0 {
            return;
        }
        if self.lines.len() == self.capacity {
            self.lines.pop_front();
        }
        let mut line = String::new();
        let _ = write!(line, "step {step}, {:.6} s: {}", Duration::from_nanos(at).as_secs_f64(), what());
        self.lines.push_back(line);
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
