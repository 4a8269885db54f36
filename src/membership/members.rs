//! The table of members: by name, and in the random order they are probed in.

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use bytes::Bytes;
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
    pub(crate) meta: Bytes,
    pub(crate) versions: Versions,
    pub(crate) incarnation: u32,
    state: MemberState,
    /// Since when it is in that state.
    since: Instant,
}

impl Record {
    pub(crate) fn state(&self) -> MemberState {
        self.state
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
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
            meta: self.meta.clone(),
            state: self.state,
            incarnation: self.incarnation,
        }
    }
}

/// Every member this node remembers, itself included.
#[derive(Debug)]
pub(crate) struct Members {
    records: Vec<Record>,
    by_name: HashMap<NodeName, usize>,
    live: usize,
}

impl Members {
    pub(crate) fn new() -> Self {
        Self { records: Vec::new(), by_name: HashMap::new(), live: 0 }
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
        self.by_name.get(name).map(|&i| &self.records[i])
    }

    pub(crate) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Record> {
        self.by_name.get(name).map(|&i| &mut self.records[i])
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
        self.records.push(Record {
            name: name.clone(),
            address,
            meta: Bytes::new(),
            versions,
            incarnation: 0,
            state: MemberState::Alive,
            since: now,
        });
        self.live += 1;
        self.by_name.insert(name, last);
        let place = rng.random_range(0..=last);
        self.records.swap(place, last);
        self.by_name.insert(self.records[last].name.clone(), last);
        self.by_name.insert(self.records[place].name.clone(), place);
        &mut self.records[place]
    }

    /// Moves a member to a state, keeping count.
    pub(crate) fn set_state(&mut self, name: &[u8], state: MemberState, now: Instant) {
        let Some(&place) = self.by_name.get(name) else { return };
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
        self.by_name.clear();
        self.by_name.extend(self.records.iter().enumerate().map(|(i, record)| (record.name.clone(), i)));
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
