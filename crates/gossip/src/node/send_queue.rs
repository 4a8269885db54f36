//! What goes to members over streams, queued per member: large messages, and everything for a member that datagrams do not
//! reach ([`paths`](super::paths)).
//!
//! A large message has a stream of its own. [`LARGE_AT_ONCE`] go to a member at the same time; the others wait for their turn,
//! so that they do not share a slow link with ever more of them. While a message waits or is under way it is not taken a
//! second time, however often it is requested. Small messages share one stream beside the large ones. It carries all that
//! has come together since the last one ended, so they are not starved behind large messages, and many cost one connection.
//!
//! # What can go wrong
//!
//! - *A member that takes nothing*: what waits for it is bounded. What exceeds the bound is dropped, and repaired like any
//!   other loss. Its streams end by their deadlines, and the next ones are tried.
//! - *A member that fails or leaves*: what waits for it is dropped.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    net::SocketAddr,
};

use bytes::Bytes;

use super::StreamId;

/// How many large messages go to one member at a time. More fills a fast link; fewer shares a slow one less.
const LARGE_AT_ONCE: usize = 4;
/// How many of them wait for one member at most, and their bytes.
const LARGE_WAITING: usize = 256;
const LARGE_BYTES: usize = 8 << 20;
/// The bytes of small messages that wait for one member, at most.
const SMALL_BYTES: usize = 1 << 20;
/// The bytes of small messages that one stream takes.
const BUNDLE_BYTES: usize = 256 << 10;
/// The cost of a small message besides its bytes.
const SMALL_OVERHEAD: usize = 64;

/// What one stream carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamPayload {
    /// One large message.
    Large(Bytes),
    /// Small messages, as one bundle.
    Bundle(Vec<Bytes>),
}

/// What waits for one member, and what is under way to it.
#[derive(Debug, Default)]
struct SendQueue {
    large: VecDeque<Bytes>,
    large_bytes: usize,
    under_way: Vec<(StreamId, Bytes)>,
    small: VecDeque<Bytes>,
    small_bytes: usize,
    bundle: Option<StreamId>,
}

impl SendQueue {
    fn is_empty(&self) -> bool {
        self.large.is_empty() && self.under_way.is_empty() && self.small.is_empty() && self.bundle.is_none()
    }

    /// Whether a message waits or is under way. The same message may have a route in front.
    fn contains(&self, message: &Bytes) -> bool {
        let is_same = |other: &Bytes| {
            let (long, short) = if other.len() > message.len() { (other, message) } else { (message, other) };
            long.len() - short.len() <= 64 && long.ends_with(&short[1..])
        };
        self.large.iter().chain(self.under_way.iter().map(|(_, message)| message)).any(is_same)
    }

