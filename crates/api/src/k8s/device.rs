//! BlockDevice and BlockDeviceClaim: devices that the node disk manager found, and who uses them.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A device of a node. Made and kept true by the node disk manager.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "BlockDevice", plural = "blockdevices")]
#[kube(namespaced, shortname = "bd", status = "BlockDeviceStatus")]
#[kube(printcolumn(name = "NodeName", type_ = "string", json_path = ".spec.nodeAttributes.nodeName"))]
#[kube(printcolumn(name = "Path", type_ = "string", json_path = ".spec.path", priority = 1))]
#[kube(printcolumn(name = "FSType", type_ = "string", json_path = ".spec.filesystem.fsType", priority = 1))]
#[kube(printcolumn(name = "Size", type_ = "integer", json_path = ".spec.capacity.storage"))]
#[kube(printcolumn(name = "ClaimState", type_ = "string", json_path = ".status.claimState"))]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.state"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct BlockDeviceSpec {
    /// Where it is.
    #[serde(default)]
    pub node_attributes: NodeAttributes,
    /// The kernel's name, or the path of a sparse file.
    #[serde(default)]
    pub path: String,
    /// Size and sectors.
    #[serde(default)]
    pub capacity: DeviceCapacity,
    /// What kind of device it is.
    #[serde(default)]
    pub details: DeviceDetails,
    /// The BlockDeviceClaim that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_ref: Option<ClaimRef>,
    /// Names that do not change, by kind.
    #[serde(default)]
    pub devlinks: Vec<DevLink>,
    /// The file system that is on it.
    #[serde(default)]
    pub filesystem: FileSystemInfo,
    /// "Yes" or "No".
    #[serde(default)]
    pub partitioned: String,
    /// The whole disk, when it is a partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_device: Option<String>,
}

/// The node of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAttributes {
    /// Name of the node.
    #[serde(default)]
    pub node_name: String,
}

/// Size and sectors of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceCapacity {
    /// Bytes.
    #[serde(default)]
    pub storage: u64,
    /// Bytes of a physical sector.
    #[serde(default)]
    pub physical_sector_size: u32,
    /// Bytes of a logical sector.
    #[serde(default)]
    pub logical_sector_size: u32,
}

/// What kind of device it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceDetails {
    /// "disk", "partition", "sparse", "loop", "lvm", "crypt", "mpath", "raid".
    #[serde(default)]
    pub device_type: String,
    /// "HDD", "SSD" or "".
    #[serde(default)]
    pub drive_type: String,
    /// As the device says.
    #[serde(default)]
    pub model: String,
    /// As the device says.
    #[serde(default)]
    pub serial: String,
    /// As the device says.
    #[serde(default)]
    pub vendor: String,
    /// Standard it follows, as the device says.
    #[serde(default)]
    pub compliance: String,
    /// As the device says.
    #[serde(default)]
    pub firmware_revision: String,
    /// Bytes.
    #[serde(default)]
    pub logical_block_size: u32,
    /// Bytes.
    #[serde(default)]
    pub physical_block_size: u32,
    /// Bytes.
    #[serde(default)]
    pub hardware_sector_size: u32,
}

/// The claim of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// Name of the BlockDeviceClaim.
    #[serde(default)]
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its uid.
    #[serde(default)]
    pub uid: String,
}

/// Names of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DevLink {
    /// "by-id", "by-path".
    #[serde(default)]
    pub kind: String,
    /// The paths.
    #[serde(default)]
    pub links: Vec<String>,
}

/// The file system of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileSystemInfo {
    /// "ext4", "xfs", ... or "".
    #[serde(default)]
    pub fs_type: String,
    /// Where it is mounted, or "".
    #[serde(default)]
    pub mount_point: String,
}

/// A device as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockDeviceStatus {
    /// "Unclaimed", "Claimed" or "Released" (being wiped).
    #[serde(default)]
    pub claim_state: String,
    /// "Active", "Inactive" (was here, is gone) or "Unknown" (its node does not answer).
    #[serde(default)]
    pub state: String,
    /// Why it is not offered for use, or what its health says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The pool whose label is on it.
    #[serde(default, rename = "poolID", skip_serializing_if = "Option::is_none")]
    pub pool_id: Option<String>,
}

/// A request for a device. Made by the operator for each device of a pool.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "BlockDeviceClaim", plural = "blockdeviceclaims")]
#[kube(namespaced, shortname = "bdc", status = "BlockDeviceClaimStatus")]
#[kube(printcolumn(name = "BlockDeviceName", type_ = "string", json_path = ".spec.blockDeviceName"))]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct BlockDeviceClaimSpec {
    /// The device that is wanted.
    #[serde(default)]
    pub block_device_name: String,
    /// The node it is on.
    #[serde(default)]
    pub host_name: String,
    /// "sparse" or "blockdevice".
    #[serde(default)]
    pub device_type: String,
}

/// What became of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockDeviceClaimStatus {
    /// "Pending" or "Bound".
    #[serde(default)]
    pub phase: String,
    /// Why it is not bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
