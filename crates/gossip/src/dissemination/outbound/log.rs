//! The messages of this node that are still kept, by number.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::dissemination::draft;

#[derive(Debug)]
struct Entry {
    message: Bytes,
    /// The bytes the log has ever held, up to the end of this message.
    end: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Log {
    base: u64,
    entries: VecDeque<Entry>,
    /// The bytes that came before `base`.
    freed: u64,
}

impl Log {
    /// The first number that is kept.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// How many messages are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes_from(self.base) as usize
    }

    /// The bytes of the messages from `seq` on.
    pub(super) fn bytes_from(&self, seq: u64) -> u64 {
        self.offset(self.next()) - self.offset(seq)
    }

    /// The bytes the log had ever held before message `seq`.
    pub(super) fn offset(&self, seq: u64) -> u64 {
        match seq.checked_sub(self.base + 1) {
            Some(i) => self.entries.get(i as usize).or(self.entries.back()).map_or(self.freed, |entry| entry.end),
            None => self.freed,
        }
    }

    /// A message that is kept.
    pub(super) fn get(&self, seq: u64) -> Option<&Bytes> {
        let i = usize::try_from(seq.checked_sub(self.base)?).ok()?;
        self.entries.get(i).map(|entry| &entry.message)
    }

    /// The messages from `seq` on that fit in `budget` bytes, but no fewer than `at_least`.
    pub(super) fn batch(&self, seq: u64, budget: u64, at_least: usize) -> Vec<Bytes> {
        let begin = self.offset(seq);
        let unsent = self.entries.iter().skip((seq - self.base) as usize);
        let fits = unsent.clone().take_while(|entry| entry.end - begin <= budget).count().max(at_least);
        unsent.take(fits).map(|entry| entry.message.clone()).collect()
    }

    /// Appends a message in its wire form.
    pub(super) fn push(&mut self, message: Bytes) {
        let end = self.offset(self.next()) + message.len() as u64;
        self.entries.push_back(Entry { message, end });
    }

    /// Frees the oldest messages for as long as `goes_on` holds.
    pub(super) fn free_while(&mut self, goes_on: impl Fn(&Self) -> bool) {
        while goes_on(self) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.freed = entry.end;
            self.base += 1;
        }
        if self.entries.is_empty() {
            // Do not keep the memory of a burst.
            self.entries.shrink_to(64);
        }
    }

    /// Rewrites all messages for another epoch of the same node.
    pub(super) fn renumber(&mut self, origin: &str, epoch: u64) {
        let mut end = self.freed;
        for (seq, entry) in (self.base..).zip(&mut self.entries) {
            entry.message = draft::renumber(&entry.message, origin, epoch, seq);
            end += entry.message.len() as u64;
            entry.end = end;
        }
    }
}
