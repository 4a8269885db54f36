//! The commands for keys.

use bytes::Bytes;

use super::{KeyRange, Range};

/// A command for keys. [`Command::keys`](crate::machine::Command::keys) wraps it for the log.
///
/// ```
/// use broadcast_store::keys::{KeysCommand, Put};
///
/// let put = KeysCommand::Put(Put { key: "color".into(), value: "green".into(), ..Put::default() });
/// assert_eq!(KeysCommand::decode(&put.encode())?, put);
/// # Ok::<(), broadcast_store::CodecError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysCommand {
    /// Puts a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
    /// Does one thing or the other, as comparisons of keys say.
    Txn(Txn),
    /// Compacts: forgets the history before a revision. Reads and watches from that revision on still work.
    Compact {
        /// The first revision that can be read afterwards.
        revision: u64,
    },
    /// Turns off the alarm of too little space.
    Disarm,
}

/// Puts a key: creates it, or changes its value. [`Store::put`](crate::Store::put) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// The key: at least 1 byte.
    pub key: Bytes,
    /// Its new value.
    pub value: Bytes,
    /// The lease that the key is attached to from now on; 0 for none.
    pub lease: i64,
    /// Returns the key as it was before.
    pub prev_kv: bool,
    /// Keeps the value that the key has; then `value` has to be empty.
    pub ignore_value: bool,
    /// Keeps the lease that the key has; then `lease` has to be 0.
    pub ignore_lease: bool,
}

/// Deletes keys. [`Store::delete`](crate::Store::delete) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// Which keys.
    pub keys: KeyRange,
    /// Returns the keys as they were before.
    pub prev_kv: bool,
}

/// A transaction: operations that depend on how keys compare. All of them have one revision, or none has any effect.
/// [`Store::txn`](crate::Store::txn) has an example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The comparisons; all of them have to hold. They are evaluated before anything changes, those of nested transactions, too.
    pub compare: Vec<Compare>,
    /// The operations if all hold.
    pub success: Vec<Op>,
    /// The operations if one does not.
    pub failure: Vec<Op>,
}

/// An operation of a transaction. See [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads keys; it sees the changes of the operations before it.
    Range(Range),
    /// Puts a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
    /// A nested transaction.
    Txn(Txn),
}

/// Compares keys. A key that does not exist has 0 for each number, and no value at all. See [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The keys, each of which has to compare so. If there are none, a key that does not exist has to.
    pub keys: KeyRange,
    /// How to compare.
    pub op: CompareOp,
    /// What to compare, and with what.
    pub target: CompareTarget,
}

/// How the key's own number or value compares with the given one. See [`Txn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CompareOp {
    /// They are equal.
    Equal,
    /// The key's own is greater.
    Greater,
    /// The key's own is less.
    Less,
    /// They differ.
    NotEqual,
}

/// What of a key is compared, and with what. See [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// How many puts the key has had since it was created.
    Version(u64),
    /// The revision that created it.
    Create(u64),
    /// The revision that changed it last.
    Mod(u64),
    /// Its value. This never holds for a key that does not exist.
    Value(Bytes),
    /// Its lease.
    Lease(i64),
}

impl KeysCommand {
    /// All puts with a lease that it may carry out, whichever branches its transactions take.
    pub fn leased_puts(&self) -> Vec<&Put> {
        let mut puts = Vec::new();
        let mut add = |put| puts.extend(Some(put).filter(|put: &&Put| put.lease != 0));
        match self {
            Self::Put(put) => add(put),
            Self::Txn(txn) => txn.each_put(&mut add),
            Self::Delete(_) | Self::Compact { .. } | Self::Disarm => {}
        }
        puts
    }

    /// The version in which this command appeared, so that a leader does not propose it to older members.
    pub fn version(&self) -> u16 {
        match self {
            Self::Put(_) | Self::Delete(_) | Self::Txn(_) | Self::Compact { .. } | Self::Disarm => 1,
        }
    }
}

impl Txn {
    fn each_put<'a>(&'a self, take: &mut impl FnMut(&'a Put)) {
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Put(put) => take(put),
                Op::Txn(txn) => txn.each_put(take),
                Op::Range(_) | Op::Delete(_) => {}
            }
        }
    }
}
