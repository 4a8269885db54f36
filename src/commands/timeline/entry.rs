//! An entry of the timeline: what happened to one message at one node.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::visible;

/// How much of a key or a value is kept, in bytes.
const MAX_TEXT: usize = 512;
/// How much of a node's name is kept, in bytes. Names have up to 255 bytes, and more once they are escaped.
const MAX_NAME: usize = 512;
/// How keys begin that the role sender publishes. Their values are a Lamport clock's.
pub(super) const LAMPORT_KEY: &str = "I am ";

/// What happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EntryKind {
    /// The node sent it.
    Sent,
    /// The node received it, as it says itself.
    Received,
    /// The node has acknowledged it, as another node says.
    Acknowledged,
}

/// See the [module](self). All texts are short and safe to print.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where it happened.
    pub(super) node: String,
    pub(super) kind: EntryKind,
    /// Who sent the message, if that is known.
    pub(super) origin: Option<String>,
    /// The digest of the message's id, if that is known.
    pub(super) id: Option<u64>,
    pub(super) message: MessageText,
    /// When, in milliseconds since 1970, by the clock of whoever reports it.
    pub(super) time: u64,
}

/// The part of a message that is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageText {
    pub(super) key: String,
    /// As JSON, on one line.
    pub(super) value: String,
    /// Tells messages apart that begin alike.
    pub(super) digest: u64,
    /// The sender's Lamport clock, if the value is one.
    pub(super) lamport: Option<u64>,
}

impl Entry {
    pub(super) fn new(node: &str, kind: EntryKind, message: MessageText, time: u64) -> Self {
        Self { node: name(node), kind, origin: None, id: None, message, time }
    }

    /// Adds the sender and the id of the message, if they are known.
    pub(super) fn of(self, origin: Option<&str>, id: Option<&str>) -> Self {
        Self { origin: origin.map(name), id: id.map(digest), ..self }
    }
}

impl MessageText {
    pub(super) fn new(key: &str, value: &str) -> Self {
        let [key, value] = [key, value].map(visible::escaped);
        let digest = digest((&key, &value));
        let lamport = if key.starts_with(LAMPORT_KEY) { value.parse().ok() } else { None };
        Self { digest, lamport, key: shortened(key, MAX_TEXT), value: shortened(value, MAX_TEXT) }
    }
}

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A node's name as it is kept.
pub(super) fn name(text: &str) -> String {
    shortened(visible::escaped(text), MAX_NAME)
}

/// The text, or its beginning and an ellipsis.
fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_short_and_safe_and_still_told_apart() {
        let [a, b] = ["a", "b"].map(|end| MessageText::new(&format!("k\n{}{end}", "ä".repeat(1000)), "1"));
        assert_eq!((&a.key, a.digest == b.digest), (&b.key, false));
        assert!(a.key.len() < MAX_TEXT + 4 && a.key.starts_with("k\\nää") && a.key.ends_with("ä…"), "{}", a.key);
    }

    #[test]
    fn only_a_senders_number_is_a_clocks() {
        let lamport = |key, value| MessageText::new(key, value).lamport;
        assert_eq!(lamport("I am node2", "7"), Some(7));
        assert_eq!(lamport("I am node2", "\"7\""), None);
        assert_eq!(lamport("cache:drop", "7"), None);
    }
}
