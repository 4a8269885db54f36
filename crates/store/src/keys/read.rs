//! Reading keys, now and at earlier revisions.

use std::{cmp::Reverse, sync::Arc};

use bytes::Bytes;

use super::{KeyValue, Keys, RangeOutcome, version_at};
use crate::error::Error;

/// A key, or a range of keys.
///
/// ```
/// use broadcast_store::keys::KeyRange;
///
/// assert!(KeyRange::prefix("app/").contains(b"app/color"));
/// assert!(!KeyRange::one("app/").contains(b"app/color"));
/// assert!(KeyRange::all().contains(b"any"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The key, or the first key of the range.
    pub key: Bytes,
    /// Empty: the key alone. One zero byte: all keys from `key` on. Else the first key after the range.
    pub end: Bytes,
}

impl KeyRange {
    /// One key.
    pub fn one(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), end: Bytes::new() }
    }

    /// All keys from this one on.
    pub fn from(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), end: Bytes::from_static(&[0]) }
    }

    /// All keys.
    pub fn all() -> Self {
        Self::from(Bytes::from_static(&[0]))
    }

    /// All keys that begin with a prefix; all keys if it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let key = prefix.into();
        let Some(last) = key.iter().rposition(|byte| *byte < 0xff) else {
            return if key.is_empty() { Self::all() } else { Self::from(key) };
        };
        let mut end = key[..=last].to_vec();
        end[last] += 1;
        Self { key, end: end.into() }
    }

    /// Whether it names one key, not a range.
    pub fn is_one(&self) -> bool {
        self.end.is_empty()
    }

    fn is_open(&self) -> bool {
        *self.end == [0]
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        if self.is_one() { self.key == key } else { *self.key <= *key && (self.is_open() || *key < *self.end) }
    }

    /// A prefix of all keys in the range; it may be shorter than it could be.
    pub(super) fn common_prefix(&self) -> Bytes {
        if self.is_open() {
            return Bytes::new();
        }
        let same = self.key.iter().zip(&self.end).take_while(|(one, other)| one == other).count();
        // The range of a prefix ends where the prefix's last byte is one higher.
        let is_next = |first: &u8| first.checked_add(1).is_some_and(|next| self.end[same..] == [next]);
        let longer = self.key.get(same).is_some_and(is_next);
        self.key.slice(..same + usize::from(longer))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.key.is_empty() { Err(Error::KeyNotProvided) } else { Ok(()) }
    }
}

/// A read of keys, as etcd's `RangeRequest`. [`Store::range`](crate::Store::range) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// How many keys to return at most; 0 for all. [`RangeOutcome::more`] tells whether there are others.
    pub limit: u64,
    /// The revision to read at; 0 for the current one.
    pub revision: u64,
    /// The order of the answer.
    pub order: SortOrder,
    /// What to order by.
    pub target: SortTarget,
    /// Leaves the values out.
    pub keys_only: bool,
    /// Returns the number of keys, and no key.
    pub count_only: bool,
    /// Leaves out keys whose `mod_revision` is lower. This and the next three do not change the count.
    pub min_mod_revision: u64,
    /// Leaves out keys whose `mod_revision` is higher; 0 for no limit.
    pub max_mod_revision: u64,
    /// Leaves out keys whose `create_revision` is lower.
    pub min_create_revision: u64,
    /// Leaves out keys whose `create_revision` is higher; 0 for no limit.
    pub max_create_revision: u64,
}

/// The order of an answer. See [`Range`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SortOrder {
    /// The order of the keys; ascending if the target is something else than the key.
    #[default]
    None,
    /// The least first.
    Ascend,
    /// The greatest first.
    Descend,
}

/// What an answer is ordered by. Equal ones are in the order of their keys. See [`Range`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum SortTarget {
    /// The key.
    #[default]
    Key,
    /// How many puts it has had since it was created.
    Version,
    /// The revision that created it.
    Create,
    /// The revision that changed it last.
    Mod,
    /// The value.
    Value,
}

