//! From the devices of a scan to what their objects should say.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::k8s::device::{
    BlockDeviceSpec, DevLink, DeviceCapacity, DeviceDetails, FileSystemInfo, NodeAttributes,
};
use ballast_api::k8s::disk::{DiskCapacity, DiskDetails, DiskSpec};
use ballast_api::k8s::labels;

use super::{Gone, Node, Objects, Scan};
use crate::device::{Device, KeyKind};
use crate::recognise::{Known, Verdict, recognise, sparse_name};

/// What the objects of one device should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Name of the BlockDevice.
    pub name: String,
    /// Its spec, without a claim.
    pub spec: BlockDeviceSpec,
    /// The labels that are ours.
    pub labels: BTreeMap<String, String>,
    /// The keys of the device, for the annotation; none for sparse files, which are their path.
    pub identity: Option<String>,
    /// What is to be said about it.
    pub message: Option<String>,
    /// The pool whose label it carries.
    pub pool_id: Option<String>,
    /// Nothing is on it.
    pub blank: bool,
    /// It could be read; else what is known of its pool stays.
    pub readable: bool,
    /// What keeps it from being wiped.
    pub in_use: Option<String>,
    /// Name, spec and labels of the Disk.
    pub disk: (String, DiskSpec, BTreeMap<String, String>),
}

/// What the objects should say, and the nodes that contest a device.
pub fn desired(node: &Node, scan: &Scan, objects: &Objects, gone: &Gone) -> (Vec<Desired>, BTreeSet<String>) {
    let is_sparse = |device: &&Device| device.kind == "sparse";
    let (files, blocks): (Vec<&Device>, Vec<&Device>) = scan.devices.iter().partition(is_sparse);
    let blocks: Vec<Device> = blocks.into_iter().cloned().collect();
    let known: Vec<Known> =
        objects.devices.values().filter(|o| o.spec.details.device_type != "sparse").map(Known::of).collect();
    let found = recognise(&node.name, &blocks, &known, gone);
    let files = files.into_iter().map(|file| {
        let name = sparse_name(&node.hostname, &file.path);
        one(node, file, &Verdict { name, keys: Vec::new(), duplicate_of: None }, scan)
    });
    let blocks = blocks.iter().zip(&found.verdicts).map(|(device, verdict)| one(node, device, verdict, scan));
    (blocks.chain(files).collect(), found.contested)
}

fn one(node: &Node, device: &Device, verdict: &Verdict, scan: &Scan) -> Desired {
    let sparse = device.kind == "sparse";
    let mut fs_type = device.fs_type.clone();
    if verdict.duplicate_of.is_some() && fs_type.is_empty() {
        fs_type = "duplicate".to_owned();
    }
    let spec = BlockDeviceSpec {
        node_attributes: NodeAttributes { node_name: node.name.clone() },
        path: device.path.clone(),
        capacity: DeviceCapacity {
            storage: device.size,
            physical_sector_size: device.physical_sector,
            logical_sector_size: device.logical_sector,
        },
        details: DeviceDetails {
            device_type: device.kind.to_owned(),
            drive_type: device.drive_type.to_owned(),
            model: device.hardware.model.clone(),
            serial: device.hardware.serial.clone(),
            vendor: device.hardware.vendor.clone(),
            compliance: String::new(),
            firmware_revision: device.hardware.firmware.clone(),
            logical_block_size: device.logical_sector,
            physical_block_size: device.physical_sector,
            hardware_sector_size: device.hardware_sector,
        },
        claim_ref: None,
        devlinks: links(device),
        filesystem: FileSystemInfo { fs_type, mount_point: device.mount_point.clone() },
        partitioned: if device.partitioned { "Yes" } else { "No" }.to_owned(),
        parent_device: device.parent.clone(),
    };
    let ours = |key: &str, kind: &str| {
        BTreeMap::from([
            (labels::HOSTNAME.to_owned(), node.hostname.clone()),
            (key.to_owned(), kind.to_owned()),
            (labels::NDM_MANAGED.to_owned(), "true".to_owned()),
        ])
    };
    Desired {
        labels: ours(labels::DEVICE_TYPE, if sparse { "sparse" } else { "blockdevice" }),
        identity: (!sparse).then(|| verdict.keys.iter().map(|key| key.text()).collect::<Vec<_>>().join(" ")),
        message: message(device, verdict, scan.health.get(&device.path)),
        pool_id: device.label.as_ref().map(|label| label.pool.to_string()),
        blank: device.blank,
        readable: device.readable,
        in_use: verdict
            .duplicate_of
            .as_ref()
            .map(|other| duplicate(other))
            .or_else(|| device.refusal.as_ref().map(|refusal| refusal.message.clone())),
        disk: (
            disk_name(&verdict.name),
            disk_spec(&spec),
            ours(labels::DISK_TYPE, if sparse { "sparse" } else { "disk" }),
        ),
        name: verdict.name.clone(),
        spec,
    }
}

fn links(device: &Device) -> Vec<DevLink> {
    let kinds = [("by-id", &device.by_id), ("by-path", &device.by_path)];
    let links = kinds.into_iter().filter(|(_, links)| !links.is_empty());
    links.map(|(kind, links)| DevLink { kind: kind.to_owned(), links: links.clone() }).collect()
}

/// As cStor named them: "disk-..." and "sparse-...".
pub(super) fn disk_name(device: &str) -> String {
    device.strip_prefix("blockdevice-").map_or_else(|| device.to_owned(), |hash| format!("disk-{hash}"))
}

fn disk_spec(spec: &BlockDeviceSpec) -> DiskSpec {
    DiskSpec {
        path: spec.path.clone(),
        capacity: DiskCapacity { storage: spec.capacity.storage },
        details: DiskDetails {
            model: spec.details.model.clone(),
            serial: spec.details.serial.clone(),
            vendor: spec.details.vendor.clone(),
        },
        devlinks: spec.devlinks.clone(),
    }
}

fn duplicate(other: &str) -> String {
    format!(
        "it has the same identity as {other}: a second path to one disk, a copy of it, or disks that say the same serial \
         number. Remove one, or set up multipath"
    )
}

fn message(device: &Device, verdict: &Verdict, health: Option<&String>) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(verdict.duplicate_of.as_ref().map(|other| format!("not offered: {}", duplicate(other))));
    parts.extend(device.refusal.as_ref().map(|refusal| format!("not offered: {}", refusal.message)));
    if parts.is_empty() && device.kind != "sparse" && verdict.keys.first().is_none_or(|key| key.kind >= KeyKind::Place)
    {
        parts.push(
            "it has no serial number or world-wide name: until a pool's label is on it, it is recognised by its place on \
             this node"
                .to_owned(),
        );
    }
    parts.extend(health.cloned());
    (!parts.is_empty()).then(|| parts.join("; "))
}
