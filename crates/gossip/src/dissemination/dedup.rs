//! Telling retransmissions of a plain node from new messages, which it gives no identity.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::hash::hash;
use crate::membership::NodeName;

/// For how long equal messages of a plain node are retransmissions of one.
pub(super) const WINDOW: Duration = Duration::from_secs(2);
/// How long a voice may take until it is reminded.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// How often a message is handed to a voice.
pub(super) const TRIES: u32 = 3;
/// How many messages are remembered at most, and how many wait for their voices at most.
const MAX_SEEN: usize = 65_536;
const MAX_WAITING: usize = 4096;

/// What equal messages of a plain node have in common: its name, and a hash of what it said, whatever JSON that was in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PayloadKey {
    pub(super) source: NodeName,
    hash: u64,
}

impl PayloadKey {
    /// `raw` tells that the value stands for bytes of the source's own kind.
    pub(super) fn new(source: &NodeName, key: &str, value: &str, raw: bool) -> Self {
        let value = hash(value.as_bytes()) ^ u64::from(raw);
        Self { source: source.clone(), hash: hash(key.as_bytes()) ^ value.rotate_left(32) }
    }
}

/// There is no room to remember one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more messages from plain memberlist nodes came within {WINDOW:?} than can be told apart")]
pub(crate) struct Flooded;

/// What was said by plain nodes of late.
#[derive(Debug, Default)]
pub(super) struct DedupWindow {
    /// When, and in whose stream.
    seen: HashMap<PayloadKey, (Instant, NodeName)>,
    /// The same, oldest first.
    order: VecDeque<(Instant, PayloadKey)>,
    /// What waits to come back in its voice's stream.
    waiting: BTreeMap<PayloadKey, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    message: Bytes,
    tries: u32,
    until: Instant,
}

impl DedupWindow {
    /// Whether such a message came within the window, or waits for its voice.
    pub(super) fn knows(&self, now: Instant, key: &PayloadKey) -> bool {
        let fresh = |(at, _): &(Instant, NodeName)| now.saturating_duration_since(*at) < WINDOW;
        self.seen.get(key).is_some_and(fresh) || self.waiting.contains_key(key)
    }

    /// Whether a message that comes in the stream of `voice` is new. From now on it is not.
    pub(super) fn is_new(&mut self, now: Instant, key: &PayloadKey, voice: &NodeName) -> Result<bool, Flooded> {
        while let Some((at, old)) = self.order.front() {
            if now.saturating_duration_since(*at) < WINDOW {
                break;
            }
            if self.seen.get(old).is_some_and(|(seen, _)| seen == at) {
                self.seen.remove(old);
            }
            self.order.pop_front();
        }
        self.waiting.remove(key);
        if self.seen.get(key).is_some_and(|(_, by)| by != voice) {
            return Ok(false);
        }
        if self.order.len() >= MAX_SEEN {
            return Err(Flooded);
        }
        self.seen.insert(key.clone(), (now, voice.clone()));
        self.order.push_back((now, key.clone()));
        Ok(true)
    }

    /// A message is handed to its voice.
    pub(super) fn wait(&mut self, now: Instant, key: PayloadKey, message: Bytes) -> Result<(), Flooded> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Flooded);
        }
        self.waiting.insert(key, Waiting { message, tries: 1, until: now + PATIENCE });
        Ok(())
    }

    /// It is not handed to its voice any more; gives whether it was.
    pub(super) fn stop_waiting(&mut self, key: &PayloadKey) -> bool {
        self.waiting.remove(key).is_some()
    }

    /// When the next voice is to be reminded.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// The messages whose voices are to be reminded, and whether they have been reminded often enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(PayloadKey, Bytes, bool)> {
        let due = self.waiting.iter_mut().filter(|(_, waiting)| waiting.until <= now);
        let due = due.map(|(key, waiting)| {
            waiting.tries += 1;
            waiting.until = now + PATIENCE * waiting.tries;
            (key.clone(), waiting.message.clone(), waiting.tries > TRIES)
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
    fn equal_messages_are_one_message_within_the_window_unless_one_voice_said_them_twice() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (NodeName::from("voice a"), NodeName::from("voice b"));
        let mut window = DedupWindow::default();
        let said = key("go1", "k", "1");
        assert_ne!(said, key("go1", "1", "k"));
        assert_ne!(key("go1", "", "\"x\""), PayloadKey::new(&"go1".into(), "", "\"x\"", true));
        assert!(!window.knows(at(0), &said));
        assert_eq!(window.is_new(at(0), &said, &a), Ok(true));
        assert!(window.knows(at(1999), &said));
        assert_eq!(window.is_new(at(1999), &said, &b), Ok(false), "two voices, one message");
        assert_eq!(window.is_new(at(1999), &key("go2", "k", "1"), &b), Ok(true));
        assert!(!window.knows(at(2000), &said));
        assert_eq!(window.is_new(at(2000), &said, &b), Ok(true));
        assert_eq!(window.is_new(at(2001), &said, &b), Ok(true), "a voice knows what it says");
        assert_eq!(window.is_new(at(4002), &said, &a), Ok(true));
    }

    #[test]
    fn a_voice_is_reminded_a_few_times() {
        let start = Instant::now();
        let mut window = DedupWindow::default();
        let said = key("go1", "k", "1");
        window.wait(start, said.clone(), Bytes::from_static(b"x")).unwrap();
        assert!(window.knows(start, &said));
        let mut now = start;
        let mut last = Vec::new();
        for _ in 0..TRIES {
            now = window.next_due().unwrap();
            last.extend(window.due(now).into_iter().map(|(_, _, enough)| enough));
        }
        assert_eq!(last, [false, false, true]);
        assert_eq!(window.is_new(now, &said, &"voice".into()), Ok(true));
        assert_eq!(window.next_due(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut window = DedupWindow::default();
        let said = |i: usize| key("go1", "k", &i.to_string());
        let new = (0..2 * MAX_SEEN).filter(|i| window.is_new(now, &said(*i), &"a".into()) == Ok(true)).count();
        assert_eq!(new, MAX_SEEN);
        let kept = (0..2 * MAX_WAITING).filter(|i| window.wait(now, said(*i), Bytes::new()).is_ok()).count();
        assert_eq!(kept, MAX_WAITING);
        assert_eq!(window.is_new(now + WINDOW, &said(0), &"a".into()), Ok(true));
        assert_eq!(window.seen.len(), 1);
    }
}
