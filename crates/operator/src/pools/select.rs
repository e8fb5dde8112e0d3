//! Which devices make which pools: a pure function from a claim, the devices and the pools that exist.
//!
//! Invariants: one pool of a claim on a node; a device is in one pool at most; a device that carries anything (a file
//! system, partitions, another pool's label) or is not there now is never taken. A pool that exists is never given up here.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::k8s::device::BlockDevice;
use ballast_api::k8s::labels;
use ballast_api::k8s::{CStorPool, StoragePoolClaim};
use kube::ResourceExt as _;

/// Pools of a claim that does not say how many.
const DEFAULT_MAX_POOLS: usize = 3;

/// A pool to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The node, by its label kubernetes.io/hostname.
    pub host_name: String,
    /// Names and paths of the devices, sorted by name.
    pub devices: Vec<PickedDevice>,
}

/// A device of a pool to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickedDevice {
    /// Name of the BlockDevice.
    pub name: String,
    /// Path by which the pool opens it.
    pub path: String,
    /// Whether it is a file.
    pub sparse: bool,
}

/// A claim that cannot be served as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A layout that does not exist.
    #[error("spec.poolSpec.poolType '{0}' is not supported: write striped")]
    PoolType(String),
    /// Neither kind of device.
    #[error("spec.type '{0}' is not supported: write sparse or disk")]
    Type(String),
}

/// What to make, and why not more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Pools to make now.
    pub picks: Vec<Pick>,
    /// How many pools the claim wants in all.
    pub wanted: usize,
    /// What keeps the claim from having them, for people.
    pub missing: Vec<String>,
}

/// Chooses devices for the pools that `claim` still lacks. `usable` says whether a node may get a pool now.
pub fn select(
    claim: &StoragePoolClaim,
    devices: &[BlockDevice],
    pools: &[CStorPool],
    usable: &dyn Fn(&str) -> bool,
) -> Result<Selection, SelectError> {
    if !["striped", "stripe"].contains(&claim.spec.pool_spec.pool_type.as_str()) {
        return Err(SelectError::PoolType(claim.spec.pool_spec.pool_type.clone()));
    }
    let sparse = match claim.spec.type_.as_str() {
        "sparse" => true,
        "disk" => false,
        other => return Err(SelectError::Type(other.to_owned())),
    };
    let name = claim.name_any();
    let own = |pool: &&CStorPool| pool.labels().get(labels::STORAGE_POOL_CLAIM) == Some(&name);
    let taken: BTreeSet<&str> = pools
        .iter()
        .flat_map(|pool| pool.spec.group.iter().flat_map(|group| &group.block_device))
        .map(|device| device.name.as_str())
        .collect();
    let nodes_with_pool: BTreeSet<&str> = pools.iter().filter(own).map(|pool| pool.spec.host_name.as_str()).collect();
    let wanted_node = |host: &str| {
        claim.spec.node_selector.is_empty() || claim.spec.node_selector.iter().any(|selected| selected == host)
    };
    let listed = listed(claim);

    let mut missing = Vec::new();
    let mut by_node: BTreeMap<String, Vec<&BlockDevice>> = BTreeMap::new();
    for device in devices {
        let device_name = device.name_any();
        if listed.as_ref().is_some_and(|listed| !listed.contains(&device_name)) {
            continue;
        }
        let host = host_of(device);
        if taken.contains(device_name.as_str()) || nodes_with_pool.contains(host.as_str()) || !wanted_node(&host) {
            continue;
        }
        match unfit(device, sparse, listed.is_some()) {
            Some(why) if listed.is_some() => missing.push(format!("{device_name}: {why}")),
            Some(_) => {}
            None if !usable(&host) => missing.push(format!("node {host} is not ready or is cordoned")),
            None => by_node.entry(host).or_default().push(device),
        }
    }
    if let Some(listed) = &listed {
        let known: BTreeSet<String> = devices.iter().map(|device| device.name_any()).collect();
        missing.extend(listed.difference(&known).map(|name| format!("{name}: there is no such BlockDevice")));
    }
    let wanted = match (&listed, claim.spec.max_pools) {
        (Some(_), _) => nodes_with_pool.len() + by_node.len(),
        (None, Some(max)) if max > 0 => usize::try_from(max).unwrap_or(DEFAULT_MAX_POOLS),
        (None, _) => DEFAULT_MAX_POOLS,
    };
    let lacking = wanted.saturating_sub(nodes_with_pool.len());
    let picks: Vec<Pick> = by_node
        .into_iter()
        .take(lacking)
        .map(|(host, devices)| pick(host, devices, listed.is_some(), sparse))
        .collect();
    if picks.len() < lacking && listed.is_none() {
        let kind = if sparse { "sparse" } else { "disk" };
        missing.push(format!(
            "{lacking} more pools need as many nodes with a free {kind} device, there are {}: see `kubectl get blockdevices -A`",
            picks.len()
        ));
    }
    missing.sort();
    missing.dedup();
    Ok(Selection { picks, wanted, missing })
}

/// The devices that the claim names, if it names any.
fn listed(claim: &StoragePoolClaim) -> Option<BTreeSet<String>> {
    let disks = claim.spec.disks.iter().flat_map(|list| &list.disk_list);
    let devices = claim.spec.block_devices.iter().flat_map(|list| &list.block_device_list);
    // A Disk and its BlockDevice have the same name but for the prefix.
    let device_name = |name: &String| name.strip_prefix("disk-").map_or(name.clone(), |id| format!("blockdevice-{id}"));
    let names: BTreeSet<String> = disks.chain(devices).filter(|name| !name.is_empty()).map(device_name).collect();
    (!names.is_empty()).then_some(names)
}

/// The node of a device, by its label, else by the node's name.
pub fn host_of(device: &BlockDevice) -> String {
    device.labels().get(labels::HOSTNAME).unwrap_or(&device.spec.node_attributes.node_name).clone()
}

/// Why a device cannot be taken. A device that was listed by name may be of either type.
fn unfit(device: &BlockDevice, sparse: bool, by_name: bool) -> Option<String> {
    let status = device.status.clone().unwrap_or_default();
    let is_sparse = device.labels().get(labels::DEVICE_TYPE).is_some_and(|kind| kind == "sparse");
    if is_sparse != sparse && !by_name {
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

/// The pool on one node: all listed devices, or the first one (striped needs one).
fn pick(host_name: String, mut devices: Vec<&BlockDevice>, all: bool, sparse: bool) -> Pick {
    devices.sort_by_key(|device| device.name_any());
    let count = if all { devices.len() } else { 1 };
    let device = |device: &&BlockDevice| PickedDevice {
        name: device.name_any(),
        path: path_of(device),
        sparse: device.labels().get(labels::DEVICE_TYPE).map_or(sparse, |kind| kind == "sparse"),
    };
    Pick { host_name, devices: devices.iter().take(count).map(device).collect() }
}

/// The name that does not change when disks are added: by-id, else by-path, else the kernel's.
fn path_of(device: &BlockDevice) -> String {
    let link = |kind: &str| {
        device.spec.devlinks.iter().filter(|links| links.kind == kind).flat_map(|links| &links.links).min().cloned()
    };
    link("by-id").or_else(|| link("by-path")).unwrap_or_else(|| device.spec.path.clone())
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
