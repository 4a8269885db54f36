//! openraft's settings.

use openraft::{Config, ConfigError, SnapshotPolicy, StepDownPolicy};

/// openraft's settings for voters on machines that others use too, where a sync may take a while.
///
/// A follower asks for an election when it has heard nothing for the leader's lease, which is the longer election timeout,
/// and one election timeout more, drawn between the two: here after 0.85 to 1.1 s, and of two followers the first one counts.
/// That is a little sooner than with etcd's defaults (1 to 2 s), and five heartbeats have to be lost. A leader that has
/// heard no quorum for its lease stops its heartbeats, so its followers elect another one; under full load that must not
/// happen, so three heartbeats fit in the lease. `scripts/bench-store` measures what a client notices.
///
/// | setting | value | why |
/// |---|---|---|
/// | `heartbeat_interval` | 150 ms | more of them take more of a processor at rest: openraft looks at its clocks five times in between |
/// | `election_timeout_min`, `_max` | 300, 550 ms | see above. A vote takes two syncs, and has to be there within the shorter one |
/// | `heartbeat_min_interval` | off | what it saves is not worth what it adds to a failover |
/// | `enable_pre_vote` | on | who returns from a partition must not raise the term, for each new leader restarts all leases |
/// | `quorum_loss_probe_interval` | 1.1 s | a leader that hears no quorum must stop its heartbeats, or its followers elect nobody. At least twice the longest election timeout |
/// | `enable_leader_restore` | off | a restarted leader would lead again without a vote, with a state that may be old |
/// | `allow_log_reversion` | off | a voter that has lost its disk must not vote: it comes back as another |
/// | `install_snapshot_timeout` | 30 s | the time for a whole snapshot; the default is 200 ms |
/// | `snapshot_policy` | every 5,000 entries | bounds what a restart replays, and how large the log grows. The state machine puts it off while a snapshot would write more than the log has |
/// | `max_in_snapshot_log_to_keep` | 5,000 | more than is written while a snapshot is sent; else it is sent again and again |
/// | `purge_batch_size` | 512 | each purge is a record in the log |
/// | `replication_lag_threshold` | 100 | a new voter votes once it is nearly equal |
/// | `max_payload_entries`, `max_append_entries` | 300, 1,024 | bytes are limited where the log is read |
/// | `removed_leader_step_down` | 1.1 s | as long as an election may take, so that all have its last entry |
pub fn settings(cluster: u64) -> Result<Config, ConfigError> {
    Config {
        cluster_name: format!("{cluster:016x}"),
        heartbeat_interval: 150,
        election_timeout_min: 300,
        election_timeout_max: 550,
        heartbeat_min_interval: None,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(1100),
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        install_snapshot_timeout: 30_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(5000),
        max_in_snapshot_log_to_keep: 5000,
        purge_batch_size: 512,
        replication_lag_threshold: 100,
        max_payload_entries: 300,
        max_append_entries: Some(1024),
        removed_leader_step_down: StepDownPolicy::After(1100),
        ..Config::default()
    }
    .validate()
}
