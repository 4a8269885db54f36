//! What a simulation sees of a node from within: what an application has no use for, and invariants are
//! about.

use std::{sync::Arc, time::Instant};

use super::{Node, serf::Place};
use crate::membership::{Cohort, MemberState, Record};

/// How much a node holds of something, and how much it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) what: &'static str,
    pub(crate) held: usize,
    pub(crate) bound: usize,
}

impl Node {
    /// Makes this node, which has just begun, know these live members without a word; see
    /// [`Membership::preload_cohort`](crate::membership::Membership::preload_cohort).
    pub(crate) fn acquaint(&mut self, now: Instant, cohort: &Arc<Cohort>) {
        self.membership.preload_cohort(Arc::clone(cohort));
        self.dissemination.acquaint(now, Arc::clone(cohort), &self.membership);
        self.settle(now);
    }

    /// What this node thinks of itself, and its incarnation.
    pub(crate) fn standing(&self) -> (MemberState, u32) {
        let me = self.membership.me();
        (me.state(), me.incarnation)
    }

    /// Whether this node has begun to leave.
    pub(crate) fn has_left(&self) -> bool {
        self.membership.has_left()
    }

    /// Everything this node knows of members, itself included.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.membership.records()
    }

    /// How many copies of messages have arrived, the first of each included.
    pub(crate) fn copies(&self) -> u64 {
        self.counters().copies
    }

    /// Everything that could grow.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = Size> {
        let (queued, capacity) = self.dissemination.queued();
        let sizes = [
            ("members", self.membership.records().len(), self.membership.max_members()),
            ("messages about members to tell", self.membership.queued(), 2 * self.membership.max_members()),
            ("messages to repeat to plain nodes", queued, capacity),
            ("bytes of unfinished streams", self.buffered(), self.resource_limits.max_stream_bytes),
        ];
        let members = self.membership.max_members();
        let (known, asked, answered) = self.infos.held();
        let infos = [
            ("infos of members", known, members),
            ("members asked for their info", asked, members),
            ("members whose question was just answered", answered, members),
        ];
        let serf = self.place.iter().flat_map(Place::sizes);
        let sizes = sizes.into_iter().chain(infos).chain(self.dissemination.sizes()).chain(serf);
        sizes.map(|(what, held, bound)| Size { what, held, bound })
    }
}
