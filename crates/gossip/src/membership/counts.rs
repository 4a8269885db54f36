//! Counters of the membership.

use std::time::Instant;

use crate::{metrics::Histogram, wire::Message};

/// Counters of messages about members and of probes, since the node's start. [`Metrics`](crate::Metrics) has them.
///
/// Where memberlist has the same metric, its name is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MembershipCounts {
    /// "Alive" messages that were believed and were news: `memberlist.msg.alive`.
    pub alive: u64,
    /// Suspicions that began: `memberlist.msg.suspect`.
    pub suspect: u64,
    /// "Dead" messages that were believed and were news: `memberlist.msg.dead`.
    pub dead: u64,
    /// Of those, the members that this node itself declared dead, because a suspicion had timed out.
    pub suspicions_expired: u64,
    /// Suspicions that timed out with fewer confirmations than wanted: `memberlist.degraded.timeout`.
    pub degraded_timeouts: u64,
    /// Suspicions that the suspect refuted.
    pub false_alarms: u64,
    /// Accusations of this node that it refuted.
    pub refutations: u64,
    /// Name conflicts that were reported.
    pub name_conflicts: u64,
    /// Pings that arrived for this node.
    pub pings: u64,
    /// Requests to ping another node that arrived.
    pub indirect_pings: u64,
    /// Acknowledgements that arrived, also over streams.
    pub acks: u64,
    /// Negative acknowledgements that arrived.
    pub nacks: u64,
    /// Probes that were answered, whichever way the answer came.
    pub probes_ok: u64,
    /// Probes that were not answered.
    pub probes_failed: u64,
    /// Probes that had more time because this node was slow: `memberlist.degraded.probe`.
    pub probes_degraded: u64,
    /// How long probes took, answered or not: `memberlist.probeNode`.
    pub probe: Histogram,
}

/// How much was dropped because there was no room for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OverLimitCounts {
    pub(crate) members: u64,
    pub(crate) relays: u64,
    pub(crate) queued: u64,
}

/// Counts what happens.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) counts: MembershipCounts,
    pub(super) overflow: OverLimitCounts,
}

impl Recorder {
    pub(super) fn record_arrival(&mut self, message: &Message) {
        let MembershipCounts { pings, indirect_pings, acks, nacks, .. } = &mut self.counts;
        *match message {
            Message::Ping(_) => pings,
            Message::IndirectPing(_) => indirect_pings,
            Message::Ack(_) => acks,
            Message::Nack(_) => nacks,
            // Counted when they are believed.
            Message::Alive(_) | Message::Suspect(_) | Message::Dead(_) | Message::User(_) => return,
        } += 1;
    }

    pub(super) fn record_probe_start(&mut self, degraded: bool) {
        self.counts.probes_degraded += u64::from(degraded);
    }

    /// Counts a probe that began at `since` and has ended.
    pub(super) fn record_probe_end(&mut self, now: Instant, since: Instant, ok: bool) {
        self.counts.probe.record(now.saturating_duration_since(since));
        let counter = if ok { &mut self.counts.probes_ok } else { &mut self.counts.probes_failed };
        *counter += 1;
    }
}
