//! Users' keys, in etcd's data model. This module is pure: it reads no clock and does no I/O.
//!
//! # The model
//!
//! The store has a **revision**. It starts at 1, and each command that changes keys raises it by one, however many keys
//! it changes. Other machines may take a revision for themselves, at which no key changes. The changes of a revision have an
//! order, and no key changes twice in it. A key lives from the put that creates it to the delete that ends it (etcd's
//! *generation*). Meanwhile it has a `create_revision`, a `mod_revision`, and a `version` that counts its puts from 1. It
//! may be attached to one lease, whose end deletes it.
//!
//! ```
//! use broadcast_store::{LogId, keys::{KeysCommand, Put, Range}, machine::{Command, State}};
//!
//! let mut state = State::new();
//! for (index, value) in [(1, "red"), (2, "green")] {
//!     let put = KeysCommand::Put(Put { key: "color".into(), value: value.into(), ..Put::default() });
//!     state.apply(LogId { term: 1, index }, &Command::keys(&put)?)?;
//! }
//! let keys = state.keys();
//! let now = keys.range(&Range::of("color"))?;
//! assert_eq!((now.revision, &now.kvs[0].value[..], now.kvs[0].version), (3, &b"green"[..], 2));
//! let before = keys.range(&Range { revision: 2, ..Range::of("color") })?;
//! assert_eq!(before.kvs[0].value, "red");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it is kept
//!
//! - `index`: the versions of each key, oldest first. A delete leaves a version, too, a *tombstone*. The key's state at a
//!   revision is its last version up to there.
//! - `history`: the versions of each revision that has some, in their order. Watches read it.
//! - `attached`: the keys of each lease.
//!
//! Index and history share the versions. All three are copy-on-write maps, so a copy to write a snapshot from takes
//! microseconds.
//!
//! # Invariants
//!
//! - The versions of a key have rising `mod_revision`s. A key whose only version is a tombstone at or before `compacted` is not
//!   in the index.
//! - After a compaction at revision R each key has at most one version up to R, and the history has the revisions from R on. So
//!   reads at R and watches from R still work.
//! - `bytes` is the sum of all versions in the index.
//! - A refused command changes nothing but the alarm.
//!
//! # Where it differs from etcd 3.4
//!
//! - A transaction that would change a key twice is refused, in whatever order. etcd misses two cases: the delete of a range
//!   without an end, and a delete in a nested transaction after the put in an earlier one.
//! - Only the branch that a transaction takes counts against the quota.
//! - The deletes at the compacted revision itself are still there for watches from that revision.
//! - [`MAX_TXN_READ`] and [`MAX_TXN_KEYS`] bound what a transaction reads.

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

pub use command::{Compare, CompareOp, CompareTarget, Delete, KeysCommand, Op, Put, Txn};
pub use compact::Compactor;
pub use outcome::{DeleteOutcome, KV_BYTES, KeysOutcome, OpOutcome, PutOutcome, RangeOutcome};
pub use read::{KeyRange, Range, SortOrder, SortTarget};
pub use watch::{CancelReason, KeyEvent, Watch, WatchEvent, WatchHub, WatchId, WatchPoll};

/// The name of the keys among the [machines](crate::machine::Machine).
pub const NAME: &str = "keys";

pub use crate::limits::{MAX_OPS, MAX_REQUEST, MAX_TXN_KEYS, MAX_TXN_READ};

/// The version of the newest command for keys.
pub const VERSION: u16 = 1;

/// How many bytes keys and their history may take, unless [`Command::set_quota`](crate::machine::Command::set_quota) says
/// otherwise.
pub const DEFAULT_QUOTA: u64 = 256 << 20;

/// Every revision is lower than this, so that adding to one never overflows.
const MAX_REVISION: u64 = u64::MAX / 2;

/// An estimate of the memory that a version takes besides its key and value, in index and history.
const VERSION_BYTES: u64 = 256;

