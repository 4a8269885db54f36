//! A message as the application sees it.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    draft::{Draft, PublishedMessage},
    id::MessageId,
    payload::{self, Content, Parsed},
};
use crate::membership::NodeName;

/// A message that a node has published. Cheap to clone.
///
/// ```
/// let message = broadcast::Message::of_others("test", "cache:drop", r#"{"user":7}"#);
/// assert_eq!(message.key(), "cache:drop");
/// #[derive(serde::Deserialize)]
/// struct Drop {
///     user: u64,
/// }
/// let Drop { user } = message.value_as()?;
/// assert_eq!(user, 7);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Message(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The node that published it, perhaps as the proxy of a plain node.
    origin: NodeName,
    /// Its identity among that node's messages.
    id: MessageId,
    /// The JSON on the wire.
    payload: Bytes,
    content: Content,
    hops: u8,
}

impl From<PublishedMessage> for Message {
    fn from(published: PublishedMessage) -> Self {
        let PublishedMessage { origin, id, message, content } = published;
        Self(Arc::new(Inner { origin, id, payload: message.slice(1..), content, hops: 0 }))
    }
}

impl Message {
    /// `payload` is the UTF-8 text that `parsed` was made from.
    pub(super) fn new(origin: NodeName, id: MessageId, parsed: &Parsed<'_>, payload: &Bytes, hops: u8) -> Self {
        Self(Arc::new(Inner { origin, id, content: parsed.content(payload), payload: payload.clone(), hops }))
    }

    /// A message from outside the cluster's nodes, for which `source` stands. `value` is JSON, which is not checked. Also for
    /// tests of code that takes messages.
    #[must_use]
    pub fn of_others(source: &str, key: &str, value: &str) -> Self {
        let draft = Draft::new(key, value, source).on_behalf_of(source, false);
        draft.publish(source.into(), MessageId { epoch: 0, seq: 0 }).into()
    }

    /// The node that published it, or the plain memberlist node that sent it.
    #[must_use]
    pub fn origin(&self) -> &NodeName {
        self.plain_source().unwrap_or(&self.0.origin)
    }

    /// Its identity; `None` for a message of a plain memberlist node, which has none.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.plain_source().is_none().then_some(self.0.id)
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        self.0.content.key(&self.0.payload)
    }

    /// Its value, as JSON.
    #[must_use]
    pub fn value(&self) -> &str {
        self.0.content.value(&self.0.payload)
    }

    /// Its value, as JSON on one line. Line ends become blanks: they can only stand between the parts of the JSON, as in a
    /// string they are escaped.
    #[must_use]
    pub fn value_on_one_line(&self) -> Cow<'_, str> {
        let json = self.value();
        if json.contains(['\n', '\r', '\t']) { json.replace(['\n', '\r', '\t'], " ").into() } else { json.into() }
    }

    /// Its value, deserialised.
    ///
    /// # Errors
    ///
    /// The JSON is no `T`.
    pub fn value_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.value())
    }

    /// The bytes of a plain memberlist node's message that is not a JSON object with a key and a value. Its key is empty
    /// then, and its value stands for the bytes: as a text if they are UTF-8, else as an array of numbers.
    #[must_use]
    pub fn raw(&self) -> Option<Vec<u8>> {
        self.is_raw().then(|| payload::raw_bytes(self.value()))?
    }

    /// The hops that it took: 1 straight from its origin, 0 if this node published it.
    #[must_use]
    pub fn hops(&self) -> u8 {
        self.0.hops
    }

    /// The JSON on the wire.
    pub(super) fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// How many bytes it takes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.0.payload.len()
    }

    /// The node that published it, for itself or as a proxy.
    pub(super) fn publisher(&self) -> &NodeName {
        &self.0.origin
    }

    /// The Lamport time of the user event that it is to serf's agents, if it is one.
    pub(crate) fn event(&self) -> Option<u64> {
        self.0.content.event
    }

    /// The plain node that sent it.
    pub(super) fn plain_source(&self) -> Option<&NodeName> {
        self.0.content.plain.as_ref()
    }

    /// Whether its value stands for bytes that a plain node sent.
    pub(super) fn is_raw(&self) -> bool {
        self.0.content.raw
    }
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
