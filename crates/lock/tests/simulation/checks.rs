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

use crate::journal::{Journal, LOCKS, MachineEvent, Queue, QueueEntry, Step};

/// An entry that was granted.
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
    /// The tokens of entries that were not granted at once.
    pub(crate) waited: BTreeSet<u64>,
    /// When entries were taken away, by their tokens.
    pub(crate) forced: BTreeMap<u64, Duration>,
    /// Why sessions have ended, and when.
    pub(crate) ended: BTreeMap<i64, (LeaseEndReason, Duration)>,
    sessions: BTreeSet<i64>,
    fences: BTreeMap<Name, u64>,
    last_token: u64,
}

/// Whether a lock may be held in these ways at a time.
pub(crate) fn are_compatible(modes: &[Mode]) -> bool {
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
    let modes: Vec<Mode> = queue.held.iter().map(|entry| entry.mode).chain([mode]).collect();
    are_compatible(&modes)
}

fn holder(queues: &[Queue], lock: &Name, token: u64) -> Option<QueueEntry> {
    let lock = LOCKS.iter().position(|name| *name == lock.as_str())?;
    queues[lock].held.iter().find(|entry| entry.token == token).copied()
}

impl Log {
    pub(crate) fn read(journal: &Journal) -> Self {
        let mut log = Self { problems: journal.problems.clone(), ..Self::default() };
        log.grants = vec![Vec::new(); LOCKS.len()];
        let mut before = vec![Queue::default(); LOCKS.len()];
        for (index, (at, step)) in &journal.steps {
            let known = log.problems.len();
            log.check_outcome(&before, *at, step);
            log.check_queues(&before, *at, step);
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
    fn check_outcome(&mut self, before: &[Queue], at: Duration, step: &Step) {
        let in_queue = |token: u64, session: i64| {
            let mut all = before.iter().flat_map(|queue| queue.held.iter().chain(&queue.waiting));
            all.any(|entry| (entry.token, entry.session) == (token, session))
        };
        match &step.event {
            MachineEvent::LeaseEnded(session, why) => {
                if !self.sessions.remove(session) {
                    self.problem("a session ends that there is not");
                }
                self.ended.insert(*session, (*why, at));
                if *why == LeaseEndReason::Revoked {
                    // Somebody may have taken another lock of it away.
                    let all = before.iter().flat_map(|queue| queue.held.iter().chain(&queue.waiting));
                    self.forced.extend(all.filter(|entry| entry.session == *session).map(|entry| (entry.token, at)));
                }
            }
            MachineEvent::Command(LockCommand::OpenSession { session, .. }, LockOutcome::Done) => {
                self.sessions.insert(*session);
            }
            MachineEvent::Command(LockCommand::Acquire(acquire), LockOutcome::Queued { token, granted }) => {
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
            MachineEvent::Command(LockCommand::Acquire(acquire), LockOutcome::Taken { .. }) => {
                let free = |name: &Name| {
                    let lock = LOCKS.iter().position(|each| *each == name.as_str()).expect("one of them");
                    before[lock].waiting.is_empty() && admits(&before[lock], acquire.mode)
                };
                if acquire.waits || acquire.names.iter().all(free) {
                    self.problem("a lock is refused that is free");
                }
            }
            MachineEvent::Command(LockCommand::Acquire(acquire), LockOutcome::Refused(Refusal::NoSession { .. }))
                if !self.sessions.contains(&acquire.session) => {}
            MachineEvent::Command(
                LockCommand::Acquire(acquire),
                LockOutcome::Refused(Refusal::AlreadyQueued { token, .. }),
            ) if in_queue(*token, acquire.session) => {}
            MachineEvent::Command(LockCommand::Release { session, token, .. }, outcome) => {
                if matches!(outcome, LockOutcome::Released { .. }) != in_queue(*token, *session) {
                    self.problem("a place is released that there is not, or the other way round");
                }
            }
            MachineEvent::Command(LockCommand::ForceRelease { name }, LockOutcome::Released { tokens }) => {
                if !tokens.iter().all(|token| holder(before, name, *token).is_some()) {
                    self.problem("a lock is taken from who does not hold it");
                }
                // And with them all that their sessions have.
                let all = || before.iter().flat_map(|queue| queue.held.iter().chain(&queue.waiting));
                let sessions: BTreeSet<i64> =
                    all().filter(|entry| tokens.contains(&entry.token)).map(|entry| entry.session).collect();
                self.forced
                    .extend(all().filter(|entry| sessions.contains(&entry.session)).map(|entry| (entry.token, at)));
            }
            MachineEvent::Command(LockCommand::ForceRelease { .. }, LockOutcome::Refused(Refusal::Free { .. })) => {}
            MachineEvent::Command(LockCommand::Proclaim { session, token, .. }, outcome) => {
                let held = before.iter().flat_map(|queue| &queue.held);
                let mut held = held.filter(|entry| (entry.token, entry.session) == (*token, *session));
                if (*outcome == LockOutcome::Done) != held.any(|entry| entry.mode == Mode::Exclusive) {
                    self.problem("who does not hold the lock says something, or who does may not");
                }
            }
            MachineEvent::Command(LockCommand::FencedWrite { name, token, .. }, outcome) => {
                let holds = holder(before, name, *token).is_some_and(|entry| entry.mode == Mode::Exclusive);
                if matches!(outcome, LockOutcome::Keys(_)) != holds {
                    self.problem("a fenced key is changed by who does not hold the lock, or who does may not");
                }
            }
            MachineEvent::Command(LockCommand::RaiseFence { name, token }, outcome) => {
                let highest = self.fences.entry(name.clone()).or_default();
                let admits = token >= highest;
                *highest = (*highest).max(*token);
                if (*outcome == LockOutcome::Done) != admits {
                    self.problem("an older token is let through, or a newer one is not");
                }
            }
            MachineEvent::Command(..) => self.problem("an outcome that should not be"),
        }
    }

    /// Whether the right ones hold each lock and wait for it.
    fn check_queues(&mut self, before: &[Queue], at: Duration, step: &Step) {
        for (lock, queue) in step.queues.iter().enumerate() {
            let modes: Vec<Mode> = queue.held.iter().map(|entry| entry.mode).collect();
            if !are_compatible(&modes) {
                self.problem(format!("too many hold lock {lock}"));
            }
            if let Some(entry) =
                queue.held.iter().chain(&queue.waiting).find(|entry| !self.sessions.contains(&entry.session))
            {
                self.problem(format!("{entry:?} is of a session that there is not"));
            }
            let held_before = |token: u64| before[lock].held.iter().any(|entry| entry.token == token);
            for entry in queue.held.iter().filter(|entry| !held_before(entry.token)) {
                let last = self.grants[lock].last().map_or(0, |grant| grant.token);
                let passed = queue.waiting.iter().find(|waiting| waiting.token < entry.token);
                if entry.token <= last || passed.is_some() {
                    self.problem(format!("{entry:?} is granted after {last}, before {passed:?}"));
                }
                self.grants[lock].push(Grant { token: entry.token, mode: entry.mode, at });
            }
            if let Some(first) = queue.waiting.first()
                && self.could_be_granted(&step.queues, first)
            {
                self.problem(format!("{first:?} waits for locks that are free"));
            }
        }
    }

    /// Whether nobody keeps an entry that waits from any of its locks.
    fn could_be_granted(&self, queues: &[Queue], entry: &QueueEntry) -> bool {
        let of_it = queues.iter().filter(|queue| queue.waiting.iter().any(|each| each.token == entry.token));
        let mut of_it = of_it.map(|queue| queue.waiting[0].token == entry.token && admits(queue, entry.mode));
        of_it.all(|is_free| is_free)
    }
}
