//! Runs many jobs, as many at a time as the machine has cores.

use std::{
    num::NonZero,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    outcome::RunOutcome,
    run::{RunControl, run},
    scenario::Scenario,
};

/// Runs of this size and larger take so much memory that they run one at a time.
const LARGE_RUN: usize = 4000;

/// One run of a scenario, at one size and with one seed.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// How many nodes there are at the start.
    pub size: usize,
    /// The seed of all randomness.
    pub seed: u64,
}

/// Jobs to run on all cores. [`RunControl`] has an example.
#[derive(Debug)]
pub struct Batch<'a> {
    jobs: Vec<Job<'a>>,
}

impl<'a> Batch<'a> {
    /// A batch of these jobs.
    #[must_use]
    pub fn new(jobs: Vec<Job<'a>>) -> Self {
        Self { jobs }
    }

    /// Runs all jobs, and returns their outcomes in order, without those of runs that were stopped halfway.
    #[must_use]
    pub fn run(&self, control: &RunControl) -> Vec<RunOutcome> {
        let large = Mutex::new(());
        in_parallel(self.jobs.len(), control, |index| {
            let job = self.jobs[index];
            let alone = (job.size >= LARGE_RUN).then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
            let outcome = run(job.scenario, job.size, job.seed, control);
            drop(alone);
            outcome
        })
    }
}

/// Calls `work` with each index, on all cores, and returns the results in order, without those that were stopped halfway.
pub(super) fn in_parallel<T: Send>(count: usize, control: &RunControl, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
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
