//! Timing and limits of a volume's group, each with its reason.

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};

/// How often a leader shows an idle follower that it lives. This is the whole cost of an idle volume: 50 volumes with
/// three replicas on one machine send 200 such messages a second.
pub const HEARTBEAT_MS: u64 = 500;

/// A follower that heard nothing for [`ELECTION_MAX_MS`] (the leader's lease) plus a random time in this range asks
/// for votes: 1.6 to 2.4 s after the leader's machine vanished. When the leader's *process* dies its connections break,
/// and the followers ask as soon as the lease is over (`peer/departure.rs`): after 0.7 to 1.3 s. An initiator must not
/// see more than 3 s; the kill test measures 1.3 s on average.
pub const ELECTION_MIN_MS: u64 = 900;
/// See [`ELECTION_MIN_MS`]; also the length of the leader's lease.
pub const ELECTION_MAX_MS: u64 = 1200;

/// Entries kept in the log after a checkpoint covers them, so that a replica that was away for a moment catches up
/// from the log instead of by a snapshot.
pub const KEEP_ENTRIES: u64 = 8192;

/// Blocks that those entries may hold: they stay in the pool although the volume may not need them any more.
/// 128 MiB for each busy volume.
pub const KEEP_BLOCKS: u64 = 32768;

/// The configuration of every group.
pub fn config() -> Arc<Config> {
    Arc::new(Config {
        cluster_name: "ballast".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        // Appends are capped by bytes in the log store; this only bounds the count of tiny entries.
        max_payload_entries: 1024,
        // A snapshot is tied to the pool's checkpoints (member.rs), never to a count.
        snapshot_policy: SnapshotPolicy::Never,
        // Purging is by entries *and* bytes, which openraft's own policy cannot say: member.rs asks for it.
        max_in_snapshot_log_to_keep: u64::MAX,
        // A follower is served from the log for as long as the log has what it needs.
        replication_lag_threshold: u64::MAX / 2,
        install_snapshot_timeout: 3_600_000,
        enable_pre_vote: Some(true),
        // A leader that restarts must win an election: its lease may have gone to another one meanwhile.
        enable_leader_restore: Some(false),
        backoff: "20ms 50ms 100ms ..500ms".to_owned(),
        ..Config::default()
    })
}
