//! This node, as it shows itself to the others.

use std::time::Instant;

use bytes::Bytes;

use super::{
    control::{By, Control, Question},
    revision::is_named,
};
use crate::{membership::NodeName, wire::Versions};

/// How far a node's clock may be ahead of this one's, in microseconds: a day.
const CLOCK_TOLERANCE: u64 = 24 * 60 * 60 * 1_000_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Me {
    pub(super) name: NodeName,
    /// Which life of it this is.
    pub(super) life: u64,
    pub(super) started: Instant,
}

impl Me {
    /// For how long this node has been running, in microseconds.
    pub(super) fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }

    /// The latest life of a node that can be: by this node's clock, with some tolerance.
    pub(super) fn latest(&self, now: Instant) -> u64 {
        self.life.saturating_add(self.age(now).saturating_add(CLOCK_TOLERANCE).saturating_mul(2)) | 1
    }

    /// What is said with this in front is said by this node.
    pub(super) fn by(&self, echo: Option<Question>) -> By<'_> {
        By { sender: self.name.as_bytes(), echo }
    }

    /// A control message for a node with these versions: by name, if it understands that.
    pub(super) fn encode_for(&self, versions: Versions, control: &Control<'_>) -> Bytes {
        if is_named(versions) { control.encode_by(self.by(None)) } else { control.encode() }
    }
}
