//! The user events of late: what was heard already, and what others are told in an exchange of views.
//!
//! An event is its time, its name and its payload. Those of the last [`WINDOW`] times are remembered; what
//! is older than that is not heard any more.
//!
//! | an event is | since |
//! |---|---|
//! | not here | nobody said it yet |
//! | here, not delivered | its copy among serf's messages came, marked as a message of one of our nodes, which is yet to come |
//! | delivered | the application has it, as an event or as the message |

use std::collections::BTreeMap;

use bytes::Bytes;

use super::message::UserEvent;

/// Times that are remembered: serf's own default.
pub(super) const WINDOW: u64 = 512;
/// Events of one time.
const MAX_AT_ONCE: usize = 64;
/// Bytes of all of them.
const MAX_BYTES: usize = 4 << 20;
/// What one takes besides its name and payload, about.
const OVERHEAD: usize = 128;

#[derive(Debug)]
struct Entry {
    name: Bytes,
    payload: Bytes,
    ours: bool,
    delivered: bool,
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is to be passed on, and to be delivered unless it is a message of ours.
    New,
    /// It was heard before, or is too old to tell.
    Known,
    /// There are too many of one time.
    NoRoom,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Events {
    by_time: BTreeMap<u64, Vec<Entry>>,
    bytes: usize,
    /// What is older than this is not heard.
    begin: u64,
}

impl Events {
    /// Hears nothing from before this time.
    pub(super) fn begin_at(&mut self, time: u64) {
        self.begin = self.begin.max(time);
    }

    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.bytes, MAX_BYTES)
    }

    /// Takes an event that serf nodes tell. `clock` is the time now, after it was witnessed.
    pub(super) fn hear(&mut self, clock: u64, event: &UserEvent) -> Heard {
        let UserEvent { time, name, payload, ours } = event;
        if self.is_too_old(clock, *time) || self.find(*time, name, payload).is_some() {
            return Heard::Known;
        }
        if self.add(clock, *time, name, payload, *ours, !*ours) { Heard::New } else { Heard::NoRoom }
    }

    /// Takes a message of one of our nodes that is such an event. Gives whether it is to be delivered: not if
    /// it was, as an event whose mark was lost on the way.
    pub(super) fn claim(&mut self, clock: u64, time: u64, name: &[u8], payload: &[u8]) -> bool {
        match self.find(time, name, payload) {
            Some(entry) => {
                entry.ours = true;
                !std::mem::replace(&mut entry.delivered, true)
            }
            None => {
                if !self.is_too_old(clock, time) {
                    let copy = Bytes::copy_from_slice;
                    self.add(clock, time, &copy(name), &copy(payload), true, true);
                }
                true
            }
        }
    }

    /// Everything that is remembered, by its time.
    pub(super) fn iter(&self) -> impl Iterator<Item = UserEvent> {
        self.by_time.iter().flat_map(|(&time, entries)| {
            entries.iter().map(move |Entry { name, payload, ours, .. }| UserEvent {
                time,
                name: name.clone(),
                payload: payload.clone(),
                ours: *ours,
            })
        })
    }

    fn is_too_old(&self, clock: u64, time: u64) -> bool {
        time < self.begin || time + WINDOW < clock
    }

    fn find(&mut self, time: u64, name: &[u8], payload: &[u8]) -> Option<&mut Entry> {
        self.by_time.get_mut(&time)?.iter_mut().find(|entry| entry.name == name && entry.payload == payload)
    }

    fn add(&mut self, clock: u64, time: u64, name: &Bytes, payload: &Bytes, ours: bool, delivered: bool) -> bool {
        let entries = self.by_time.entry(time).or_default();
        if entries.len() == MAX_AT_ONCE {
            return false;
        }
        // Copies, lest they keep whole packets in memory.
        let [name, payload] = [name, payload].map(|bytes| Bytes::copy_from_slice(bytes));
        self.bytes += OVERHEAD + name.len() + payload.len();
        entries.push(Entry { name, payload, ours, delivered });
        while let Some((&oldest, _)) = self.by_time.first_key_value() {
            if self.bytes <= MAX_BYTES && oldest + WINDOW >= clock {
                break;
            }
            // What it had is not told from what is new any more.
            self.begin_at(oldest + 1);
            let old = self.by_time.remove(&oldest).unwrap_or_default();
            self.bytes -= old.iter().map(|entry| OVERHEAD + entry.name.len() + entry.payload.len()).sum::<usize>();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time: u64, payload: &str, ours: bool) -> UserEvent {
        UserEvent { time, name: "k".into(), payload: Bytes::copy_from_slice(payload.as_bytes()), ours }
    }

    #[test]
    fn the_same_is_heard_once_and_only_that_is_the_same() {
        let mut events = Events::default();
        assert_eq!(events.hear(2, &event(1, "a", false)), Heard::New);
        assert_eq!(events.hear(2, &event(1, "a", false)), Heard::Known);
        assert_eq!(events.hear(2, &event(1, "b", false)), Heard::New);
        assert_eq!(events.hear(3, &event(2, "a", false)), Heard::New);
        assert_eq!(events.hear(600, &event(87, "a", false)), Heard::Known, "too old to tell");
        assert_eq!(events.hear(600, &event(88, "a", false)), Heard::New);
    }

    #[test]
    fn a_message_and_its_event_are_one_whichever_comes_first() {
        let mut events = Events::default();
        assert_eq!(events.hear(2, &event(1, "marked", true)), Heard::New);
        assert!(events.claim(2, 1, b"k", b"marked"), "its event was not delivered");
        assert!(!events.claim(2, 1, b"k", b"marked"));
        assert_eq!(events.hear(3, &event(2, "mark lost", false)), Heard::New);
        assert!(!events.claim(3, 2, b"k", b"mark lost"), "its event was delivered");
        assert!(events.claim(4, 3, b"k", b"first"));
        assert_eq!(events.hear(4, &event(3, "first", false)), Heard::Known);
        assert!(events.claim(9999, 3, b"k", b"too old to tell"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut events = Events::default();
        let at_once = (0..100).filter(|i| events.hear(2, &event(1, &i.to_string(), false)) == Heard::New).count();
        assert_eq!(at_once, MAX_AT_ONCE);
        for time in 2..2000 {
            events.hear(time + 1, &event(time, &"x".repeat(9000), false));
            assert!(events.bytes <= MAX_BYTES);
        }
        assert!(events.by_time.len() as u64 <= WINDOW + 1);
        let kept: usize = events.iter().map(|event| OVERHEAD + event.name.len() + event.payload.len()).sum();
        assert_eq!(events.bytes, kept);
        events.hear(1_000_000, &event(999_999, "", false));
        assert_eq!(events.iter().count(), 1);
    }
}
