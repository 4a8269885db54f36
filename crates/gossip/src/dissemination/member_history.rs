//! The history of members: since when this node knows each, and which of them send from another address than they announce.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{control::StreamStart, limits::MAX_ORIGINS};
use crate::membership::{Cohort, NodeName, Record};

/// How long a first meeting lasts. Until then, an origin's word for where this node starts is believed at once.
pub(super) const FIRST_MEETING: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct MemberHistory {
    /// When the first member was met.
    begin: Option<Instant>,
    /// The members that this node knew when it began, if any. They were met then.
    cohort: Option<Arc<Cohort>>,
    /// When each other member was met first, in whichever epoch, whether it is live now or not: in nanoseconds after the
    /// first one.
    met: BTreeMap<NodeName, u64>,
    /// Live members that send from another address than they announce.
    elsewhere: BTreeSet<NodeName>,
}

impl MemberHistory {
    /// Adds members that are known from the beginning.
    pub(super) fn acquaint(&mut self, now: Instant, cohort: Arc<Cohort>) {
        self.begin = Some(now);
        self.cohort = Some(cohort);
    }

    /// Notes that a member is up, which may be the first meeting. Unproven ones leave room for proven ones.
    pub(super) fn record_meeting(&mut self, now: Instant, record: &Record) {
        let max = if record.is_proven() { MAX_ORIGINS } else { MAX_ORIGINS / 2 };
        if self.met.len() < max && self.met(record.name.as_bytes()).is_none() {
            let since = now.saturating_duration_since(*self.begin.get_or_insert(now));
            self.met.insert(record.name.clone(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// When a member was first met.
    fn met(&self, name: &[u8]) -> Option<Instant> {
        let begin = self.begin?;
        if self.cohort.as_ref().is_some_and(|cohort| cohort.contains(name)) {
            return Some(begin);
        }
        self.met.get(name).map(|since| begin + Duration::from_nanos(*since))
    }

    /// Whether a member has ever been met.
    pub(super) fn has_met(&self, name: &NodeName) -> bool {
        self.met(name.as_bytes()).is_some()
    }

    /// Whether a member was first met longer ago than `time`, in whichever epoch.
    pub(super) fn has_met_for(&self, now: Instant, name: &[u8], time: Duration) -> bool {
        self.met(name).is_some_and(|met| now.saturating_duration_since(met) > time)
    }

    /// Whether a member was met before its present epoch began. Its response to a challenge of time `since` says that it had
    /// run for `age` microseconds. The response may be old by now, but is not older than the challenge.
    pub(super) fn met_before(&self, name: &[u8], since: Option<Instant>, age: u64) -> bool {
        let times = self.met(name).zip(since);
        times.is_some_and(|(met, since)| since.saturating_duration_since(met) > Duration::from_micros(age))
    }

    /// Where this node starts in a stream, when the origin says `start`. A node that met the origin before this epoch began
    /// was there all along, even if the members that the origin joined through took it for gone. It starts with the first
    /// message, and will be told what nobody has any more. Only a response with the origin's `age` tells this case from a
    /// node that came later.
    pub(super) fn start_of(
        &self,
        now: Instant,
        origin: &[u8],
        start: StreamStart,
        (since, age): (Option<Instant>, Option<u64>),
    ) -> Option<StreamStart> {
        match age {
            Some(age) if self.met_before(origin, since, age) => Some(StreamStart { seq: 0, ..start }),
            None if self.has_met_for(now, origin, FIRST_MEETING) => None,
            _ => Some(start),
        }
    }

    /// Notes that a member sends from another address than it announces; gives whether that is news.
    pub(super) fn note_elsewhere(&mut self, name: &NodeName) -> bool {
        self.elsewhere.insert(name.clone())
    }

    /// Forgets a member that is gone, except for when it was met.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.elsewhere.remove(name);
    }
}
