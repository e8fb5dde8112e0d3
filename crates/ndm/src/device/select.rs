//! Which block devices are looked at at all.

use std::collections::{BTreeMap, BTreeSet};

use super::{Hardware, is_multipath, path};
use crate::config::Config;
use crate::tree::{Block, Tree};

/// Names that are never a disk for a pool, whatever the settings say.
const NEVER: [&str; 6] = ["ram", "zram", "fd", "sr", "scd", "mtdblock"];
/// Disks that Ballast itself serves over iSCSI: a pool on its own volume would wait for itself.
const OWN_VENDOR: &str = "BALLAST";
/// SCSI peripheral device type of a CD-ROM (SPC-4 table 138).
const CD_ROM: u32 = 5;

/// What [`select`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The devices that are reported.
    pub listed: Vec<String>,
    /// The others, and why.
    pub left_out: BTreeMap<String, String>,
    /// Devices that udev has not looked at yet. They come in the next scan; until then nobody knows what is missing.
    pub unsettled: Vec<String>,
}

/// Chooses the devices that are reported. With `wait`, those that udev has not looked at yet have to.
pub fn select(tree: &Tree, config: &Config, wait: bool) -> Selection {
    let os = os_disks(tree, config);
    let mut selection = Selection::default();
    for block in tree.blocks.values() {
        if let Some(why) = never(tree, block).or_else(|| filtered(tree, block, config, &os)) {
            selection.left_out.insert(block.name.clone(), why);
        } else if wait && tree.has_udev && block.udev.is_none() {
            selection.unsettled.push(block.name.clone());
        } else {
            selection.listed.push(block.name.clone());
        }
    }
    selection
}

fn never(tree: &Tree, block: &Block) -> Option<String> {
    let numbered = |prefix: &str| {
        let number = block.name.strip_prefix(prefix);
        number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    if let Some(prefix) = NEVER.iter().find(|prefix| numbered(prefix)) {
        return Some(format!("devices named {prefix} are no disks"));
    }
    let disk = block.parent.as_ref().and_then(|parent| tree.blocks.get(parent)).unwrap_or(block);
    if disk.scsi_type == Some(CD_ROM) {
        return Some("a CD-ROM".to_owned());
    }
    if block.size == 0 {
        return Some("it has no medium, or no size".to_owned());
    }
    if block.hidden {
        return Some("a path that the kernel hides behind another device".to_owned());
    }
    if let Some(holder) = disk.holders.iter().filter_map(|holder| tree.blocks.get(holder)).find(|b| is_multipath(b)) {
        return Some(format!("one of the paths of {}", path(&holder.name)));
    }
    let hardware = Hardware::of(tree, block);
    if hardware.vendor.eq_ignore_ascii_case(OWN_VENDOR) {
        return Some("a volume of Ballast".to_owned());
    }
    None
}

fn filtered(tree: &Tree, block: &Block, config: &Config, os: &BTreeSet<String>) -> Option<String> {
    if tree.disks_of(&block.name).iter().any(|disk| os.contains(disk)) {
        return Some("the operating system is on its disk (os-disk-exclude-filter)".to_owned());
    }
    let vendor = Hardware::of(tree, block).vendor;
    if !config.vendors.passes(|entry| entry.eq_ignore_ascii_case(&vendor)) {
        return Some(format!("its vendor is '{vendor}' (vendor-filter)"));
    }
    let path = path(&block.name);
    let lower = path.to_ascii_lowercase();
    if !config.paths.passes(|entry| lower.contains(&entry.to_ascii_lowercase())) {
        return Some(format!("its path is {path} (path-filter)"));
    }
    None
}

/// The whole disks that the listed mount points are on. The kubelet's is found by /etc/hosts, which it mounts into the
/// pod from its own directory: therefore this process's mounts count as well as the node's.
fn os_disks(tree: &Tree, config: &Config) -> BTreeSet<String> {
    if !config.os_disks.enabled {
        return BTreeSet::new();
    }
    let points = &config.os_disks.exclude;
    let mounts = tree.mounts.iter().chain(&tree.own_mounts).filter(|mount| points.contains(&mount.point));
    mounts.filter_map(|mount| tree.of_mount(mount)).flat_map(|block| tree.disks_of(&block.name)).collect()
}
