//! What one node says has happened to one message.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::visible;

/// How much of a key, and of a value, is kept to be drawn, in bytes.
const MAX_TEXT: usize = 512;
/// The same of a name, which has 255 bytes at most, of which some may be escaped.
const MAX_NAME: usize = 512;
/// How the keys of the senders of `broadcast node` and `broadcast demo` begin. Their values are a Lamport clock's.
pub(super) const LAMPORT_KEY: &str = "I am ";

/// What has happened to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The node has sent it.
    Sent,
    /// The node has received it, as it says itself.
    Received,
    /// The node has told the sender that it has it, as another node says.
    Acknowledged,
}

/// See the [module](self). All its texts are safe to print, and short.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// To whom it has happened.
    pub(super) node: String,
    pub(super) what: What,
    /// Who sent the message, where that is said.
    pub(super) origin: Option<String>,
    /// What tells the message from all others, where that is said: the digest of its id.
    pub(super) id: Option<u64>,
    pub(super) message: Message,
    /// When, in milliseconds since 1970, by the clock of whoever says so.
    pub(super) time: u64,
}

/// A message, as far as it is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) key: String,
    /// As JSON, on one line.
    pub(super) value: String,
    /// Tells messages apart whose beginnings are the same.
    pub(super) digest: u64,
    /// The sender's Lamport clock, where that is what it sends.
    pub(super) lamport: Option<u64>,
}

impl Entry {
    pub(super) fn new(node: &str, what: What, message: Message, time: u64) -> Self {
        Self { node: name(node), what, origin: None, id: None, message, time }
    }

    pub(super) fn of(self, origin: Option<&str>, id: Option<&str>) -> Self {
        Self { origin: origin.map(name), id: id.map(digest), ..self }
    }
}

impl Message {
    pub(super) fn new(key: &str, value: &str) -> Self {
        let [key, value] = [key, value].map(visible::escaped);
        let digest = digest((&key, &value));
        let lamport = if key.starts_with(LAMPORT_KEY) { value.parse().ok() } else { None };
        Self { digest, lamport, key: beginning(key, MAX_TEXT), value: beginning(value, MAX_TEXT) }
    }
}

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A node's name, as it is kept.
pub(super) fn name(text: &str) -> String {
    beginning(visible::escaped(text), MAX_NAME)
}

/// The beginning of a text that is too long, with a sign that it is one.
fn beginning(mut text: String, most: usize) -> String {
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
        let [a, b] = ["a", "b"].map(|end| Message::new(&format!("k\n{}{end}", "ä".repeat(1000)), "1"));
        assert_eq!((&a.key, a.digest == b.digest), (&b.key, false));
        assert!(a.key.len() < MAX_TEXT + 4 && a.key.starts_with("k\\nää") && a.key.ends_with("ä…"), "{}", a.key);
    }

    #[test]
    fn only_a_senders_number_is_a_clocks() {
        let lamport = |key, value| Message::new(key, value).lamport;
        assert_eq!(lamport("I am node2", "7"), Some(7));
        assert_eq!(lamport("I am node2", "\"7\""), None);
        assert_eq!(lamport("cache:drop", "7"), None);
    }
}
