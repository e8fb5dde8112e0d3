//! StoragePoolClaim: what an administrator applies to get pools.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;
use super::pool::PoolSpec;

/// A request for pools. Without a list of devices, one pool is made on each of up to `maxPools` nodes, of as many free
/// devices as the pool type needs (striped: one). With a list, one pool is made on each node that has listed devices.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "StoragePoolClaim", plural = "storagepoolclaims")]
#[kube(shortname = "spc", status = "StoragePoolClaimStatus")]
#[kube(printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"))]
#[kube(printcolumn(name = "Pools", type_ = "integer", json_path = ".status.pools"))]
#[kube(printcolumn(name = "Healthy", type_ = "integer", json_path = ".status.healthyPools"))]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(validation = Rule::new("self.spec.type in ['sparse', 'disk']").message("spec.type is sparse or disk"))]
#[kube(validation = Rule::new("!has(self.spec.maxPools) || self.spec.maxPools >= 0").message("spec.maxPools cannot be negative"))]
#[serde(rename_all = "camelCase")]
pub struct StoragePoolClaimSpec {
    /// A name for people; the object's own name counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// "sparse" (files made by the node disk manager) or "disk".
    #[serde(rename = "type")]
    pub type_: String,
    /// How many pools are made at most when no devices are listed; 3 when absent or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pools: Option<i32>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_pools: Option<i32>,
    /// Devices to use, by name of their Disk object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<DiskList>,
    /// Devices to use, by name of their BlockDevice object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_devices: Option<BlockDeviceList>,
    /// Pools are made only on these nodes, by value of their label kubernetes.io/hostname.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_selector: Vec<String>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoint: Option<String>,
    /// Accepted for compatibility; has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How the pools lay out their devices.
    #[serde(default)]
    pub pool_spec: PoolSpec,
}

/// Devices by name of their Disk object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskList {
    /// The names.
    #[serde(default)]
    pub disk_list: Vec<String>,
}

/// Devices by name of their BlockDevice object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockDeviceList {
    /// The names.
    #[serde(default)]
    pub block_device_list: Vec<String>,
}

/// What became of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoragePoolClaimStatus {
    /// "Online" when at least one pool serves, else "Pending".
    #[serde(default)]
    pub phase: String,
    /// Pools that were made.
    #[serde(default)]
    pub pools: i32,
    /// Pools that are healthy now.
    #[serde(default)]
    pub healthy_pools: i32,
    /// Why there are fewer pools than wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
