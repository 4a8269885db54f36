//! Since when members are known, and which of them are heard from elsewhere than they say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{control::Start, limits::MAX_ORIGINS};
use crate::membership::{Cohort, NodeName, Record};

/// How long a first meeting takes: until then, where an origin says that this node begins is believed at once.
pub(super) const FIRST_MEETING: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Acquaintances {
    /// When the first was met.
    begin: Option<Instant>,
    /// Whom this node knew when it began, if there are such: they were met then.
    cohort: Option<Arc<Cohort>>,
    /// When each of the others was met first, in whichever life, whether it is live or not: so many nanoseconds after the
    /// first one.
    met: BTreeMap<NodeName, u64>,
    /// Those that were heard from elsewhere than they say, as long as they are live.
    elsewhere: BTreeSet<NodeName>,
}

impl Acquaintances {
    /// These are there from the beginning.
    pub(super) fn acquaint(&mut self, now: Instant, cohort: Arc<Cohort>) {
        self.begin = Some(now);
        self.cohort = Some(cohort);
    }

    /// A member is there, maybe for the first time. Of those that have not answered yet no more are remembered than
    /// leave room for those that have.
    pub(super) fn meet(&mut self, now: Instant, record: &Record) {
        let max = if record.is_proven() { MAX_ORIGINS } else { MAX_ORIGINS / 2 };
        if self.met.len() < max && self.met(record.name.as_bytes()).is_none() {
            let since = now.saturating_duration_since(*self.begin.get_or_insert(now));
            self.met.insert(record.name.clone(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// When a member was met first.
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

    /// Whether a member was met longer ago than that, in whichever life.
    pub(super) fn has_met_for(&self, now: Instant, name: &[u8], time: Duration) -> bool {
        self.met(name).is_some_and(|met| now.saturating_duration_since(met) > time)
    }

    /// Whether a member was met before its present life began, which was so many microseconds old by its answer when it
    /// was asked `since` then: the answer may have been on its way, or unread, for long, and is no older than that.
    pub(super) fn met_before(&self, name: &[u8], since: Option<Instant>, age: u64) -> bool {
        let times = self.met(name).zip(since);
        times.is_some_and(|(met, since)| since.saturating_duration_since(met) > Duration::from_micros(age))
    }

    /// Where this node begins in a life of an origin that says it. Who met the origin before this life of it was there all
    /// along, but held for gone by those that the origin joined through: it begins with the first message, to be told of
    /// what nobody has any more. Only an answer, with the `age` of the origin, tells it from one that came later.
    pub(super) fn begins(
        &self,
        now: Instant,
        origin: &[u8],
        start: Start,
        (since, age): (Option<Instant>, Option<u64>),
    ) -> Option<Start> {
        match age {
            Some(age) if self.met_before(origin, since, age) => Some(Start { at: 0, ..start }),
            None if self.has_met_for(now, origin, FIRST_MEETING) => None,
            _ => Some(start),
        }
    }

    /// A member is heard from elsewhere than it says; gives whether that is news.
    pub(super) fn note_elsewhere(&mut self, name: &NodeName) -> bool {
        self.elsewhere.insert(name.clone())
    }

    /// A member is gone; when it was met stays known.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.elsewhere.remove(name);
    }
}
