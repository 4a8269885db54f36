//! Many runs, as many at a time as the machine has cores.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    figures::Outcome,
    run::{Control, run},
    scenario::Scenario,
};

/// From this size on runs take so much memory that they go one at a time.
const LARGE: usize = 4000;

/// One run to do.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What is run.
    pub scenario: &'a Scenario,
    /// With how many nodes at the start.
    pub size: usize,
    /// What all that is random in it comes from.
    pub seed: u64,
}

/// Many runs, on all processors.
#[derive(Debug)]
pub struct Batch<'a> {
    jobs: Vec<Job<'a>>,
}

impl<'a> Batch<'a> {
    /// Of these runs.
    #[must_use]
    pub fn new(jobs: Vec<Job<'a>>) -> Self {
        Self { jobs }
    }

    /// Does all runs, in their order. Those that are stopped halfway are left out.
    #[must_use]
    pub fn run(&self, control: &Control) -> Vec<Outcome> {
        let large = Mutex::new(());
        in_parallel(self.jobs.len(), control, |index| {
            let job = self.jobs[index];
            let alone = (job.size >= LARGE).then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
            let outcome = run(job.scenario, job.size, job.seed, control);
            drop(alone);
            outcome
        })
    }
}

/// Does so many things, as many at a time as the machine has cores, and gives what came of them, in their
/// order. Those that are stopped halfway are left out.
pub(super) fn in_parallel<T: Send>(count: usize, control: &Control, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(count);
    let take = || {
        while !control.stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            let result = work(index);
            control.done.fetch_add(1, Ordering::Relaxed);
            if !control.stop.load(Ordering::Relaxed) {
                done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(take);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
