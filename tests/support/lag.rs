//! How late threads of this machine wake up. If a busy machine gives nobody a processor in time, a deadline may be missed.

use std::{
    collections::VecDeque,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

const STEP: Duration = Duration::from_millis(5);
/// How long measurements are kept.
const KEPT: Duration = Duration::from_secs(30);

static STARTED: Once = Once::new();
/// When steps ended, and by how much they were late.
static LATE: Mutex<VecDeque<(Instant, Duration)>> = Mutex::new(VecDeque::new());

/// Starts measuring.
pub fn watch() {
    STARTED.call_once(|| {
        thread::spawn(|| {
            loop {
                let began = Instant::now();
                thread::sleep(STEP);
                let now = Instant::now();
                let mut late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
                late.push_back((now, (now - began).saturating_sub(STEP)));
                while late.front().is_some_and(|(at, _)| now - *at > KEPT) {
                    late.pop_front();
                }
            }
        });
    });
}

/// By how much a thread may have been late since then: twice as much as an idle thread was.
pub fn allowed(since: Instant) -> Duration {
    let late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
    2 * late.iter().filter(|(at, _)| *at >= since).map(|(_, late)| *late).max().unwrap_or_default()
}
