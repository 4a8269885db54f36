//! The checks of a command that need no keys.

use super::{KeysCommand, MAX_OPS, MAX_REQUEST, Op, Put, Txn, changes::Changes, codec};
use crate::error::Error;

impl KeysCommand {
    /// Checks what needs no keys: missing names, too many operations, too large a request.
    ///
    /// # Errors
    ///
    /// [`Error::KeyNotProvided`], [`Error::ValueProvided`], [`Error::LeaseProvided`], [`Error::TooManyOps`],
    /// [`Error::DuplicateKey`] and [`Error::RequestTooLarge`].
    pub fn check(&self) -> Result<(), Error> {
        self.check_parts()?;
        let size = codec::size(self);
        if size > MAX_REQUEST { Err(Error::RequestTooLarge { size: size as u64 }) } else { Ok(()) }
    }

    /// The same without the size: a command from the log was small enough.
    pub(super) fn check_parts(&self) -> Result<(), Error> {
        match self {
            Self::Put(put) => put.check(),
            Self::Delete(delete) => delete.keys.check(),
            Self::Txn(txn) => {
                txn.check(MAX_OPS)?;
                Changes::of(&txn.success)?;
                Changes::of(&txn.failure).map(drop)
            }
            Self::Compact { .. } | Self::Disarm => Ok(()),
        }
    }
}

impl Put {
    fn check(&self) -> Result<(), Error> {
        if self.key.is_empty() {
            Err(Error::KeyNotProvided)
        } else if self.ignore_value && !self.value.is_empty() {
            Err(Error::ValueProvided)
        } else if self.ignore_lease && self.lease != 0 {
            Err(Error::LeaseProvided)
        } else {
            Ok(())
        }
    }
}

impl Txn {
    /// Counts as etcd does: nested transactions may have what the longest list leaves.
    fn check(&self, most: usize) -> Result<(), Error> {
        let ops = self.compare.len().max(self.success.len()).max(self.failure.len());
        let left = most.checked_sub(ops).ok_or(Error::TooManyOps)?;
        self.compare.iter().try_for_each(|compare| compare.keys.check())?;
        self.success.iter().chain(&self.failure).try_for_each(|op| match op {
            Op::Range(range) => range.keys.check(),
            Op::Put(put) => put.check(),
            Op::Delete(delete) => delete.keys.check(),
            Op::Txn(txn) => txn.check(left),
        })
    }
}
