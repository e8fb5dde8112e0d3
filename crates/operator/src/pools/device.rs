//! What a device is to a pool: where it is, how it is opened, and why it cannot be taken.

use ballast_api::k8s::device::BlockDevice;
use ballast_api::k8s::labels;
use kube::ResourceExt as _;

/// Whether the device is a file.
pub(crate) fn is_sparse(device: &BlockDevice) -> bool {
    device.labels().get(labels::DEVICE_TYPE).is_some_and(|kind| kind == "sparse")
}

/// The node of a device, by its label, else by the node's name.
pub(crate) fn host_of(device: &BlockDevice) -> String {
    device.labels().get(labels::HOSTNAME).unwrap_or(&device.spec.node_attributes.node_name).clone()
}

/// Why a device cannot be taken. A device that was listed by name may be of either type.
pub(crate) fn unfit(device: &BlockDevice, sparse: bool, by_name: bool) -> Option<String> {
    let status = device.status.clone().unwrap_or_default();
    if is_sparse(device) != sparse && !by_name {
        return Some(String::from("it is of the other type"));
    }
    if device.metadata.deletion_timestamp.is_some() {
        return Some(String::from("it is being deleted"));
    }
    if status.state != "Active" {
        return Some(format!("its state is {}", if status.state.is_empty() { "not known" } else { &status.state }));
    }
    if device.spec.claim_ref.is_some() || !["", "Unclaimed"].contains(&status.claim_state.as_str()) {
        return Some(format!("it is {}", if status.claim_state.is_empty() { "claimed" } else { &status.claim_state }));
    }
    if !device.spec.filesystem.fs_type.is_empty() {
        return Some(format!(
            "it carries {}: wipe it (`wipefs -a`) if that is not needed",
            device.spec.filesystem.fs_type
        ));
    }
    if device.spec.partitioned == "Yes" {
        return Some(String::from("it has partitions: wipe it (`wipefs -a`) if they are not needed"));
    }
    if let Some(pool) = status.pool_id.filter(|id| !id.is_empty()) {
        return Some(format!("it carries the label of pool {pool}"));
    }
    status.message.filter(|message| !message.is_empty())
}

/// The name that does not change when disks are added: by-id, else by-path, else the kernel's.
pub(crate) fn path_of(device: &BlockDevice) -> String {
    let link = |kind: &str| {
        device.spec.devlinks.iter().filter(|links| links.kind == kind).flat_map(|links| &links.links).min().cloned()
    };
    link("by-id").or_else(|| link("by-path")).unwrap_or_else(|| device.spec.path.clone())
}
