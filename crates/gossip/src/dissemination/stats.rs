//! The dissemination seen from outside: progress, counts, and how much is kept.

use std::collections::BTreeMap;

use super::{
    Dissemination,
    counters::{MessageCounts, Progress, StreamPosition},
    draft::MAX_MESSAGE,
    outbound::OutboundLog,
};
use crate::{
    config::Retention,
    membership::{Membership, NodeName},
};

impl Dissemination {
    /// How far the cluster is with what this node publishes.
    pub(crate) fn progress(&mut self, membership: &Membership) -> Progress {
        let plain = self.tree.ring(membership).plain.len();
        let own = &self.publisher.own().outbound;
        Progress { stable: own.stable(), everywhere: own.everywhere(), plain }
    }

    /// Every live member has everything below this number of what this node publishes, except for those that were cut loose.
    pub(crate) fn stable(&self) -> u64 {
        self.publisher.own().outbound.stable()
    }

    /// Whether a live member was cut loose: publishers do not wait for it any more.
    pub(crate) fn is_loose(&self, name: &NodeName) -> bool {
        self.publisher.own().outbound.is_loose(name)
    }

    /// By how many messages of this node each live peer is behind.
    pub(crate) fn lags(&self) -> BTreeMap<&NodeName, u64> {
        self.publisher.own().outbound.lags()
    }

    /// A number that changes whenever a lag changes, or who is cut loose.
    pub(crate) fn peer_changes(&self) -> u64 {
        self.publisher.own().outbound.changes()
    }

    /// The position of this node in the stream of each origin, its own first.
    pub(crate) fn positions(&self) -> Vec<StreamPosition> {
        let own = &self.publisher.own().outbound;
        let mine = StreamPosition {
            origin: self.cx.local.name.clone(),
            epoch: own.epoch,
            next: own.next(),
            end: own.next(),
            floor: own.floor().min(own.sent()),
            retained: own.len(),
        };
        let others = self.receiver.inbound.iter().filter(|stream| stream.ended.is_none());
        let others = others.map(|stream| StreamPosition {
            origin: stream.origin.clone(),
            epoch: stream.epoch,
            next: stream.next.unwrap_or_default(),
            end: stream.end(),
            floor: stream.floor,
            retained: (stream.next.unwrap_or_default() - stream.base()) as usize,
        });
        [mine].into_iter().chain(others).collect()
    }

    /// How many live members have message `seq` of this node, and which do not.
    pub(crate) fn acked_by(&self, seq: u64) -> (usize, Vec<NodeName>) {
        self.publisher.own().outbound.acked_by(seq)
    }

    /// Who has failed, and who has left, without message `seq` of this node.
    pub(crate) fn departed_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        self.publisher.own().outbound.departed_without(seq)
    }

    /// Whether every live member has everything that this node has published, except for those that were cut loose.
    pub(crate) fn is_settled(&self) -> bool {
        self.publisher.lanes.iter().all(|own| own.outbound.stable() == own.outbound.next())
    }

    /// What was counted since the start.
    pub(crate) fn counters(&self) -> MessageCounts {
        self.cx.counters
    }

    /// How much is kept: a description, the amount, and its bound.
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 5] {
        let Retention { retain_messages, retain_bytes, .. } = self.limits;
        let own = |size: fn(&OutboundLog) -> usize| {
            self.publisher.lanes.iter().map(|own| size(&own.outbound)).max().unwrap_or_default()
        };
        let (bytes, ahead, messages) = self.receiver.inbound.size();
        [
            ("messages in a log of this node", own(OutboundLog::len), retain_messages),
            // The last message that fits may be a large one.
            ("bytes in a log of this node", own(OutboundLog::bytes), retain_bytes / 2 + MAX_MESSAGE),
            ("messages of others that are retained", messages, retain_messages),
            ("bytes of others' messages that are retained", bytes, retain_bytes / 2),
            ("bytes of others' messages that wait for their turn", ahead, retain_bytes / 4),
        ]
    }

    /// How many messages wait to be repeated to plain nodes, and the most that may.
    pub(crate) fn queued(&self) -> (usize, usize) {
        self.plain.queued()
    }
}
