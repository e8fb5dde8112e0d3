//! CStorVolumeReplica: one pool's copy of a volume.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// A replica of a volume in a pool. Made by the operator.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "CStorVolumeReplica", plural = "cstorvolumereplicas")]
#[kube(namespaced, shortname = "cvr", status = "CStorVolumeReplicaStatus")]
#[kube(printcolumn(name = "Used", type_ = "string", json_path = ".status.capacity.used"))]
#[kube(printcolumn(name = "Allocated", type_ = "string", json_path = ".status.capacity.totalAllocated"))]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct CStorVolumeReplicaSpec {
    /// Address of the volume's Service.
    #[serde(default, rename = "targetIP")]
    pub target_ip: String,
    /// Size of the volume, a Kubernetes quantity.
    #[serde(default)]
    pub capacity: String,
    /// Its Raft id in the volume's group.
    #[serde(default)]
    pub replicaid: String,
    /// The pool, by identity: a pool on new devices under the same name is another one.
    #[serde(default, rename = "poolID")]
    pub pool_id: String,
    /// Whether it was among those that formed the group.
    #[serde(default)]
    pub founding: bool,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zvol_workers: Option<String>,
}

/// The replica as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CStorVolumeReplicaStatus {
    /// "Init", "Healthy", "Degraded", "Rebuilding", "Offline", "Unknown" or "Error".
    #[serde(default)]
    pub phase: String,
    /// Whether it was made in its pool; noted just before. Its id is not used for an empty one after that.
    #[serde(default)]
    pub made: bool,
    /// Space.
    #[serde(default)]
    pub capacity: ReplicaCapacity,
    /// Progress of a rebuild.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildProgress>,
    /// Why it is not healthy and what to do.
    #[serde(default)]
    pub message: String,
    /// When the phase last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// Aspects of its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Space of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaCapacity {
    /// What it takes in the pool.
    #[serde(default)]
    pub total_allocated: String,
    /// What the volume holds.
    #[serde(default)]
    pub used: String,
}

/// How far a rebuild is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebuildProgress {
    /// Bytes sent.
    #[serde(default)]
    pub done: String,
    /// Bytes to send in all.
    #[serde(default)]
    pub total: String,
    /// done / total.
    #[serde(default)]
    pub percent: i32,
}
