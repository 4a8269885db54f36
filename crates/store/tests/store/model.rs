//! What the state is to be, in the plainest way: all keys, once for every revision.

use std::{cmp::Ordering, collections::BTreeMap};

use broadcast_store::{
    Error,
    keys::{
        Compare, CompareOp, CompareTarget, Delete, DeleteOutcome, KeyRange, KeyValue, KeysCommand, KeysOutcome, Op,
        OpOutcome, Put, PutOutcome, Range, RangeOutcome, SortOrder, SortTarget, Txn,
    },
};
use bytes::Bytes;

type Map = BTreeMap<Bytes, KeyValue>;

/// A change: the key as it is, as a tombstone if it is deleted, and as it was.
pub(crate) type Change = (KeyValue, Option<KeyValue>);

pub(crate) struct Model {
    /// All keys at each revision. At 0 there is nothing.
    maps: Vec<Map>,
    /// What changed at each revision.
    pub(crate) changes: Vec<Vec<Change>>,
    pub(crate) compacted: u64,
    pub(crate) leases: BTreeMap<i64, i64>,
}

/// A revision while it is made.
struct Draft {
    before: u64,
    map: Map,
    changes: Vec<Change>,
}

fn is_in(key: &[u8], keys: &KeyRange) -> bool {
    match &*keys.end {
        [] => key == &*keys.key,
        [0] => key >= &*keys.key,
        end => key >= &*keys.key && key < end,
    }
}

fn check_key(keys: &KeyRange) -> Result<(), Error> {
    if keys.key.is_empty() { Err(Error::KeyNotProvided) } else { Ok(()) }
}

fn check_put(put: &Put) -> Result<(), Error> {
    match put {
        put if put.key.is_empty() => Err(Error::KeyNotProvided),
        put if put.ignore_value && !put.value.is_empty() => Err(Error::ValueProvided),
        put if put.ignore_lease && put.lease != 0 => Err(Error::LeaseProvided),
        _ => Ok(()),
    }
}

fn check_txn(txn: &Txn, most: usize) -> Result<(), Error> {
    let ops = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if ops > most {
        return Err(Error::TooManyOps);
    }
    for compare in &txn.compare {
        check_key(&compare.keys)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => check_key(&range.keys)?,
            Op::Put(put) => check_put(put)?,
            Op::Delete(delete) => check_key(&delete.keys)?,
            Op::Txn(txn) => check_txn(txn, most - ops)?,
        }
    }
    Ok(())
}

