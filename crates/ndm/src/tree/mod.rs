//! What the kernel and udev say about a node's block devices, read into plain values.
//!
//! [`Tree::read`] does all the reading; everything that is decided afterwards is a function of the [`Tree`]. All roots can
//! be moved, so that a pod reads its node's `/proc` and a test reads a tree that it made.

mod mounts;
mod sysfs;
mod udev;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

pub use mounts::{Mount, parse_mountinfo, parse_swaps};
pub use udev::Udev;

/// Where the node's trees are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Usually `/sys`.
    pub sys: PathBuf,
    /// Usually `/proc`; in a pod the node's, for example `/host/proc`.
    pub proc: PathBuf,
    /// Usually `/dev`.
    pub dev: PathBuf,
    /// Usually `/run/udev`.
    pub udev: PathBuf,
}

impl Roots {
    /// Where the device is that everybody else calls `/dev/...`.
    pub fn device(&self, path: &str) -> PathBuf {
        path.strip_prefix("/dev/").map_or_else(|| PathBuf::from(path), |name| self.dev.join(name))
    }
}

/// What can keep the tree from being read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The list of block devices.
    #[error("{path}: {source}. Mount the node's /sys there, or name another place with --sys")]
    Sys {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The node's mounts: without them a mounted disk would look free.
    #[error("{path}: {source}. Mount the node's /proc there, or name another place with --proc")]
    Proc {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// One block device as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The kernel's name: "sda", "nvme0n1p2", "dm-3".
    pub name: String,
    /// Major and minor number.
    pub devno: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// The kernel refuses writes.
    pub read_only: bool,
    /// Its medium, or all of it, can be pulled.
    pub removable: bool,
    /// A path that only the kernel uses (NVMe multipath).
    pub hidden: bool,
    /// Number of the partition, when it is one.
    pub partition: Option<u32>,
    /// The disk of a partition.
    pub parent: Option<String>,
    /// Devices that are built on it.
    pub holders: Vec<String>,
    /// Devices that it is built on.
    pub slaves: Vec<String>,
    /// Spinning; `None` when the kernel does not say.
    pub rotational: Option<bool>,
    /// Bytes of a logical sector.
    pub logical_sector: u32,
    /// Bytes of a physical sector.
    pub physical_sector: u32,
    /// Bytes of a hardware sector.
    pub hardware_sector: u32,
    /// Name and uuid of a device-mapper device.
    pub mapper: Option<(String, String)>,
    /// It is a software RAID, with this uuid when the kernel tells it.
    pub raid: Option<String>,
    /// The file behind a loop device.
    pub backing_file: Option<String>,
    /// Who made it.
    pub vendor: String,
    /// Model.
    pub model: String,
    /// Serial number.
    pub serial: String,
    /// World-wide name as the kernel writes it: "naa.5000...", "eui.0025...".
    pub wwid: String,
    /// Firmware.
    pub revision: String,
    /// SCSI peripheral device type (SPC-4 table 138: 0 is a disk, 5 a CD-ROM).
    pub scsi_type: Option<u32>,
    /// What udev knows of it.
    pub udev: Option<Udev>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Devices by name.
    pub blocks: BTreeMap<String, Block>,
    /// The node's mounts.
    pub mounts: Vec<Mount>,
    /// The mounts that this process sees; in a pod they tell which disk the kubelet is on.
    pub own_mounts: Vec<Mount>,
    /// Devices and files that are swap space.
    pub swaps: Vec<String>,
    /// Whether udev runs on the node.
    pub has_udev: bool,
}

impl Tree {
    /// Reads it.
    pub fn read(roots: &Roots) -> Result<Self, TreeError> {
        let has_udev = roots.udev.join("data").is_dir();
        let mut blocks = sysfs::read(&roots.sys)?;
        for block in blocks.values_mut() {
            block.udev = udev::read(&roots.udev, block.devno);
        }
        let proc = |name: &str| {
            let path = roots.proc.join(name);
            std::fs::read_to_string(&path).map_err(|source| TreeError::Proc { path, source })
        };
        let mounts = parse_mountinfo(&proc("1/mountinfo")?);
        // These two may be missing: no swap in this kernel; a test's tree.
        let own_mounts = proc("self/mountinfo").map(|text| parse_mountinfo(&text)).unwrap_or_default();
        let swaps = proc("swaps").map(|text| parse_swaps(&text)).unwrap_or_default();
        Ok(Self { blocks, mounts, own_mounts, swaps, has_udev })
    }

    /// The partitions of a disk, in order.
    pub fn partitions<'a>(&'a self, disk: &'a str) -> impl Iterator<Item = &'a Block> {
        self.blocks.values().filter(move |block| block.parent.as_deref() == Some(disk))
    }

    /// The device behind a path such as `/dev/sda1`, `/dev/mapper/vg-root` or `/dev/disk/by-uuid/...`.
    pub fn by_path(&self, path: &str) -> Option<&Block> {
        let name = path.strip_prefix("/dev/")?;
        // The kernel writes '!' in names where /dev has a directory: cciss!c0d0.
        self.blocks.get(&name.replace('/', "!")).or_else(|| {
            self.blocks.values().find(|block| {
                let mapped = block.mapper.as_ref().map(|(mapper, _)| mapper.as_str());
                mapped.is_some_and(|mapper| name.strip_prefix("mapper/") == Some(mapper))
                    || block.udev.as_ref().is_some_and(|udev| udev.links.iter().any(|link| link == path))
            })
        })
    }

    /// The device of a mount: by number; by the source's name where the file system has numbers of its own (btrfs).
    pub fn of_mount(&self, mount: &Mount) -> Option<&Block> {
        let by_number = || self.blocks.values().find(|block| block.devno == mount.devno);
        (mount.devno.0 != 0).then(by_number).flatten().or_else(|| self.by_path(&mount.source))
    }

    /// The whole disks that a device lives on: through partitions, device-mapper and RAID.
    pub fn disks_of(&self, name: &str) -> BTreeSet<String> {
        let (mut disks, mut seen, mut open) = (BTreeSet::new(), BTreeSet::new(), vec![name.to_owned()]);
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let Some(block) = self.blocks.get(&name) else { continue };
            match &block.parent {
                Some(parent) => open.push(parent.clone()),
                None if block.slaves.is_empty() => {
                    disks.insert(name);
                }
                None => open.extend(block.slaves.iter().cloned()),
            }
        }
        disks
    }
}
