//! This node, as it presents itself to others.

use std::time::Instant;

use bytes::Bytes;

use super::{
    control::{Challenge, Control, SenderHeader},
    revision::is_named,
};
use crate::{membership::NodeName, wire::Versions};

/// How far an epoch may lie in the future of this node's clock, in microseconds: a day. More believes worse clocks at
/// once; less has more forged epochs checked first.
const CLOCK_TOLERANCE: u64 = 24 * 60 * 60 * 1_000_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct LocalNode {
    pub(super) name: NodeName,
    /// Its epoch.
    pub(super) epoch: u64,
    pub(super) started: Instant,
}

impl LocalNode {
    /// For how long this node has been running, in microseconds.
    pub(super) fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }

    /// The latest epoch that a node can have, by this node's clock with some tolerance.
    pub(super) fn max_epoch(&self, now: Instant) -> u64 {
        self.epoch.saturating_add(self.age(now).saturating_add(CLOCK_TOLERANCE).saturating_mul(2)) | 1
    }

    /// The header that says that this node sends what follows.
    pub(super) fn header(&self, echo: Option<Challenge>) -> SenderHeader<'_> {
        SenderHeader { name: self.name.as_bytes(), echo }
    }

    /// A control message for a node with these versions, behind a header if that node understands one.
    pub(super) fn encode_for(&self, versions: Versions, control: &Control<'_>) -> Bytes {
        if is_named(versions) { control.encode_from(self.header(None)) } else { control.encode() }
    }
}
