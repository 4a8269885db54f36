//! What only a simulation sees of a node: invariants are about it, and applications have no use for it.

use std::{sync::Arc, time::Instant};

use super::{Node, serf::SerfLayer};
use crate::membership::{Cohort, MemberState, Record};

/// How much a node holds of something, and the most that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) what: &'static str,
    pub(crate) held: usize,
    pub(crate) bound: usize,
}

impl Node {
    /// Makes this node, which has just started, know these live members at once; see
    /// [`Membership::preload_cohort`](crate::membership::Membership::preload_cohort).
    pub(crate) fn acquaint(&mut self, now: Instant, cohort: &Arc<Cohort>) {
        self.membership.preload_cohort(Arc::clone(cohort));
        self.dissemination.acquaint(now, Arc::clone(cohort), &self.membership);
        self.process_outputs(now);
    }

    /// This node's state and incarnation, as it sees itself.
    pub(crate) fn standing(&self) -> (MemberState, u32) {
        let me = self.membership.me();
        (me.state(), me.incarnation)
    }

    /// Whether this node has begun to leave.
    pub(crate) fn has_left(&self) -> bool {
        self.membership.has_left()
    }

    /// All that this node knows of members, itself included.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.membership.records()
    }

    /// How many copies of messages have arrived, including the first of each.
    pub(crate) fn copies(&self) -> u64 {
        self.counters().copies
    }

    /// The sizes of everything that could grow.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = Size> {
        let (queued, capacity) = self.dissemination.queued();
        let sizes = [
            ("members", self.membership.records().len(), self.membership.max_members()),
            ("messages about members to tell", self.membership.queued(), 2 * self.membership.max_members()),
            ("messages to repeat to plain nodes", queued, capacity),
            ("bytes of unfinished streams", self.buffered(), self.resource_limits.max_stream_bytes),
        ];
        let members = self.membership.max_members();
        let (known, pending, responded) = self.info_exchange.held();
        let info_exchange = [
            ("infos of members", known, members),
            ("members asked for their info", pending, members),
            ("members whose question was just answered", responded, members),
        ];
        let serf = self.serf.iter().flat_map(SerfLayer::sizes);
        let sizes = sizes.into_iter().chain(info_exchange).chain(self.dissemination.sizes()).chain(serf);
        sizes.map(|(what, held, bound)| Size { what, held, bound })
    }
}
