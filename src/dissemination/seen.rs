//! What has been heard already.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::MessageId;
use crate::membership::NodeName;

/// There is no room to remember one more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// How far back single messages of an origin are remembered; older ones count as heard.
const WINDOW: u64 = 1024;

/// The messages heard of each origin: an anti-replay window (RFC 4303, section 3.4.3), so that an
/// origin costs the same however much it says.
#[derive(Debug)]
pub(super) struct Origins {
    capacity: usize,
    by_name: HashMap<NodeName, Heard>,
}

#[derive(Debug)]
struct Heard {
    epoch: u64,
    /// One more than the highest number heard.
    next: u64,
    /// One bit for each of the last [`WINDOW`] numbers, at its number modulo the window.
    bits: Box<[u64; (WINDOW / 64) as usize]>,
}

impl Origins {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, by_name: HashMap::new() }
    }

    /// Whether this is heard for the first time; from now on it is not.
    pub(super) fn is_new(&mut self, origin: &NodeName, id: MessageId) -> Result<bool, Full> {
        if let Some(heard) = self.by_name.get_mut(origin) {
            return Ok(heard.is_new(id));
        }
        if self.by_name.len() >= self.capacity {
            return Err(Full);
        }
        let mut heard = Heard { epoch: id.epoch, next: 0, bits: Box::default() };
        let new = heard.is_new(id);
        self.by_name.insert(origin.clone(), heard);
        Ok(new)
    }
}

impl Heard {
    fn is_new(&mut self, id: MessageId) -> bool {
        if id.epoch != self.epoch {
            if id.epoch < self.epoch {
                return false;
            }
            *self = Self { epoch: id.epoch, next: 0, bits: Box::default() };
        }
        let Some(next) = id.seq.checked_add(1) else { return false };
        if next > self.next {
            // The numbers skipped have not been heard; at most the whole window is cleared.
            for skipped in self.next.max(next.saturating_sub(WINDOW))..next {
                self.set(skipped, false);
            }
            self.next = next;
        } else if self.next - id.seq > WINDOW || self.get(id.seq) {
            return false;
        }
        self.set(id.seq, true);
        true
    }

    fn get(&self, seq: u64) -> bool {
        let bit = seq % WINDOW;
        self.bits[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    fn set(&mut self, seq: u64, heard: bool) {
        let bit = seq % WINDOW;
        let word = &mut self.bits[(bit / 64) as usize];
        let mask = 1 << (bit % 64);
        if heard { *word |= mask } else { *word &= !mask }
    }
}

/// The messages of plain memberlist nodes heard of late, by origin and hash.
#[derive(Debug)]
pub(super) struct Copies {
    capacity: usize,
    window: Duration,
    heard: HashMap<(NodeName, u64), Instant>,
    /// The same, oldest first.
    order: VecDeque<(NodeName, u64)>,
}

impl Copies {
    pub(super) fn new(capacity: usize, window: Duration) -> Self {
        Self { capacity, window, heard: HashMap::new(), order: VecDeque::new() }
    }

    /// Whether this is heard for the first time within the window; from now on it is not.
    pub(super) fn is_new(&mut self, now: Instant, origin: &NodeName, hash: u64) -> Result<bool, Full> {
        while let Some(oldest) = self.order.front() {
            if now.saturating_duration_since(self.heard[oldest]) < self.window {
                break;
            }
            self.heard.remove(oldest);
            self.order.pop_front();
        }
        let key = (origin.clone(), hash);
        if self.heard.contains_key(&key) {
            return Ok(false);
        }
        if self.heard.len() >= self.capacity {
            return Err(Full);
        }
        self.heard.insert(key.clone(), now);
        self.order.push_back(key);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(epoch: u64, seq: u64) -> MessageId {
        MessageId { epoch, seq }
    }

    #[test]
    fn each_message_is_new_once() {
        let mut origins = Origins::new(2);
        let a = NodeName::from("a");
        for (id, new) in [
            (id(5, 0), true),
            (id(5, 0), false),
            (id(5, 2), true),
            (id(5, 1), true),
            (id(5, 1), false),
            (id(5, 2000), true),
            (id(5, 976), false), // beyond the window
            (id(5, 977), true),
            (id(4, 9000), false), // a former life
            (id(6, 0), true),
            (id(6, u64::MAX), false),
            (id(6, 1), true),
        ] {
            assert_eq!(origins.is_new(&a, id), Ok(new), "{id:?}");
        }
        assert_eq!(origins.is_new(&"b".into(), id(1, 0)), Ok(true));
        assert_eq!(origins.is_new(&"c".into(), id(1, 0)), Err(Full));
    }

    proptest! {
        #[test]
        fn within_the_window_it_is_a_set(seqs in prop::collection::vec(0..WINDOW, 0..2000)) {
            let mut origins = Origins::new(1);
            let mut set = std::collections::HashSet::new();
            for seq in seqs {
                prop_assert_eq!(origins.is_new(&"a".into(), id(1, seq)), Ok(set.insert(seq)));
            }
        }
    }

    #[test]
    fn a_copy_is_new_again_after_the_window() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut copies = Copies::new(2, Duration::from_secs(2));
        assert_eq!(copies.is_new(at(0), &"go1".into(), 7), Ok(true));
        assert_eq!(copies.is_new(at(1999), &"go1".into(), 7), Ok(false));
        assert_eq!(copies.is_new(at(1999), &"go2".into(), 7), Ok(true));
        assert_eq!(copies.is_new(at(1999), &"go2".into(), 8), Err(Full));
        assert_eq!(copies.is_new(at(2000), &"go1".into(), 7), Ok(true));
    }
}
