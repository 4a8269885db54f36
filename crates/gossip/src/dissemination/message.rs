//! A message, as the application sees it.

use std::{borrow::Cow, fmt::Display, ops::Range, str, sync::Arc};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    payload::{self, Draft, Identity, Parsed},
    plain::Said,
};
use crate::membership::NodeName;

/// What makes a message of an origin different from every other: the origin's life, and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// Which life of the origin: later starts have larger ones. Twice its start, in microseconds since
    /// 1970.
    pub epoch: u64,
    /// The number of the message in it, from 0.
    pub seq: u64,
}

impl MessageId {
    /// How a message of `origin` is named in logs and over HTTP.
    #[must_use]
    pub fn of(self, origin: impl Display) -> String {
        let Self { epoch, seq } = self;
        format!("{origin}.{epoch}.{seq}")
    }
}

/// Something published by a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Message(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: NodeName,
    /// Of the node that says it, which passes it on when `plain` is set.
    id: MessageId,
    plain: Option<NodeName>,
    /// Of what time it is an event to serf's agents.
    event: Option<u64>,
    /// Whether the plain node said the bytes that the value stands for.
    raw: bool,
    /// The JSON as it travels.
    payload: Bytes,
    key: Key,
    value: Range<usize>,
    hops: u8,
}

/// The key: where it stands in the JSON, or by itself if it has to be unescaped.
#[derive(Debug)]
enum Key {
    At(Range<usize>),
    Text(Box<str>),
}

impl Message {
    /// `payload` is the UTF-8 text that `parsed` was made from.
    pub(super) fn new(
        origin: NodeName,
        identity: &Identity<'_>,
        parsed: &Parsed<'_>,
        payload: &Bytes,
        hops: u8,
    ) -> Self {
        let key = match parsed.key_range(payload) {
            Some(at) => Key::At(at),
            None => Key::Text((*parsed.key).into()),
        };
        Self(Arc::new(Inner {
            origin,
            id: MessageId { epoch: identity.epoch, seq: identity.seq },
            plain: identity.plain.as_deref().map(NodeName::from),
            event: identity.event,
            raw: identity.raw && identity.plain.is_some(),
            payload: payload.clone(),
            key,
            value: parsed.value.clone(),
            hops,
        }))
    }

    /// What others than memberlist nodes said: `source` stands for them. `value` is JSON. Also for tests of what takes
    /// messages.
    ///
    /// # Panics
    ///
    /// `value` is not JSON.
    #[must_use]
    pub fn of_others(source: &str, key: &str, value: &str) -> Self {
        let payload = Draft::new(key, value, source).on_behalf_of(source, false).finish(0, 0).slice(1..);
        let text = std::str::from_utf8(&payload).expect("a draft is made of text");
        let parsed = payload::parse(text).expect("a draft is JSON");
        let identity = parsed.identity.as_ref().expect("a finished draft has an identity");
        Self::new(source.into(), identity, &parsed, &payload, 0)
    }

    /// The node that published it.
    #[must_use]
    pub fn origin(&self) -> &NodeName {
        self.0.plain.as_ref().unwrap_or(&self.0.origin)
    }

    /// Its identity; `None` for a message of a plain memberlist node, which gives none.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.0.plain.is_none().then_some(self.0.id)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        match &self.0.key {
            Key::At(range) => self.text(range),
            Key::Text(text) => text,
        }
    }

    /// Its value, as JSON.
    #[must_use]
    pub fn value(&self) -> &str {
        self.text(&self.0.value)
    }

    /// The same without line ends. They can only be blanks between its parts: in a string they are escaped.
    #[must_use]
    pub fn value_on_one_line(&self) -> Cow<'_, str> {
        let json = self.value();
        if json.contains(['\n', '\r', '\t']) { json.replace(['\n', '\r', '\t'], " ").into() } else { json.into() }
    }

    /// Its value, as a type of yours.
    ///
    /// # Errors
    ///
    /// The JSON is not one of `T`.
    pub fn value_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.value())
    }

    /// The very bytes, if a plain memberlist node said something that is not JSON with a key and a value. The
    /// key is empty then, and the value is these bytes, as a text if they are one, else as an array of
    /// numbers.
    #[must_use]
    pub fn raw(&self) -> Option<Vec<u8>> {
        self.0.raw.then(|| payload::raw_bytes(self.value()))?
    }

    /// Over how many hops it came: 1 straight from its origin.
    #[must_use]
    pub fn hops(&self) -> u8 {
        self.0.hops
    }

    fn text(&self, range: &Range<usize>) -> &str {
        str::from_utf8(&self.0.payload[range.clone()]).expect("the payload was read as text, and this between quotes")
    }

    /// The JSON as it travels.
    pub(super) fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// How many bytes it takes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.0.payload.len()
    }

    /// Which message of which node it is, by itself or on behalf of a plain one.
    pub(super) fn stands_at(&self) -> (&NodeName, MessageId) {
        (&self.0.origin, self.0.id)
    }

    /// Of what time it is an event to serf's agents, if it is one.
    pub(crate) fn event(&self) -> Option<u64> {
        self.0.event
    }

    /// The plain node that said it, and what.
    pub(super) fn plain(&self) -> Option<(&NodeName, Said<'_>)> {
        let said = Said { key: self.key().into(), value: self.value().into(), raw: self.0.raw };
        self.0.plain.as_ref().map(|plain| (plain, said))
    }
}

/// Why something was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It is larger than a message may be.
    #[error("the message takes {size} bytes on the wire; at most {max} are allowed: shorten its key or value")]
    TooLarge {
        /// Its length as it would travel, in bytes.
        size: usize,
        /// What is allowed, in bytes.
        max: usize,
    },
    /// The value cannot be written as JSON, or as none that everybody could read: a number beyond a double's range, a
    /// text with half a surrogate pair, more than 63 arrays or objects in one another.
    #[error("the value cannot be published as JSON: {0}")]
    Value(String),
    /// The log is full of messages that members still need.
    #[error("the slowest members have not caught up yet; wait, or publish less")]
    WouldBlock,
    /// Another node of this node's name is in the cluster.
    #[error("another node in the cluster has the same name as this one; give one of them another name")]
    NameTaken,
    /// The node has left.
    #[error("the node has stopped; start a new one to publish")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_fits_on_one_line_and_stays_the_same() {
        let message = Message::of_others("go", "k", "{\n\t\"a\": 18446744073709551616,\r\n \"b\": \"x\\ny\"}");
        assert_eq!(message.value_on_one_line(), r#"{  "a": 18446744073709551616,   "b": "x\ny"}"#);
        assert!(matches!(Message::of_others("go", "k", "[1, 2]").value_on_one_line(), Cow::Borrowed("[1, 2]")));
    }
}
