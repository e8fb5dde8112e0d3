//! Disk: the older object for a device, kept for scripts that list it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::DevLink;

/// A device of a node, in the older form. Made by the node disk manager beside the BlockDevice.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "openebs.io", version = "v1alpha1", kind = "Disk", plural = "disks", shortname = "disk")]
#[kube(status = "DiskStatus")]
#[kube(printcolumn(name = "Size", type_ = "integer", json_path = ".spec.capacity.storage"))]
#[kube(printcolumn(name = "Status", type_ = "string", json_path = ".status.state"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// The kernel's name, or the path of a sparse file.
    #[serde(default)]
    pub path: String,
    /// Size.
    #[serde(default)]
    pub capacity: DiskCapacity,
    /// As the device says.
    #[serde(default)]
    pub details: DiskDetails,
    /// Names that do not change, by kind.
    #[serde(default)]
    pub devlinks: Vec<DevLink>,
}

/// Size of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskCapacity {
    /// Bytes.
    #[serde(default)]
    pub storage: u64,
}

/// What the device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskDetails {
    /// Model.
    #[serde(default)]
    pub model: String,
    /// Serial number.
    #[serde(default)]
    pub serial: String,
    /// Vendor.
    #[serde(default)]
    pub vendor: String,
}

/// A disk as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// "Active", "Inactive" or "Unknown".
    #[serde(default)]
    pub state: String,
}
