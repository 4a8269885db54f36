//! Users' keys, in etcd's data model.
//!
//! # Model
//!
//! The store has a **revision**. It starts at 1, and each command that changes keys raises it by one, however many keys
//! it changes; other machines may take a revision for themselves, at which no key changes. Within a revision changes
//! have an order, and no key changes twice. A key lives from the put that creates it to the delete that ends it (a
//! *generation*); meanwhile it has a `create_revision`, a `mod_revision`, and a `version` that counts its puts from 1. It
//! may be attached to one lease, and is deleted when that ends.
//!
//! # Structure
//!
//! - `index`: each key's versions, oldest first. A delete is a version, too, a *tombstone*. What a key was at a
//!   revision is the last version up to there.
//! - `log`: the versions of each revision that has some, in their order. Watches read it.
//! - `attached`: the leases' keys.
//!
//! Versions are shared between index and log. All are copy-on-write maps, so the copy that a snapshot is written from
//! is made in microseconds.
//!
//! # Invariants
//!
//! - Versions of a key have rising `mod_revision`s, and are never only a tombstone that is at or before `compacted`.
//! - After a compaction at R each key has at most one version up to R, and the log has revisions from R on: reads at R,
//!   and watches from R, still work.
//! - `bytes` is the sum of all versions in the index.
//! - A command that is refused changes nothing, but for the alarm.
//!
//! # Where it differs from etcd 3.4
//!
//! - Operations of a transaction that would change a key twice are refused in every order. etcd misses a few: a range
//!   to delete without an end, and a delete in a nested transaction after the put in an earlier one.
//! - Only what a transaction would do is counted against the quota, not the branch that is not taken.
//! - The deletes of the very revision that was compacted are still there for watches from that revision.
//! - What a transaction reads is bounded by [`MAX_TXN_READ`] and [`MAX_TXN_KEYS`].

mod changes;
mod check;
pub(crate) mod codec;
mod command;
mod compact;
mod outcome;
mod read;
mod snapshot;
mod txn;
mod watch;

use std::sync::Arc;

use bytes::Bytes;

use crate::{cow_map::CowMap, error::Error};

pub use command::{Command, Compare, CompareOp, CompareTarget, Delete, Op, Put, Txn};
pub use compact::Compactor;
pub use outcome::{DeleteOutcome, KV_BYTES, OpOutcome, Outcome, PutOutcome, RangeOutcome};
pub use read::{KeyRange, Range, SortOrder, SortTarget};
pub use watch::{Cancelled, Event, Poll, Watch, WatchEvent, WatchHub, WatchId};

/// The machine's name.
pub const NAME: &str = "keys";

pub use crate::limits::{MAX_OPS, MAX_REQUEST, MAX_TXN_KEYS, MAX_TXN_READ};

/// The version of the newest of this machine's commands.
pub const VERSION: u16 = 1;

/// How many bytes keys may take, history included, unless the quota is set to something else.
pub const DEFAULT_QUOTA: u64 = 256 << 20;

/// No revision is as high as this: there is room for all that may come.
const MAX_REVISION: u64 = u64::MAX / 2;

/// What a version takes besides its key and value, estimated: its numbers, and its places in index and log.
const VERSION_BYTES: u64 = 256;

/// A key as it is, or was, at a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// Its name.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it; 0 of a deleted key.
    pub create_revision: u64,
    /// The revision that changed it last.
    pub mod_revision: u64,
    /// How many puts it has had since it was created; 0 of a deleted key.
    pub version: u64,
    /// The lease that it is attached to; 0 if to none.
    pub lease: i64,
}

impl KeyValue {
    /// The version that a delete leaves.
    fn tombstone(key: Bytes, revision: u64) -> Self {
        Self { key, mod_revision: revision, ..Self::default() }
    }

    /// Whether this is what a delete leaves.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// What it is counted as.
    fn size(&self) -> u64 {
        size_of(&self.key, self.value.len())
    }
}

fn size_of(key: &[u8], value: usize) -> u64 {
    VERSION_BYTES + key.len() as u64 + value as u64
}

/// A key's versions, oldest first. There is one at least.
type Versions = Vec<Arc<KeyValue>>;

/// The state of users' keys.
#[derive(Clone, Debug)]
pub struct Keys {
    revision: u64,
    compacted: u64,
    index: CowMap<Bytes, Versions>,
    log: CowMap<u64, Arc<[Arc<KeyValue>]>>,
    attached: CowMap<(i64, Bytes), ()>,
    bytes: u64,
    quota: u64,
    alarm: bool,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            index: CowMap::default(),
            log: CowMap::default(),
            attached: CowMap::default(),
            bytes: 0,
            quota: DEFAULT_QUOTA,
            alarm: false,
        }
    }
}

