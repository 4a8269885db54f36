//! A hash index of records, by name or by address.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
};

use hashbrown::HashTable;

use super::record::Record;

/// See the [module](self). To be small, it holds numbers of records, not names and addresses. It is never iterated, as its
/// order differs from run to run.
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

    /// Adds the record with this number, which is not in the index yet.
    pub(super) fn insert<'a>(&mut self, number: u32, record: impl Fn(u32) -> &'a Record) {
        let Self { numbers, hasher, hash } = self;
        let hash = |number: &u32| hash(hasher, record(*number));
        numbers.insert_unique(hash(&number), number, hash);
    }

    /// Removes a record; gives whether it was in the index.
    pub(super) fn remove(&mut self, number: u32, record: &Record) -> bool {
        let hash = (self.hash)(&self.hasher, record);
        self.numbers.find_entry(hash, |indexed| *indexed == number).map(|entry| entry.remove()).is_ok()
    }

    /// The record with this name, if this is an index of names.
    pub(super) fn find_name<'a>(&self, name: &[u8], record: impl Fn(u32) -> &'a Record) -> Option<u32> {
        let is = |number: &u32| *record(*number).name.as_bytes() == *name;
        self.numbers.find(self.hasher.hash_one(name), is).copied()
    }

    /// All records with this address, and maybe others with the same hash, if this is an index of addresses.
    pub(super) fn candidates_at(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        self.numbers.iter_hash(self.hasher.hash_one(addr)).copied()
    }
}