/// All puts and deletes of some operations, whichever branches are taken; each pair that may both happen is compared.
fn conflicts(ops: &[Op]) -> (Vec<&Put>, Vec<&Delete>, bool) {
    let (mut puts, mut deletes, mut conflict) = (Vec::<&Put>::new(), Vec::<&Delete>::new(), false);
    for op in ops {
        let (more_puts, more_deletes) = match op {
            Op::Range(_) => continue,
            Op::Put(put) => (vec![put], vec![]),
            Op::Delete(delete) => (vec![], vec![delete]),
            Op::Txn(txn) => {
                let (mut then, other) = (conflicts(&txn.success), conflicts(&txn.failure));
                conflict |= then.2 || other.2;
                then.0.extend(other.0);
                then.1.extend(other.1);
                (then.0, then.1)
            }
        };
        for put in &more_puts {
            conflict |= puts.iter().any(|other| other.key == put.key);
            conflict |= deletes.iter().any(|delete| is_in(&put.key, &delete.keys));
        }
        for delete in &more_deletes {
            conflict |= puts.iter().any(|put| is_in(&put.key, &delete.keys));
        }
        puts.extend(more_puts);
        deletes.extend(more_deletes);
    }
    (puts, deletes, conflict)
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { maps: vec![Map::new(); 2], changes: vec![vec![]; 2], compacted: 0, leases: BTreeMap::new() }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.maps.len() as u64 - 1
    }

    fn now(&self) -> &Map {
        self.maps.last().expect("there is a first")
    }

    fn draft(&self) -> Draft {
        Draft { before: self.revision(), map: self.now().clone(), changes: Vec::new() }
    }

    fn commit(&mut self, draft: Draft) {
        if !draft.changes.is_empty() {
            self.maps.push(draft.map);
            self.changes.push(draft.changes);
        }
    }

    /// Whether a transaction would change a key twice; the error names one of such keys, whichever.
    pub(crate) fn has_duplicate(txn: &Txn) -> bool {
        conflicts(&txn.success).2 || conflicts(&txn.failure).2
    }

    pub(crate) fn apply(&mut self, command: &KeysCommand) -> Result<KeysOutcome, Error> {
        let mut draft = self.draft();
        let outcome = match command {
            KeysCommand::Put(put) => {
                check_put(put)?;
                self.check_lease(put)?;
                KeysOutcome::Put(draft.put(put)?)
            }
            KeysCommand::Delete(delete) => {
                check_key(&delete.keys)?;
                KeysOutcome::Delete(draft.delete(delete))
            }
            KeysCommand::Txn(txn) => {
                check_txn(txn, 128)?;
                if Self::has_duplicate(txn) {
                    return Err(Error::DuplicateKey { key: Bytes::new() });
                }
                // As in etcd, all puts come first.
                self.check_path(txn, true)?;
                self.check_path(txn, false)?;
                let (succeeded, responses) = self.txn(&mut draft, txn)?;
                KeysOutcome::Txn { revision: draft.revision(), succeeded, responses }
            }
            KeysCommand::Compact { revision } => {
                let requested = *revision;
                if requested <= self.compacted {
                    return Err(Error::Compacted { requested, compacted: self.compacted });
                }
                self.check_revision(requested)?;
                self.compacted = requested;
                KeysOutcome::Compact { revision: self.revision() }
            }
            KeysCommand::Disarm => KeysOutcome::Disarmed { revision: self.revision() },
        };
        self.commit(draft);
        Ok(outcome)
    }

    fn check_lease(&self, put: &Put) -> Result<(), Error> {
        match put.lease {
            lease if lease == 0 || self.leases.contains_key(&lease) => Ok(()),
            lease => Err(Error::LeaseNotFound { lease }),
        }
    }

    fn check_revision(&self, requested: u64) -> Result<u64, Error> {
        match requested {
            0 => Ok(self.revision()),
            _ if requested > self.revision() => Err(Error::FutureRevision { requested, current: self.revision() }),
            _ if requested < self.compacted => Err(Error::Compacted { requested, compacted: self.compacted }),
            _ => Ok(requested),
        }
    }

    fn taken<'a>(&self, txn: &'a Txn) -> (bool, &'a [Op]) {
        let holds = txn.compare.iter().all(|compare| self.holds(compare));
        (holds, if holds { &txn.success } else { &txn.failure })
    }

    fn check_path(&self, txn: &Txn, puts: bool) -> Result<(), Error> {
        for op in self.taken(txn).1 {
            match op {
                Op::Range(range) if !puts => drop(self.check_revision(range.revision)?),
                Op::Put(put) if puts => {
                    if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
                        return Err(Error::KeyNotFound { key: put.key.clone() });
                    }
                    self.check_lease(put)?;
                }
                Op::Range(_) | Op::Put(_) | Op::Delete(_) => {}
                Op::Txn(txn) => self.check_path(txn, puts)?,
            }
        }
        Ok(())
    }

    fn txn(&self, draft: &mut Draft, txn: &Txn) -> Result<(bool, Vec<OpOutcome>), Error> {
        let (succeeded, ops) = self.taken(txn);
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                Op::Range(range) => {
                    let map = match range.revision {
                        0 => &draft.map,
                        revision => &self.maps[revision as usize],
                    };
                    OpOutcome::Range(read(map, range, draft.revision()))
                }
                Op::Put(put) => OpOutcome::Put(draft.put(put)?),
                Op::Delete(delete) => OpOutcome::Delete(draft.delete(delete)),
                Op::Txn(txn) => {
                    let (succeeded, responses) = self.txn(draft, txn)?;
                    OpOutcome::Txn { revision: draft.revision(), succeeded, responses }
                }
            });
        }
        Ok((succeeded, responses))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let all: Vec<_> = self.now().values().filter(|kv| is_in(&kv.key, &compare.keys)).cloned().collect();
        let is_value = matches!(compare.target, CompareTarget::Value(_));
        if all.is_empty() {
            return !is_value && holds_for(compare, &KeyValue::default());
        }
        all.iter().all(|kv| holds_for(compare, kv))
    }

    pub(crate) fn range(&self, range: &Range) -> Result<RangeOutcome, Error> {
        check_key(&range.keys)?;
        let revision = self.check_revision(range.revision)?;
        Ok(read(&self.maps[revision as usize], range, self.revision()))
    }

    pub(crate) fn end_lease(&mut self, lease: i64) -> Result<u64, Error> {
        self.leases.remove(&lease).ok_or(Error::LeaseNotFound { lease })?;
        let mut draft = self.draft();
        let keys: Vec<_> = draft.map.values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect();
        for key in keys {
            draft.delete(&Delete { keys: KeyRange::one(key), prev_kv: false });
        }
        self.commit(draft);
        Ok(self.revision())
    }

    pub(crate) fn attached(&self, lease: i64) -> Vec<Bytes> {
        self.now().values().filter(|kv| kv.lease == lease).map(|kv| kv.key.clone()).collect()
    }
}

