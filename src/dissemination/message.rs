//! A message, as the application sees it.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::membership::NodeName;

/// What makes a message of an origin different from every other: the origin's life, and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The origin's start, in microseconds since 1970.
    pub epoch: u64,
    /// The number of the message in it, from 0.
    pub seq: u64,
}

/// Something published by a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Message(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: NodeName,
    id: Option<MessageId>,
    key: Box<str>,
    value: Box<RawValue>,
}

impl Message {
    pub(super) fn new(origin: NodeName, id: Option<MessageId>, key: impl Into<Box<str>>, value: &RawValue) -> Self {
        Self(Arc::new(Inner { origin, id, key: key.into(), value: value.to_owned() }))
    }

    /// The node that published it.
    #[must_use]
    pub fn origin(&self) -> &NodeName {
        &self.0.origin
    }

    /// Its identity; `None` for a message of a plain memberlist node, which gives none.
    #[must_use]
    pub fn id(&self) -> Option<MessageId> {
        self.0.id
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Its value, as JSON.
    #[must_use]
    pub fn value(&self) -> &str {
        self.0.value.get()
    }

    /// Its value, as a type of yours.
    ///
    /// # Errors
    ///
    /// The JSON is not one of `T`.
    pub fn value_as<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.value.get())
    }
}

/// Why something was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// It does not fit in a packet.
    #[error("the message is {size} bytes long as it travels; at most {max} fit: shorten its key or value")]
    TooLarge {
        /// Its length as it would travel, in bytes.
        size: usize,
        /// What fits, in bytes.
        max: usize,
    },
    /// The value cannot be written as JSON.
    #[error("the value cannot be written as JSON: {0}")]
    Value(String),
    /// Another live node has this node's name: what is said in it would be taken for the other's.
    #[error("another live node has this node's name; give one of them another BROADCAST_NAME (--name)")]
    NameTaken,
    /// The node has left.
    #[error("the node has stopped; start a new one to publish")]
    Stopped,
}
