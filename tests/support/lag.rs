//! How late this machine is: what has a deadline may miss it where nobody gets a processor in time.

use std::{
    collections::VecDeque,
    sync::{Mutex, Once, PoisonError},
    thread,
    time::{Duration, Instant},
};

const STEP: Duration = Duration::from_millis(5);
/// How long is looked back at most.
const KEPT: Duration = Duration::from_secs(30);

static STARTED: Once = Once::new();
/// When steps ended, and by how much they were late.
static LATE: Mutex<VecDeque<(Instant, Duration)>> = Mutex::new(VecDeque::new());

/// Begins to look.
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

/// By how much a thread that had to do something since then may have been late: twice what one was that did nothing.
pub fn allowed(since: Instant) -> Duration {
    let late = LATE.lock().unwrap_or_else(PoisonError::into_inner);
    2 * late.iter().filter(|(at, _)| *at >= since).map(|(_, late)| *late).max().unwrap_or_default()
}
