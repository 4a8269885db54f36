//! Compaction: forgetting history.

use std::{collections::VecDeque, time::Duration};

use super::{Keys, KeysOutcome, MAX_REVISION};
use crate::{
    cow_map::CowMap,
    error::{CodecError, Error},
};

impl Keys {
    /// Forgets the history before a revision. Its time grows with the forgotten changes, not with the keys.
    pub(super) fn compact(&mut self, revision: u64) -> Result<KeysOutcome, Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: self.compacted });
        }
        if revision > self.revision {
            return Err(Error::FutureRevision { requested: revision, current: self.revision });
        }
        self.compacted = revision;
        while let Some((&at, changed)) = self.history.first()
            && at <= revision
        {
            let changed = changed.clone();
            changed.iter().for_each(|version| self.forget(&version.key));
            // A watch from this very revision still gets its changes.
            if at == revision {
                break;
            }
            self.history.remove(&at);
        }
        Ok(KeysOutcome::Compact { revision: self.revision })
    }

    /// Raises the revision by one without a change of keys. Returns it.
    pub(crate) fn skip_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Forgets all history, and goes on at a revision that is higher by this. All earlier ones count as compacted.
    pub(crate) fn jump(&mut self, by: u64) -> Result<(), CodecError> {
        let what = "the revision of the keys has no room to grow";
        let to = self.revision.checked_add(by).filter(|to| *to < MAX_REVISION);
        let to = to.ok_or(CodecError::Contradiction { what })?;
        if self.compacted < self.revision {
            self.compact(self.revision).expect("the newest revision, which is not compacted");
        }
        self.history = CowMap::default();
        (self.revision, self.compacted) = (to, to);
        Ok(())
    }

    /// Forgets the versions of a key before its version at the compacted revision.
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

/// How many samples of the revision a compactor takes within the age: the more, the more exact the age.
const SAMPLES: u32 = 16;

/// How many revisions one compaction forgets at most: other commands wait meanwhile.
const STEP: u64 = 10_000;

/// Tells a leader when to propose a compaction, so that the history has neither too many revisions nor too old ones (etcd's
/// `--auto-compaction-retention`).
///
/// Only the leader reads a clock: it proposes a [`KeysCommand::Compact`](super::KeysCommand::Compact), which all members carry
/// out. A new leader begins with a new compactor, which keeps the history for its whole age once more.
///
/// ```
/// use std::time::Duration;
/// use broadcast_store::{keys::Compactor, machine::State};
///
/// let mut compactor = Compactor::new(1_000_000, Duration::from_secs(3600));
/// assert_eq!(compactor.due(Duration::ZERO, State::new().keys()), None, "there is no history yet");
/// ```
#[derive(Clone, Debug)]
pub struct Compactor {
    most: u64,
    age: Duration,
    /// The revision at some times, oldest first.
    samples: VecDeque<(Duration, u64)>,
    /// The revision to compact to, in several steps if it is far.
    target: u64,
}

impl Compactor {
    /// Keeps at most `most` revisions, and each for about `age` after the next one came.
    ///
    /// More of either lets watches and reads go further back, and takes memory, disk and time for snapshots. Less makes watchers
    /// that were away for long start anew.
    pub fn new(most: u64, age: Duration) -> Self {
        Self { most, age, samples: VecDeque::new(), target: 0 }
    }

    /// How long until age alone can make something due.
    pub fn interval(&self) -> Duration {
        (self.age / SAMPLES).max(Duration::from_millis(1))
    }

    /// The revision to compact at, if it is time. Ask again once that is done. `now` is the time since any fixed instant.
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
        // In steps of a tenth, or each command would bring a compaction.
        let step = self.most / 10;
        let kept = keys.revision() - keys.compacted();
        if kept > self.most.saturating_add(step) {
            self.target = self.target.max(keys.revision() - self.most);
        }
        let revision = self.target.min(keys.compacted().saturating_add(STEP));
        (revision > keys.compacted()).then_some(revision)
    }
}
