//! Carrying out commands: all of their changes at one revision, or none.
//!
//! A transaction first chooses its branches, nested ones included, from the keys as they are. Then it checks leases, space and
//! revisions. Only then it changes keys; if an operation fails all the same, [`PendingRevision::undo`] takes the changes back.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;

use super::{
    Compare, CompareOp, CompareTarget, Delete, DeleteOutcome, KeyValue, Keys, KeysCommand, KeysOutcome, MAX_TXN_KEYS,
    MAX_TXN_READ, Op, OpOutcome, Put, PutOutcome, Range, RangeOutcome, Txn, size_of,
};
use crate::{error::Error, leases::Leases};

impl Keys {
    pub(crate) fn apply(&mut self, leases: &Leases, command: &KeysCommand) -> Result<KeysOutcome, Error> {
        command.check_parts()?;
        match command {
            KeysCommand::Put(put) => {
                check_lease(leases, put)?;
                self.check_space(put_size(self, put))?;
                self.change(|change| change.put(put).map(KeysOutcome::Put))
            }
            KeysCommand::Delete(delete) => self.change(|change| change.delete(delete).map(KeysOutcome::Delete)),
            KeysCommand::Txn(txn) => self.txn(leases, txn),
            KeysCommand::Compact { revision } => self.compact(*revision),
            KeysCommand::Disarm => {
                self.alarm = false;
                Ok(KeysOutcome::Disarmed { revision: self.revision })
            }
        }
    }

    /// Deletes all keys of a lease, at one revision.
    pub(crate) fn lease_ended(&mut self, lease: i64) {
        let attached: Vec<Bytes> = self.attached(lease).cloned().collect();
        let mut change = PendingRevision::new(self);
        attached.into_iter().for_each(|key| change.push(KeyValue::tombstone(key, change.revision())));
        change.commit();
    }

    fn txn(&mut self, leases: &Leases, txn: &Txn) -> Result<KeysOutcome, Error> {
        let mut visited = 0;
        let path = TxnPath::choose(self, txn, &mut visited)?;
        let mut size = 0;
        path.check(self, leases, &mut size)?;
        self.check_space(size)?;
        self.change(|change| {
            change.visited = visited;
            let responses = change.follow(&path)?;
            Ok(KeysOutcome::Txn { revision: change.current(), succeeded: path.succeeded, responses })
        })
    }

    fn change<T>(&mut self, each: impl FnOnce(&mut PendingRevision<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut change = PendingRevision::new(self);
        match each(&mut change) {
            Ok(outcome) => {
                change.commit();
                Ok(outcome)
            }
            Err(error) => {
                change.undo();
                Err(error)
            }
        }
    }

    /// Whether more may be put. Raises the alarm if not.
    fn check_space(&mut self, size: u64) -> Result<(), Error> {
        if size > 0 && (self.alarm || self.bytes.saturating_add(size) > self.quota) {
            self.alarm = true;
            return Err(self.no_space());
        }
        Ok(())
    }
}

fn check_lease(leases: &Leases, put: &Put) -> Result<(), Error> {
    if put.lease == 0 || leases.contains(put.lease) { Ok(()) } else { Err(Error::LeaseNotFound { lease: put.lease }) }
}

/// How many bytes a put takes.
fn put_size(keys: &Keys, put: &Put) -> u64 {
    let kept = || keys.newest(&put.key).map_or(0, |kv| kv.value.len());
    size_of(&put.key, if put.ignore_value { kept() } else { put.value.len() })
}

/// The branches that a transaction takes, nested ones included.
struct TxnPath<'a> {
    succeeded: bool,
    ops: &'a [Op],
    nested: Vec<TxnPath<'a>>,
}

