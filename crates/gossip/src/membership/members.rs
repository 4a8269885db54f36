//! The table of members: by name, and in the random order they are probed in.
//!
//! Those that are *proven*, which have answered this node once, stand before all others. So whoever looks for
//! proven ones, or draws some of them, never sees the others, however many there are
//! ([`newcomers`](super::newcomers)).
//!
//! They are found by name, and the proven ones by address too, which each message asks for. For one that is not
//! proven all of those are looked at: so whoever makes up thousands of members at one address fills no index with them.
//!
//! A cluster of n nodes holds n² of these records, so they are kept small: the indices hold places, not names and
//! addresses, and metadata, which few members have, costs a pointer where there is none.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashbrown::HashTable;
use rand::{RngExt, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{Member, MemberState, NodeName, rtt::Rtt};
use crate::wire::{Address, Versions};

/// What is believed of a member, and whether it is proven, in one byte: a record has no more to spare.
#[derive(Clone, Copy, Debug)]
struct Standing(u8);

impl Standing {
    const PROVEN: u8 = 1 << 2;

    const fn new(state: MemberState, proven: bool) -> Self {
        Self(state as u8 | if proven { Self::PROVEN } else { 0 })
    }

    fn state(self) -> MemberState {
        const STATES: [MemberState; 4] =
            [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left];
        const { assert!(STATES[3] as u8 == 3 && STATES[2] as u8 == 2 && STATES[1] as u8 == 1) };
        STATES[usize::from(self.0 & 3)]
    }

    fn is_proven(self) -> bool {
        self.0 & Self::PROVEN != 0
    }
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: NodeName,
    /// As its owner announced it: Go peers compare it byte by byte.
    address: Address,
    meta: Option<Box<Bytes>>,
    pub(crate) versions: Versions,
    pub(crate) incarnation: u32,
    standing: Standing,
    pub(crate) rtt: Rtt,
    /// Since when it is in that state, in nanoseconds since the table's beginning.
    since: u64,
}

impl Record {
    fn new(name: NodeName, address: Address, versions: Versions, since: u64) -> Self {
        let (standing, rtt) = (Standing::new(MemberState::Alive, false), Rtt::default());
        Self { name, address, meta: None, versions, incarnation: 0, standing, rtt, since }
    }

    pub(crate) fn state(&self) -> MemberState {
        self.standing.state()
    }

    /// Whether it has answered this node since it is at this address.
    pub(crate) fn is_proven(&self) -> bool {
        self.standing.is_proven()
    }

    /// As its owner announced it.
    pub(crate) fn address(&self) -> Address {
        self.address
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
        self.state().is_live()
    }

    pub(crate) fn to_member(&self) -> Member {
        Member {
            name: self.name.clone(),
            addr: self.addr(),
            meta: self.meta(),
            state: self.state(),
            incarnation: self.incarnation,
            rtt: self.rtt.get(),
        }
    }
}

/// Every member this node remembers, itself included.
#[derive(Debug)]
pub(crate) struct Members {
    begin: Instant,
    /// First those that are proven.
    records: Vec<Record>,
    by_name: Index,
    /// Those that are proven.
    by_addr: Index,
    live: usize,
    proven: usize,
    proven_live: usize,
    /// How often a record may have changed.
    changes: u64,
}

/// The places of records, found by something of theirs. The order it has is never looked at: it differs from run to
/// run.
#[derive(Debug)]
struct Index {
    places: HashTable<u32>,
    hasher: RandomState,
    hash: fn(&RandomState, &Record) -> u64,
}

impl Index {
    fn new(hash: fn(&RandomState, &Record) -> u64) -> Self {
        Self { places: HashTable::new(), hasher: RandomState::new(), hash }
    }

    fn hash(&self, record: &Record) -> u64 {
        (self.hash)(&self.hasher, record)
    }

    /// Enters the record at a place, which is not in yet.
    fn enter(&mut self, records: &[Record], place: usize) {
        let Self { places, hasher, hash } = self;
        let hash = |place: &u32| hash(hasher, &records[*place as usize]);
        let place = u32::try_from(place).expect("there are at most max_members, which a u32 counts");
        places.insert_unique(hash(&place), place, hash);
    }

    /// Forgets the place of this record; gives whether it was in.
    fn leave(&mut self, record: &Record, place: usize) -> bool {
        let hash = self.hash(record);
        self.places.find_entry(hash, |entered| *entered as usize == place).map(|entry| entry.remove()).is_ok()
    }

    /// Enters the first so many records, and no others.
    fn rebuild(&mut self, records: &[Record], count: usize) {
        self.places = HashTable::with_capacity(count);
        for place in 0..count {
            self.enter(records, place);
        }
    }

    /// Two records have changed places.
    fn swap(&mut self, records: &[Record], a: usize, b: usize) {
        let entered = [(a, b), (b, a)].map(|(place, was)| self.leave(&records[place], was).then_some(place));
        entered.into_iter().flatten().for_each(|place| self.enter(records, place));
    }
}

impl Members {
    /// Nobody, for now.
    pub(crate) fn new(now: Instant) -> Self {
        let by_name = Index::new(|hasher, record| hasher.hash_one(record.name.as_bytes()));
        let by_addr = Index::new(|hasher, record| hasher.hash_one(record.addr()));
        Self { begin: now, records: Vec::new(), by_name, by_addr, live: 0, proven: 0, proven_live: 0, changes: 0 }
    }

    /// How often a record came, went, or may have changed: the same as before when none has.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begin).as_nanos()).unwrap_or(u64::MAX)
    }

    /// For how long a member has been in its state.
    pub(crate) fn in_state(&self, record: &Record, now: Instant) -> Duration {
        Duration::from_nanos(self.nanos(now).saturating_sub(record.since))
    }

    fn place(&self, name: &[u8]) -> Option<usize> {
        let is = |place: &u32| *self.records[*place as usize].name.as_bytes() == *name;
        self.by_name.places.find(self.by_name.hasher.hash_one(name), is).map(|place| *place as usize)
    }

    /// How many are remembered, the dead included.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// How many are alive or suspect.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// How many are proven, the dead included: they have the first places.
    pub(crate) fn proven(&self) -> usize {
        self.proven
    }

    /// How many of the proven ones are alive or suspect.
    pub(crate) fn proven_live(&self) -> usize {
        self.proven_live
    }

    /// Every record, the proven ones first.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Record> {
        self.records.iter()
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Record> {
        self.place(name).map(|place| &self.records[place])
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Record> {
        let place = self.place(name)?;
        self.changes += 1;
        Some(&mut self.records[place])
    }

    /// Who of those that are `wanted` is at this address: of several, one that is live, then one that is proven.
    pub(crate) fn at_addr(&self, addr: SocketAddr, wanted: impl Fn(&Record) -> bool) -> Option<&Record> {
        let is_there = |place: &usize| self.records[*place].addr() == addr && wanted(&self.records[*place]);
        let rank = |place: &usize| (self.records[*place].is_live(), self.records[*place].is_proven(), *place);
        let proven = self.by_addr.places.iter_hash(self.by_addr.hasher.hash_one(addr)).map(|place| *place as usize);
        let best = proven.filter(is_there).max_by_key(rank);
        if let Some(place) = best.filter(|place| self.records[*place].is_live()) {
            return Some(&self.records[place]);
        }
        let others = (self.proven..self.records.len()).filter(is_there);
        others.chain(best).max_by_key(rank).map(|place| &self.records[place])
    }

    /// A member is at another address from now on.
    pub(crate) fn set_address(&mut self, name: &[u8], address: Address) {
        let Some(place) = self.place(name).filter(|place| self.records[*place].address != address) else { return };
        self.changes += 1;
        let entered = self.by_addr.leave(&self.records[place], place);
        self.records[place].address = address;
        if entered {
            self.by_addr.enter(&self.records, place);
        }
    }

    /// The record at a place in the order of probing.
    pub(crate) fn at(&self, place: usize) -> Option<&Record> {
        self.records.get(place)
    }

    /// Adds a live member that is not proven, at a random place among those. Its name must be new.
    pub(crate) fn insert(
        &mut self,
        name: NodeName,
        address: Address,
        versions: Versions,
        now: Instant,
        rng: &mut Xoshiro256PlusPlus,
    ) -> &mut Record {
        let last = self.records.len();
        let since = self.nanos(now);
        self.records.push(Record::new(name, address, versions, since));
        self.live += 1;
        self.changes += 1;
        self.by_name.enter(&self.records, last);
        let place = rng.random_range(self.proven..=last);
        self.swap(place, last);
        &mut self.records[place]
    }

    /// Adds live members of the first incarnation, which count as proven, and puts all in a new random order.
    /// Their names must be new. Costs far less than one after the other.
    pub(crate) fn extend(
        &mut self,
        members: impl ExactSizeIterator<Item = (NodeName, Address, Versions)>,
        now: Instant,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        self.records.reserve_exact(members.len());
        let (standing, since) = (Standing::new(MemberState::Alive, true), self.nanos(now));
        let records = members.map(|(name, address, versions)| Record {
            incarnation: 1,
            standing,
            ..Record::new(name, address, versions, since)
        });
        self.records.extend(records);
        self.changes += 1;
        self.records.sort_by_key(|record| !record.is_proven());
        self.recount();
        self.records[..self.proven].shuffle(rng);
        self.rebuild();
    }

    /// A member is proven from now on, and has a random place among those. Gives whether that is news.
    pub(crate) fn prove(&mut self, name: &[u8], rng: &mut Xoshiro256PlusPlus) -> bool {
        let Some(place) = self.place(name).filter(|place| *place >= self.proven) else {
            return false;
        };
        let record = &mut self.records[place];
        record.standing = Standing::new(record.state(), true);
        self.proven_live += usize::from(record.is_live());
        self.swap(place, self.proven);
        let among = rng.random_range(0..=self.proven);
        self.swap(among, self.proven);
        self.by_addr.enter(&self.records, among);
        self.proven += 1;
        true
    }

    /// Forgets a member that is not proven.
    pub(crate) fn remove_newcomer(&mut self, name: &[u8]) -> Option<Record> {
        let place = self.place(name).filter(|place| *place >= self.proven)?;
        let last = self.records.len() - 1;
        self.swap(place, last);
        self.by_name.leave(&self.records[last], last);
        let record = self.records.pop()?;
        self.changes += 1;
        self.live -= usize::from(record.is_live());
        Some(record)
    }

    /// A member has yet to answer where it is now.
    pub(crate) fn unprove(&mut self, name: &[u8]) {
        let Some(place) = self.place(name).filter(|place| *place < self.proven) else { return };
        self.by_addr.leave(&self.records[place], place);
        let record = &mut self.records[place];
        record.standing = Standing::new(record.state(), false);
        self.proven_live -= usize::from(record.is_live());
        self.proven -= 1;
        self.swap(place, self.proven);
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a != b {
            self.records.swap(a, b);
            self.by_name.swap(&self.records, a, b);
            self.by_addr.swap(&self.records, a, b);
        }
    }

    fn rebuild(&mut self) {
        self.by_name.rebuild(&self.records, self.records.len());
        self.by_addr.rebuild(&self.records, self.proven);
    }

    /// Moves a member to a state, keeping count.
    pub(crate) fn set_state(&mut self, name: &[u8], state: MemberState, now: Instant) {
        let Some(place) = self.place(name) else { return };
        let since = self.nanos(now);
        let record = &mut self.records[place];
        if record.state() == state {
            return;
        }
        self.changes += 1;
        let proven = usize::from(record.is_proven());
        match (record.is_live(), state.is_live()) {
            (true, false) => (self.live, self.proven_live) = (self.live - 1, self.proven_live - proven),
            (false, true) => (self.live, self.proven_live) = (self.live + 1, self.proven_live + proven),
            _ => {}
        }
        record.standing = Standing::new(state, record.is_proven());
        record.since = since;
    }

    /// Forgets those that `keep` refuses, which is also told for how long they have been in their state, and puts the
    /// proven ones in a new random order.
    pub(crate) fn retain_and_shuffle(
        &mut self,
        now: Instant,
        keep: impl Fn(&Record, Duration) -> bool,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let (before, now) = (self.records.len(), self.nanos(now));
        self.records.retain(|record| keep(record, Duration::from_nanos(now.saturating_sub(record.since))));
        if self.records.len() == before {
            // Costs nothing for those that are not proven.
            for place in (1..self.proven).rev() {
                self.swap(place, rng.random_range(0..=place));
            }
            return;
        }
        self.changes += 1;
        self.recount();
        self.records[..self.proven].shuffle(rng);
        self.rebuild();
    }

    /// Counts anew. The proven ones stand first.
    fn recount(&mut self) {
        let count = |wanted: fn(&Record) -> bool| self.records.iter().filter(|record| wanted(record)).count();
        (self.live, self.proven) = (count(Record::is_live), count(Record::is_proven));
        self.proven_live = count(|record| record.is_live() && record.is_proven());
    }

    /// Up to `k` different members that `allowed` accepts, at random: proven ones, or any where no proven one is
    /// accepted, as in a node that has just started.
    pub(crate) fn random(
        &self,
        k: usize,
        rng: &mut Xoshiro256PlusPlus,
        allowed: impl Fn(&Record) -> bool,
    ) -> Vec<&Record> {
        let (proven, others) = self.records.split_at(self.proven);
        let chosen = draw(proven, k, rng, &allowed);
        if chosen.is_empty() { draw(others, k, rng, &allowed) } else { chosen }
    }
}

/// Up to `k` different ones of these records that `allowed` accepts, at random.
fn draw<'a>(
    records: &'a [Record],
    k: usize,
    rng: &mut Xoshiro256PlusPlus,
    allowed: impl Fn(&Record) -> bool,
) -> Vec<&'a Record> {
    let n = records.len();
    let mut chosen: Vec<&'a Record> = Vec::with_capacity(k.min(n));
    // In a small table every member is looked at, so that none is missed by chance; in a large one
    // a few draws find k as good as surely, and cost no walk through the table.
    if n <= 3 * k {
        let mut order: Vec<usize> = (0..n).collect();
        order.shuffle(rng);
        chosen.extend(order.iter().map(|&i| &records[i]).filter(|record| allowed(record)).take(k));
        return chosen;
    }
    for _ in 0..3 * n.min(64 * k) {
        if chosen.len() == k {
            break;
        }
        let record = &records[rng.random_range(0..n)];
        if allowed(record) && !chosen.iter().any(|other| std::ptr::eq(*other, record)) {
            chosen.push(record);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use rand::SeedableRng;

    use super::*;

    fn address(i: u16) -> Address {
        SocketAddr::from((Ipv4Addr::LOCALHOST, i)).into()
    }

    /// Checks that whoever is at an address is found there: of several, one that is live, then one that is proven.
    fn check_addresses(members: &Members) {
        for record in members.iter() {
            let there = members.iter().filter(|other| other.addr() == record.addr());
            let best = there.max_by_key(|other| (other.is_live(), other.is_proven())).expect("there is one");
            let found = members.at_addr(record.addr(), |_| true).expect("it is found");
            assert!(std::ptr::eq(found, best), "{found:?} is not {best:?}");
            let other = members.at_addr(record.addr(), |other| other.name != best.name);
            assert!(other.is_none_or(|other| other.addr() == best.addr() && other.name != best.name), "{other:?}");
        }
    }

    #[test]
    fn a_record_costs_little() {
        assert!(size_of::<Record>() <= 64, "{} bytes", size_of::<Record>());
    }

    #[test]
    fn every_member_is_found_whatever_changes_places() {
        let (now, mut rng) = (Instant::now(), Xoshiro256PlusPlus::seed_from_u64(1));
        let mut members = Members::new(now);
        let name = |i: u16| NodeName::from(&*format!("node{i}"));
        let found = |members: &Members, range: std::ops::Range<u16>| {
            assert_eq!(members.len(), range.len());
            for i in range {
                let record = members.get(name(i).as_bytes()).unwrap_or_else(|| panic!("node{i} is not found"));
                assert_eq!((&record.name, record.address), (&name(i), address(i)));
            }
            check_addresses(members);
        };
        for i in 0..300 {
            members.insert(name(i), address(i), Versions::default(), now, &mut rng);
        }
        found(&members, 0..300);
        members.extend((300..700).map(|i| (name(i), address(i), Versions::default())), now, &mut rng);
        found(&members, 0..700);
        members.retain_and_shuffle(now, |record, _| record.address.port >= 100, &mut rng);
        found(&members, 100..700);
        assert!(members.get(b"node99").is_none());
        assert!(members.at_addr(address(99).socket_addr(), |_| true).is_none());
        // One that is proven, and one that is not, at the addresses of others.
        for (i, at) in [(150, 200), (650, 651)] {
            members.set_address(name(i).as_bytes(), address(at));
            assert!(members.at_addr(address(i).socket_addr(), |_| true).is_none());
            check_addresses(&members);
        }
        assert_eq!(members.live(), 600);
    }

    #[test]
    fn the_proven_stand_first_and_are_drawn_whoever_else_there_is() {
        let (now, mut rng) = (Instant::now(), Xoshiro256PlusPlus::seed_from_u64(1));
        let mut members = Members::new(now);
        let name = |i: u16| NodeName::from(&*format!("node{i}"));
        for i in 0..1000 {
            members.insert(name(i), address(i), Versions::default(), now, &mut rng);
        }
        assert_eq!(members.random(3, &mut rng, |_| true).len(), 3, "while nobody is proven, anybody will do");
        for i in 0..4 {
            assert!(members.prove(name(i).as_bytes(), &mut rng));
            assert!(!members.prove(name(i).as_bytes(), &mut rng), "once");
        }
        members.set_state(b"node3", MemberState::Dead, now);
        assert_eq!((members.proven(), members.proven_live(), members.live()), (4, 3, 999));
        for i in 1000..1100 {
            members.insert(name(i), address(1), Versions::default(), now, &mut rng);
            members.retain_and_shuffle(now, |_, _| true, &mut rng);
            let drawn = members.random(3, &mut rng, Record::is_live);
            assert!(drawn.len() == 3 && drawn.iter().all(|record| record.is_proven()), "{drawn:?}");
            for place in 0..members.len() {
                let record = members.at(place).expect("a place that there is");
                assert_eq!(record.is_proven(), place < 4);
                assert!(std::ptr::eq(members.get(record.name.as_bytes()).expect("it is found"), record));
            }
        }
        for i in (4..1100).step_by(3) {
            assert!(members.remove_newcomer(name(i).as_bytes()).is_some_and(|record| record.name == name(i)));
            assert!(members.get(name(i).as_bytes()).is_none());
        }
        assert!(members.remove_newcomer(b"node0").is_none(), "it is proven");
        check_addresses(&members);
        for place in 0..members.len() {
            let record = members.at(place).expect("a place that there is");
            assert!(std::ptr::eq(members.get(record.name.as_bytes()).expect("it is found"), record));
        }
        assert_eq!((members.len(), members.live()), (1100 - 366, 1100 - 367));
        members.unprove(b"node0");
        members.unprove(b"node3");
        check_addresses(&members);
        members.retain_and_shuffle(now, |record, _| record.address.port % 2 == 0, &mut rng);
        assert_eq!((members.proven(), members.proven_live()), (1, 1));
        check_addresses(&members);
    }
}
