//! By what a device is recognised again.
//!
//! A device has several keys, from the strongest (our own label) to the weakest (its name on this node). Each is a hash, so
//! that all have one length and fit into an object's name. Only labels and world-wide names are looked for on other nodes.

use sha2::{Digest as _, Sha256};

use super::Hardware;
use crate::content::Content;
use crate::tree::{Block, Tree};

/// What a key comes from; the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Ballast's label: pool and index.
    Label,
    /// World-wide name and serial number.
    Wwn,
    /// Serial number, on this node only: virtual machines give the same ones to their disks.
    Serial,
    /// A partition's uuid, or a disk's GUID.
    Partition,
    /// The uuid of a device-mapper or RAID device.
    Mapper,
    /// The uuid of what is on it.
    FileSystem,
    /// Where it is plugged in, on this node.
    Place,
    /// Its name, on this node.
    Name,
}

impl KeyKind {
    /// All, the strongest first.
    pub const ALL: [Self; 8] = [
        Self::Label,
        Self::Wwn,
        Self::Serial,
        Self::Partition,
        Self::Mapper,
        Self::FileSystem,
        Self::Place,
        Self::Name,
    ];

    /// The word for it in an object.
    pub fn word(self) -> &'static str {
        match self {
            Self::Label => "label",
            Self::Wwn => "wwn",
            Self::Serial => "serial",
            Self::Partition => "partition",
            Self::Mapper => "mapper",
            Self::FileSystem => "filesystem",
            Self::Place => "place",
            Self::Name => "name",
        }
    }

    /// Two devices at once with the same key of this kind are one disk on two paths, or a disk and its copy.
    pub fn must_be_unique(self) -> bool {
        matches!(self, Self::Label | Self::Wwn | Self::Serial)
    }

    /// Recognises a device on another node.
    pub fn moves(self) -> bool {
        matches!(self, Self::Label | Self::Wwn)
    }

    /// Only says where a device is, or what is on it for now; not which one it is.
    pub fn is_weak(self) -> bool {
        matches!(self, Self::FileSystem | Self::Place | Self::Name)
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it comes from.
    pub kind: KeyKind,
    /// 32 hexadecimal digits.
    pub hash: String,
}

impl Key {
    /// A key of these parts.
    pub fn new(kind: KeyKind, parts: &[&str]) -> Self {
        let mut all = vec![kind.word()];
        all.extend(parts);
        Self { kind, hash: hash(&all) }
    }

    /// As it stands in an object.
    pub fn text(&self) -> String {
        format!("{}:{}", self.kind.word(), self.hash)
    }

    /// Reads what [`Key::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, hash) = text.split_once(':')?;
        let kind = KeyKind::ALL.into_iter().find(|kind| kind.word() == word)?;
        Some(Self { kind, hash: hash.to_owned() })
    }
}

/// The first 128 bits of SHA-256 over the parts and their lengths (so that "ab","c" and "a","bc" differ).
pub(crate) fn hash(parts: &[&str]) -> String {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part.as_bytes());
    }
    sha.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn keys(node: &str, tree: &Tree, block: &Block, hardware: &Hardware, content: &Content) -> Vec<Key> {
    let mut keys = Vec::new();
    let number = block.partition.map(|n| n.to_string()).unwrap_or_default();
    if let Content::Pool(label) = content {
        keys.push(Key::new(KeyKind::Label, &[&label.pool.to_string(), &label.index.to_string()]));
    }
    let h = hardware;
    if !h.wwn.is_empty() {
        // Of some models it is only good among the disks of one node.
        let scope = if h.is_shared_model() { node } else { "" };
        keys.push(Key::new(KeyKind::Wwn, &[&h.wwn, &h.serial, scope, &number]));
    } else if !h.serial.is_empty() && !h.is_shared_model() {
        keys.push(Key::new(KeyKind::Serial, &[node, &h.vendor, &h.model, &h.serial, &number]));
    }
    let udev = |key: &str| block.udev.as_ref().and_then(|udev| udev.get(key));
    if block.partition.is_some() {
        keys.extend(udev("ID_PART_ENTRY_UUID").map(|uuid| Key::new(KeyKind::Partition, &["entry", uuid])));
    } else if let Content::PartitionTable { uuid: Some(uuid), .. } = content {
        keys.push(Key::new(KeyKind::Partition, &["disk", uuid]));
    }
    let mapper = block.mapper.as_ref().map(|(_, uuid)| uuid.as_str());
    let raid =
        block.raid.as_deref().map(|uuid| if uuid.is_empty() { udev("MD_UUID").unwrap_or_default() } else { uuid });
    if let Some(uuid) = mapper.or(raid).filter(|uuid| !uuid.is_empty()) {
        keys.push(Key::new(KeyKind::Mapper, &[uuid]));
    }
    if let Content::Signature { kind, uuid: Some(uuid) } = content {
        keys.push(Key::new(KeyKind::FileSystem, &[kind, uuid]));
    }
    let disk = block.parent.as_ref().and_then(|parent| tree.blocks.get(parent)).unwrap_or(block);
    let place = disk.udev.as_ref().and_then(|udev| udev.get("ID_PATH")).or(block.backing_file.as_deref());
    keys.extend(place.map(|place| Key::new(KeyKind::Place, &[node, place, &number])));
    keys.push(Key::new(KeyKind::Name, &[node, &block.name]));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for kind in KeyKind::ALL {
            let key = Key::new(kind, &["a", "b"]);
            assert_eq!(key.hash.len(), 32);
            assert_eq!(Key::parse(&key.text()), Some(key));
        }
        assert_eq!(Key::parse("tomorrow:12"), None);
    }

    #[test]
    fn hashes_are_stable_and_tell_parts_apart() {
        // Names of objects in clusters depend on this: it must never change.
        assert_eq!(hash(&["wwn", "5000c500a1b2c3d4", "S1"]), hash(&["wwn", "5000c500a1b2c3d4", "S1"]));
        assert_eq!(Key::new(KeyKind::Name, &["node-1", "sdb"]).hash, "1370989a9d4092c6b3b641b6ae2554a7");
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
