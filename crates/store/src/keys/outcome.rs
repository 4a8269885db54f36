//! What became of commands and reads.

use std::sync::Arc;

use super::KeyValue;

/// What became of a command. A revision is the newest one after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A key was put.
    Put(PutOutcome),
    /// Keys were deleted, or there were none.
    Delete(DeleteOutcome),
    /// A transaction was carried out.
    Txn {
        /// The newest revision.
        revision: u64,
        /// Whether the comparisons held.
        succeeded: bool,
        /// The outcomes of the operations that were carried out.
        responses: Vec<OpOutcome>,
    },
    /// History is forgotten.
    Compact {
        /// The newest revision.
        revision: u64,
    },
    /// The alarm is off.
    Disarmed {
        /// The newest revision.
        revision: u64,
    },
}

/// What a put did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOutcome {
    /// The newest revision.
    pub revision: u64,
    /// The key as it was, if that was asked for, and it was there.
    pub prev: Option<Arc<KeyValue>>,
}

/// What a delete did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The newest revision.
    pub revision: u64,
    /// How many keys were deleted.
    pub deleted: u64,
    /// The keys as they were, if that was asked for.
    pub prev: Vec<Arc<KeyValue>>,
}

/// What a key counts in a list beside its bytes and those of its value: its revisions, and their names in JSON.
pub const KV_BYTES: usize = 100;

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeOutcome {
    /// The newest revision, whichever was read.
    pub revision: u64,
    /// How many keys the range has at the revision that was read.
    pub count: u64,
    /// Whether there are more than the limits let through.
    pub more: bool,
    /// The keys.
    pub kvs: Vec<Arc<KeyValue>>,
}

impl RangeOutcome {
    /// As many of its keys as take so many bytes, each [`KV_BYTES`] more than its key and value; at least the first.
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

/// What an operation of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// Keys were read.
    Range(RangeOutcome),
    /// A key was put.
    Put(PutOutcome),
    /// Keys were deleted, or there were none.
    Delete(DeleteOutcome),
    /// A transaction within was carried out.
    Txn {
        /// The newest revision.
        revision: u64,
        /// Whether its comparisons held.
        succeeded: bool,
        /// The outcomes of its operations that were carried out.
        responses: Vec<OpOutcome>,
    },
}

impl Outcome {
    /// The newest revision after the command.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Put(put) => put.revision,
            Self::Delete(delete) => delete.revision,
            Self::Txn { revision, .. } | Self::Compact { revision } | Self::Disarmed { revision } => *revision,
        }
    }

    /// At least how many bytes it is encoded, without encoding it.
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
