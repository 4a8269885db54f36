//! The two lanes in which a node publishes: one for its own messages, and one for those of plain nodes whose proxy it is.
//!
//! Each lane has an epoch, numbers and acknowledgements of its own, so neither holds the other back.

use std::ops::{Index, IndexMut};

/// One of the two streams of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Its own messages.
    Own,
    /// Messages that it publishes for plain nodes.
    Proxy,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Own, Self::Proxy];

    /// The lane of an epoch: its lowest bit.
    pub(super) fn of(epoch: u64) -> Self {
        if epoch & 1 == 0 { Self::Own } else { Self::Proxy }
    }
}

/// One value for each lane.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    own: T,
    proxy: T,
}

impl<T> Lanes<T> {
    pub(super) fn new(own: T, proxy: T) -> Self {
        Self { own, proxy }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.own, &self.proxy].into_iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.own, &mut self.proxy].into_iter()
    }
}

impl<T> Index<Lane> for Lanes<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        match lane {
            Lane::Own => &self.own,
            Lane::Proxy => &self.proxy,
        }
    }
}

impl<T> IndexMut<Lane> for Lanes<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Own => &mut self.own,
            Lane::Proxy => &mut self.proxy,
        }
    }
}