impl Range {
    /// A read of one key.
    pub fn of(key: impl Into<Bytes>) -> Self {
        Self::in_range(KeyRange::one(key))
    }

    /// A read of a range of keys.
    pub fn in_range(keys: KeyRange) -> Self {
        Self { keys, ..Self::default() }
    }

    fn has_bounds(&self) -> bool {
        [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision] != [0; 4]
    }

    fn is_within_bounds(&self, kv: &KeyValue) -> bool {
        let within = |revision, min, max| revision >= min && (max == 0 || revision <= max);
        within(kv.mod_revision, self.min_mod_revision, self.max_mod_revision)
            && within(kv.create_revision, self.min_create_revision, self.max_create_revision)
    }

    fn sort(&self, kvs: &mut [Arc<KeyValue>]) {
        fn by<T: Ord>(kvs: &mut [Arc<KeyValue>], order: SortOrder, of: impl Fn(&KeyValue) -> T) {
            match order {
                SortOrder::Descend => kvs.sort_by_key(|kv| Reverse(of(kv))),
                SortOrder::None | SortOrder::Ascend => kvs.sort_by_key(|kv| of(kv)),
            }
        }
        match self.target {
            SortTarget::Key if self.order == SortOrder::Descend => kvs.reverse(),
            SortTarget::Key => {}
            SortTarget::Version => by(kvs, self.order, |kv| kv.version),
            SortTarget::Create => by(kvs, self.order, |kv| kv.create_revision),
            SortTarget::Mod => by(kvs, self.order, |kv| kv.mod_revision),
            SortTarget::Value => by(kvs, self.order, |kv| kv.value.clone()),
        }
    }
}

impl Keys {
    /// Reads keys from this member's state. For a linearizable read, get a read index first
    /// ([`Consensus::read_index`](crate::raft::Consensus::read_index)).
    ///
    /// # Errors
    ///
    /// [`Error::KeyNotProvided`], [`Error::Compacted`] and [`Error::FutureRevision`].
    pub fn range(&self, range: &Range) -> Result<RangeOutcome, Error> {
        range.keys.check()?;
        let revision = self.check_revision(range.revision)?;
        Ok(self.range_at(range, revision, self.revision))
    }

    /// Reads keys at a revision that exists; the outcome names `current` as the store's revision.
    pub(super) fn range_at(&self, range: &Range, revision: u64, current: u64) -> RangeOutcome {
        let mut outcome = RangeOutcome { revision: current, ..RangeOutcome::default() };
        // As in etcd: without an order, keys beyond the limit take no part in the sorting.
        let limit = usize::try_from(range.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let all = range.order != SortOrder::None || range.has_bounds();
        let fetched = if all { usize::MAX } else { limit.saturating_add(1) };
        for kv in self.iter_at(&range.keys, revision) {
            outcome.count += 1;
            if !range.count_only && outcome.kvs.len() < fetched && range.is_within_bounds(kv) {
                outcome.kvs.push(kv.clone());
            }
        }
        range.sort(&mut outcome.kvs);
        outcome.more = outcome.kvs.len() > limit;
        outcome.kvs.truncate(limit);
        if range.keys_only {
            for kv in &mut outcome.kvs {
                *kv = Arc::new(KeyValue { value: Bytes::new(), ..KeyValue::clone(kv) });
            }
        }
        outcome
    }

    /// The keys of a range that existed at a revision, in order.
    pub(super) fn iter_at<'a>(
        &'a self,
        keys: &'a KeyRange,
        revision: u64,
    ) -> impl Iterator<Item = &'a Arc<KeyValue>> + 'a {
        let all = self.index.iter_from(&*keys.key).take_while(|(key, _)| keys.contains(key));
        all.filter_map(move |(_, versions)| version_at(versions, revision))
    }

    /// The key's newest version, if the key exists.
    pub(super) fn newest(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        version_at(self.index.get(key)?, u64::MAX)
    }
}
