//! What is seen of the dissemination from outside: how far everybody is, what was counted, and how much is kept.

use std::collections::BTreeMap;

use super::{
    Dissemination,
    counters::{MessageCounts, Progress, StreamPosition},
    draft::MAX_MESSAGE,
    outbound::Outbound,
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

    /// Every live member has all below this number of what this node publishes.
    pub(crate) fn stable(&self) -> u64 {
        self.publisher.own().outbound.stable()
    }

    /// Whether publishers do not wait for a live member any more.
    pub(crate) fn is_loose(&self, name: &NodeName) -> bool {
        self.publisher.own().outbound.is_loose(name)
    }

    /// By how many messages of this node each member is behind, of those that acknowledge.
    pub(crate) fn lags(&self) -> BTreeMap<&NodeName, u64> {
        self.publisher.own().outbound.lags()
    }

    /// The same as before when neither a lag nor who is loose has changed.
    pub(crate) fn peer_changes(&self) -> u64 {
        self.publisher.own().outbound.changes()
    }

    /// How far this node is with what each origin says, its own messages first.
    pub(crate) fn positions(&self) -> Vec<StreamPosition> {
        let own = &self.publisher.own().outbound;
        let mine = StreamPosition {
            origin: self.cx.me.name.clone(),
            epoch: own.epoch,
            next: own.next(),
            end: own.next(),
            floor: own.floor().min(own.sent()),
            retained: own.len(),
        };
        let others = self.receiver.inbound.iter().filter(|stream| stream.over.is_none());
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

    /// How many live members have a message of this node, and which do not.
    pub(crate) fn acked_by(&self, seq: u64) -> (usize, Vec<NodeName>) {
        self.publisher.own().outbound.acked_by(seq)
    }

    /// Who has failed, and who has left, while a message was on its way to it.
    pub(crate) fn departed_without(&self, seq: u64) -> (Vec<NodeName>, Vec<NodeName>) {
        self.publisher.own().outbound.departed_without(seq)
    }

    /// Whether every live member has everything this node says.
    pub(crate) fn is_settled(&self) -> bool {
        self.publisher.lanes.iter().all(|own| own.outbound.stable() == own.outbound.next())
    }

    /// What came, and what was dropped of it, since the start.
    pub(crate) fn counters(&self) -> MessageCounts {
        self.cx.counters
    }

    /// How much is kept: what, how much of it, and its bound.
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 5] {
        let Retention { retain_messages, retain_bytes, .. } = self.limits;
        let own = |size: fn(&Outbound) -> usize| {
            self.publisher.lanes.iter().map(|own| size(&own.outbound)).max().unwrap_or_default()
        };
        let (bytes, ahead, messages) = self.receiver.inbound.size();
        [
            ("messages in a log of this node", own(Outbound::len), retain_messages),
            // The last one that fits may be a large one.
            ("bytes in a log of this node", own(Outbound::bytes), retain_bytes / 2 + MAX_MESSAGE),
            ("messages of others that are retained", messages, retain_messages),
            ("bytes of others' messages that are retained", bytes, retain_bytes / 2),
            ("bytes of others' messages that wait for their turn", ahead, retain_bytes / 4),
        ]
    }

    /// How much is waiting to be repeated to plain nodes, in messages, and how much may.
    pub(crate) fn queued(&self) -> (usize, usize) {
        self.plain.queued()
    }
}
