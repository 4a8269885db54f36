//! The store under faults: voters with the real log, snapshots, state, leases and watches, on a virtual clock and a
//! simulated network, and clients whose every answer is checked.

mod client;
mod faults;
mod history;
mod lease;
mod nemesis;
mod network;
#[path = "../storage/random.rs"]
mod random;
mod session;
mod voter;
mod watcher;

use std::sync::atomic::{AtomicU64, Ordering};

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use crate::random::seeds;

#[test]
fn what_was_answered_is_true_whatever_fails() {
    let sums: [AtomicU64; 6] = Default::default();
    let name = "what_was_answered_is_true_whatever_fails";
    let began = std::time::Instant::now();
    seeds(name, 0..200, |seed| {
        let report = SimRuntime::with_seed(seed).block_on(nemesis::scenario(seed));
        for (sum, number) in sums.iter().zip(report.numbers()) {
            sum.fetch_add(number, Ordering::Relaxed);
        }
    });
    let [operations, unknown, crashes, terms, installed, leases] = sums.map(AtomicU64::into_inner);
    eprintln!(
        "{operations} operations, {unknown} of them unanswered, {crashes} crashes, {terms} terms, {installed} snapshots \
         installed, {leases} leases ended, in {:?}",
        began.elapsed()
    );
    // A few seeds may do without.
    if crashes > 200 {
        assert!(operations > 1000 && unknown > 10 && terms > 100, "the faults have an effect");
        assert!(installed > 10 && leases > 50, "snapshots are sent, and leases end");
    }
}

#[test]
fn a_seed_decides_everything() {
    let trace = |seed| {
        let mut runtime = SimRuntime::with_seed(seed);
        runtime.record_trace(true);
        runtime.block_on(nemesis::scenario(seed));
        runtime.take_trace()
    };
    let (first, second) = (trace(5), trace(5));
    assert!(first.len() > 10_000, "{}", first.len());
    assert!(first == second, "two runs of one seed differ");
}