/// A key with its value, at a revision. [`Keys::range`] returns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// Its name.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it; 0 if it was deleted.
    pub create_revision: u64,
    /// The revision that changed it last.
    pub mod_revision: u64,
    /// How many puts it has had since it was created; 0 if it was deleted.
    pub version: u64,
    /// The lease that it is attached to; 0 if none.
    pub lease: i64,
}

impl KeyValue {
    /// The version that a delete leaves.
    fn tombstone(key: Bytes, revision: u64) -> Self {
        Self { key, mod_revision: revision, ..Self::default() }
    }

    /// Whether this is the version that a delete leaves.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// The bytes that it counts as.
    fn size(&self) -> u64 {
        size_of(&self.key, self.value.len())
    }
}

fn size_of(key: &[u8], value: usize) -> u64 {
    VERSION_BYTES + key.len() as u64 + value as u64
}

/// The versions of a key, oldest first; at least one.
type Versions = Vec<Arc<KeyValue>>;

/// All keys with their history. See the [module](self) for an example.
#[derive(Clone, Debug)]
pub struct Keys {
    revision: u64,
    compacted: u64,
    index: CowMap<Bytes, Versions>,
    history: CowMap<u64, Arc<[Arc<KeyValue>]>>,
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
            history: CowMap::default(),
            attached: CowMap::default(),
            bytes: 0,
            quota: DEFAULT_QUOTA,
            alarm: false,
        }
    }
}

impl Keys {
    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The compacted revision: the first one that can be read; 0 before the first compaction.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// How many bytes keys and their history take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes they may take.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    pub(crate) fn set_quota(&mut self, bytes: u64) {
        self.quota = bytes;
    }

    /// Whether the alarm is on: space has run out, and nothing is put until [`KeysCommand::Disarm`].
    pub fn alarm(&self) -> bool {
        self.alarm
    }

    /// The changes of the current revision, if that is not this one: each key as it is now, or its tombstone.
    pub(crate) fn changed_after(&self, revision: u64) -> Option<Arc<[Arc<KeyValue>]>> {
        (self.revision != revision).then(|| self.history.get(&self.revision).cloned()).flatten()
    }

    /// The keys of a lease, in order.
    pub fn attached(&self, lease: i64) -> impl Iterator<Item = &Bytes> {
        let all = self.attached.iter_from(&(lease, Bytes::new()));
        all.take_while(move |((each, _), ())| *each == lease).map(|((_, key), ())| key)
    }

    /// The lease of each key that has one.
    pub(crate) fn leases(&self) -> impl Iterator<Item = i64> {
        self.attached.iter().map(|((lease, _), ())| *lease)
    }

    /// A hash of all keys at a revision (etcd's `HashKV`). It is equal on all members that are compacted at the same revision.
    /// It reads every version: that takes seconds if the quota is full.
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
                let mut writer = crate::codec::ByteWriter::new();
                codec::write_key_value(&mut writer, version);
                hasher.update(&writer.finish());
            }
        }
        Ok(hasher.finalize())
    }

    /// The revision to read at; 0 means the current one.
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

    /// Panics if an invariant does not hold. Tests call it after every step.
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
        let first = self.history.first().map(|(revision, _)| *revision);
        assert!(first.is_none_or(|first| first >= self.compacted), "{first:?}");
        let since = self.history.iter().filter(|(revision, _)| **revision > self.compacted).count() as u64;
        assert!(since <= self.revision - self.compacted.max(1), "a revision is in the log twice");
    }
}

/// The key's version at a revision, if the key existed then.
fn version_at(versions: &[Arc<KeyValue>], revision: u64) -> Option<&Arc<KeyValue>> {
    let last = versions.last()?;
    let version = if last.mod_revision <= revision {
        last
    } else {
        &versions[versions.partition_point(|version| version.mod_revision <= revision).checked_sub(1)?]
    };
    (!version.is_tombstone()).then_some(version)
}

/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `KeysCommand`")]
pub type Command = KeysCommand;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `KeysOutcome`")]
pub type Outcome = KeysOutcome;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `KeyEvent`")]
pub type Event = KeyEvent;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `CancelReason`")]
pub type Cancelled = CancelReason;
