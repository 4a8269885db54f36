//! An ordered copy-on-write map.
//!
//! A snapshot is written while commands are applied. It needs a copy of the state that is made quickly and shares its
//! memory. The map keeps its entries in sorted chunks that copies share. A change copies the one chunk that it falls into,
//! and only if another copy of the map has that chunk, too. A million entries are some 12,000 chunks, so copying the map
//! increments as many reference counts.

use std::{borrow::Borrow, slice, sync::Arc};

/// The most entries of a chunk. Larger chunks make copies of the map cheaper and changes dearer: a change moves half a chunk on
/// average, and copies a whole one at worst.
const CHUNK: usize = 128;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// An ordered map whose clones share what they have in common. See [`Machine::copy`](crate::machine::Machine::copy) for its use.
///
/// ```
/// use broadcast_store::machine::CowMap;
///
/// let mut map = CowMap::default();
/// map.insert("a", 1);
/// let copy = map.clone();
/// map.insert("a", 2);
/// assert_eq!((map.get("a"), copy.get("a")), (Some(&2), Some(&1)));
/// ```
#[derive(Clone, Debug)]
pub struct CowMap<K, V> {
    /// The chunks, none of them empty, each with a lower bound of its keys that is above all keys before it. The first bound is
    /// not used. Bounds are beside the chunks, so that a search does not have to look into a dozen of them.
    chunks: Vec<(K, Chunk<K, V>)>,
    len: usize,
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> CowMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The chunk that a key belongs to, and its place there: where it is, or where it would go.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let after = self.chunks.partition_point(|(from, _)| from.borrow() <= key);
        let at = after.saturating_sub(1);
        match self.chunks.get(at) {
            Some((_, chunk)) => (at, chunk.binary_search_by(|(each, _)| each.borrow().cmp(key))),
            None => (at, Err(0)),
        }
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(at)) = self.find(key) else { return None };
        Some(&self.chunks[chunk].1[at].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(at)) = self.find(key) else { return None };
        Some(&mut Arc::make_mut(&mut self.chunks[chunk].1)[at].1)
    }

    /// Sets the value of a key. Returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (at_chunk, place) = self.find(&key);
        let at = match place {
            Ok(at) => {
                let chunk = Arc::make_mut(&mut self.chunks[at_chunk].1);
                return Some(std::mem::replace(&mut chunk[at].1, value));
            }
            Err(at) => at,
        };
        self.len += 1;
        let chunks = self.chunks.len();
        let Some((_, chunk)) = self.chunks.get_mut(at_chunk) else {
            self.chunks.push((key.clone(), Arc::new(vec![(key, value)])));
            return None;
        };
        if chunk.len() < CHUNK {
            Arc::make_mut(chunk).insert(at, (key, value));
        } else if at == CHUNK && at_chunk + 1 == chunks {
            // A map that only grows at its end, as the history does, must not leave half of each chunk empty.
            self.chunks.push((key.clone(), Arc::new(vec![(key, value)])));
        } else {
            let first = Arc::make_mut(chunk);
            let mut second = first.split_off(CHUNK / 2);
            let from = second[0].0.clone();
            if at <= CHUNK / 2 {
                first.insert(at, (key, value))
            } else {
                second.insert(at - CHUNK / 2, (key, value))
            }
            self.chunks.insert(at_chunk + 1, (from, Arc::new(second)));
        }
        None
    }

    /// Removes a key. Returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (at_chunk, Ok(at)) = self.find(key) else { return None };
        self.len -= 1;
        let chunk = Arc::make_mut(&mut self.chunks[at_chunk].1);
        let (_, value) = chunk.remove(at);
        let left = chunk.len();
        if left == 0 {
            self.chunks.remove(at_chunk);
        } else if left < CHUNK / 4 {
            self.merge(at_chunk);
        }
        Some(value)
    }

    /// Joins a small chunk with a neighbour, if both fit into three quarters of one.
    fn merge(&mut self, at: usize) {
        for first in [Some(at), at.checked_sub(1)].into_iter().flatten() {
            let Some((_, second)) = self.chunks.get(first + 1) else { continue };
            if self.chunks[first].1.len() + second.len() <= CHUNK / 4 * 3 {
                let (_, second) = self.chunks.remove(first + 1);
                let second = Arc::try_unwrap(second).unwrap_or_else(|shared| shared.to_vec());
                Arc::make_mut(&mut self.chunks[first].1).extend(second);
                return;
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with the lowest key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// The entries, in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.iter_at(0, 0)
    }

    /// The entries from a key on, itself included.
    pub fn iter_from<Q: Ord + ?Sized>(&self, key: &Q) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let (chunk, place) = self.find(key);
        self.iter_at(chunk, place.unwrap_or_else(|at| at))
    }

    fn iter_at(&self, chunk: usize, at: usize) -> Iter<'_, K, V> {
        let first = self.chunks.get(chunk).map_or(&[][..], |(_, entries)| &entries[at..]);
        Iter { chunk: first.iter(), rest: self.chunks.get(chunk + 1..).unwrap_or_default().iter() }
    }
}

/// The entries of a [`CowMap`], in order.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    chunk: slice::Iter<'a, (K, V)>,
    rest: slice::Iter<'a, (K, Chunk<K, V>)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.chunk.next() {
                return Some((key, value));
            }
            self.chunk = self.rest.next()?.1.iter();
        }
    }
}

#[cfg(test)]
mod tests;
