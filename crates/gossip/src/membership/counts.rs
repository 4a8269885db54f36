//! What the membership counts.

use std::time::Instant;

use crate::{metrics::Histogram, wire::Message};

/// What came of messages about members, and of the probes of a node, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipCounts {
    /// "Alive" messages that were believed, as news: `memberlist.msg.alive`.
    pub alive: u64,
    /// Suspicions that began: `memberlist.msg.suspect`.
    pub suspect: u64,
    /// "Dead" messages that were believed, as news: `memberlist.msg.dead`.
    pub dead: u64,
    /// Of those, members that nobody's word but a suspicion, after its time, took for dead.
    pub suspicions_expired: u64,
    /// Such suspicions that had not been confirmed as often as wanted: `memberlist.degraded.timeout`.
    pub degraded_timeouts: u64,
    /// Suspicions that their suspects refuted.
    pub false_alarms: u64,
    /// What others said of this node and it took back.
    pub refutations: u64,
    /// Conflicts of names that were told.
    pub name_conflicts: u64,
    /// Pings that arrived for this node.
    pub pings: u64,
    /// Requests to ping another node.
    pub indirect_pings: u64,
    /// Acknowledgements that arrived, over streams too.
    pub acks: u64,
    /// Negative acknowledgements that arrived.
    pub nacks: u64,
    /// Probes that were answered, whichever way.
    pub probes_ok: u64,
    /// Probes that were not.
    pub probes_failed: u64,
    /// Probes that had more time because this node is slow: `memberlist.degraded.probe`.
    pub probes_degraded: u64,
    /// How long probes took that were answered, and those that were not: `memberlist.probeNode`.
    pub probe: Histogram,
}

/// What was dropped because there was no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overflow {
    pub(crate) members: u64,
    pub(crate) relays: u64,
    pub(crate) queued: u64,
}

/// The counts.
#[derive(Debug, Default)]
pub(super) struct Counting {
    pub(super) counts: MembershipCounts,
    pub(super) overflow: Overflow,
}

impl Counting {
    pub(super) fn arrived(&mut self, message: &Message) {
        let MembershipCounts { pings, indirect_pings, acks, nacks, .. } = &mut self.counts;
        *match message {
            Message::Ping(_) => pings,
            Message::IndirectPing(_) => indirect_pings,
            Message::Ack(_) => acks,
            Message::Nack(_) => nacks,
            // These count when they are believed.
            Message::Alive(_) | Message::Suspect(_) | Message::Dead(_) | Message::User(_) => return,
        } += 1;
    }

    pub(super) fn begin_probe(&mut self, degraded: bool) {
        self.counts.probes_degraded += u64::from(degraded);
    }

    /// A probe that began then has ended.
    pub(super) fn end_probe(&mut self, now: Instant, since: Instant, ok: bool) {
        self.counts.probe.record(now.saturating_duration_since(since));
        let counter = if ok { &mut self.counts.probes_ok } else { &mut self.counts.probes_failed };
        *counter += 1;
    }
}
