//! What `ballast status` says, as data: also the answer on the wire and the JSON for scripts.
//!
//! The JSON is stable: fields are added, never renamed or removed. `null` means "not known right now"; nothing here is
//! a remembered value except names, ids, sizes and device paths, which do not change.
//!
//! ```text
//! ballast status -o json
//! {"portal":"127.0.0.1:3260",
//!  "data_dir":"/path",
//!  "processes":[{"name":"pool-0","kind":"pool","pid":123,"state":"running","restarts":0,"last_exit":null}],
//!  "volumes":[{"name":"demo","id":"uuid","iqn":"iqn...:demo","size_bytes":1073741824,"state":"Healthy",
//!    "detail":"","target_state":"online","sessions":1,"epoch":3,
//!    "replicas":[{"pool":"pool-0","replica":1,"role":"leader","applied_index":9,"last_index":9,
//!                 "allocated_bytes":4096,"detail":""}]}],
//!  "pools":[{"name":"pool-0","id":"uuid","state":"Online","detail":"","layout":"striped","capacity_bytes":1,
//!    "allocated_bytes":1,"free_bytes":1,"journal_bytes":1,"journal_used_bytes":1,"replicas":1,
//!    "devices":[{"path":"/path","bytes":1,"healthy":true,"detail":""}],
//!    "device_bytes_written":1,"prepare_bytes_written":1,"payload_bytes_written":1,"checkpoint_bytes_written":1,
//!    "device_flushes":1}]}
//! ballast volume list -o json    the array `volumes`
//! ballast pool list -o json      the array `pools`
//! ballast volume stats -o json   see `stats.rs`
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// All of `ballast status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Where the target listens.
    pub(crate) portal: String,
    /// The data directory.
    pub(crate) data_dir: String,
    /// The supervisor's children.
    pub(crate) processes: Vec<ProcessReport>,
    /// Volumes by name.
    pub(crate) volumes: Vec<VolumeReport>,
    /// Pools by number.
    pub(crate) pools: Vec<PoolReport>,
}

/// What kind of child a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProcessKind {
    /// `ballast pool serve`
    Pool,
    /// `ballast target serve`
    Target,
}

/// Where a child is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProcessState {
    /// It has a pid.
    Running,
    /// It died and is started again.
    Restarting,
    /// It was stopped on purpose, or not started yet.
    Stopped,
}

/// One child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessReport {
    /// `pool-N` or `target`
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: ProcessKind,
    /// Its pid while it runs.
    pub(crate) pid: Option<u32>,
    /// Where it is in its life.
    pub(crate) state: ProcessState,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// How it ended the last time.
    pub(crate) last_exit: Option<String>,
}

/// The health of a volume, as the user sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum VolumeState {
    /// Served, and every replica takes part.
    Healthy,
    /// Served, but another failure may stop it.
    Degraded,
    /// Not served.
    Offline,
    /// Too few processes answered to tell.
    Unknown,
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VolumeReport {
    /// Its name.
    pub(crate) name: String,
    /// Its uuid.
    pub(crate) id: String,
    /// Its iSCSI name.
    pub(crate) iqn: String,
    /// Its size.
    pub(crate) size_bytes: u64,
    /// Its health.
    pub(crate) state: VolumeState,
    /// Why it is not healthy.
    pub(crate) detail: String,
    /// What the target says: `online`, `opening`, `waiting`, `fenced`, or `unknown`.
    pub(crate) target_state: String,
    /// Connected initiators.
    pub(crate) sessions: Option<u32>,
    /// The target's epoch.
    pub(crate) epoch: Option<u64>,
    /// Its copies.
    pub(crate) replicas: Vec<ReplicaReport>,
}

/// One copy of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReplicaReport {
    /// Name of its pool; the uuid when no such pool is known.
    pub(crate) pool: String,
    /// Raft node id.
    pub(crate) replica: u64,
    /// `leader`, `follower`, `learner`, `candidate`, `failed`, `missing` or `unknown`.
    pub(crate) role: String,
    /// Newest entry in its map.
    pub(crate) applied_index: Option<u64>,
    /// Newest entry in its log.
    pub(crate) last_index: Option<u64>,
    /// Room it takes in its pool.
    pub(crate) allocated_bytes: Option<u64>,
    /// What is wrong with it.
    pub(crate) detail: String,
}

/// The health of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PoolState {
    /// It answers and its devices are well.
    Online,
    /// It answers; a device is not well.
    Degraded,
    /// Its process does not run.
    Offline,
    /// Its process runs and does not answer.
    Unknown,
}

/// One pool. Every number is what the pool said just now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PoolReport {
    /// `pool-N`
    pub(crate) name: String,
    /// Its uuid, once it was known.
    pub(crate) id: Option<String>,
    /// Its health.
    pub(crate) state: PoolState,
    /// Why it is not online.
    pub(crate) detail: String,
    /// `striped` or `mirrored`.
    pub(crate) layout: Option<String>,
    /// Room for payload.
    pub(crate) capacity_bytes: Option<u64>,
    /// Of it in use.
    pub(crate) allocated_bytes: Option<u64>,
    /// Of it free.
    pub(crate) free_bytes: Option<u64>,
    /// Size of the journal.
    pub(crate) journal_bytes: Option<u64>,
    /// Of it in use.
    pub(crate) journal_used_bytes: Option<u64>,
    /// Replicas it holds.
    pub(crate) replicas: Option<u64>,
    /// Its devices.
    pub(crate) devices: Vec<DeviceReport>,
    /// Everything it wrote to its devices since its start.
    pub(crate) device_bytes_written: Option<u64>,
    /// The part that only prepared a sparse file.
    pub(crate) prepare_bytes_written: Option<u64>,
    /// The part that is payload.
    pub(crate) payload_bytes_written: Option<u64>,
    /// The part that went to checkpoints.
    pub(crate) checkpoint_bytes_written: Option<u64>,
    /// Flushes of devices.
    pub(crate) device_flushes: Option<u64>,
}

/// One device of a pool. Size and health are unknown while the pool does not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeviceReport {
    /// Where it is.
    pub(crate) path: String,
    /// Its size.
    pub(crate) bytes: Option<u64>,
    /// Whether the pool can use it.
    pub(crate) healthy: Option<bool>,
    /// What is wrong with it.
    pub(crate) detail: String,
}

macro_rules! shown_as_debug {
    ($($name:ty),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `pad` keeps column widths working.
                f.pad(&format!("{self:?}"))
            }
        }
    )* };
}
shown_as_debug!(VolumeState, PoolState, ProcessState, ProcessKind);
