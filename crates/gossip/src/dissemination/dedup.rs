//! Deduplication of plain nodes' messages, which have no identity.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::hash::hash;
use crate::membership::NodeName;

/// For how long equal messages of a plain node count as one. Longer tolerates later retransmissions; shorter lets a program
/// say the same again sooner.
pub(super) const DEDUP_WINDOW: Duration = Duration::from_secs(2);
/// How long a proxy may take to publish a message before it is sent there again.
pub(super) const PROXY_TIMEOUT: Duration = Duration::from_millis(300);
/// How often a message is sent to a proxy.
pub(super) const PROXY_ATTEMPTS: u32 = 3;
/// How many messages are remembered, and how many wait for their proxies, at most.
const MAX_SEEN: usize = 65_536;
const MAX_WAITING: usize = 4096;

/// What equal messages of a plain node have in common: its name, and a hash of key and value, however the JSON around them is
/// written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PayloadKey {
    pub(super) source: NodeName,
    hash: u64,
}

impl PayloadKey {
    /// `raw` says that the value stands for bytes that were not JSON.
    pub(super) fn new(source: &NodeName, key: &str, value: &str, raw: bool) -> Self {
        let value = hash(value.as_bytes()) ^ u64::from(raw);
        Self { source: source.clone(), hash: hash(key.as_bytes()) ^ value.rotate_left(32) }
    }
}

/// There is no room to remember one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more messages from plain memberlist nodes came within {DEDUP_WINDOW:?} than can be told apart")]
pub(crate) struct DedupFull;

/// The recent messages of plain nodes.
#[derive(Debug, Default)]
pub(super) struct DedupWindow {
    /// When each came, and in whose stream.
    seen: HashMap<PayloadKey, (Instant, NodeName)>,
    /// The same keys, oldest first.
    order: VecDeque<(Instant, PayloadKey)>,
    /// The messages that have not come back in their proxy's stream yet.
    waiting: BTreeMap<PayloadKey, Waiting>,
}

/// A message that a proxy is to publish.
#[derive(Debug)]
struct Waiting {
    message: Bytes,
    attempts: u32,
    until: Instant,
}

impl DedupWindow {
    /// Whether an equal message came within the window or waits for its proxy.
    pub(super) fn contains(&self, now: Instant, key: &PayloadKey) -> bool {
        let fresh = |(at, _): &(Instant, NodeName)| now.saturating_duration_since(*at) < DEDUP_WINDOW;
        self.seen.get(key).is_some_and(fresh) || self.waiting.contains_key(key)
    }

    /// Whether a message in the stream of `proxy` is new. It is remembered from now on.
    pub(super) fn admit(&mut self, now: Instant, key: &PayloadKey, proxy: &NodeName) -> Result<bool, DedupFull> {
        while let Some((at, old)) = self.order.front() {
            if now.saturating_duration_since(*at) < DEDUP_WINDOW {
                break;
            }
            if self.seen.get(old).is_some_and(|(seen, _)| seen == at) {
                self.seen.remove(old);
            }
            self.order.pop_front();
        }
        self.waiting.remove(key);
        if self.seen.get(key).is_some_and(|(_, by)| by != proxy) {
            return Ok(false);
        }
        if self.order.len() >= MAX_SEEN {
            return Err(DedupFull);
        }
        self.seen.insert(key.clone(), (now, proxy.clone()));
        self.order.push_back((now, key.clone()));
        Ok(true)
    }

    /// Notes that a message was sent to its proxy.
    pub(super) fn await_proxy(&mut self, now: Instant, key: PayloadKey, message: Bytes) -> Result<(), DedupFull> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(DedupFull);
        }
        self.waiting.insert(key, Waiting { message, attempts: 1, until: now + PROXY_TIMEOUT });
        Ok(())
    }

    /// Stops waiting for a message's proxy; gives whether it did wait.
    pub(super) fn remove_waiting(&mut self, key: &PayloadKey) -> bool {
        self.waiting.remove(key).is_some()
    }

    /// When a message is to be repeated to its proxy next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// The messages to repeat to their proxies, and whether that was done often enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(PayloadKey, Bytes, bool)> {
        let due = self.waiting.iter_mut().filter(|(_, waiting)| waiting.until <= now);
        let due = due.map(|(key, waiting)| {
            waiting.attempts += 1;
            waiting.until = now + PROXY_TIMEOUT * waiting.attempts;
            (key.clone(), waiting.message.clone(), waiting.attempts > PROXY_ATTEMPTS)
        });
        due.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: &str, key: &str, value: &str) -> PayloadKey {
        PayloadKey::new(&source.into(), key, value, false)
    }

    #[test]
    fn equal_messages_are_one_message_within_the_window_unless_one_proxy_said_them_twice() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (NodeName::from("proxy a"), NodeName::from("proxy b"));
        let mut window = DedupWindow::default();
        let said = key("go1", "k", "1");
        assert_ne!(said, key("go1", "1", "k"));
        assert_ne!(key("go1", "", "\"x\""), PayloadKey::new(&"go1".into(), "", "\"x\"", true));
        assert!(!window.contains(at(0), &said));
        assert_eq!(window.admit(at(0), &said, &a), Ok(true));
        assert!(window.contains(at(1999), &said));
        assert_eq!(window.admit(at(1999), &said, &b), Ok(false), "two proxies, one message");
        assert_eq!(window.admit(at(1999), &key("go2", "k", "1"), &b), Ok(true));
        assert!(!window.contains(at(2000), &said));
        assert_eq!(window.admit(at(2000), &said, &b), Ok(true));
        assert_eq!(window.admit(at(2001), &said, &b), Ok(true), "a proxy knows what it says");
        assert_eq!(window.admit(at(4002), &said, &a), Ok(true));
    }

    #[test]
    fn a_proxy_is_reminded_a_few_times() {
        let start = Instant::now();
        let mut window = DedupWindow::default();
        let said = key("go1", "k", "1");
        window.await_proxy(start, said.clone(), Bytes::from_static(b"x")).unwrap();
        assert!(window.contains(start, &said));
        let mut now = start;
        let mut last = Vec::new();
        for _ in 0..PROXY_ATTEMPTS {
            now = window.next_due().unwrap();
            last.extend(window.due(now).into_iter().map(|(_, _, enough)| enough));
        }
        assert_eq!(last, [false, false, true]);
        assert_eq!(window.admit(now, &said, &"proxy".into()), Ok(true));
        assert_eq!(window.next_due(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut window = DedupWindow::default();
        let said = |i: usize| key("go1", "k", &i.to_string());
        let new = (0..2 * MAX_SEEN).filter(|i| window.admit(now, &said(*i), &"a".into()) == Ok(true)).count();
        assert_eq!(new, MAX_SEEN);
        let kept = (0..2 * MAX_WAITING).filter(|i| window.await_proxy(now, said(*i), Bytes::new()).is_ok()).count();
        assert_eq!(kept, MAX_WAITING);
        assert_eq!(window.admit(now + DEDUP_WINDOW, &said(0), &"a".into()), Ok(true));
        assert_eq!(window.seen.len(), 1);
    }
}
