//! The outcomes of commands and reads.

use std::sync::Arc;

use super::KeyValue;

/// The outcome of a command. Its revision is the current one after the command.
///
/// The example of [`crate`] has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysOutcome {
    /// A key was put.
    Put(PutOutcome),
    /// Keys were deleted, or there were none.
    Delete(DeleteOutcome),
    /// A transaction was carried out.
    Txn {
        /// The current revision.
        revision: u64,
        /// Whether the comparisons held.
        succeeded: bool,
        /// The outcomes of the operations that were carried out.
        responses: Vec<OpOutcome>,
    },
    /// The history was compacted.
    Compact {
        /// The current revision.
        revision: u64,
    },
    /// The alarm is off.
    Disarmed {
        /// The current revision.
        revision: u64,
    },
}

/// The outcome of a put. [`Store::put`](crate::Store::put) returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOutcome {
    /// The current revision.
    pub revision: u64,
    /// The key as it was before, if the put asked for it and the key existed.
    pub prev: Option<Arc<KeyValue>>,
}

/// The outcome of a delete. [`Store::delete`](crate::Store::delete) returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The current revision.
    pub revision: u64,
    /// How many keys were deleted.
    pub deleted: u64,
    /// The keys as they were before, if the delete asked for them.
    pub prev: Vec<Arc<KeyValue>>,
}

/// How many bytes a key counts in [`RangeOutcome::within`] besides its name and value: its numbers, with their names in JSON.
pub const KV_BYTES: usize = 100;

/// The outcome of a read. [`Store::range`](crate::Store::range) returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOutcome {
    /// The current revision, whichever was read.
    pub revision: u64,
    /// How many keys the range has at the revision that was read.
    pub count: u64,
    /// Whether limits left some out.
    pub more: bool,
    /// The keys.
    pub kvs: Vec<Arc<KeyValue>>,
}

impl RangeOutcome {
    /// Keeps as many keys as fit into `most` bytes, each counted as its name, its value and [`KV_BYTES`]; at least the first.
    #[must_use]
    pub fn within(mut self, most: usize) -> Self {
        let mut bytes = 0_usize;
        let fits = self.kvs.iter().take_while(|kv| {
            bytes = bytes.saturating_add(kv.key.len() + kv.value.len() + KV_BYTES);
            bytes <= most
        });
        let fits = fits.count().max(1);
        self.more |= fits < self.kvs.len();
        self.kvs.truncate(fits);
        self
    }
}

/// The outcome of an operation of a transaction. [`Store::txn`](crate::Store::txn) returns them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// Keys were read.
    Range(RangeOutcome),
    /// A key was put.
    Put(PutOutcome),
    /// Keys were deleted, or there were none.
    Delete(DeleteOutcome),
    /// A nested transaction was carried out.
    Txn {
        /// The current revision.
        revision: u64,
        /// Whether its comparisons held.
        succeeded: bool,
        /// The outcomes of its operations that were carried out.
        responses: Vec<OpOutcome>,
    },
}

impl KeysOutcome {
    /// The current revision after the command.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(put) => put.revision,
            Self::Delete(delete) => delete.revision,
            Self::Txn { revision, .. } | Self::Compact { revision } | Self::Disarmed { revision } => *revision,
        }
    }

    /// A lower bound of its encoded size, without encoding it.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Put(put) => size(&put.prev),
            Self::Delete(delete) => size(&delete.prev),
            Self::Txn { responses, .. } => responses.iter().map(OpOutcome::size).sum(),
            Self::Compact { .. } | Self::Disarmed { .. } => 0,
        }
    }
}

impl OpOutcome {
    fn size(&self) -> u64 {
        match self {
            Self::Range(range) => size(&range.kvs),
            Self::Put(put) => size(&put.prev),
            Self::Delete(delete) => size(&delete.prev),
            Self::Txn { responses, .. } => responses.iter().map(Self::size).sum(),
        }
    }
}

fn size<'a>(kvs: impl IntoIterator<Item = &'a Arc<KeyValue>>) -> u64 {
    kvs.into_iter().map(|kv| (kv.key.len() + kv.value.len()) as u64).sum()
}