impl Keys {
    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The first revision that can be read; 0 before the first compaction.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// How many bytes are taken, history included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes may be taken.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    pub(crate) fn set_quota(&mut self, bytes: u64) {
        self.quota = bytes;
    }

    /// Whether space has run out, and the alarm has not been disarmed since. Until then nothing is put.
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// What has changed at the newest revision, if that is not this one: each key as it is now, or what a delete leaves of it.
    pub(crate) fn changed_after(&self, revision: u64) -> Option<Arc<[Arc<KeyValue>]>> {
        (self.revision != revision).then(|| self.log.get(&self.revision).cloned()).flatten()
    }

    /// A lease's keys, in order.
    pub fn attached(&self, lease: i64) -> impl Iterator<Item = &Bytes> {
        let all = self.attached.iter_from(&(lease, Bytes::new()));
        all.take_while(move |((each, _), ())| *each == lease).map(|((_, key), ())| key)
    }

    /// The leases that keys are attached to, once for each key.
    pub(crate) fn leases(&self) -> impl Iterator<Item = i64> {
        self.attached.iter().map(|((lease, _), ())| *lease)
    }

    /// The state of the keys at a revision in a number that is equal on all members that have that revision and were
    /// compacted at the same one. This reads every version: seconds, if the quota is full.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] and [`Error::FutureRevision`].
    pub fn hash_at(&self, revision: u64) -> Result<u32, Error> {
        let revision = self.check_revision(revision)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.compacted.to_le_bytes());
        for (_, versions) in self.index.iter() {
            for version in versions.iter().take_while(|version| version.mod_revision <= revision) {
                let mut writer = crate::codec::Writer::new();
                codec::write_key_value(&mut writer, version);
                hasher.update(&writer.finish());
            }
        }
        Ok(hasher.finalize())
    }

    /// The revision to read at: the newest for 0.
    fn check_revision(&self, revision: u64) -> Result<u64, Error> {
        match revision {
            0 => Ok(self.revision),
            requested if requested > self.revision => Err(Error::FutureRevision { requested, current: self.revision }),
            requested if requested < self.compacted => Err(Error::Compacted { requested, compacted: self.compacted }),
            requested => Ok(requested),
        }
    }

    fn no_space(&self) -> Error {
        Error::NoSpace { machine: NAME.to_owned(), quota: self.quota, bytes: self.bytes }
    }

    /// Each version's place is checked, and the sums: what tests run after every step.
    #[doc(hidden)]
    pub fn assert_invariants(&self) {
        let mut bytes = 0;
        let mut attached = Vec::new();
        for (key, versions) in self.index.iter() {
            assert!(versions.windows(2).all(|pair| pair[0].mod_revision < pair[1].mod_revision), "{versions:?}");
            assert!(versions.iter().all(|version| version.key == key), "{key:?}: {versions:?}");
            let old = versions.iter().filter(|version| version.mod_revision <= self.compacted).count();
            assert!(old <= 1 && (old == 0 || !versions[0].is_tombstone()), "{}: {versions:?}", self.compacted);
            bytes += versions.iter().map(|version| version.size()).sum::<u64>();
            let last = versions.last().expect("no key is without versions");
            attached.extend((last.lease != 0).then(|| (last.lease, key.clone())));
        }
        attached.sort();
        assert!(self.attached.iter().map(|(each, ())| each).eq(&attached), "{attached:?}");
        assert_eq!(bytes, self.bytes);
        let first = self.log.first().map(|(revision, _)| *revision);
        assert!(first.is_none_or(|first| first >= self.compacted), "{first:?}");
        let since = self.log.iter().filter(|(revision, _)| **revision > self.compacted).count() as u64;
        assert!(since <= self.revision - self.compacted.max(1), "a revision is in the log twice");
    }
}

/// The key's version at a revision, if it was there.
fn version_at(versions: &[Arc<KeyValue>], revision: u64) -> Option<&Arc<KeyValue>> {
    let last = versions.last()?;
    let version = if last.mod_revision <= revision {
        last
    } else {
        &versions[versions.partition_point(|version| version.mod_revision <= revision).checked_sub(1)?]
    };
    (!version.is_tombstone()).then_some(version)
}
