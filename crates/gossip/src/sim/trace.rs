//! The last steps of a run, for whoever looks into a violation.

use std::{collections::VecDeque, fmt::Write as _, time::Duration};

use super::agenda::Time;

/// See the [module](self). Costs nothing when it is off.
#[derive(Debug)]
pub(crate) struct Trace {
    capacity: usize,
    lines: VecDeque<String>,
}

impl Trace {
    pub(super) fn off() -> Self {
        Self::of(0)
    }

    /// Keeps the last so many steps.
    pub(super) fn of(capacity: usize) -> Self {
        Self { capacity, lines: VecDeque::new() }
    }

    pub(super) fn note(&mut self, step: u64, at: Time, what: impl FnOnce() -> String) {
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
