//! When leases run out, by the clock of the leader.
//!
//! Only the leader measures time, and a new leader gives every lease its full time again: so no lease ends early
//! because of another clock, and one that is kept alive never ends because of an election. What runs out is proposed as
//! a command to expire it that names the leader's term. In another term it is refused.
//!
//! A keepalive goes through no log. Therefore it is answered only after this node has confirmed that it still leads:
//! after that, call [`LeaseTimers::keep_alive`]. A lease whose expiry is proposed cannot be kept alive any more: whether
//! the command is applied is not known.
//!
//! `now` is the time since the machine was booted, which goes on while it is suspended (`CLOCK_BOOTTIME`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Leases, Outcome};
use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timer {
    ttl: Duration,
    /// When it runs out; when to propose again, if that has happened.
    deadline: Duration,
    /// Whether its expiry is proposed, and may be applied at any time.
    expiring: bool,
}

/// The leader's deadlines. A node that does not lead has none.
#[derive(Clone, Debug, Default)]
pub struct LeaseTimers {
    term: Option<u64>,
    timers: BTreeMap<i64, Timer>,
    /// Those that run, and those whose expiry is to be proposed again.
    deadlines: BTreeSet<(Duration, i64)>,
    /// The number of the leases' changes when all that there were had a timer.
    reconciled: Option<u64>,
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

impl LeaseTimers {
    /// Nothing runs: this node does not lead.
    pub fn new() -> Self {
        Self::default()
    }

    /// This node leads from now on, in this term: all leases start in full. It has applied all that was committed in
    /// earlier terms.
    pub fn lead(&mut self, now: Duration, term: u64, leases: &Leases) {
        self.follow();
        self.term = Some(term);
        for (lease, ttl) in leases.iter() {
            self.granted(now, lease, ttl);
        }
    }

    /// This node does not lead any more: nothing runs out, and nothing is kept alive.
    pub fn follow(&mut self) {
        *self = Self::default();
    }

    /// The term in which this node leads, if it does: what a command to expire a lease names.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// A lease was granted: its command was applied.
    pub fn granted(&mut self, now: Duration, lease: i64, ttl: i64) {
        if self.term.is_some() {
            self.ended(lease);
            let ttl = seconds(ttl);
            self.set(lease, Timer { ttl, deadline: now.saturating_add(ttl), expiring: false });
        }
    }

    /// A lease has ended: its command was applied.
    pub fn ended(&mut self, lease: i64) {
        if let Some(timer) = self.timers.remove(&lease) {
            self.deadlines.remove(&(timer.deadline, lease));
        }
    }

    /// Times what was granted, and forgets what has ended, without this node having been told: whoever asked may have
    /// gone before the answer. To be called now and then while it leads.
    pub fn reconcile(&mut self, now: Duration, leases: &Leases) {
        if self.term.is_none() || self.reconciled == Some(leases.changes()) {
            return;
        }
        self.reconciled = Some(leases.changes());
        let ended: Vec<i64> = self.timers.keys().copied().filter(|lease| !leases.contains(*lease)).collect();
        ended.into_iter().for_each(|lease| self.ended(lease));
        for (lease, ttl) in leases.iter() {
            if !self.timers.contains_key(&lease) {
                self.granted(now, lease, ttl);
            }
        }
    }

    fn set(&mut self, lease: i64, timer: Timer) {
        if let Some(before) = self.timers.insert(lease, timer) {
            self.deadlines.remove(&(before.deadline, lease));
        }
        self.deadlines.insert((timer.deadline, lease));
    }

    /// A lease is kept alive, and after that was asked for, this node has confirmed that it leads. Answers how long it
    /// lives from now on; nothing, if it is not there, or its expiry is proposed. The former is as good as ended; of
    /// the latter it will be known soon.
    pub fn keep_alive(&mut self, now: Duration, lease: i64) -> Option<Duration> {
        let timer = *self.timers.get(&lease).filter(|timer| !timer.expiring)?;
        self.set(lease, Timer { deadline: now.saturating_add(timer.ttl), ..timer });
        Some(timer.ttl)
    }

    /// How long a lease has left; zero, if its expiry is proposed.
    pub fn remaining(&self, now: Duration, lease: i64) -> Option<Duration> {
        let timer = self.timers.get(&lease)?;
        Some(if timer.expiring { Duration::ZERO } else { timer.deadline.saturating_sub(now) })
    }

    /// When [`LeaseTimers::due`] has something next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases that have run out, the longest ago first, `most` at most. To expire each of them is proposed, in
    /// [`LeaseTimers::term`]. From now on they cannot be kept alive.
    pub fn due(&mut self, now: Duration, most: usize) -> Vec<i64> {
        let mut due = Vec::new();
        while let Some(&(deadline, lease)) = self.deadlines.first()
            && deadline <= now
            && due.len() < most
        {
            self.deadlines.pop_first();
            if let Some(timer) = self.timers.get_mut(&lease) {
                timer.expiring = true;
                due.push(lease);
            }
        }
        due
    }

    /// Times a lease that there is, unless it is timed already: one that another machine's command has granted.
    pub fn ensure(&mut self, now: Duration, lease: i64, ttl: i64) {
        if !self.timers.contains_key(&lease) {
            self.granted(now, lease, ttl);
        }
    }

    /// What became of a proposal to expire a lease, made in `term`; nothing, if that is not known. Then, or if it was
    /// refused, it is due again at `again`. Only in that term: if this node has led anew since, the lease runs anew.
    pub fn expiry_outcome(&mut self, again: Duration, term: u64, lease: i64, outcome: Option<&Outcome>) {
        if self.term != Some(term) {
            return;
        }
        match outcome {
            Some(Outcome::LeaseEnded { .. } | Outcome::Refused(Error::LeaseNotFound { .. })) => self.ended(lease),
            _ => self.retry(again, lease),
        }
    }

    /// What became of a proposal to expire a lease is not known, or it was not taken: it is due again at `at`. Until
    /// this node leads anew, the lease cannot be kept alive.
    pub fn retry(&mut self, at: Duration, lease: i64) {
        if let Some(&timer) = self.timers.get(&lease).filter(|timer| timer.expiring) {
            self.set(lease, Timer { deadline: at, ..timer });
        }
    }
}

#[cfg(test)]
mod tests;
