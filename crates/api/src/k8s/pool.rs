//! CStorPool: one pool on one node.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use super::claim::DiskList;

/// A pool: the storage of one pool pod. Made by the operator from a StoragePoolClaim.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "CStorPool", plural = "cstorpools")]
#[kube(shortname = "csp", status = "CStorPoolStatus")]
#[kube(printcolumn(name = "Allocated", type_ = "string", json_path = ".status.capacity.used"))]
#[kube(printcolumn(name = "Free", type_ = "string", json_path = ".status.capacity.free"))]
#[kube(printcolumn(name = "Capacity", type_ = "string", json_path = ".status.capacity.total"))]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Type", type_ = "string", json_path = ".spec.poolSpec.poolType"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct CStorPoolSpec {
    /// Paths of the devices, as the pool opens them.
    #[serde(default)]
    pub disks: DiskList,
    /// The BlockDevice objects of the pool.
    #[serde(default)]
    pub group: Vec<DeviceGroup>,
    /// How the pool lays out its devices.
    #[serde(default)]
    pub pool_spec: PoolSpec,
    /// The node, by its label kubernetes.io/hostname.
    #[serde(default)]
    pub host_name: String,
}

/// Devices that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceGroup {
    /// The devices.
    #[serde(default)]
    pub block_device: Vec<PoolDevice>,
}

/// A device of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolDevice {
    /// Name of its BlockDevice object.
    #[serde(default)]
    pub name: String,
    /// Path by which the pool opens it.
    #[serde(default, rename = "deviceID")]
    pub device_id: String,
    /// Whether the pool uses it.
    #[serde(default)]
    pub in_use_by_pool: bool,
}

/// Layout and limits of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    /// "striped".
    #[serde(default)]
    pub pool_type: String,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_file: Option<String>,
    /// Accepted for compatibility; volumes are thin, and a full pool refuses writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_provisioning: Option<bool>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thick_provisioning: Option<bool>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, rename = "roThresholdLimit", skip_serializing_if = "Option::is_none")]
    pub ro_threshold_limit: Option<i32>,
}

/// The pool as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CStorPoolStatus {
    /// "Init", "Healthy", "Degraded", "Offline", "Unknown", or "Error".
    #[serde(default)]
    pub phase: String,
    /// Space, in the units of the columns.
    #[serde(default)]
    pub capacity: PoolCapacity,
    /// Whether it refuses writes.
    #[serde(default)]
    pub read_only: bool,
    /// Why it is not healthy and what to do.
    #[serde(default)]
    pub message: String,
    /// When the phase last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// When the pool last answered, RFC 3339, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// Identity of the pool, as its devices say. Another one behind the same name is an empty pool on new devices.
    #[serde(default, rename = "poolID", skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
    /// Where other processes reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Replicas in the pool.
    #[serde(default)]
    pub replicas: i32,
    /// Aspects of its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Space of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolCapacity {
    /// All of it, for example "9.94G".
    #[serde(default)]
    pub total: String,
    /// What is free.
    #[serde(default)]
    pub free: String,
    /// What is allocated.
    #[serde(default)]
    pub used: String,
}
