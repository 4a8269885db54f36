//! The table of members: by name, by address, and in the random order in which they are probed.
//!
//! *Proven* members, which have answered this node once, stand before all others. So code that looks for proven ones, or
//! draws some of them, never sees the others, however many there are ([`newcomers`](super::newcomers)).
//!
//! All are indexed by name, and the proven ones by address too, since each message asks for that. A newcomer is found by
//! address in a search of all newcomers: so whoever makes up thousands of members at one address fills no index.
//!
//! A cluster of n nodes holds n² of these records, so they are small: the order and the indices hold numbers of records,
//! which never move, and metadata, which few members have, takes a pointer if there is none. If one process runs the whole
//! cluster, nodes share records as long as they are equal ([`Cohort`]).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{RngExt, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    MemberState, NodeName,
    cohort::{Cohort, CohortOverlay},
    index::Index,
    record::{PackedState, Record},
};
use crate::wire::{Address, Versions};

/// The number of a record: one of the node's own or, with the highest bit, one of the cohort's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RecordId(u32);

impl RecordId {
    const COHORT: u32 = 1 << 31;

    fn of_cohort(number: u32) -> Self {
        Self(number | Self::COHORT)
    }

    /// Its number among the cohort's, if it is one of those.
    fn in_cohort(self) -> Option<u32> {
        (self.0 & Self::COHORT != 0).then_some(self.0 & !Self::COHORT)
    }
}

/// Records that keep their numbers; those of removed ones are given to new ones.
#[derive(Debug, Default)]
struct Records {
    slots: Vec<Option<Record>>,
    free: Vec<u32>,
}

impl Records {
    fn get(&self, number: u32) -> &Record {
        self.slots[number as usize].as_ref().expect("what has a number is there until it is removed")
    }

    fn get_mut(&mut self, number: u32) -> &mut Record {
        self.slots[number as usize].as_mut().expect("what has a number is there until it is removed")
    }

    fn add(&mut self, record: Record) -> u32 {
        if let Some(number) = self.free.pop() {
            self.slots[number as usize] = Some(record);
            return number;
        }
        self.slots.push(Some(record));
        let last = u32::try_from(self.slots.len() - 1).ok().filter(|last| *last < RecordId::COHORT);
        last.expect("there are at most max_members, which 31 bits count")
    }

    fn remove(&mut self, number: u32) -> Option<Record> {
        self.free.push(number);
        self.slots[number as usize].take()
    }
}

/// Every member this node remembers, itself included.
#[derive(Debug)]
pub(crate) struct Members {
    created: Instant,
    records: Records,
    /// The order of probing: proven members first.
    order: Vec<RecordId>,
    by_name: Index,
    /// Only proven members.
    by_addr: Index,
    /// The members that it knew from the start, if there are such.
    overlay: Option<Box<CohortOverlay>>,
    live: usize,
    proven: usize,
    proven_live: usize,
    /// How often a record came, went, or may have changed.
    changes: u64,
}

