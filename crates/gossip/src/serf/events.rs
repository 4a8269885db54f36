//! Recent user events: to recognise duplicates, and for exchanges of views. Serf's `eventBuffer`.
//!
//! Time, name and payload identify an event. Those of the last [`WINDOW`] times are remembered; older ones are ignored.
//!
//! | an event is | if |
//! |---|---|
//! | not here | it has not arrived yet |
//! | here, not delivered | it came as an event, marked as a message of a node of this crate; the message is yet to come |
//! | delivered | the application has it, as an event or as the message |

use std::collections::BTreeMap;

use bytes::Bytes;

use super::message::UserEvent;

/// How many times are remembered: serf's default.
pub(super) const WINDOW: u64 = 512;
/// How many events can have the same time.
const MAX_AT_ONCE: usize = 64;
/// How many bytes all events together can take.
const MAX_BYTES: usize = 4 << 20;
/// About how many bytes an event takes besides its name and payload.
const OVERHEAD: usize = 128;

#[derive(Debug)]
struct BufferedEvent {
    name: Bytes,
    payload: Bytes,
    is_broadcast: bool,
    delivered: bool,
}

/// What is to be done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventOutcome {
    /// Pass it on, and deliver it unless it is a message of a node of this crate.
    New,
    /// Nothing: it arrived before, or is too old to tell.
    Duplicate,
    /// Drop it: there are too many with the same time.
    NoRoom,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct EventBuffer {
    by_time: BTreeMap<u64, Vec<BufferedEvent>>,
    bytes: usize,
    /// Older events are ignored.
    begin: u64,
}

impl EventBuffer {
    /// Ignores events from before this time.
    pub(super) fn begin_at(&mut self, time: u64) {
        self.begin = self.begin.max(time);
    }

    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.bytes, MAX_BYTES)
    }

    /// Adds an event that came as such. `clock` is the time now, after the event's was witnessed.
    pub(super) fn receive(&mut self, clock: u64, event: &UserEvent) -> EventOutcome {
        let UserEvent { time, name, payload, is_broadcast } = event;
        if self.is_too_old(clock, *time) || self.find(*time, name, payload).is_some() {
            return EventOutcome::Duplicate;
        }
        if self.add(clock, *time, name, payload, *is_broadcast, !*is_broadcast) {
            EventOutcome::New
        } else {
            EventOutcome::NoRoom
        }
    }

    /// Adds a message of a node of this crate, as the event that it also is. Gives whether it is to be delivered: not if it
    /// was, as an event whose mark was lost on the way.
    pub(super) fn claim(&mut self, clock: u64, time: u64, name: &[u8], payload: &[u8]) -> bool {
        match self.find(time, name, payload) {
            Some(entry) => {
                entry.is_broadcast = true;
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

    /// All events that are remembered, by time.
    pub(super) fn iter(&self) -> impl Iterator<Item = UserEvent> {
        self.by_time.iter().flat_map(|(&time, entries)| {
            entries.iter().map(move |BufferedEvent { name, payload, is_broadcast, .. }| UserEvent {
                time,
                name: name.clone(),
                payload: payload.clone(),
                is_broadcast: *is_broadcast,
            })
        })
    }

    fn is_too_old(&self, clock: u64, time: u64) -> bool {
        time < self.begin || time + WINDOW < clock
    }

    fn find(&mut self, time: u64, name: &[u8], payload: &[u8]) -> Option<&mut BufferedEvent> {
        self.by_time.get_mut(&time)?.iter_mut().find(|entry| entry.name == name && entry.payload == payload)
    }

    fn add(
        &mut self,
        clock: u64,
        time: u64,
        name: &Bytes,
        payload: &Bytes,
        is_broadcast: bool,
        delivered: bool,
    ) -> bool {
        let entries = self.by_time.entry(time).or_default();
        if entries.len() == MAX_AT_ONCE {
            return false;
        }
        // Copies: slices would keep whole packets in memory.
        let [name, payload] = [name, payload].map(|bytes| Bytes::copy_from_slice(bytes));
        self.bytes += OVERHEAD + name.len() + payload.len();
        entries.push(BufferedEvent { name, payload, is_broadcast, delivered });
        while let Some((&oldest, _)) = self.by_time.first_key_value() {
            if self.bytes <= MAX_BYTES && oldest + WINDOW >= clock {
                break;
            }
            // Duplicates of what is dropped could not be told from new events.
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

    fn event(time: u64, payload: &str, is_broadcast: bool) -> UserEvent {
        UserEvent { time, name: "k".into(), payload: Bytes::copy_from_slice(payload.as_bytes()), is_broadcast }
    }

    #[test]
    fn the_same_is_heard_once_and_only_that_is_the_same() {
        let mut events = EventBuffer::default();
        assert_eq!(events.receive(2, &event(1, "a", false)), EventOutcome::New);
        assert_eq!(events.receive(2, &event(1, "a", false)), EventOutcome::Duplicate);
        assert_eq!(events.receive(2, &event(1, "b", false)), EventOutcome::New);
        assert_eq!(events.receive(3, &event(2, "a", false)), EventOutcome::New);
        assert_eq!(events.receive(600, &event(87, "a", false)), EventOutcome::Duplicate, "too old to tell");
        assert_eq!(events.receive(600, &event(88, "a", false)), EventOutcome::New);
    }

    #[test]
    fn a_message_and_its_event_are_one_whichever_comes_first() {
        let mut events = EventBuffer::default();
        assert_eq!(events.receive(2, &event(1, "marked", true)), EventOutcome::New);
        assert!(events.claim(2, 1, b"k", b"marked"), "its event was not delivered");
        assert!(!events.claim(2, 1, b"k", b"marked"));
        assert_eq!(events.receive(3, &event(2, "mark lost", false)), EventOutcome::New);
        assert!(!events.claim(3, 2, b"k", b"mark lost"), "its event was delivered");
        assert!(events.claim(4, 3, b"k", b"first"));
        assert_eq!(events.receive(4, &event(3, "first", false)), EventOutcome::Duplicate);
        assert!(events.claim(9999, 3, b"k", b"too old to tell"));
    }

    #[test]
    fn memory_is_bounded() {
        let mut events = EventBuffer::default();
        let at_once =
            (0..100).filter(|i| events.receive(2, &event(1, &i.to_string(), false)) == EventOutcome::New).count();
        assert_eq!(at_once, MAX_AT_ONCE);
        for time in 2..2000 {
            events.receive(time + 1, &event(time, &"x".repeat(9000), false));
            assert!(events.bytes <= MAX_BYTES);
        }
        assert!(events.by_time.len() as u64 <= WINDOW + 1);
        let kept: usize = events.iter().map(|event| OVERHEAD + event.name.len() + event.payload.len()).sum();
        assert_eq!(events.bytes, kept);
        events.receive(1_000_000, &event(999_999, "", false));
        assert_eq!(events.iter().count(), 1);
    }
}
