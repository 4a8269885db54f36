//! The table of members: by name, and in the random order they are probed in.
//!
//! A cluster of n nodes holds n² of these records, so they are kept small: the index by name holds
//! places, not names, and metadata, which few members have, costs a pointer where there is none.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::Instant,
};

use bytes::Bytes;
use hashbrown::HashTable;
use rand::{RngExt, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{Member, MemberState, NodeName};
use crate::wire::{Address, Versions};

/// What is known of one node.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: NodeName,
    /// As its owner announced it: Go peers compare it byte by byte.
    pub(crate) address: Address,
    meta: Option<Box<Bytes>>,
    pub(crate) versions: Versions,
    pub(crate) incarnation: u32,
    state: MemberState,
    /// Since when it is in that state.
    since: Instant,
}

impl Record {
    fn new(name: NodeName, address: Address, versions: Versions, now: Instant) -> Self {
        Self { name, address, meta: None, versions, incarnation: 0, state: MemberState::Alive, since: now }
    }

    pub(crate) fn state(&self) -> MemberState {
        self.state
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// What the member tells about itself.
    pub(crate) fn meta(&self) -> Bytes {
        self.meta.as_deref().cloned().unwrap_or_default()
    }

    /// Keeps a copy of its own, lest the record keep a whole packet in memory.
    pub(crate) fn set_meta(&mut self, meta: &[u8]) {
        self.meta = (!meta.is_empty()).then(|| Box::new(Bytes::copy_from_slice(meta)));
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address.socket_addr()
    }

    /// Whether it may still be there.
    pub(crate) fn is_live(&self) -> bool {
        self.state.is_live()
    }

    pub(crate) fn to_member(&self) -> Member {
        Member {
            name: self.name.clone(),
            addr: self.addr(),
            meta: self.meta(),
            state: self.state,
            incarnation: self.incarnation,
        }
    }
}

/// Every member this node remembers, itself included.
#[derive(Debug)]
pub(crate) struct Members {
    records: Vec<Record>,
    by_name: ByName,
    live: usize,
}

/// The places of the records, found by their names. The order it has is never looked at: it differs
/// from run to run.
#[derive(Debug)]
struct ByName {
    places: HashTable<u32>,
    hasher: RandomState,
}

impl ByName {
    fn find(&self, records: &[Record], name: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.places.find(hash, |place| *records[*place as usize].name.as_bytes() == *name).map(|place| *place as usize)
    }

    /// Enters the record at a place, which is not in yet.
    fn enter(&mut self, records: &[Record], place: usize) {
        let Self { places, hasher } = self;
        let hash = |place: &u32| hasher.hash_one(records[*place as usize].name.as_bytes());
        let place = u32::try_from(place).expect("there are at most max_members, which a u32 counts");
        places.insert_unique(hash(&place), place, hash);
    }

    fn rebuild(&mut self, records: &[Record]) {
        self.places.clear();
        let Self { places, hasher } = self;
        places.reserve(records.len(), |place| hasher.hash_one(records[*place as usize].name.as_bytes()));
        for place in 0..records.len() {
            self.enter(records, place);
        }
    }

    /// Two records have changed places.
    fn swap(&mut self, records: &[Record], a: usize, b: usize) {
        if a == b {
            return;
        }
        for (place, was) in [(a, b), (b, a)] {
            let hash = self.hasher.hash_one(records[place].name.as_bytes());
            if let Ok(entry) = self.places.find_entry(hash, |entered| *entered as usize == was) {
                entry.remove();
            }
        }
        self.enter(records, a);
        self.enter(records, b);
    }
}

impl Members {
    pub(crate) fn new() -> Self {
        let by_name = ByName { places: HashTable::new(), hasher: RandomState::new() };
        Self { records: Vec::new(), by_name, live: 0 }
    }

