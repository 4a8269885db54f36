//! What can be asked of keys, and what is refused before it is looked at closer.

use bytes::Bytes;

use super::{KeyRange, Range};

/// A command for keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Puts a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
    /// Does one or the other, as comparisons say.
    Txn(Txn),
    /// Forgets history before a revision. Reads and watches from that revision on still work.
    Compact {
        /// The first revision that can be read afterwards.
        revision: u64,
    },
    /// Ends the alarm of too little space.
    Disarm,
}

/// Puts a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Put {
    /// Its name: 1 byte at least.
    pub key: Bytes,
    /// Its new value.
    pub value: Bytes,
    /// The lease that it is attached to from now on; 0 for none.
    pub lease: i64,
    /// Whether the answer has the key as it was.
    pub prev_kv: bool,
    /// Keeps the value that it has, and `value` is empty.
    pub ignore_value: bool,
    /// Keeps the lease that it has, and `lease` is 0.
    pub ignore_lease: bool,
}

/// Deletes keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// Which.
    pub keys: KeyRange,
    /// Whether the answer has the keys as they were.
    pub prev_kv: bool,
}

/// Operations that depend on how keys compare. All of them have one revision, or none has any effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of them have to hold. They are evaluated before anything is changed, those of nested transactions as well.
    pub compare: Vec<Compare>,
    /// What is done if they hold.
    pub success: Vec<Op>,
    /// What is done if not.
    pub failure: Vec<Op>,
}

/// An operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads keys, with the changes of the operations before it.
    Range(Range),
    /// Puts a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
    /// A transaction within.
    Txn(Txn),
}

/// Compares keys. A key that is not there has 0 for each number, and no value at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The keys, each of which has to compare so. If there are none, one that is not there has to.
    pub keys: KeyRange,
    /// How.
    pub op: CompareOp,
    /// With what.
    pub target: CompareTarget,
}

/// How the key's own is compared with what is given.
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

/// What is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompareTarget {
    /// How many puts the key has had since it was created.
    Version(u64),
    /// The revision that created it.
    Create(u64),
    /// The revision that changed it last.
    Mod(u64),
    /// Its value. This holds for no key that is not there.
    Value(Bytes),
    /// Its lease.
    Lease(i64),
}

impl Command {
    /// What it may put with a lease, whichever way its transactions go.
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

    /// The version of the machine that this appeared in, so that a leader does not send it to members of before.
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
