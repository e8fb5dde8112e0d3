//! What the objects should say, and the writes that make them say it. Plain functions.

mod desired;
mod writes;

pub use desired::{Desired, desired};
pub use writes::{Release, Wipes, Write, farewell, releases, writes};

use std::collections::{BTreeMap, BTreeSet};

use ballast_api::k8s::{BlockDevice, Disk};

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name of its Node object.
    pub name: String,
    /// Its label kubernetes.io/hostname, which pods are placed by.
    pub hostname: String,
}

/// The objects as they are.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// All BlockDevices of the namespace, also those of other nodes: devices move.
    pub devices: BTreeMap<String, BlockDevice>,
    /// The Disks.
    pub disks: BTreeMap<String, Disk>,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Block devices and sparse files.
    pub devices: Vec<crate::device::Device>,
    /// Nothing may be called missing yet: some devices could not be looked at.
    pub unsettled: bool,
    /// What SMART says, by path, when it is bad.
    pub health: BTreeMap<String, String>,
}

/// Objects that nobody may touch: an administrator said so.
fn is_managed(object: &BlockDevice) -> bool {
    use ballast_api::k8s::labels::NDM_MANAGED;
    let label = object.metadata.labels.iter().flatten().find(|(key, _)| *key == NDM_MANAGED);
    label.is_none_or(|(_, value)| value != "false")
}

/// Its pool gave it back.
pub(crate) fn is_released(object: &BlockDevice) -> bool {
    object.status.as_ref().is_some_and(|status| status.claim_state == "Released")
}

/// What nodes are known not to run.
pub type Gone = BTreeSet<String>;
