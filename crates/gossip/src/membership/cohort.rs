//! Members that many nodes of one process know from their beginning, as those of a large simulation do: they are kept
//! once, and each node keeps of its own only what has changed since ([`Acquainted`]).

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use super::{
    MemberState, NodeName,
    index::Index,
    record::{Record, Standing},
};
use crate::wire::{Address, Versions};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cohort {
    records: Vec<Record>,
    by_name: Index,
    by_addr: Index,
    /// Their places on a ring, as the first node has laid it out.
    ring: OnceLock<Arc<[(u64, SocketAddr)]>>,
}

impl Cohort {
    /// Live members of the first incarnation, which count as proven. Their names must be different.
    pub(crate) fn new(members: impl IntoIterator<Item = (NodeName, Address, Versions)>) -> Self {
        let standing = Standing::new(MemberState::Alive, true);
        let record = |(name, address, versions)| {
            let mut record = Record::new(name, address, versions, 0);
            (record.incarnation, record.standing) = (1, standing);
            record
        };
        let records: Vec<Record> = members.into_iter().map(record).collect();
        let (mut by_name, mut by_addr) = (Index::by_name(), Index::by_addr());
        for number in 0..u32::try_from(records.len()).expect("no memory holds that many members") {
            by_name.enter(number, |number| &records[number as usize]);
            by_addr.enter(number, |number| &records[number as usize]);
        }
        Self { records, by_name, by_addr, ring: OnceLock::new() }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it is one of them.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.number(name).is_some()
    }

    /// These places, kept once for all nodes that have the same.
    pub(super) fn share_ring(&self, places: Vec<(u64, SocketAddr)>) -> Arc<[(u64, SocketAddr)]> {
        let ring = self.ring.get_or_init(|| places.as_slice().into());
        if **ring == *places { Arc::clone(ring) } else { places.into() }
    }

    fn number(&self, name: &[u8]) -> Option<u32> {
        self.by_name.named(name, |number| self.record(number))
    }

    fn record(&self, number: u32) -> &Record {
        &self.records[number as usize]
    }
}

/// What a node makes of a cohort.
#[derive(Debug)]
pub(super) struct Acquainted {
    cohort: Arc<Cohort>,
    /// A bit for each whose record is the node's own, or was until it was forgotten.
    parted: Box<[u64]>,
}

impl Acquainted {
    pub(super) fn new(cohort: Arc<Cohort>) -> Self {
        let parted = vec![0; cohort.len().div_ceil(64)].into();
        Self { cohort, parted }
    }

    pub(super) fn cohort(&self) -> &Cohort {
        &self.cohort
    }

    fn is_parted(&self, number: u32) -> bool {
        self.parted[number as usize / 64] & (1 << (number % 64)) != 0
    }

    /// Those whose records are the cohort's.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..).take(self.cohort.len()).filter(|number| !self.is_parted(*number))
    }

    /// The number of such a one.
    pub(super) fn number(&self, name: &[u8]) -> Option<u32> {
        self.cohort.number(name).filter(|number| !self.is_parted(*number))
    }

    /// The same of those that may be at an address.
    pub(super) fn maybe_at(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        self.cohort.by_addr.maybe_at(addr).filter(|number| !self.is_parted(*number))
    }

    pub(super) fn record(&self, number: u32) -> &Record {
        self.cohort.record(number)
    }

    /// From now on its record is the node's own.
    pub(super) fn part(&mut self, number: u32) {
        self.parted[number as usize / 64] |= 1 << (number % 64);
    }
}
