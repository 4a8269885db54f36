//! Locks under faults: the voters of the store's simulation with the machine of locks, and clients that take locks, pause,
//! vanish and write; and whether what they believed was true.

mod checks;
mod client;
#[path = "../../../store/tests/simulation/faults.rs"]
mod faults;
mod history;
mod journal;
mod keeper;
mod nemesis;
#[path = "../../../store/tests/simulation/network.rs"]
mod network;
#[path = "../../../store/tests/storage/random.rs"]
mod random;
mod register;
#[path = "../../../store/tests/simulation/session.rs"]
mod session;
#[path = "../../../store/tests/simulation/voter.rs"]
mod voter;

use std::sync::atomic::{AtomicU64, Ordering};

use openraft::AsyncRuntime as _;
use openraft_rt_sim::SimRuntime;

use crate::random::seeds;

#[test]
fn who_holds_a_lock_is_alone_whatever_fails() {
    let sums: [AtomicU64; 10] = Default::default();
    let name = "who_holds_a_lock_is_alone_whatever_fails";
    let began = std::time::Instant::now();
    seeds(name, 0..40, |seed| {
        let report = SimRuntime::with_seed(seed).block_on(nemesis::scenario(seed));
        for (sum, number) in sums.iter().zip(report) {
            sum.fetch_add(number, Ordering::Relaxed);
        }
    });
    let [commands, grants, waited, forced, expired, accepted, refused, crashes, terms, installed] =
        sums.map(AtomicU64::into_inner);
    eprintln!(
        "{commands} commands, {grants} grants, {waited} places that waited, {forced} forced, {expired} sessions expired, \
         {accepted} writes accepted outside, {refused} refused, {crashes} crashes, {terms} terms, {installed} snapshots \
         installed, in {:?}",
        began.elapsed()
    );
    // A few seeds may do without.
    if crashes > 100 {
        assert!(commands > 1000 && grants > 500 && waited > 100, "locks are taken, and waited for");
        assert!(forced > 10 && expired > 50, "locks are taken away, and sessions end");
        assert!(accepted > 100 && refused > 5, "some hold, and some write too late");
        assert!(terms > 50 && installed > 5, "leaders change, and snapshots are sent");
    }
}

#[test]
fn a_seed_decides_everything() {
    let trace = |seed| {
        let mut runtime = SimRuntime::with_seed(seed);
        runtime.record_trace(true);
        let report = runtime.block_on(nemesis::scenario(seed));
        (report, runtime.take_trace())
    };
    let (first, second) = (trace(5), trace(5));
    assert!(first.1.len() > 10_000, "{}", first.1.len());
    assert!(first == second, "two runs of one seed differ");
}