    /// The next payload that may be sent.
    fn next(&mut self) -> Option<StreamPayload> {
        if self.bundle.is_none() && !self.small.is_empty() {
            let (mut bundle, mut bytes) = (Vec::new(), 0);
            while let Some(message) = self.small.front()
                && (bytes == 0 || bytes + message.len() <= BUNDLE_BYTES)
            {
                bytes += message.len() + SMALL_OVERHEAD;
                bundle.extend(self.small.pop_front());
            }
            self.small_bytes -= bytes;
            return Some(StreamPayload::Bundle(bundle));
        }
        if self.under_way.len() == LARGE_AT_ONCE {
            return None;
        }
        let message = self.large.pop_front()?;
        self.large_bytes -= message.len();
        Some(StreamPayload::Large(message))
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct SendQueues(BTreeMap<SocketAddr, SendQueue>);

impl SendQueues {
    /// Queues a large message. Gives whether it is new and there was room.
    pub(super) fn push_large(&mut self, to: SocketAddr, message: Bytes) -> bool {
        let queue = self.0.entry(to).or_default();
        let full = queue.large.len() == LARGE_WAITING || queue.large_bytes > LARGE_BYTES;
        if full || queue.contains(&message) {
            return false;
        }
        queue.large_bytes += message.len();
        queue.large.push_back(message);
        true
    }

    /// Queues messages that belong together: all of them, or none if there is no room.
    pub(super) fn push_small(&mut self, to: SocketAddr, messages: impl IntoIterator<Item = Bytes>) {
        let queue = self.0.entry(to).or_default();
        if queue.small_bytes > SMALL_BYTES {
            return;
        }
        for message in messages {
            queue.small_bytes += message.len() + SMALL_OVERHEAD;
            queue.small.push_back(message);
        }
    }

    /// Whether something large is under way to a member.
    pub(super) fn is_sending_large(&self, to: SocketAddr) -> bool {
        self.0.get(&to).is_some_and(|queue| !queue.under_way.is_empty())
    }

    /// The next payload for a member that may be sent now. [`begin`](Self::begin) then tells its stream.
    pub(super) fn next(&mut self, to: SocketAddr) -> Option<StreamPayload> {
        self.0.get_mut(&to)?.next()
    }

    pub(super) fn begin(&mut self, to: SocketAddr, id: StreamId, large: Option<Bytes>) {
        let queue = self.0.entry(to).or_default();
        match large {
            Some(message) => queue.under_way.push((id, message)),
            None => queue.bundle = Some(id),
        }
    }

    /// A stream has ended, whether it succeeded or not.
    pub(super) fn end(&mut self, to: SocketAddr, id: StreamId) {
        let Some(queue) = self.0.get_mut(&to) else { return };
        queue.under_way.retain(|(stream, _)| *stream != id);
        queue.bundle.take_if(|stream| *stream == id);
        if queue.is_empty() {
            self.0.remove(&to);
        }
    }

    /// Drops what waits for a member that is gone. What is under way may still arrive.
    pub(super) fn drop_waiting(&mut self, to: SocketAddr) {
        let Some(queue) = self.0.get_mut(&to) else { return };
        (queue.large_bytes, queue.small_bytes) = (0, 0);
        mem::take(&mut queue.large);
        mem::take(&mut queue.small);
        if queue.is_empty() {
            self.0.remove(&to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to() -> SocketAddr {
        ([10, 0, 0, 1], 7946).into()
    }

    fn large(i: u8) -> Bytes {
        vec![i; 3000].into()
    }

    #[test]
    fn a_message_is_taken_once_while_it_waits_or_is_on_its_way() {
        let mut queues = SendQueues::default();
        assert!(queues.push_large(to(), large(1)));
        assert!(!queues.push_large(to(), large(1)), "it waits");
        let routed: Bytes = [&[9; 12][..], &large(1)[1..]].concat().into();
        assert!(!queues.push_large(to(), routed.clone()), "with a route it is the same");
        assert_eq!(queues.next(to()), Some(StreamPayload::Large(large(1))));
        queues.begin(to(), StreamId(1), Some(large(1)));
        assert!(!queues.push_large(to(), large(1)), "it is on its way");
        assert!(!queues.push_large(to(), routed));
        assert!(queues.push_large(to(), large(2)), "another is another");
        queues.end(to(), StreamId(1));
        assert!(queues.push_large(to(), large(1)), "it may have been in vain");
    }

    #[test]
    fn so_many_are_on_their_way_at_a_time_and_small_ones_beside_them() {
        let mut queues = SendQueues::default();
        for i in 0..10 {
            queues.push_large(to(), large(i));
        }
        queues.push_small(to(), [Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let mut begun = Vec::new();
        while let Some(load) = queues.next(to()) {
            let id = StreamId(begun.len() as u64);
            match &load {
                StreamPayload::Large(message) => queues.begin(to(), id, Some(message.clone())),
                StreamPayload::Bundle(_) => queues.begin(to(), id, None),
            }
            begun.push(load);
        }
        let bundle = StreamPayload::Bundle(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(begun[0], bundle);
        assert_eq!(begun.len(), 1 + LARGE_AT_ONCE);
        queues.push_small(to(), [Bytes::from_static(b"c")]);
        assert_eq!(queues.next(to()), None, "one bundle at a time");
        queues.end(to(), StreamId(0));
        assert_eq!(queues.next(to()), Some(StreamPayload::Bundle(vec![Bytes::from_static(b"c")])));
        queues.end(to(), StreamId(3));
        assert_eq!(queues.next(to()), Some(StreamPayload::Large(large(4))));
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_left_of_one_that_is_gone() {
        let mut queues = SendQueues::default();
        let taken = (0..2 * LARGE_WAITING).filter(|i| queues.push_large(to(), vec![1; 2000 + 100 * i].into())).count();
        assert!(taken <= LARGE_WAITING, "{taken}");
        for _ in 0..10_000 {
            queues.push_small(to(), [Bytes::from(vec![0; 1000])]);
        }
        let queue = &queues.0[&to()];
        assert!(queue.small_bytes <= SMALL_BYTES + 2000 && queue.large_bytes <= 2 * LARGE_BYTES);
        let mut sizes = Vec::new();
        while let Some(StreamPayload::Bundle(bundle)) = queues.next(to()) {
            sizes.push(bundle.iter().map(Bytes::len).sum::<usize>());
        }
        assert!(sizes.len() > 2 && sizes.iter().all(|size| *size <= BUNDLE_BYTES), "{sizes:?}");
        assert_eq!(queues.0[&to()].small_bytes, 0);
        queues.drop_waiting(to());
        assert!(queues.0.is_empty());
    }
}