impl Draft {
    fn revision(&self) -> u64 {
        self.before + u64::from(!self.changes.is_empty())
    }

    fn put(&mut self, put: &Put) -> Result<PutOutcome, Error> {
        let revision = self.before + 1;
        let prev = self.map.get(&put.key).cloned();
        if (put.ignore_value || put.ignore_lease) && prev.is_none() {
            return Err(Error::KeyNotFound { key: put.key.clone() });
        }
        let mut kv = prev.clone().unwrap_or(KeyValue { create_revision: revision, ..KeyValue::default() });
        kv.key = put.key.clone();
        kv.mod_revision = revision;
        kv.version += 1;
        if !put.ignore_value {
            kv.value = put.value.clone();
        }
        if !put.ignore_lease {
            kv.lease = put.lease;
        }
        self.map.insert(put.key.clone(), kv.clone());
        self.changes.push((kv, prev.clone()));
        Ok(PutOutcome { revision, prev: prev.filter(|_| put.prev_kv).map(Into::into) })
    }

    fn delete(&mut self, delete: &Delete) -> DeleteOutcome {
        let gone: Vec<_> = self.map.values().filter(|kv| is_in(&kv.key, &delete.keys)).cloned().collect();
        for kv in &gone {
            self.map.remove(&kv.key);
            let tombstone = KeyValue { key: kv.key.clone(), mod_revision: self.before + 1, ..KeyValue::default() };
            self.changes.push((tombstone, Some(kv.clone())));
        }
        let deleted = gone.len() as u64;
        let prev = if delete.prev_kv { gone.into_iter().map(Into::into).collect() } else { Vec::new() };
        DeleteOutcome { revision: self.revision(), deleted, prev }
    }
}

fn holds_for(compare: &Compare, kv: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(given) => kv.version.cmp(given),
        CompareTarget::Create(given) => kv.create_revision.cmp(given),
        CompareTarget::Mod(given) => kv.mod_revision.cmp(given),
        CompareTarget::Value(given) => kv.value.cmp(given),
        CompareTarget::Lease(given) => kv.lease.cmp(given),
    };
    match compare.op {
        CompareOp::Equal => ordering == Ordering::Equal,
        CompareOp::NotEqual => ordering != Ordering::Equal,
        CompareOp::Greater => ordering == Ordering::Greater,
        CompareOp::Less => ordering == Ordering::Less,
    }
}

fn read(map: &Map, range: &Range, current: u64) -> RangeOutcome {
    let all: Vec<_> = map.values().filter(|kv| is_in(&kv.key, &range.keys)).collect();
    let count = all.len() as u64;
    if range.count_only {
        return RangeOutcome { revision: current, count, ..RangeOutcome::default() };
    }
    let bounds =
        [(range.min_mod_revision, range.max_mod_revision), (range.min_create_revision, range.max_create_revision)];
    let mut found = all;
    if range.limit > 0 && range.order == SortOrder::None && bounds == [(0, 0); 2] {
        found.truncate(range.limit as usize + 1);
    }
    for (bound, of) in bounds.into_iter().zip([|kv: &KeyValue| kv.mod_revision, |kv: &KeyValue| kv.create_revision]) {
        found.retain(|kv| of(kv) >= bound.0 && (bound.1 == 0 || of(kv) <= bound.1));
    }
    found.sort_by(|one, other| {
        let ordering = match range.target {
            SortTarget::Key => one.key.cmp(&other.key),
            SortTarget::Version => one.version.cmp(&other.version),
            SortTarget::Create => one.create_revision.cmp(&other.create_revision),
            SortTarget::Mod => one.mod_revision.cmp(&other.mod_revision),
            SortTarget::Value => one.value.cmp(&other.value),
        };
        if range.order == SortOrder::Descend { ordering.reverse() } else { ordering }
    });
    let more = range.limit > 0 && found.len() as u64 > range.limit;
    if more {
        found.truncate(range.limit as usize);
    }
    let without = |kv: &KeyValue| KeyValue { value: Bytes::new(), ..kv.clone() };
    let kvs = found.into_iter().map(|kv| if range.keys_only { without(kv) } else { kv.clone() });
    RangeOutcome { revision: current, count, more, kvs: kvs.map(Into::into).collect() }
}
