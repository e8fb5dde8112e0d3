//! Which devices make which pools: a pure function from a claim, the devices and the pools that exist.
//!
//! A claim without a list of devices gets one pool on each of `maxPools` nodes. A claim with a list is kept to: a node
//! with listed devices and no pool gets a pool of them; a pool gets what is listed newly on its node; a pool with a device
//! that is listed no more is replaced by one of those that are. (Stripes lie on all devices, so a pool cannot give one
//! of them away: its replicas move to other pools, and then all of it goes.)
//!
//! Invariants: one pool of a claim on a node, but for one that leaves beside its successor; a device is in one pool at
//! most; a device that carries anything (a file system, partitions, another pool's label) or is not there now is never
//! taken; pools are given up one at a time, and only when every listed device is there and everything new is in use.

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::k8s::device::BlockDevice;
use ballast_api::k8s::labels;
use ballast_api::k8s::{CStorPool, StoragePoolClaim};
use kube::ResourceExt as _;

use super::device::{host_of, is_sparse, path_of, unfit};

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
}

/// Devices that a pool gets in addition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Name of the CStorPool.
    pub pool: String,
    /// Names and paths of the devices, sorted by name.
    pub devices: Vec<PickedDevice>,
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
    /// Devices that pools get now.
    pub growths: Vec<Growth>,
    /// The CStorPool to be given up now.
    pub retire: Option<String>,
    /// How many pools the claim wants in all.
    pub wanted: usize,
    /// How many it has, without those that leave.
    pub present: usize,
    /// What keeps the claim from having them, for people.
    pub missing: Vec<String>,
}

impl Selection {
    /// Whether there is something to do.
    pub fn changes(&self) -> bool {
        !self.picks.is_empty() || !self.growths.is_empty() || self.retire.is_some()
    }
}

/// Chooses devices for what `claim` still lacks. `usable` says whether a node may get a pool now.
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
    let listed = listed(claim);
    let (stay, leave): (Vec<&CStorPool>, Vec<&CStorPool>) =
        pools.iter().filter(own).partition(|pool| stays(pool, listed.as_ref()));
    let taken: BTreeSet<&str> = pools.iter().flat_map(device_names).collect();
    let wanted_node = |host: &str| {
        claim.spec.node_selector.is_empty() || claim.spec.node_selector.iter().any(|selected| selected == host)
    };

    let mut selection = Selection { present: stay.len(), ..Selection::default() };
    let mut by_node: BTreeMap<String, Vec<&BlockDevice>> = BTreeMap::new();
    let mut by_pool: BTreeMap<String, Vec<&BlockDevice>> = BTreeMap::new();
    for device in devices {
        let device_name = device.name_any();
        if listed.as_ref().is_some_and(|listed| !listed.contains(&device_name)) {
            continue;
        }
        let host = host_of(device);
        let pool = stay.iter().find(|pool| pool.spec.host_name == host);
        if taken.contains(device_name.as_str()) || !wanted_node(&host) || (pool.is_some() && listed.is_none()) {
            continue;
        }
        let why = match (unfit(device, sparse, listed.is_some()), pool) {
            (Some(why), _) if listed.is_some() => Some(format!("{device_name}: {why}")),
            (Some(_), _) => continue,
            (None, Some(pool)) if of_other_kind(device, pool, devices) => {
                Some(format!("{device_name}: files and disks cannot be in one pool"))
            }
            (None, _) if !usable(&host) => Some(format!("node {host} is not ready or is cordoned")),
            (None, Some(pool)) => {
                by_pool.entry(pool.name_any()).or_default().push(device);
                None
            }
            (None, None) => {
                by_node.entry(host).or_default().push(device);
                None
            }
        };
        selection.missing.extend(why);
    }
    if let Some(listed) = &listed {
        let known: BTreeSet<String> = devices.iter().map(|device| device.name_any()).collect();
        let unknown = listed.difference(&known).filter(|name| !taken.contains(name.as_str()));
        selection.missing.extend(unknown.map(|name| format!("{name}: there is no such BlockDevice")));
    }
    selection.wanted = match (&listed, claim.spec.max_pools) {
        (Some(_), _) => stay.len() + by_node.len(),
        (None, Some(max)) if max > 0 => usize::try_from(max).unwrap_or(DEFAULT_MAX_POOLS),
        (None, _) => DEFAULT_MAX_POOLS,
    };
    let lacking = selection.wanted.saturating_sub(stay.len());
    let all = listed.is_some();
    selection.picks = by_node
        .into_iter()
        .take(lacking)
        .map(|(host_name, devices)| Pick { host_name, devices: picked(devices, all) })
        .collect();
    selection.growths =
        by_pool.into_iter().map(|(pool, devices)| Growth { pool, devices: picked(devices, all) }).collect();
    if selection.picks.len() < lacking && listed.is_none() {
        let kind = if sparse { "sparse" } else { "disk" };
        selection.missing.push(format!(
            "{lacking} more pools need as many nodes with a free {kind} device, there are {}: see `kubectl get blockdevices -A`",
            selection.picks.len()
        ));
    }
    selection.missing.sort();
    selection.missing.dedup();
    selection.retire = retire(&selection, &stay, &leave);
    Ok(selection)
}

/// Whether a pool is to be kept: nobody deletes it, and every device of it is still listed.
fn stays(pool: &CStorPool, listed: Option<&BTreeSet<String>>) -> bool {
    pool.metadata.deletion_timestamp.is_none()
        && listed.is_none_or(|listed| device_names(pool).all(|name| listed.contains(name)))
}

/// The pool to be given up now: one that nobody deletes yet, when none is being given up, nothing is missing and all those that
/// stay are healthy, so that they can take its replicas.
fn retire(selection: &Selection, stay: &[&CStorPool], leave: &[&CStorPool]) -> Option<String> {
    let deleting = |pool: &&&CStorPool| pool.metadata.deletion_timestamp.is_some();
    let healthy = |pool: &&CStorPool| pool.status.as_ref().is_some_and(|status| status.phase == "Healthy");
    let settled = selection.picks.is_empty() && selection.growths.is_empty() && selection.missing.is_empty();
    if !settled || leave.iter().any(|pool| deleting(&pool)) || !stay.iter().all(healthy) {
        return None;
    }
    leave.iter().map(|pool| pool.name_any()).min()
}

/// Names of the BlockDevices of a pool.
pub(crate) fn device_names(pool: &CStorPool) -> impl Iterator<Item = &str> {
    pool.spec.group.iter().flat_map(|group| &group.block_device).map(|device| device.name.as_str())
}

/// Whether the pool has files and the device is a disk, or the other way round: their pods differ.
fn of_other_kind(device: &BlockDevice, pool: &CStorPool, devices: &[BlockDevice]) -> bool {
    let known = device_names(pool).filter_map(|name| devices.iter().find(|device| device.name_any() == name));
    known.map(is_sparse).any(|sparse| sparse != is_sparse(device))
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

/// All of the devices, or the first one (striped needs one).
fn picked(mut devices: Vec<&BlockDevice>, all: bool) -> Vec<PickedDevice> {
    devices.sort_by_key(|device| device.name_any());
    let count = if all { devices.len() } else { 1 };
    let device = |device: &&BlockDevice| PickedDevice { name: device.name_any(), path: path_of(device) };
    devices.iter().take(count).map(device).collect()
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
