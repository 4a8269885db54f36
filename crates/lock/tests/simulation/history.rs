//! What clients believed, and what has become of them.

use std::{collections::BTreeMap, time::Duration};

use broadcast_lock::Mode;
use broadcast_store::machine::LeaseEndReason;

use crate::{
    checks::{Grant, Log, are_compatible},
    journal::Journal,
    register::Register,
};

/// A session, as the client knows it that has opened it.
#[derive(Clone, Debug)]
pub(crate) struct SessionRecord {
    /// Its time to live and its lock-delay.
    pub(crate) lifetime: Duration,
    /// When it was opened, or the last keepalive was sent that was confirmed.
    pub(crate) last_keepalive: Duration,
}

/// What a client believed of its entry in a queue.
#[derive(Clone, Debug)]
pub(crate) struct ClientBelief {
    /// Until when its session was sure to live.
    pub(crate) deadline: Duration,
    /// Until when its client took itself for the holder, if it ever did.
    pub(crate) holds_until: Option<Duration>,
}

/// An answer to a client that its entry had gone.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) token: u64,
    pub(crate) at: Duration,
    /// What the client was about to do.
    pub(crate) what: &'static str,
}

/// All of it.
#[derive(Default)]
pub(crate) struct History {
    failures: Vec<String>,
    states: BTreeMap<u64, u32>,
    pub(crate) sessions: BTreeMap<i64, SessionRecord>,
    pub(crate) beliefs: BTreeMap<u64, ClientBelief>,
    pub(crate) denials: Vec<Denial>,
    /// Sessions that had ended before their deadline, as their clients were told: somebody has ended them.
    pub(crate) lost_sessions: Vec<i64>,
    pub(crate) register: Register,
    /// When the faults were over.
    pub(crate) calm_since: Option<Duration>,
}

/// What passes at least, in a time to live, by the fastest of all clocks.
fn least(lifetime: Duration) -> Duration {
    lifetime * 99 / 100
}

impl History {
    pub(crate) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Notes the state of a voter at an index, which must be that of all others there.
    pub(crate) fn check_state(&mut self, voter: u64, index: u64, hash: u32) {
        let before = *self.states.entry(index).or_insert(hash);
        if before != hash {
            self.fail(format!("the state of voter {voter} at index {index} is another than that of others"));
        }
    }

    /// Notes that a keepalive was confirmed that was sent then.
    pub(crate) fn note_keepalive(&mut self, session: i64, sent: Duration) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.last_keepalive = session.last_keepalive.max(sent);
        }
    }

    /// Checks all that can be checked at the end.
    pub(crate) fn check(&mut self, journal: &Journal) -> Log {
        let log = Log::read(journal);
        let mut problems = log.problems.clone();
        problems.extend(self.sessions_ended_early(&log));
        problems.extend(self.overlapping_holders(&log));
        for denial in &self.denials {
            let Some(belief) = self.beliefs.get(&denial.token) else { continue };
            if denial.at < self.reliable_until(&log, denial.token, belief.deadline) {
                let Denial { token, at, what } = denial;
                problems.push(format!("the place {token} was to {what}, and has gone early, at {at:?}: {belief:?}"));
            }
        }
        let never_ended = |session: &&i64| !log.ended.contains_key(*session);
        problems.extend(
            self.lost_sessions.iter().filter(never_ended).map(|session| format!("session {session} has never ended")),
        );
        let Register { value, accepted, .. } = self.register;
        if value != accepted {
            problems.push(format!("{accepted} writes were accepted, and the number is {value}"));
        }
        self.failures.extend(problems);
        log
    }

    /// Sessions that have ended before their time.
    fn sessions_ended_early(&self, log: &Log) -> Vec<String> {
        let ended = log.ended.iter().filter(|(_, (why, _))| *why == LeaseEndReason::Expired);
        let early = ended.filter_map(|(session, (_, at))| {
            let record = self.sessions.get(session)?;
            let not_before = record.last_keepalive + least(record.lifetime);
            (*at < not_before)
                .then(|| format!("session {session} has ended at {at:?}, before {not_before:?}: {record:?}"))
        });
        early.collect()
    }

    /// Until when an entry may be relied on that would be so until its deadline, had nobody taken it away.
    fn reliable_until(&self, log: &Log, token: u64, deadline: Duration) -> Duration {
        log.forced.get(&token).map_or(deadline, |forced| deadline.min(*forced))
    }

    /// Entries that were granted while clients held the lock, by their clocks, in ways that do not go with it.
    fn overlapping_holders(&self, log: &Log) -> Vec<String> {
        let mut problems = Vec::new();
        for grants in &log.grants {
            for (at, grant) in grants.iter().enumerate() {
                let holds = |earlier: &&Grant| {
                    let belief = self.beliefs.get(&earlier.token);
                    let until = belief.and_then(|belief| belief.holds_until);
                    until.is_some_and(|until| self.reliable_until(log, earlier.token, until) > grant.at)
                };
                let mut modes: Vec<Mode> = grants[..at].iter().filter(holds).map(|earlier| earlier.mode).collect();
                modes.push(grant.mode);
                if !are_compatible(&modes) {
                    let others: Vec<_> = grants[..at].iter().filter(holds).collect();
                    problems
                        .push(format!("{grant:?} was granted, and these held the lock by their clocks: {others:?}"));
                }
            }
        }
        problems
    }
}
