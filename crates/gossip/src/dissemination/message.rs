//! A message, as the application sees it.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use serde::Deserialize;

use super::{
    draft::{Draft, Published},
    id::MessageId,
    payload::{self, Content, Parsed},
};
use crate::membership::NodeName;

/// Something published by a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Message(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Who says it, maybe on behalf of a plain node.
    origin: NodeName,
    /// Of the origin.
    id: MessageId,
    /// The JSON as it travels.
    payload: Bytes,
    content: Content,
    hops: u8,
}

impl From<Published> for Message {
    fn from(published: Published) -> Self {
        let Published { origin, id, message, content } = published;
        Self(Arc::new(Inner { origin, id, payload: message.slice(1..), content, hops: 0 }))
    }
}

impl Message {
    /// `payload` is the UTF-8 text that `parsed` was made from.
    pub(super) fn new(origin: NodeName, id: MessageId, parsed: &Parsed<'_>, payload: &Bytes, hops: u8) -> Self {
        Self(Arc::new(Inner { origin, id, content: parsed.content(payload), payload: payload.clone(), hops }))
    }

    /// What others than memberlist nodes said: `source` stands for them. `value` is JSON, which is not checked. Also for
    /// tests of what takes messages.
    #[must_use]
    pub fn of_others(source: &str, key: &str, value: &str) -> Self {
        let draft = Draft::new(key, value, source).on_behalf_of(source, false);
        draft.publish(source.into(), MessageId { epoch: 0, seq: 0 }).into()
    }

    /// The node that published it.
    #[must_use]
    pub fn origin(&self) -> &NodeName {
        self.plain_source().unwrap_or(&self.0.origin)
    }

    /// Its identity; `None` for a message of a plain memberlist node, which gives none.
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
        self.is_raw().then(|| payload::raw_bytes(self.value()))?
    }

    /// Over how many hops it came: 1 straight from its origin.
    #[must_use]
    pub fn hops(&self) -> u8 {
        self.0.hops
    }

    /// The JSON as it travels.
    pub(super) fn payload(&self) -> &Bytes {
        &self.0.payload
    }

    /// How many bytes it takes on the wire.
    pub(crate) fn len(&self) -> usize {
        self.0.payload.len()
    }

    /// The node that published it, by itself or on behalf of a plain one.
    pub(super) fn publisher(&self) -> &NodeName {
        &self.0.origin
    }

    /// Of what time it is an event to serf's agents, if it is one.
    pub(crate) fn event(&self) -> Option<u64> {
        self.0.content.event
    }

    /// The plain node that said it.
    pub(super) fn plain_source(&self) -> Option<&NodeName> {
        self.0.content.plain.as_ref()
    }

    /// Whether the plain node said the bytes that the value stands for.
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
