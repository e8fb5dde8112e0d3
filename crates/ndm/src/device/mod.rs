//! From the tree and the contents to the list of devices that are reported. Plain functions.

mod hardware;
mod keys;
mod select;
mod usage;

use std::collections::BTreeMap;

use ballast_pool::DeviceLabel;

use crate::content::Content;
use crate::tree::{Block, Tree};

pub use hardware::Hardware;
pub(crate) use keys::hash;
pub use keys::{Key, KeyKind};
pub use select::{Selection, select};
pub use usage::Refusal;
pub(crate) use usage::content_refusal;

/// A device of this node that is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// "disk", "partition", "sparse", "loop", "lvm", "crypt", "mpath", "raid", "dm".
    pub kind: &'static str,
    /// `/dev/NAME`, or the path of a sparse file.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical sector.
    pub logical_sector: u32,
    /// Bytes of a physical sector.
    pub physical_sector: u32,
    /// Bytes of a hardware sector.
    pub hardware_sector: u32,
    /// "HDD", "SSD" or "".
    pub drive_type: &'static str,
    /// What it says of itself.
    pub hardware: Hardware,
    /// Links `/dev/disk/by-id/...`.
    pub by_id: Vec<String>,
    /// Links `/dev/disk/by-path/...`.
    pub by_path: Vec<String>,
    /// File system, or whatever else is on it; empty when it is free.
    pub fs_type: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Whether it has partitions.
    pub partitioned: bool,
    /// The disk, of a partition.
    pub parent: Option<String>,
    /// The pool's label that it carries.
    pub label: Option<DeviceLabel>,
    /// Nothing at all is on it.
    pub blank: bool,
    /// It could be read; else nobody knows whether it has a label.
    pub readable: bool,
    /// Why a pool may not have it.
    pub refusal: Option<Refusal>,
    /// By what it is recognised, the best first; none for a sparse file, which is its path.
    pub keys: Vec<Key>,
}

/// The devices of the node. `contents` has what was read from each of the [`select`]ed ones.
pub fn devices(node: &str, tree: &Tree, selection: &Selection, contents: &BTreeMap<String, Content>) -> Vec<Device> {
    let unread = Content::Unreadable(String::from("it was not read"));
    let listed = selection.listed.iter().filter_map(|name| tree.blocks.get(name));
    listed.map(|block| device(node, tree, block, contents.get(&block.name).unwrap_or(&unread))).collect()
}

fn device(node: &str, tree: &Tree, block: &Block, content: &Content) -> Device {
    let hardware = Hardware::of(tree, block);
    let usage = usage::usage(tree, block, content);
    let links = |class: &str| -> Vec<String> {
        let prefix = format!("/dev/disk/{class}/");
        let links = block.udev.iter().flat_map(|udev| &udev.links);
        links.filter(|link| link.starts_with(&prefix)).cloned().collect()
    };
    let label = match content {
        Content::Pool(label) => Some(label.clone()),
        _ => None,
    };
    let kind = kind(block);
    Device {
        kind,
        path: path(&block.name),
        size: block.size,
        logical_sector: block.logical_sector,
        physical_sector: block.physical_sector,
        hardware_sector: block.hardware_sector,
        drive_type: match block.rotational {
            Some(true) => "HDD",
            Some(false) => "SSD",
            None => "",
        },
        by_id: links("by-id"),
        by_path: links("by-path"),
        fs_type: usage.fs_type,
        mount_point: usage.mount_point,
        partitioned: usage.partitioned,
        parent: block.parent.as_deref().map(path),
        blank: *content == Content::Blank && !usage.partitioned,
        readable: !matches!(content, Content::Unreadable(_)),
        keys: keys::keys(node, tree, block, &hardware, content),
        refusal: usage.refusal,
        hardware,
        label,
    }
}

/// The path in /dev; the kernel writes '!' where that has a directory.
pub(crate) fn path(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

fn kind(block: &Block) -> &'static str {
    let mapper = block.mapper.as_ref().map(|(_, uuid)| uuid.as_str());
    match mapper {
        _ if block.partition.is_some() => "partition",
        _ if block.raid.is_some() => "raid",
        _ if block.name.starts_with("loop") => "loop",
        Some(uuid) if uuid.starts_with("LVM-") => "lvm",
        Some(uuid) if uuid.starts_with("CRYPT-") => "crypt",
        Some(uuid) if uuid.starts_with("mpath-") => "mpath",
        Some(_) => "dm",
        None => "disk",
    }
}

/// Whether a device-mapper device joins several paths to one disk.
fn is_multipath(block: &Block) -> bool {
    block.mapper.as_ref().is_some_and(|(_, uuid)| uuid.starts_with("mpath-"))
}
