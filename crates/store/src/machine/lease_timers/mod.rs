//! When leases run out, by the leader's clock (etcd's lessor).
//!
//! Only the leader measures time, and a new leader gives every lease its full time again. So no lease ends early
//! because of another clock, and one that is kept alive never ends because of an election. The leader proposes a command to
//! expire what has run out, and the command names its term. In another term the state refuses it.
//!
//! A keepalive goes through no log. So the leader needs a read index, which confirms that it still leads, before it calls
//! [`LeaseTimers::keep_alive`] and answers. A lease whose expiry is proposed cannot be kept alive any more: the command may be
//! applied at any time.
//!
//! `now` is the time since the host booted, which goes on while it is suspended (`CLOCK_BOOTTIME`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Leases, Outcome};
use crate::error::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timer {
    ttl: Duration,
    /// When it runs out; once its expiry is proposed, when to propose that again.
    deadline: Duration,
    /// Whether its expiry is proposed, and may be applied at any time.
    expiring: bool,
}

/// The leader's timers for leases. A node that does not lead has none.
///
/// ```
/// use std::time::Duration;
/// use broadcast_store::machine::{LeaseTimers, State};
///
/// let mut timers = LeaseTimers::new();
/// timers.lead(Duration::ZERO, 1, State::new().leases());
/// timers.granted(Duration::ZERO, 7, 10);
/// assert_eq!(timers.keep_alive(Duration::from_secs(5), 7), Some(Duration::from_secs(10)));
/// assert_eq!(timers.due(Duration::from_secs(15), 64), [7]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct LeaseTimers {
    term: Option<u64>,
    timers: BTreeMap<i64, Timer>,
    /// The deadlines of all timers, but for those just returned by `due`.
    deadlines: BTreeSet<(Duration, i64)>,
    /// The count of the leases' changes when each lease had a timer.
    reconciled: Option<u64>,
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

impl LeaseTimers {
    /// No timers: this node does not lead.
    pub fn new() -> Self {
        Self::default()
    }

    /// This node leads from now on, in this term: all leases get their full time. It must have applied all that was committed
    /// in earlier terms.
    pub fn lead(&mut self, now: Duration, term: u64, leases: &Leases) {
        self.follow();
        self.term = Some(term);
        for (lease, ttl) in leases.iter() {
            self.granted(now, lease, ttl);
        }
    }

    /// This node does not lead any more: no lease runs out, and none is kept alive.
    pub fn follow(&mut self) {
        *self = Self::default();
    }

    /// The term in which this node leads, if it does. Commands to expire a lease name it.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// A lease was granted: its command was applied. That may be the answer to a request that was repeated, and the lease have run out
    /// meanwhile: an expiry that is proposed may still be applied, so nothing changes.
    pub fn granted(&mut self, now: Duration, lease: i64, ttl: i64) {
        if self.term.is_some() && !self.timers.get(&lease).is_some_and(|timer| timer.expiring) {
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

    /// Whether leases have changed since [`LeaseTimers::reconcile`], on a node that leads.
    pub fn is_behind(&self, leases: &Leases) -> bool {
        self.term.is_some() && self.reconciled != Some(leases.changes())
    }

    /// Starts the timers of leases that lack one, and stops those of ended leases. Granting and ending do that at once; but the
    /// request may have been dropped before its answer, or a machine's command has granted it. Call it soon after leases have
    /// changed: a lease runs from then on.
    pub fn reconcile(&mut self, now: Duration, leases: &Leases) {
        if !self.is_behind(leases) {
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

    /// Keeps a lease alive, after a read index has confirmed that this node led when the request came at `now`. Returns how long
    /// the lease lives from `now` on; `None` if it has ended, or its expiry is proposed.
    pub fn keep_alive(&mut self, now: Duration, lease: i64) -> Option<Duration> {
        let timer = *self.timers.get(&lease).filter(|timer| !timer.expiring)?;
        self.set(lease, Timer { deadline: now.saturating_add(timer.ttl), ..timer });
        Some(timer.ttl)
    }

    /// How long a lease has left; zero if its expiry is proposed.
    pub fn remaining(&self, now: Duration, lease: i64) -> Option<Duration> {
        let timer = self.timers.get(&lease)?;
        Some(if timer.expiring { Duration::ZERO } else { timer.deadline.saturating_sub(now) })
    }

    /// When [`LeaseTimers::due`] has something next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases that have run out, the longest ago first, at most `most`. Propose to expire each of them, in
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

    /// Starts the timer of a lease that exists, unless it has one: a machine's command may have granted it.
    pub fn ensure(&mut self, now: Duration, lease: i64, ttl: i64) {
        if !self.timers.contains_key(&lease) {
            self.granted(now, lease, ttl);
        }
    }

    /// The outcome of a proposal to expire a lease, made in `term`; `None` if it is not known. Then, or if it was refused, the
    /// lease is due again at `again`; but not if this node has been elected anew since, for then the lease runs anew.
    pub fn expiry_outcome(&mut self, again: Duration, term: u64, lease: i64, outcome: Option<&Outcome>) {
        if self.term != Some(term) {
            return;
        }
        match outcome {
            Some(Outcome::LeaseEnded { .. } | Outcome::Refused(Error::LeaseNotFound { .. })) => self.ended(lease),
            _ => self.retry(again, lease),
        }
    }

    /// The expiry of a lease failed, or its outcome is not known: it is due again at `at`. Until this node is elected anew, the
    /// lease cannot be kept alive.
    pub fn retry(&mut self, at: Duration, lease: i64) {
        if let Some(&timer) = self.timers.get(&lease).filter(|timer| timer.expiring) {
            self.set(lease, Timer { deadline: at, ..timer });
        }
    }
}

#[cfg(test)]
mod tests;
