//! Whether what the machine has done, entry by entry, is what locks should do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use broadcast_lock::{
    Mode, Name, Refusal,
    message::{LockCommand, LockOutcome},
};
use broadcast_store::machine::LeaseEndReason;

use crate::journal::{Journal, LOCKS, Queue, Standing, Step, What};

/// A place that was granted.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) token: u64,
    pub(crate) mode: Mode,
    pub(crate) at: Duration,
}

/// What has happened, in the order of the log.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) problems: Vec<String>,
    /// Of each lock, in order.
    pub(crate) grants: Vec<Vec<Grant>>,
    /// Of which places that was not at once.
    pub(crate) waited: BTreeSet<u64>,
    /// When places were taken away.
    pub(crate) forced: BTreeMap<u64, Duration>,
    /// Why sessions have ended, and when.
    pub(crate) ended: BTreeMap<i64, (LeaseEndReason, Duration)>,
    sessions: BTreeSet<i64>,
    fences: BTreeMap<Name, u64>,
    last_token: u64,
}

/// Whether a lock may be held in these ways at a time.
pub(crate) fn fit(modes: &[Mode]) -> bool {
    let permits = modes.iter().map(|mode| match mode {
        Mode::Semaphore { permits } => Some(usize::from(*permits)),
        _ => None,
    });
    match modes {
        [] | [_] => true,
        [Mode::Exclusive, ..] => false,
        [Mode::Shared, ..] => modes.iter().all(|mode| *mode == Mode::Shared),
        [Mode::Semaphore { .. }, ..] => {
            let least = permits.reduce(|least, each| Some(least?.min(each?))).flatten();
            least.is_some_and(|least| modes.len() <= least)
        }
    }
}

fn admits(queue: &Queue, mode: Mode) -> bool {
    let modes: Vec<Mode> = queue.held.iter().map(|place| place.mode).chain([mode]).collect();
    fit(&modes)
}

fn holder(queues: &[Queue], lock: &Name, token: u64) -> Option<Standing> {
    let lock = LOCKS.iter().position(|name| *name == lock.as_str())?;
    queues[lock].held.iter().find(|place| place.token == token).copied()
}

impl Log {
    pub(crate) fn read(journal: &Journal) -> Self {
        let mut log = Self { problems: journal.problems.clone(), ..Self::default() };
        log.grants = vec![Vec::new(); LOCKS.len()];
        let mut before = vec![Queue::default(); LOCKS.len()];
        for (index, (at, step)) in &journal.steps {
            let known = log.problems.len();
            log.see_what(&before, *at, step);
            log.see_queues(&before, *at, step);
            for problem in &mut log.problems[known..] {
                *problem = format!("entry {index:?}: {problem}: {step:?}, after {before:?}");
            }
            before.clone_from(&step.queues);
            // What follows from the first contradiction tells nothing.
            if log.problems.len() > 3 {
                break;
            }
        }
        log
    }

    fn problem(&mut self, what: impl Into<String>) {
        self.problems.push(what.into());
    }