impl<'a> TxnPath<'a> {
    fn choose(keys: &Keys, txn: &'a Txn, visited: &mut u64) -> Result<Self, Error> {
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && compare.holds(keys, visited)?;
        }
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let nested = ops.iter().filter_map(|op| match op {
            Op::Txn(txn) => Some(txn),
            Op::Range(_) | Op::Put(_) | Op::Delete(_) => None,
        });
        let nested = nested.map(|txn| Self::choose(keys, txn, visited)).collect::<Result<_, _>>()?;
        Ok(Self { succeeded, ops, nested })
    }

    /// Checks its puts and reads, and adds up the bytes of the puts. As in etcd, all puts come first.
    fn check(&self, keys: &Keys, leases: &Leases, size: &mut u64) -> Result<(), Error> {
        self.each(&mut |op| {
            if let Op::Put(put) = op {
                check_kept(keys, put)?;
                check_lease(leases, put)?;
                *size += put_size(keys, put);
            }
            Ok(())
        })?;
        self.each(&mut |op| match op {
            Op::Range(range) => keys.check_revision(range.revision).map(drop),
            Op::Put(_) | Op::Delete(_) | Op::Txn(_) => Ok(()),
        })
    }

    /// Calls `look` for each operation in order, those of nested transactions in their place.
    fn each(&self, look: &mut impl FnMut(&Op) -> Result<(), Error>) -> Result<(), Error> {
        let mut nested = self.nested.iter();
        self.ops.iter().try_for_each(|op| match op {
            Op::Txn(_) => nested.next().expect("each has its path").each(look),
            op => look(op),
        })
    }
}

fn check_kept(keys: &Keys, put: &Put) -> Result<(), Error> {
    if (put.ignore_value || put.ignore_lease) && keys.newest(&put.key).is_none() {
        return Err(Error::KeyNotFound { key: put.key.clone() });
    }
    Ok(())
}

fn visit(visited: &mut u64) -> Result<(), Error> {
    *visited += 1;
    if *visited > MAX_TXN_KEYS { Err(Error::ResponseTooLarge) } else { Ok(()) }
}

impl Compare {
    fn holds(&self, keys: &Keys, visited: &mut u64) -> Result<bool, Error> {
        let mut any = false;
        for kv in keys.iter_at(&self.keys, keys.revision) {
            visit(visited)?;
            any = true;
            if !self.holds_for(kv) {
                return Ok(false);
            }
        }
        let is_value = matches!(self.target, CompareTarget::Value(_));
        visit(visited)?;
        Ok(any || !is_value && self.holds_for(&KeyValue::default()))
    }

    fn holds_for(&self, kv: &KeyValue) -> bool {
        let ordering = match &self.target {
            CompareTarget::Version(version) => kv.version.cmp(version),
            CompareTarget::Create(revision) => kv.create_revision.cmp(revision),
            CompareTarget::Mod(revision) => kv.mod_revision.cmp(revision),
            CompareTarget::Value(value) => kv.value.cmp(value),
            CompareTarget::Lease(lease) => kv.lease.cmp(lease),
        };
        match self.op {
            CompareOp::Equal => ordering == Ordering::Equal,
            CompareOp::NotEqual => ordering != Ordering::Equal,
            CompareOp::Greater => ordering == Ordering::Greater,
            CompareOp::Less => ordering == Ordering::Less,
        }
    }
}

/// The changes of one revision before it is committed.
struct PendingRevision<'a> {
    keys: &'a mut Keys,
    versions: Vec<Arc<KeyValue>>,
    /// How many keys it has looked at.
    visited: u64,
    /// How many bytes it has read.
    read: u64,
}

impl<'a> PendingRevision<'a> {
    fn new(keys: &'a mut Keys) -> Self {
        Self { keys, versions: Vec::new(), visited: 0, read: 0 }
    }

    /// The revision of the changes.
    fn revision(&self) -> u64 {
        self.keys.revision + 1
    }

    /// The current revision for the operations: the pending one, once there are changes.
    fn current(&self) -> u64 {
        self.keys.revision + u64::from(!self.versions.is_empty())
    }

    fn follow(&mut self, path: &TxnPath<'_>) -> Result<Vec<OpOutcome>, Error> {
        let mut nested = path.nested.iter();
        let each = |op: &Op| {
            Ok(match op {
                Op::Range(range) => OpOutcome::Range(self.range(range)?),
                Op::Put(put) => OpOutcome::Put(self.put(put)?),
                Op::Delete(delete) => OpOutcome::Delete(self.delete(delete)?),
                Op::Txn(_) => {
                    let path = nested.next().expect("each has its path");
                    let responses = self.follow(path)?;
                    OpOutcome::Txn { revision: self.current(), succeeded: path.succeeded, responses }
                }
            })
        };
        path.ops.iter().map(each).collect()
    }

