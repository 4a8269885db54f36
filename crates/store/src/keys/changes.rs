//! Finds a key that a transaction would change twice.
//!
//! A request may have a hundred thousand operations in nested transactions. So this does not compare each key with each other,
//! and always merges the smaller set into the larger.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::Bytes;

use super::{KeyRange, Op};
use crate::error::Error;

/// The keys that some operations put, and those that they delete.
#[derive(Default)]
pub(super) struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals,
}

/// Ranges of keys that do not overlap: the first key of each, and the first one after it; `None` is no end.
#[derive(Default)]
struct Intervals(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl<'a> Changes<'a> {
    /// The changes of operations that are all carried out.
    pub(super) fn of(ops: &'a [Op]) -> Result<Self, Error> {
        let mut all = Self::default();
        for op in ops {
            let more = match op {
                Op::Range(_) => continue,
                Op::Put(put) => Self { puts: BTreeSet::from([&*put.key]), ..Self::default() },
                Op::Delete(delete) => Self { deletes: Intervals::of(&delete.keys), ..Self::default() },
                Op::Txn(txn) => Self::of(&txn.success)?.or(Self::of(&txn.failure)?),
            };
            all = all.and(more)?;
        }
        Ok(all)
    }

    /// Adds changes that happen as well. They may put none of the same keys. Deletes may overlap: the second finds nothing.
    fn and(self, other: Self) -> Result<Self, Error> {
        let (more, less) = if self.len() < other.len() { (other, self) } else { (self, other) };
        let twice = |key: &&&[u8]| more.puts.contains(**key) || more.deletes.contains(key);
        let put = less.puts.iter().find(twice).copied();
        let put = put.or_else(|| {
            less.deletes.0.iter().find_map(|(start, end)| {
                let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                more.puts.range::<[u8], _>((Bound::Included(&**start), end)).next().copied()
            })
        });
        match put {
            Some(key) => Err(Error::DuplicateKey { key: Bytes::copy_from_slice(key) }),
            None => Ok(more.or(less)),
        }
    }

    /// Adds changes that happen instead.
    fn or(self, other: Self) -> Self {
        let (mut more, less) = if self.len() < other.len() { (other, self) } else { (self, other) };
        more.puts.extend(less.puts);
        less.deletes.0.into_iter().for_each(|(start, end)| more.deletes.add(start, end));
        more
    }

    fn len(&self) -> usize {
        self.puts.len() + self.deletes.0.len()
    }
}

impl Intervals {
    fn of(keys: &KeyRange) -> Self {
        let mut all = Self::default();
        let after = || [&*keys.key, &[0]].concat();
        match &*keys.end {
            [] => all.add(keys.key.to_vec(), Some(after())),
            [0] => all.add(keys.key.to_vec(), None),
            end => all.add(keys.key.to_vec(), Some(end.to_vec())),
        }
        all
    }

    fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, end)| end.as_deref().is_none_or(|end| key < end))
    }

    /// Adds an interval, and joins those that touch.
    fn add(&mut self, mut start: Vec<u8>, mut end: Option<Vec<u8>>) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        while let Some((before, its_end)) = self.0.range(..=start.clone()).next_back() {
            if its_end.as_ref().is_some_and(|its_end| *its_end < start) {
                break;
            }
            end = later(end, its_end.clone());
            start = before.clone();
            self.0.remove(&start);
        }
        while let Some((after, its_end)) = self.0.range(start.clone()..).next() {
            if end.as_ref().is_some_and(|end| end < after) {
                break;
            }
            end = later(end, its_end.clone());
            let after = after.clone();
            self.0.remove(&after);
        }
        self.0.insert(start, end);
    }
}

fn later(one: Option<Vec<u8>>, other: Option<Vec<u8>>) -> Option<Vec<u8>> {
    Some(one?.max(other?))
}
