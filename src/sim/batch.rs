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
pub(crate) struct Job<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) size: usize,
    pub(crate) seed: u64,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    jobs: Vec<Job<'a>>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(jobs: Vec<Job<'a>>) -> Self {
        Self { jobs }
    }

    /// Does all runs, in their order. Those that are stopped halfway are left out.
    pub(crate) fn run(&self, control: &Control) -> Vec<Outcome> {
        let (next, large) = (AtomicUsize::new(0), Mutex::new(()));
        let outcomes = Mutex::new(Vec::new());
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(self.jobs.len());
        let work = || {
            while !control.stop.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(job) = self.jobs.get(index) else { break };
                let alone = (job.size >= LARGE).then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
                let outcome = run(job.scenario, job.size, job.seed, control);
                drop(alone);
                control.done.fetch_add(1, Ordering::Relaxed);
                if !control.stop.load(Ordering::Relaxed) {
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((index, outcome));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }
}
