//! The metrics of the store, for Prometheus. A node whose store has not started has none of them.

use std::fmt;

use broadcast_gateway::MetricsWriter;
use broadcast_store::{
    log::SyncStats,
    node::{StoreStats, VoterStatus},
};

/// Writes all metrics.
pub(super) fn write(writer: &mut MetricsWriter<'_>, stats: &StoreStats) -> fmt::Result {
    let requests = stats.requests.iter().map(|(operation, outcome, count)| ([*operation, *outcome], *count));
    let help = "Requests of this node to the store, by what they were for and how they ended";
    writer.counter("store_requests", help, &["operation", "outcome"], requests)?;
    stats.voter.as_ref().map_or(Ok(()), |(status, syncs)| write_voter(writer, status, syncs))
}

fn write_voter(writer: &mut MetricsWriter<'_>, status: &VoterStatus, syncs: &SyncStats) -> fmt::Result {
    let votes = status.voters.iter().any(|(id, _)| *id == status.id);
    for (name, help, value) in [
        (
            "store_has_leader",
            "Whether this voter has heard of a leader in the last 3 s",
            status.leader.is_some().into(),
        ),
        ("store_leads", "Whether this voter leads, and a quorum has said so in the last 3 s", status.leads.into()),
        ("store_term", "The term that this voter is in", status.term),
        ("store_votes", "Whether this node has a vote, as it knows", votes.into()),
        ("store_voters", "Nodes that vote, as this voter knows", status.voters.len() as u64),
    ] {
        writer.gauge(name, help, &[], [([], value)])?;
    }
    for (name, help, count) in [
        ("store_elections", "Terms that have begun, as this voter saw it", status.elections),
        (
            "store_leader_changes",
            "Times that another voter has come to lead, as this voter saw it",
            status.leader_changes,
        ),
    ] {
        writer.counter(name, help, &[], [([], count)])?;
    }
    writer.gauge("store_revision", "The newest revision of keys that this voter has", &[], [([], status.revision)])?;
    // The first entry has the number 0.
    let index = |index: Option<u64>| index.unwrap_or_default();
    let indexes = [
        (["last"], index(status.last)),
        (["committed"], index(status.committed)),
        (["applied"], index(status.applied)),
        (["snapshot"], index(status.snapshot)),
    ];
    writer.gauge("store_log_index", "How far this voter's log is, and what was done with it", &["what"], indexes)?;
    let lags = status.lags.iter().map(|(name, lag)| ([name.as_str()], *lag));
    let help = "Entries that each other voter does not have yet; only the leader knows";
    writer.gauge("store_voter_lag_entries", help, &["voter"], lags)?;
    writer.histogram("store_sync_seconds", "Time to write to the log and sync it", &syncs.all)?;
    for (name, help, value) in [
        ("store_keys_bytes", "Bytes of keys, with what they were before", status.bytes),
        ("store_keys_quota_bytes", "How many bytes keys may take", status.quota),
        ("store_log_bytes", "Bytes of the log's files, with what is preallocated", status.log_bytes),
        ("store_snapshot_bytes", "Bytes of the newest snapshot", status.snapshot_bytes),
        ("store_disk_full", "Whether this voter takes no changes because its disk is full", (!status.has_room).into()),
        ("store_leases", "Leases that there are", status.leases),
        ("store_watchers", "Watches that this voter serves", status.watchers),
    ] {
        writer.gauge(name, help, &[], [([], value)])?;
    }
    Ok(())
}
