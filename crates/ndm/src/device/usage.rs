//! Whether a device is in use, and by what.

use super::path;
use crate::content::Content;
use crate::tree::{Block, Tree};

/// Why a pool may not have a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word, which stands in `spec.filesystem.fsType` when nothing better does.
    pub word: &'static str,
    /// For people: what is, and what to do.
    pub message: String,
}

/// How a device is used.
#[derive(Debug, Default)]
pub(super) struct Usage {
    pub(super) fs_type: String,
    pub(super) mount_point: String,
    pub(super) partitioned: bool,
    pub(super) refusal: Option<Refusal>,
}

/// Types of partitions that belong to firmware or to the partition table itself, though they may be empty (UEFI section 5.3.3;
/// the numbers are those of DOS tables).
const RESERVED: [&str; 8] = [
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "21686148-6449-6e6f-744e-656564454649",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b",
    "0x5",
    "0xf",
    "0x85",
    "0xef",
];

const PARTITIONED: &str = "it has a partition table; its free partitions are listed. To use the whole disk: wipefs -a";

pub(super) fn usage(tree: &Tree, block: &Block, content: &Content) -> Usage {
    let mut usage = Usage::default();
    let mount = tree.mounts.iter().find(|mount| tree.of_mount(mount).is_some_and(|found| found.name == block.name));
    match content {
        Content::Signature { kind, .. } => usage.fs_type = (*kind).to_owned(),
        Content::Unknown => usage.fs_type = "unknown".to_owned(),
        _ => {}
    }
    if let Some(mount) = mount {
        usage.fs_type.clone_from(&mount.fs_type);
        usage.mount_point.clone_from(&mount.point);
    }
    let table = matches!(content, Content::PartitionTable { .. });
    usage.partitioned = table || tree.partitions(&block.name).next().is_some();
    usage.refusal = refusal(tree, block, content, &usage);
    // The operator takes what has neither; so what is refused has one of them.
    if let Some(refusal) = &usage.refusal
        && usage.fs_type.is_empty()
        && !usage.partitioned
    {
        usage.fs_type = refusal.word.to_owned();
    }
    usage
}

fn refusal(tree: &Tree, block: &Block, content: &Content, usage: &Usage) -> Option<Refusal> {
    let refuse = |word: &'static str, message: String| Some(Refusal { word, message });
    if !usage.mount_point.is_empty() {
        return refuse("mounted", format!("in use: mounted at {}", usage.mount_point));
    }
    let swap = |entry: &String| tree.by_path(entry).is_some_and(|found| found.name == block.name);
    if tree.swaps.iter().any(swap) {
        return refuse("swap", "in use: swap space".to_owned());
    }
    if !block.holders.is_empty() {
        let holders: Vec<String> = block.holders.iter().map(|name| path(name)).collect();
        return refuse("in_use", format!("in use by {}", holders.join(", ")));
    }
    if block.read_only {
        return refuse("read_only", "it cannot be written".to_owned());
    }
    if block.removable {
        return refuse("removable", "its medium is removable".to_owned());
    }
    if usage.partitioned {
        return refuse("partitioned", PARTITIONED.to_owned());
    }
    let entry = block.udev.as_ref().and_then(|udev| udev.get("ID_PART_ENTRY_TYPE"));
    if entry.is_some_and(|entry| RESERVED.contains(&entry.to_ascii_lowercase().as_str())) {
        return refuse("reserved", "its partition type says that it belongs to the firmware or the table".to_owned());
    }
    content_refusal(content)
}

/// Why a pool may not have what holds this.
pub(crate) fn content_refusal(content: &Content) -> Option<Refusal> {
    let refuse = |word: &'static str, message: String| Some(Refusal { word, message });
    match content {
        Content::Blank | Content::Pool(_) => None,
        Content::PoolOfOtherVersion(version) => {
            refuse("ballast", format!("it carries a pool's label of format version {version}, which is not ours"))
        }
        Content::Signature { kind, .. } => {
            refuse("in_use", format!("it holds {kind}. If nobody needs that: wipefs -a, then it is offered"))
        }
        Content::PartitionTable { .. } => refuse("partitioned", PARTITIONED.to_owned()),
        Content::Unknown => refuse(
            "unknown",
            "its first MiB holds bytes that we do not know. If nobody needs them: zero that MiB, then it is offered"
                .to_owned(),
        ),
        Content::Unreadable(why) => refuse("unreadable", format!("it cannot be read: {why}")),
    }
}
