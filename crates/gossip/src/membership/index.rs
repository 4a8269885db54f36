//! The numbers of records, found by something of theirs.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
};

use hashbrown::HashTable;

use super::record::Record;

/// See the [module](self). It holds numbers, not names and addresses, to be small. The order it has is never looked at:
/// it differs from run to run.
#[derive(Debug)]
pub(super) struct Index {
    numbers: HashTable<u32>,
    hasher: RandomState,
    hash: fn(&RandomState, &Record) -> u64,
}

impl Index {
    fn new(hash: fn(&RandomState, &Record) -> u64) -> Self {
        Self { numbers: HashTable::new(), hasher: RandomState::new(), hash }
    }

    pub(super) fn by_name() -> Self {
        Self::new(|hasher, record| hasher.hash_one(record.name.as_bytes()))
    }

    pub(super) fn by_addr() -> Self {
        Self::new(|hasher, record| hasher.hash_one(record.addr()))
    }

    /// Enters the record of a number, which is not in yet.
    pub(super) fn enter<'a>(&mut self, number: u32, record: impl Fn(u32) -> &'a Record) {
        let Self { numbers, hasher, hash } = self;
        let hash = |number: &u32| hash(hasher, record(*number));
        numbers.insert_unique(hash(&number), number, hash);
    }

    /// Forgets the number of this record; gives whether it was in.
    pub(super) fn leave(&mut self, number: u32, record: &Record) -> bool {
        let hash = (self.hash)(&self.hasher, record);
        self.numbers.find_entry(hash, |entered| *entered == number).map(|entry| entry.remove()).is_ok()
    }

    /// Whose name it is, if it is an index of names.
    pub(super) fn named<'a>(&self, name: &[u8], record: impl Fn(u32) -> &'a Record) -> Option<u32> {
        let is = |number: &u32| *record(*number).name.as_bytes() == *name;
        self.numbers.find(self.hasher.hash_one(name), is).copied()
    }

    /// Who may be at this address, if it is an index of addresses: all who are, and maybe others.
    pub(super) fn maybe_at(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        self.numbers.iter_hash(self.hasher.hash_one(addr)).copied()
    }
}
