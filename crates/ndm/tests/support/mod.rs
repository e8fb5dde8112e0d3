//! A node made of files: /sys, /proc, /dev and /run/udev below a temporary directory.

#![allow(dead_code)]

pub(crate) mod world;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ballast_ndm::config::Config;
use ballast_ndm::content::{self, Content};
use ballast_ndm::device::{Device, Selection, devices, select};
use ballast_ndm::tree::{Roots, Tree};

pub(crate) const GIB: u64 = 1 << 30;

/// The node.
pub(crate) struct Fake {
    pub(crate) dir: tempfile::TempDir,
    next_minor: u32,
}

/// A block device to be made.
#[derive(Clone, Default)]
pub(crate) struct Disk<'a> {
    pub(crate) name: &'a str,
    pub(crate) size: u64,
    /// Attributes below the device's directory: "device/model", "queue/rotational", "ro" ...
    pub(crate) attributes: Vec<(&'a str, &'a str)>,
    pub(crate) slaves: Vec<&'a str>,
    pub(crate) udev: Vec<(&'a str, &'a str)>,
    pub(crate) links: Vec<&'a str>,
    /// The disk of a partition, and its number.
    pub(crate) parent: Option<(&'a str, u32)>,
}

pub(crate) fn disk(name: &str, size: u64) -> Disk<'_> {
    Disk { name, size, ..Disk::default() }
}

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self { dir: tempfile::tempdir().unwrap(), next_minor: 0 };
        for sub in ["sys/class/block", "sys/devices", "proc/1", "proc/sys/kernel", "dev", "udev/data"] {
            fs::create_dir_all(fake.path(sub)).unwrap();
        }
        fake.write("proc/1/mountinfo", "");
        fake.write("proc/swaps", "Filename Type Size Used Priority\n");
        fake.write("proc/sys/kernel/hostname", "node-1\n");
        fake
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots { sys: self.path("sys"), proc: self.path("proc"), dev: self.path("dev"), udev: self.path("udev") }
    }

    /// Makes a device; its /dev node is a sparse file.
    pub(crate) fn add(&mut self, disk: Disk<'_>) {
        self.next_minor += 1;
        let at = match disk.parent {
            Some((parent, _)) => format!("sys/devices/{parent}/{}", disk.name),
            None => format!("sys/devices/{}", disk.name),
        };
        let devno = format!("8:{}", self.next_minor);
        self.write(&format!("{at}/dev"), &devno);
        self.write(&format!("{at}/size"), (disk.size / 512).to_string());
        self.write(&format!("{at}/ro"), "0\n");
        if let Some((_, number)) = disk.parent {
            self.write(&format!("{at}/partition"), number.to_string());
        } else {
            self.write(&format!("{at}/removable"), "0\n");
            self.write(&format!("{at}/queue/logical_block_size"), "512\n");
            self.write(&format!("{at}/queue/physical_block_size"), "4096\n");
        }
        for (name, value) in &disk.attributes {
            self.write(&format!("{at}/{name}"), format!("{value}\n"));
        }
        fs::create_dir_all(self.path(&format!("{at}/holders"))).unwrap();
        for slave in &disk.slaves {
            self.write(&format!("{at}/slaves/{slave}"), "");
            let below = self.path(&format!("sys/class/block/{slave}")).canonicalize().unwrap();
            fs::write(below.join("holders").join(disk.name), "").unwrap();
        }
        symlink(self.path(&at), self.path(&format!("sys/class/block/{}", disk.name))).unwrap();
        let mut udev = String::from("I:1\n");
        disk.links.iter().for_each(|link| udev += &format!("S:{link}\n"));
        disk.udev.iter().for_each(|(key, value)| udev += &format!("E:{key}={value}\n"));
        self.write(&format!("udev/data/b{devno}"), udev);
        let node = self.path(&format!("dev/{}", disk.name));
        fs::File::create(node).unwrap().set_len(disk.size).unwrap();
    }

    /// Takes a device (and its partitions) away.
    pub(crate) fn remove(&self, name: &str) {
        let dir = self.path(&format!("sys/class/block/{name}")).canonicalize().unwrap();
        for part in fs::read_dir(&dir).unwrap() {
            let part = part.unwrap().file_name().into_string().unwrap();
            let _ = fs::remove_file(self.path(&format!("sys/class/block/{part}")));
        }
        fs::remove_dir_all(dir).unwrap();
        fs::remove_file(self.path(&format!("sys/class/block/{name}"))).unwrap();
        fs::remove_file(self.path(&format!("dev/{name}"))).unwrap();
    }

    /// Writes into a device.
    pub(crate) fn put(&self, name: &str, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let node = fs::File::options().write(true).open(self.path(&format!("dev/{name}"))).unwrap();
        node.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn devno(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("sys/class/block/{name}/dev"))).unwrap().trim().to_owned()
    }

    /// Mounts, as (device, mount point, kind of file system).
    pub(crate) fn mount(&self, mounts: &[(&str, &str, &str)]) {
        let line = |(device, point, kind): &(&str, &str, &str)| {
            format!("27 1 {} / {point} rw shared:1 - {kind} /dev/{device} rw\n", self.devno(device))
        };
        self.write("proc/1/mountinfo", mounts.iter().map(line).collect::<String>());
    }

    pub(crate) fn scan(&self) -> (Vec<Device>, Selection) {
        self.scan_with(&Config::default())
    }

    pub(crate) fn scan_with(&self, config: &Config) -> (Vec<Device>, Selection) {
        self.scan_as("node-1", config)
    }

    /// The devices as this node names them.
    pub(crate) fn on(&self, node: &str) -> Vec<Device> {
        self.scan_as(node, &Config::default()).0
    }

    pub(crate) fn scan_as(&self, node: &str, config: &Config) -> (Vec<Device>, Selection) {
        let tree = Tree::read(&self.roots()).unwrap();
        let selection = select(&tree, config, true);
        let read = |name: &String| (name.clone(), content::read(&self.path(&format!("dev/{name}"))));
        let contents: BTreeMap<String, Content> = selection.listed.iter().map(read).collect();
        (devices(node, &tree, &selection, &contents), selection)
    }
}

/// A pool's label on a device; returns the pool's id.
pub(crate) fn label(path: &Path) -> String {
    let devices = vec![ballast_pool::DeviceConfig { path: path.to_owned(), size: None }];
    let config = ballast_pool::PoolConfig { name: "p".into(), devices, ..Default::default() };
    ballast_pool::Pool::create(&config).unwrap().to_string()
}

pub(crate) fn find<'a>(devices: &'a [Device], path: &str) -> &'a Device {
    let paths: Vec<&str> = devices.iter().map(|device| device.path.as_str()).collect();
    devices.iter().find(|device| device.path == path).unwrap_or_else(|| panic!("{path} is not among {paths:?}"))
}

pub(crate) fn paths(devices: &[Device]) -> Vec<&str> {
    devices.iter().map(|device| device.path.as_str()).collect()
}