    /// Whether the outcome is right, given how the locks were before.
    fn see_what(&mut self, before: &[Queue], at: Duration, step: &Step) {
        let in_queue = |token: u64, session: i64| {
            let mut all = before.iter().flat_map(|queue| queue.held.iter().chain(&queue.waiting));
            all.any(|place| (place.token, place.session) == (token, session))
        };
        match &step.what {
            What::Ended(session, why) => {
                if !self.sessions.remove(session) {
                    self.problem("a session ends that there is not");
                }
                self.ended.insert(*session, (*why, at));
                if *why == LeaseEndReason::Revoked {
                    // Somebody may have taken another lock of it away.
                    let all = before.iter().flat_map(|queue| queue.held.iter().chain(&queue.waiting));
                    self.forced.extend(all.filter(|place| place.session == *session).map(|place| (place.token, at)));
                }
            }
            What::Command(LockCommand::OpenSession { session, .. }, LockOutcome::Done) => {
                self.sessions.insert(*session);
            }
            What::Command(LockCommand::Acquire(acquire), LockOutcome::Queued { token, granted }) => {
                if acquire.open.is_some() {
                    self.sessions.insert(acquire.session);
                }
                if *token <= self.last_token {
                    self.problem(format!("{} was a token before", self.last_token));
                }
                if *token != step.revision {
                    self.problem("its token is not the revision at which it was taken, so recovery may give it again");
                }
                self.last_token = *token;
                if !granted {
                    self.waited.insert(*token);
                }
                let holds = acquire.names.iter().all(|name| holder(&step.queues, name, *token).is_some());
                if holds != *granted {
                    self.problem("it is said to be granted, and is not, or the other way round");
                }
            }
            What::Command(LockCommand::Acquire(acquire), LockOutcome::Taken { .. }) => {
                let free = |name: &Name| {
                    let lock = LOCKS.iter().position(|each| *each == name.as_str()).expect("one of them");
                    before[lock].waiting.is_empty() && admits(&before[lock], acquire.mode)
                };
                if acquire.waits || acquire.names.iter().all(free) {
                    self.problem("a lock is refused that is free");
                }
            }
            What::Command(LockCommand::Acquire(acquire), LockOutcome::Refused(Refusal::NoSession { .. }))
                if !self.sessions.contains(&acquire.session) => {}
            What::Command(
                LockCommand::Acquire(acquire),
                LockOutcome::Refused(Refusal::AlreadyQueued { token, .. }),
            ) if in_queue(*token, acquire.session) => {}
            What::Command(LockCommand::Release { session, token, .. }, outcome) => {
                if matches!(outcome, LockOutcome::Released { .. }) != in_queue(*token, *session) {
                    self.problem("a place is released that there is not, or the other way round");
                }
            }
            What::Command(LockCommand::ForceRelease { name }, LockOutcome::Released { tokens }) => {
                if !tokens.iter().all(|token| holder(before, name, *token).is_some()) {
                    self.problem("a lock is taken from who does not hold it");
                }
                // And with them all that their sessions have.
                let all = || before.iter().flat_map(|queue| queue.held.iter().chain(&queue.waiting));
                let sessions: BTreeSet<i64> =
                    all().filter(|place| tokens.contains(&place.token)).map(|place| place.session).collect();
                self.forced
                    .extend(all().filter(|place| sessions.contains(&place.session)).map(|place| (place.token, at)));
            }
            What::Command(LockCommand::ForceRelease { .. }, LockOutcome::Refused(Refusal::Free { .. })) => {}
            What::Command(LockCommand::Proclaim { session, token, .. }, outcome) => {
                let held = before.iter().flat_map(|queue| &queue.held);
                let mut held = held.filter(|place| (place.token, place.session) == (*token, *session));
                if (*outcome == LockOutcome::Done) != held.any(|place| place.mode == Mode::Exclusive) {
                    self.problem("who does not hold the lock says something, or who does may not");
                }
            }
            What::Command(LockCommand::FencedWrite { name, token, .. }, outcome) => {
                let holds = holder(before, name, *token).is_some_and(|place| place.mode == Mode::Exclusive);
                if matches!(outcome, LockOutcome::Keys(_)) != holds {
                    self.problem("a fenced key is changed by who does not hold the lock, or who does may not");
                }
            }
            What::Command(LockCommand::RaiseFence { name, token }, outcome) => {
                let highest = self.fences.entry(name.clone()).or_default();
                let admits = token >= highest;
                *highest = (*highest).max(*token);
                if (*outcome == LockOutcome::Done) != admits {
                    self.problem("an older token is let through, or a newer one is not");
                }
            }
            What::Command(..) => self.problem("an outcome that should not be"),
        }
    }

    /// Whether the right ones hold and wait.
    fn see_queues(&mut self, before: &[Queue], at: Duration, step: &Step) {
        for (lock, queue) in step.queues.iter().enumerate() {
            let modes: Vec<Mode> = queue.held.iter().map(|place| place.mode).collect();
            if !fit(&modes) {
                self.problem(format!("too many hold lock {lock}"));
            }
            if let Some(place) =
                queue.held.iter().chain(&queue.waiting).find(|place| !self.sessions.contains(&place.session))
            {
                self.problem(format!("{place:?} is of a session that there is not"));
            }
            let held_before = |token: u64| before[lock].held.iter().any(|place| place.token == token);
            for place in queue.held.iter().filter(|place| !held_before(place.token)) {
                let last = self.grants[lock].last().map_or(0, |grant| grant.token);
                let passed = queue.waiting.iter().find(|waiting| waiting.token < place.token);
                if place.token <= last || passed.is_some() {
                    self.problem(format!("{place:?} is granted after {last}, before {passed:?}"));
                }
                self.grants[lock].push(Grant { token: place.token, mode: place.mode, at });
            }
            if let Some(first) = queue.waiting.first()
                && self.could_have(&step.queues, first)
            {
                self.problem(format!("{first:?} waits for locks that are free"));
            }
        }
    }

    /// Whether nobody keeps a place that waits from any of its locks.
    fn could_have(&self, queues: &[Queue], place: &Standing) -> bool {
        let of_it = queues.iter().filter(|queue| queue.waiting.iter().any(|each| each.token == place.token));
        let mut of_it = of_it.map(|queue| queue.waiting[0].token == place.token && admits(queue, place.mode));
        of_it.all(|is_free| is_free)
    }
}