impl Members {
    /// An empty table.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            created: now,
            records: Records::default(),
            order: Vec::new(),
            by_name: Index::by_name(),
            by_addr: Index::by_addr(),
            overlay: None,
            live: 0,
            proven: 0,
            proven_live: 0,
            changes: 0,
        }
    }

    /// A number that changes whenever a record came, went, or may have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.created).as_nanos()).unwrap_or(u64::MAX)
    }

    /// For how long a member has been in its state.
    pub(crate) fn time_in_state(&self, record: &Record, now: Instant) -> Duration {
        Duration::from_nanos(self.nanos(now).saturating_sub(record.since))
    }

    fn id(&self, name: &[u8]) -> Option<RecordId> {
        let shared = self.overlay.as_ref().and_then(|overlay| overlay.number(name)).map(RecordId::of_cohort);
        shared.or_else(|| self.by_name.find_name(name, |number| self.records.get(number)).map(RecordId))
    }

    fn record(&self, id: RecordId) -> &Record {
        match (id.in_cohort(), &self.overlay) {
            (Some(number), Some(overlay)) => overlay.record(number),
            _ => self.records.get(id.0),
        }
    }

    /// Makes a record this node's own, and gives its number: a record of the cohort is copied on the first write.
    fn make_own(&mut self, id: RecordId) -> u32 {
        let Some((number, overlay)) = id.in_cohort().zip(self.overlay.as_mut()) else { return id.0 };
        let record = overlay.record(number).clone();
        overlay.mark_copied(number);
        let is_proven = record.is_proven();
        let own = self.records.add(record);
        self.by_name.insert(own, |number| self.records.get(number));
        if is_proven {
            self.by_addr.insert(own, |number| self.records.get(number));
        }
        self.order.iter_mut().filter(|other| **other == id).for_each(|other| *other = RecordId(own));
        own
    }

    /// The position of a record among these positions.
    fn position(&self, id: RecordId, places: std::ops::Range<usize>) -> Option<usize> {
        let begin = places.start;
        self.order[places].iter().position(|other| *other == id).map(|place| begin + place)
    }

    /// This node's own record, which was inserted first and is never removed.
    pub(crate) fn me(&self) -> &Record {
        self.records.get(0)
    }

    /// How many are remembered, the dead included.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
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
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Record> + Clone {
        self.order.iter().map(move |id| self.record(*id))
    }

    pub(crate) fn get(&self, name: &[u8]) -> Option<&Record> {
        self.id(name).map(|id| self.record(id))
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Record> {
        let number = self.id(name).map(|id| self.make_own(id))?;
        self.changes += 1;
        Some(self.records.get_mut(number))
    }

    /// The `wanted` member that has this address: of several, rather one that is live, then rather one that is proven.
    pub(crate) fn at_addr(&self, addr: SocketAddr, wanted: impl Fn(&Record) -> bool) -> Option<&Record> {
        let is_there = |id: &RecordId| {
            let record = self.record(*id);
            record.addr() == addr && wanted(record)
        };
        let shared = self.overlay.iter().flat_map(|overlay| overlay.candidates_at(addr)).map(RecordId::of_cohort);
        let proven = self.by_addr.candidates_at(addr).map(RecordId).chain(shared).filter(is_there);
        let best = proven.reduce(|one, other| self.preferred(one, other));
        if let Some(id) = best.filter(|id| self.record(*id).is_live()) {
            return Some(self.record(id));
        }
        let others = self.order[self.proven..].iter().copied().filter(is_there);
        others.chain(best).reduce(|one, other| self.preferred(one, other)).map(|id| self.record(id))
    }

    /// The one of two that is rather taken for the owner of their address. Of equals, always the same one, found without a
    /// search: many names can be at one address.
    fn preferred(&self, one: RecordId, other: RecordId) -> RecordId {
        let rank = |id: RecordId| (self.record(id).is_live(), self.record(id).is_proven(), id.0);
        if rank(one) > rank(other) { one } else { other }
    }

    /// Changes the address of a member.
    pub(crate) fn set_address(&mut self, name: &[u8], address: Address) {
        let Some(id) = self.id(name).filter(|id| self.record(*id).address != address) else { return };
        let number = self.make_own(id);
        self.changes += 1;
        let entered = self.by_addr.remove(number, self.records.get(number));
        self.records.get_mut(number).address = address;
        if entered {
            self.by_addr.insert(number, |number| self.records.get(number));
        }
    }

    /// The record at a position in the order of probing.
    pub(crate) fn at(&self, place: usize) -> Option<&Record> {
        self.order.get(place).map(|id| self.record(*id))
    }

    /// Adds a live newcomer, at a random position among the newcomers. Its name must be new.
    pub(crate) fn insert(
        &mut self,
        name: NodeName,
        address: Address,
        versions: Versions,
        now: Instant,
        rng: &mut Xoshiro256PlusPlus,
    ) -> &mut Record {
        let last = self.order.len();
        let record = Record::new(name, address, versions, self.nanos(now));
        let number = self.records.add(record);
        self.order.push(RecordId(number));
        self.live += 1;
        self.changes += 1;
        self.by_name.insert(number, |number| self.records.get(number));
        let place = rng.random_range(self.proven..=last);
        self.order.swap(place, last);
        self.records.get_mut(number)
    }

    /// Adds the members of a cohort, as if at the table's creation, and shuffles all proven members. To be called once,
    /// before any of them was removed. Takes far less time than adding one after the other.
    pub(crate) fn preload_cohort(&mut self, cohort: Arc<Cohort>, rng: &mut Xoshiro256PlusPlus) {
        let mut overlay = CohortOverlay::new(cohort);
        for record in self.iter() {
            if let Some(number) = overlay.number(record.name.as_bytes()) {
                overlay.mark_copied(number);
            }
        }
        let before = self.order.len();
        self.order.extend(overlay.numbers().map(RecordId::of_cohort));
        let new = self.order.len() - before;
        // The proven ones first, in the order they had.
        self.order[self.proven..].rotate_right(new);
        self.order.shrink_to_fit();
        self.overlay = Some(Box::new(overlay));
        self.changes += 1;
        self.live += new;
        self.proven += new;
        self.proven_live += new;
        self.order[..self.proven].shuffle(rng);
    }

    /// The cohort that it was preloaded with.
    pub(crate) fn cohort(&self) -> Option<&Cohort> {
        self.overlay.as_ref().map(|overlay| overlay.cohort())
    }

    /// Marks a member as proven, and moves it to a random position among those. Gives whether it was not.
    pub(crate) fn mark_proven(&mut self, name: &[u8], rng: &mut Xoshiro256PlusPlus) -> bool {
        let unproven = self.id(name).filter(|id| !self.record(*id).is_proven());
        let Some(place) = unproven.and_then(|id| self.position(id, self.proven..self.order.len())) else {
            return false;
        };
        let number = self.make_own(self.order[place]);
        let record = self.records.get_mut(number);
        record.packed_state = PackedState::new(record.state(), true);
        self.proven_live += usize::from(record.is_live());
        self.order.swap(place, self.proven);
        let among = rng.random_range(0..=self.proven);
        self.order.swap(among, self.proven);
        self.by_addr.insert(number, |number| self.records.get(number));
        self.proven += 1;
        true
    }

    /// Removes the member at that position, if it is a newcomer.
    pub(crate) fn remove_newcomer(&mut self, place: usize) -> Option<Record> {
        let id = *self.order.get(place).filter(|_| place >= self.proven)?;
        self.order.swap_remove(place);
        let record = self.remove_record(id)?;
        self.changes += 1;
        self.live -= usize::from(record.is_live());
        Some(record)
    }

    /// Removes the record of a member that is no longer in the order.
    fn remove_record(&mut self, id: RecordId) -> Option<Record> {
        let number = self.make_own(id);
        let record = self.records.get(number);
        self.by_name.remove(number, record);
        if record.is_proven() {
            self.by_addr.remove(number, record);
        }
        self.records.remove(number)
    }

    /// Marks a member as a newcomer: it has yet to answer at its present address.
    pub(crate) fn mark_unproven(&mut self, name: &[u8]) {
        let Some(id) = self.id(name).filter(|id| self.record(*id).is_proven()) else { return };
        let number = self.make_own(id);
        let Some(place) = self.position(RecordId(number), 0..self.proven) else { return };
        self.by_addr.remove(number, self.records.get(number));
        let record = self.records.get_mut(number);
        record.packed_state = PackedState::new(record.state(), false);
        self.proven_live -= usize::from(record.is_live());
        self.proven -= 1;
        self.order.swap(place, self.proven);
    }

    /// Changes the state of a member, and the counts.
    pub(crate) fn set_state(&mut self, name: &[u8], state: MemberState, now: Instant) {
        let Some(id) = self.id(name).filter(|id| self.record(*id).state() != state) else { return };
        let (number, since) = (self.make_own(id), self.nanos(now));
        let record = self.records.get_mut(number);
        self.changes += 1;
        let proven = usize::from(record.is_proven());
        match (record.is_live(), state.is_live()) {
            (true, false) => (self.live, self.proven_live) = (self.live - 1, self.proven_live - proven),
            (false, true) => (self.live, self.proven_live) = (self.live + 1, self.proven_live + proven),
            _ => {}
        }
        record.packed_state = PackedState::new(state, record.is_proven());
        record.since = since;
    }

    /// Removes the members that `keep` refuses, given their record and how long they have been in their state, and shuffles
    /// the proven ones.
    pub(crate) fn retain_and_shuffle(
        &mut self,
        now: Instant,
        keep: impl Fn(&Record, Duration) -> bool,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        let is_kept = |id: &RecordId| keep(self.record(*id), self.time_in_state(self.record(*id), now));
        if self.order.iter().all(is_kept) {
            for place in (1..self.proven).rev() {
                self.order.swap(place, rng.random_range(0..=place));
            }
            return;
        }
        let (kept, gone): (Vec<RecordId>, Vec<RecordId>) = self.order.iter().partition(|id| is_kept(id));
        self.order = kept;
        gone.into_iter().for_each(|id| drop(self.remove_record(id)));
        self.changes += 1;
        self.recount();
        self.order[..self.proven].shuffle(rng);
    }

    /// Counts anew. Proven members already stand first.
    fn recount(&mut self) {
        let count = |wanted: fn(&Record) -> bool| self.iter().filter(|record| wanted(record)).count();
        let (live, proven) = (count(Record::is_live), count(Record::is_proven));
        let proven_live = count(|record| record.is_live() && record.is_proven());
        (self.live, self.proven, self.proven_live) = (live, proven, proven_live);
    }

    /// Up to `k` different random members that `allowed` accepts (memberlist's `kRandomNodes`): proven ones, or newcomers if
    /// no proven one is accepted, as in a node that has just started.
    pub(crate) fn random(
        &self,
        k: usize,
        rng: &mut Xoshiro256PlusPlus,
        allowed: impl Fn(&Record) -> bool,
    ) -> Vec<&Record> {
        let (proven, others) = self.order.split_at(self.proven);
        let chosen = self.draw(proven, k, rng, &allowed);
        if chosen.is_empty() { self.draw(others, k, rng, &allowed) } else { chosen }
    }

    /// Up to `k` different random ones of these that `allowed` accepts.
    fn draw(
        &self,
        ids: &[RecordId],
        k: usize,
        rng: &mut Xoshiro256PlusPlus,
        allowed: impl Fn(&Record) -> bool,
    ) -> Vec<&Record> {
        let n = ids.len();
        let mut chosen: Vec<&Record> = Vec::with_capacity(k.min(n));
        // In a small table every member is looked at, so that none is missed by chance. In a large one a few draws find k
        // almost certainly, without a walk through the table.
        if n <= 3 * k {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(rng);
            chosen.extend(order.iter().map(|&i| self.record(ids[i])).filter(|record| allowed(record)).take(k));
            return chosen;
        }
        for _ in 0..3 * n.min(64 * k) {
            if chosen.len() == k {
                break;
            }
            let record = self.record(ids[rng.random_range(0..n)]);
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

    /// Checks that each address leads to a member that has it: of several, one that is live, then one that is proven.
    fn check_addresses(members: &Members) {
        for record in members.iter() {
            let rank = |record: &Record| (record.is_live(), record.is_proven());
            let best = members.iter().filter(|other| other.addr() == record.addr()).map(rank).max();
            let found = members.at_addr(record.addr(), |_| true).expect("it is found");
            assert!(found.addr() == record.addr() && Some(rank(found)) == best, "{found:?} is not {best:?}");
            let other = members.at_addr(record.addr(), |other| other.name != found.name);
            assert!(other.is_none_or(|other| other.addr() == found.addr() && other.name != found.name), "{other:?}");
        }
    }

    #[test]
    fn a_record_costs_little() {
        assert!(size_of::<Option<Record>>() <= 64, "{} bytes", size_of::<Option<Record>>());
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
        // Some of them are known already.
        let cohort = Cohort::new((200..700).map(|i| (name(i), address(i), Versions::default())));
        members.preload_cohort(Arc::new(cohort), &mut rng);
        found(&members, 0..700);
        let incarnations = members.iter().map(|record| (record.incarnation, record.is_proven()));
        assert_eq!(incarnations.filter(|of| *of == (1, true)).count(), 400);
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
            assert!(members.mark_proven(name(i).as_bytes(), &mut rng));
            assert!(!members.mark_proven(name(i).as_bytes(), &mut rng), "once");
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
            let place = members.iter().position(|record| record.name == name(i)).expect("it has a place");
            assert!(members.remove_newcomer(place).is_some_and(|record| record.name == name(i)));
            assert!(members.get(name(i).as_bytes()).is_none());
        }
        assert!(members.remove_newcomer(0).is_none(), "who stands first is proven");
        check_addresses(&members);
        for place in 0..members.len() {
            let record = members.at(place).expect("a place that there is");
            assert!(std::ptr::eq(members.get(record.name.as_bytes()).expect("it is found"), record));
        }
        assert_eq!((members.len(), members.live()), (1100 - 366, 1100 - 367));
        members.mark_unproven(b"node0");
        members.mark_unproven(b"node3");
        check_addresses(&members);
        members.retain_and_shuffle(now, |record, _| record.address.port % 2 == 0, &mut rng);
        assert_eq!((members.proven(), members.proven_live()), (1, 1));
        check_addresses(&members);
    }
}
