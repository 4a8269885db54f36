//! Members that many nodes of one process know from the start, as in a large simulation: their records are shared, and each
//! node copies those that change ([`CohortOverlay`]).

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use super::{
    MemberState, NodeName,
    index::Index,
    record::{PackedState, Record},
};
use crate::wire::{Address, Versions};

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cohort {
    records: Vec<Record>,
    by_name: Index,
    by_addr: Index,
    /// Their places on the hash ring, as the first node that needed them has worked them out.
    ring: OnceLock<Arc<[(u64, SocketAddr)]>>,
}

impl Cohort {
    /// A cohort of these members, live, in their first incarnation, and proven. Their names must differ.
    pub(crate) fn new(members: impl IntoIterator<Item = (NodeName, Address, Versions)>) -> Self {
        let packed_state = PackedState::new(MemberState::Alive, true);
        let record = |(name, address, versions)| {
            let mut record = Record::new(name, address, versions, 0);
            (record.incarnation, record.packed_state) = (1, packed_state);
            record
        };
        let records: Vec<Record> = members.into_iter().map(record).collect();
        let (mut by_name, mut by_addr) = (Index::by_name(), Index::by_addr());
        for number in 0..u32::try_from(records.len()).expect("no memory holds that many members") {
            by_name.insert(number, |number| &records[number as usize]);
            by_addr.insert(number, |number| &records[number as usize]);
        }
        Self { records, by_name, by_addr, ring: OnceLock::new() }
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether a member with this name is one of them.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.number(name).is_some()
    }

    /// These places on the ring, shared by all nodes that have the same ones.
    pub(super) fn share_ring(&self, places: Vec<(u64, SocketAddr)>) -> Arc<[(u64, SocketAddr)]> {
        let ring = self.ring.get_or_init(|| places.as_slice().into());
        if **ring == *places { Arc::clone(ring) } else { places.into() }
    }

    fn number(&self, name: &[u8]) -> Option<u32> {
        self.by_name.find_name(name, |number| self.record(number))
    }

    fn record(&self, number: u32) -> &Record {
        &self.records[number as usize]
    }
}

/// What one node sees of a cohort: copy on write.
#[derive(Debug)]
pub(super) struct CohortOverlay {
    cohort: Arc<Cohort>,
    /// A bit for each record that the node has copied, even if it has removed the copy since.
    copied: Box<[u64]>,
}

impl CohortOverlay {
    pub(super) fn new(cohort: Arc<Cohort>) -> Self {
        let copied = vec![0; cohort.len().div_ceil(64)].into();
        Self { cohort, copied }
    }

    pub(super) fn cohort(&self) -> &Cohort {
        &self.cohort
    }

    fn is_copied(&self, number: u32) -> bool {
        self.copied[number as usize / 64] & (1 << (number % 64)) != 0
    }

    /// The numbers of the records that are still shared.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..).take(self.cohort.len()).filter(|number| !self.is_copied(*number))
    }

    /// The number of the shared record with this name.
    pub(super) fn number(&self, name: &[u8]) -> Option<u32> {
        self.cohort.number(name).filter(|number| !self.is_copied(*number))
    }

    /// The numbers of the shared records that may have this address.
    pub(super) fn candidates_at(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        self.cohort.by_addr.candidates_at(addr).filter(|number| !self.is_copied(*number))
    }

    pub(super) fn record(&self, number: u32) -> &Record {
        self.cohort.record(number)
    }

    /// From now on the node has a record of its own.
    pub(super) fn mark_copied(&mut self, number: u32) {
        self.copied[number as usize / 64] |= 1 << (number % 64);
    }
}
