//! Forgetting history.

use std::{collections::VecDeque, time::Duration};

use super::{Keys, MAX_REVISION, Outcome};
use crate::{
    cow_map::CowMap,
    error::{Error, Malformed},
};

impl Keys {
    /// Forgets what is before a revision. It takes time for each change that is forgotten, not for each key.
    pub(super) fn compact(&mut self, revision: u64) -> Result<Outcome, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: self.compacted });
        }
        if revision > self.revision {
            return Err(Error::FutureRevision { requested: revision, current: self.revision });
        }
        self.compacted = revision;
        while let Some((&at, changed)) = self.log.first()
            && at <= revision
        {
            let changed = changed.clone();
            changed.iter().for_each(|version| self.forget(&version.key));
            // Watches from this very revision have its changes.
            if at == revision {
                break;
            }
            self.log.remove(&at);
        }
        Ok(Outcome::Compact { revision: self.revision })
    }

    /// Raises the revision by one, at which no key changes; gives it.
    pub(crate) fn skip_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Forgets all history, and goes on at a revision that is higher by this, at which no key changes. Whoever names an
    /// earlier one is told that it is compacted.
    pub(crate) fn jump(&mut self, by: u64) -> Result<(), Malformed> {
        let what = "the revision of the keys has no room to grow";
        let to = self.revision.checked_add(by).filter(|to| *to < MAX_REVISION);
        let to = to.ok_or(Malformed::Contradiction { what })?;
        if self.compacted < self.revision {
            self.compact(self.revision).expect("the newest revision, which is not compacted");
        }
        self.log = CowMap::default();
        (self.revision, self.compacted) = (to, to);
        Ok(())
    }

    /// Forgets what a key was before it was what it is at the compacted revision.
    fn forget(&mut self, key: &[u8]) {
        let Some(versions) = self.index.get(key) else { return };
        let old = versions.partition_point(|version| version.mod_revision <= self.compacted);
        let Some(kept) = old.checked_sub(1) else { return };
        let gone = if versions[kept].is_tombstone() { old } else { kept };
        if gone == 0 {
            return;
        }
        let all = versions.len();
        self.bytes -= versions[..gone].iter().map(|version| version.size()).sum::<u64>();
        if gone == all {
            self.index.remove(key);
        } else if let Some(versions) = self.index.get_mut(key) {
            versions.drain(..gone);
            versions.shrink_to_fit();
        }
    }
}

/// How often the revision is looked at: so exact is the age of what is kept.
const SAMPLES: u32 = 16;

/// How many revisions one compaction forgets: other commands wait meanwhile.
const STEP: u64 = 10_000;

/// Tells a leader when to propose a compaction, so that history has neither too many revisions nor too old ones.
///
/// Time passes for the leader alone: it is the leader's [`super::Command::Compact`] that all members carry out. A new
/// leader starts with a new compactor, which keeps history for its whole age once more.
#[derive(Clone, Debug)]
pub struct Compactor {
    most: u64,
    age: Duration,
    /// When the store was at which revision, oldest first.
    samples: VecDeque<(Duration, u64)>,
    /// Where to compact to, in several steps if it is far.
    target: u64,
}

impl Compactor {
    /// Keeps `most` revisions at most, and each for about `age` at most after it is not the newest any more.
    pub fn new(most: u64, age: Duration) -> Self {
        Self { most, age, samples: VecDeque::new(), target: 0 }
    }

    /// When to ask again, whatever happens: before that, age alone makes nothing due.
    pub fn interval(&self) -> Duration {
        (self.age / SAMPLES).max(Duration::from_millis(1))
    }

    /// The revision to compact at, if it is time; ask again after that is done. `now` is the time since an instant that
    /// stays the same.
    pub fn due(&mut self, now: Duration, keys: &Keys) -> Option<u64> {
        let interval = self.interval();
        if self.samples.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= interval) {
            self.samples.push_back((now, keys.revision()));
        }
        while let Some((at, revision)) = self.samples.front()
            && now.saturating_sub(*at) >= self.age
        {
            self.target = self.target.max(*revision);
            self.samples.pop_front();
        }
        // In steps of a tenth, so that not each command brings a compaction.
        let step = self.most / 10;
        let kept = keys.revision() - keys.compacted();
        if kept > self.most.saturating_add(step) {
            self.target = self.target.max(keys.revision() - self.most);
        }
        let revision = self.target.min(keys.compacted().saturating_add(STEP));
        (revision > keys.compacted()).then_some(revision)
    }
}