    /// How many are remembered, the dead included.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many are alive or suspect.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Record> {
        self.records.iter()
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Record> {
        self.by_name.find(&self.records, name).map(|place| &self.records[place])
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Record> {
        self.by_name.find(&self.records, name).map(|place| &mut self.records[place])
    }

    /// The record at a place in the order of probing.
    pub(crate) fn at(&self, place: usize) -> Option<&Record> {
        self.records.get(place)
    }

    /// Adds a live member, at a random place in the order of probing. Its name must be new.
    pub(crate) fn insert(
        &mut self,
        name: NodeName,
        address: Address,
        versions: Versions,
        now: Instant,
        rng: &mut Xoshiro256PlusPlus,
    ) -> &mut Record {
        let last = self.records.len();
        self.records.push(Record::new(name, address, versions, now));
        self.live += 1;
        self.by_name.enter(&self.records, last);
        let place = rng.random_range(0..=last);
        self.records.swap(place, last);
        self.by_name.swap(&self.records, place, last);
        &mut self.records[place]
    }

    /// Adds live members of the first incarnation, and puts all in a new random order. Their names must
    /// be new. Costs far less than one after the other.
    pub(crate) fn extend(
        &mut self,
        members: impl ExactSizeIterator<Item = (NodeName, Address, Versions)>,
        now: Instant,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        self.records.reserve_exact(members.len());
        let records = members
            .map(|(name, address, versions)| Record { incarnation: 1, ..Record::new(name, address, versions, now) });
        self.records.extend(records);
        self.retain_and_shuffle(|_| true, rng);
    }

    /// Moves a member to a state, keeping count.
    pub(crate) fn set_state(&mut self, name: &[u8], state: MemberState, now: Instant) {
        let Some(place) = self.by_name.find(&self.records, name) else { return };
        let record = &mut self.records[place];
        if record.state == state {
            return;
        }
        match (record.state.is_live(), state.is_live()) {
            (true, false) => self.live -= 1,
            (false, true) => self.live += 1,
            _ => {}
        }
        record.state = state;
        record.since = now;
    }

    /// Forgets those that `keep` refuses, and puts the rest in a new random order.
    pub(crate) fn retain_and_shuffle(&mut self, keep: impl Fn(&Record) -> bool, rng: &mut Xoshiro256PlusPlus) {
        self.records.retain(keep);
        self.records.shuffle(rng);
        self.by_name.rebuild(&self.records);
        self.live = self.records.iter().filter(|record| record.is_live()).count();
    }

    /// Up to `k` different members that `allowed` accepts, at random.
    pub(crate) fn random(
        &self,
        k: usize,
        rng: &mut Xoshiro256PlusPlus,
        allowed: impl Fn(&Record) -> bool,
    ) -> Vec<&Record> {
        let n = self.records.len();
        let mut chosen: Vec<&Record> = Vec::with_capacity(k.min(n));
        // In a small table every member is looked at, so that none is missed by chance; in a large one
        // a few draws find k as good as surely, and cost no walk through the table.
        if n <= 3 * k {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(rng);
            chosen.extend(order.iter().map(|&i| &self.records[i]).filter(|record| allowed(record)).take(k));
            return chosen;
        }
        for _ in 0..3 * n.min(64 * k) {
            if chosen.len() == k {
                break;
            }
            let record = &self.records[rng.random_range(0..n)];
            if allowed(record) && !chosen.iter().any(|other| std::ptr::eq(*other, record)) {
                chosen.push(record);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rand::SeedableRng;

    use super::*;

    fn address(i: u16) -> Address {
        SocketAddr::from((Ipv4Addr::LOCALHOST, i)).into()
    }

    #[test]
    fn a_record_costs_little() {
        assert!(size_of::<Record>() <= 72, "{} bytes", size_of::<Record>());
    }

    #[test]
    fn every_member_is_found_whatever_changes_places() {
        let (now, mut rng) = (Instant::now(), Xoshiro256PlusPlus::seed_from_u64(1));
        let mut members = Members::new();
        let name = |i: u16| NodeName::from(&*format!("node{i}"));
        let found = |members: &Members, range: std::ops::Range<u16>| {
            assert_eq!(members.len(), range.len());
            for i in range {
                let record = members.get(name(i).as_bytes()).unwrap_or_else(|| panic!("node{i} is not found"));
                assert_eq!((&record.name, record.address), (&name(i), address(i)));
            }
        };
        for i in 0..300 {
            members.insert(name(i), address(i), Versions::default(), now, &mut rng);
        }
        found(&members, 0..300);
        members.extend((300..700).map(|i| (name(i), address(i), Versions::default())), now, &mut rng);
        found(&members, 0..700);
        members.retain_and_shuffle(|record| record.address.port >= 100, &mut rng);
        found(&members, 100..700);
        assert!(members.get(b"node99").is_none());
        assert_eq!(members.live(), 600);
    }
}
