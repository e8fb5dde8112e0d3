//! CStorVolume: one volume.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// A volume. Made by the provisioner or the CSI driver; the operator makes its replicas, target and Service.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "CStorVolume", plural = "cstorvolumes")]
#[kube(namespaced, shortname = "cstorvolume", shortname = "cv", status = "CStorVolumeStatus")]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Capacity", type_ = "string", json_path = ".spec.capacity"))]
#[kube(validation = Rule::new("self.spec.replicationFactor >= 1 && self.spec.replicationFactor <= 5").message("spec.replicationFactor is 1 to 5"))]
#[serde(rename_all = "camelCase")]
pub struct CStorVolumeSpec {
    /// Size, a Kubernetes quantity.
    pub capacity: String,
    /// Replicas of the volume, 1 to 5. May be changed.
    pub replication_factor: i32,
    /// Replicas that must have a write before it is answered: a majority.
    #[serde(default)]
    pub consistency_factor: i32,
    /// The StoragePoolClaim whose pools hold the replicas.
    #[serde(default)]
    pub storage_pool_claim: String,
    /// Address of the volume's Service; set by the operator.
    #[serde(default, rename = "targetIP", skip_serializing_if = "Option::is_none")]
    pub target_ip: Option<String>,
    /// iSCSI port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<String>,
    /// `targetIP:targetPort`; set by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_portal: Option<String>,
    /// iSCSI name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iqn: Option<String>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_base: Option<String>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Accepted for compatibility; change `replicationFactor` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_replication_factor: Option<i32>,
    /// Prefer a replica, and the target, on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_node: Option<String>,
    /// Volumes with the same value keep their replicas in different pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_anti_affinity: Option<AntiAffinity>,
}

/// Keeps the replicas of volumes apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AntiAffinity {
    /// Which volumes: those with the same value.
    pub group: String,
    /// Whether the volume is rather not made than breaking the rule.
    #[serde(default)]
    pub required: bool,
}

/// The volume as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CStorVolumeStatus {
    /// "Init", "Healthy", "Degraded", "Offline", "Unknown", "Deleting" or "Invalid".
    #[serde(default)]
    pub phase: String,
    /// Size that is served.
    #[serde(default)]
    pub capacity: String,
    /// Whether the volume's Raft group was formed. After that no first member is made again.
    #[serde(default)]
    pub formed: bool,
    /// The highest replica id given so far. Never goes back: an id that has voted is never used again.
    #[serde(default, rename = "lastReplicaID")]
    pub last_replica_id: i64,
    /// The pool that leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The newest target's number.
    #[serde(default)]
    pub epoch: i64,
    /// The replicas, as the leader sees them.
    #[serde(default)]
    pub replica_statuses: Vec<ReplicaStatus>,
    /// Why it is not healthy and what to do.
    #[serde(default)]
    pub message: String,
    /// When the phase last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// When the leader last answered, RFC 3339, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// Aspects of its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A replica in the volume's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its Raft id.
    #[serde(default)]
    pub replica_id: String,
    /// "Healthy", "Degraded", "Rebuilding", "Offline" or "Unknown".
    #[serde(default)]
    pub mode: String,
    /// The last log index it has.
    #[serde(default, rename = "checkpointedIOSeq")]
    pub checkpointed_io_seq: String,
    /// "1" when it votes.
    #[serde(default)]
    pub quorum: String,
}
