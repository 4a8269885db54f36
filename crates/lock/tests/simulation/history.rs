//! What clients believed, and what has become of them.

use std::{collections::BTreeMap, time::Duration};

use broadcast_lock::Mode;
use broadcast_store::machine::LeaseEndReason;

use crate::{
    checks::{Grant, Log, fit},
    journal::Journal,
    register::Register,
};

/// A session, from who has opened it.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// Its time to live and its lock-delay.
    pub(crate) lives: Duration,
    /// When it was opened, or the last keepalive was sent that was confirmed.
    pub(crate) kept: Duration,
}

/// A place, from who has it.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    /// Until when its session was sure to live.
    pub(crate) deadline: Duration,
    /// Until when its client took itself for the holder, if it ever did.
    pub(crate) until: Option<Duration>,
}

/// A place that had gone, as its client was told.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(crate) token: u64,
    pub(crate) at: Duration,
    /// What it was about to do.
    pub(crate) what: &'static str,
}

/// All of it.
#[derive(Default)]
pub(crate) struct History {
    failures: Vec<String>,
    states: BTreeMap<u64, u32>,
    pub(crate) sessions: BTreeMap<i64, Opened>,
    pub(crate) stays: BTreeMap<u64, Stay>,
    pub(crate) denied: Vec<Denied>,
    /// Sessions that had ended before their deadline, as their clients were told: somebody has ended them.
    pub(crate) gone: Vec<i64>,
    pub(crate) register: Register,
    /// When the faults were over.
    pub(crate) calm_since: Option<Duration>,
}

/// What passes at least, in a time to live, by the fastest of all clocks.
fn least(lives: Duration) -> Duration {
    lives * 99 / 100
}

impl History {
    pub(crate) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// The state of a voter at an index.
    pub(crate) fn state(&mut self, voter: u64, index: u64, hash: u32) {
        let before = *self.states.entry(index).or_insert(hash);
        if before != hash {
            self.fail(format!("the state of voter {voter} at index {index} is another than that of others"));
        }
    }

    /// A keepalive was confirmed that was sent then.
    pub(crate) fn kept(&mut self, session: i64, sent: Duration) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.kept = session.kept.max(sent);
        }
    }

    /// Checks all that can be checked at the end.
    pub(crate) fn check(&mut self, journal: &Journal) -> Log {
        let log = Log::read(journal);
        let mut problems = log.problems.clone();
        problems.extend(self.early(&log));
        problems.extend(self.together(&log));
        for denied in &self.denied {
            let Some(stay) = self.stays.get(&denied.token) else { continue };
            if denied.at < self.until(&log, denied.token, stay.deadline) {
                let Denied { token, at, what } = denied;
                problems.push(format!("the place {token} was to {what}, and has gone early, at {at:?}: {stay:?}"));
            }
        }
        let is_gone = |session: &&i64| !log.ended.contains_key(*session);
        problems.extend(self.gone.iter().filter(is_gone).map(|session| format!("session {session} has never ended")));
        let Register { value, accepted, .. } = self.register;
        if value != accepted {
            problems.push(format!("{accepted} writes were accepted, and the number is {value}"));
        }
        self.failures.extend(problems);
        log
    }

    /// Sessions that have ended before their time.
    fn early(&self, log: &Log) -> Vec<String> {
        let ended = log.ended.iter().filter(|(_, (why, _))| *why == LeaseEndReason::Expired);
        let early = ended.filter_map(|(session, (_, at))| {
            let opened = self.sessions.get(session)?;
            let not_before = opened.kept + least(opened.lives);
            (*at < not_before)
                .then(|| format!("session {session} has ended at {at:?}, before {not_before:?}: {opened:?}"))
        });
        early.collect()
    }

    /// Until when a place may be relied on that would be so until its deadline, had nobody taken it away.
    fn until(&self, log: &Log, token: u64, deadline: Duration) -> Duration {
        log.forced.get(&token).map_or(deadline, |forced| deadline.min(*forced))
    }

    /// Places that were granted while clients held the lock that do not share it.
    fn together(&self, log: &Log) -> Vec<String> {
        let mut problems = Vec::new();
        for grants in &log.grants {
            for (at, grant) in grants.iter().enumerate() {
                let holds = |earlier: &&Grant| {
                    let stay = self.stays.get(&earlier.token);
                    let until = stay.and_then(|stay| stay.until);
                    until.is_some_and(|until| self.until(log, earlier.token, until) > grant.at)
                };
                let mut modes: Vec<Mode> = grants[..at].iter().filter(holds).map(|earlier| earlier.mode).collect();
                modes.push(grant.mode);
                if !fit(&modes) {
                    let others: Vec<_> = grants[..at].iter().filter(holds).collect();
                    problems
                        .push(format!("{grant:?} was granted, and these held the lock by their clocks: {others:?}"));
                }
            }
        }
        problems
    }
}