    fn range(&mut self, range: &Range) -> Result<RangeOutcome, Error> {
        // Counts first: what would be too much must not be collected.
        let revision = if range.revision == 0 { self.current() } else { range.revision };
        visit(&mut self.visited)?;
        for _ in self.keys.iter_at(&range.keys, revision) {
            visit(&mut self.visited)?;
        }
        let outcome = self.keys.range_at(range, revision, self.current());
        outcome.kvs.iter().try_for_each(|kv| self.has_read(kv))?;
        Ok(outcome)
    }

    fn has_read(&mut self, kv: &KeyValue) -> Result<(), Error> {
        self.read += kv.size();
        if self.read > MAX_TXN_READ { Err(Error::ResponseTooLarge) } else { Ok(()) }
    }

    fn put(&mut self, put: &Put) -> Result<PutOutcome, Error> {
        check_kept(self.keys, put)?;
        let revision = self.revision();
        let prev = self.keys.newest(&put.key).cloned();
        let kept = prev.as_deref();
        self.push(KeyValue {
            key: kept.map_or_else(|| put.key.clone(), |prev| prev.key.clone()),
            value: kept.filter(|_| put.ignore_value).map_or_else(|| put.value.clone(), |prev| prev.value.clone()),
            create_revision: kept.map_or(revision, |prev| prev.create_revision),
            mod_revision: revision,
            version: kept.map_or(0, |prev| prev.version) + 1,
            lease: kept.filter(|_| put.ignore_lease).map_or(put.lease, |prev| prev.lease),
        });
        let prev = prev.filter(|_| put.prev_kv);
        prev.iter().try_for_each(|kv| self.has_read(kv))?;
        Ok(PutOutcome { revision, prev })
    }

    fn delete(&mut self, delete: &Delete) -> Result<DeleteOutcome, Error> {
        let revision = self.revision();
        let found: Vec<_> = self.keys.iter_at(&delete.keys, revision).cloned().collect();
        visit(&mut self.visited)?;
        for kv in &found {
            self.push(KeyValue::tombstone(kv.key.clone(), revision));
        }
        let deleted = found.len() as u64;
        Ok(DeleteOutcome { revision: self.current(), deleted, prev: if delete.prev_kv { found } else { Vec::new() } })
    }

    /// Adds a version to its key, and to this revision.
    fn push(&mut self, version: KeyValue) {
        let version = Arc::new(version);
        self.versions.push(version.clone());
        self.keys.push(version);
    }

    /// Makes the changes the next revision, if there are any.
    fn commit(self) {
        if !self.versions.is_empty() {
            self.keys.revision += 1;
            self.keys.history.insert(self.keys.revision, self.versions.into());
        }
    }

    /// Takes all changes back.
    fn undo(self) {
        for version in self.versions.into_iter().rev() {
            self.keys.bytes -= version.size();
            let versions = self.keys.index.get_mut(&version.key).expect("the change put it there");
            versions.pop();
            let lease = versions.last().map(|last| last.lease);
            if lease.is_none() {
                self.keys.index.remove(&version.key);
            }
            self.keys.attach(&version.key, version.lease, lease.unwrap_or(0));
        }
    }
}

impl Keys {
    /// Adds a version to its key.
    pub(super) fn push(&mut self, version: Arc<KeyValue>) {
        self.bytes += version.size();
        let before = match self.index.get_mut(&version.key) {
            Some(versions) => {
                let before = versions.last().map_or(0, |last| last.lease);
                versions.push(version.clone());
                before
            }
            None => {
                self.index.insert(version.key.clone(), vec![version.clone()]);
                0
            }
        };
        self.attach(&version.key, before, version.lease);
    }

    /// Moves a key from one lease to another.
    fn attach(&mut self, key: &Bytes, before: i64, after: i64) {
        if before == after {
            return;
        }
        if before != 0 {
            self.attached.remove(&(before, key.clone()));
        }
        if after != 0 {
            self.attached.insert((after, key.clone()), ());
        }
    }

    /// The version of a key before this one, if the key existed then and the history still has it.
    pub(super) fn version_before(&self, version: &KeyValue) -> Option<&Arc<KeyValue>> {
        let versions = self.index.get(&version.key)?;
        let at = versions.partition_point(|each| each.mod_revision < version.mod_revision);
        versions[..at].last().filter(|before| !before.is_tombstone())
    }

    /// The changes of each revision from this one on.
    pub(super) fn changes_from(&self, revision: u64) -> impl Iterator<Item = (u64, &Arc<[Arc<KeyValue>]>)> {
        self.history.iter_from(&revision).map(|(revision, versions)| (*revision, versions))
    }
}
