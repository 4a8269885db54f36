//! The two streams in which a node publishes: its own, and one as the voice of plain nodes.

use std::ops::{Index, IndexMut};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Own,
    Voice,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Own, Self::Voice];

    /// Of which a life is: the lowest bit of its number tells.
    pub(super) fn of(epoch: u64) -> Self {
        if epoch & 1 == 0 { Self::Own } else { Self::Voice }
    }
}

/// Something that there is once for each lane.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    own: T,
    voice: T,
}

impl<T> Lanes<T> {
    pub(super) fn new(own: T, voice: T) -> Self {
        Self { own, voice }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.own, &self.voice].into_iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.own, &mut self.voice].into_iter()
    }
}

impl<T> Index<Lane> for Lanes<T> {
    type Output = T;

    fn index(&self, lane: Lane) -> &T {
        match lane {
            Lane::Own => &self.own,
            Lane::Voice => &self.voice,
        }
    }
}

impl<T> IndexMut<Lane> for Lanes<T> {
    fn index_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Own => &mut self.own,
            Lane::Voice => &mut self.voice,
        }
    }
}
