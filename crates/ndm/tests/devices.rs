//! Trees of nodes as they are met, and the devices that come out.

#![allow(clippy::unwrap_used)]

mod support;

use ballast_ndm::config::Config;
use ballast_ndm::device::KeyKind;
use support::*;

fn reason(fake: &Fake, path: &str) -> String {
    let (devices, _) = fake.scan();
    find(&devices, path).refusal.clone().map(|refusal| refusal.message).unwrap_or_default()
}

#[test]
fn a_sata_disk() {
    let mut fake = Fake::new();
    fake.add(Disk {
        attributes: vec![
            ("queue/rotational", "1"),
            ("device/vendor", "ATA     "),
            ("device/model", "ST4000NM0033"),
            ("device/rev", "SN06"),
            ("device/wwid", "naa.5000c500a1b2c3d4"),
            ("device/type", "0"),
        ],
        udev: vec![("ID_SERIAL_SHORT", "Z1Z0ABCD"), ("ID_WWN", "0x5000c500a1b2c3d4"), ("ID_MODEL", "ST4000NM0033")],
        links: vec!["disk/by-id/wwn-0x5000c500a1b2c3d4", "disk/by-path/pci-0000:00:1f.2-ata-1", "disk/by-diskseq/3"],
        ..disk("sda", 4 * GIB)
    });
    let (devices, _) = fake.scan();
    let sda = find(&devices, "/dev/sda");
    assert_eq!((sda.kind, sda.drive_type, sda.size), ("disk", "HDD", 4 * GIB));
    assert_eq!((sda.logical_sector, sda.physical_sector), (512, 4096));
    let h = &sda.hardware;
    assert_eq!((h.vendor.as_str(), h.model.as_str(), h.serial.as_str()), ("ATA", "ST4000NM0033", "Z1Z0ABCD"));
    assert_eq!((h.wwn.as_str(), h.firmware.as_str()), ("5000c500a1b2c3d4", "SN06"));
    assert_eq!(sda.by_id, ["/dev/disk/by-id/wwn-0x5000c500a1b2c3d4"]);
    assert_eq!(sda.by_path, ["/dev/disk/by-path/pci-0000:00:1f.2-ata-1"]);
    assert!(sda.blank && sda.refusal.is_none() && sda.fs_type.is_empty() && !sda.partitioned);
    assert_eq!(sda.keys[0].kind, KeyKind::Wwn);
}

#[test]
fn nvme_with_partitions() {
    let mut fake = Fake::new();
    fake.add(Disk {
        attributes: vec![("queue/rotational", "0"), ("wwid", "eui.0025385b71b0a1c2"), ("device/serial", "S4EV  ")],
        ..disk("nvme0n1", 4 * GIB)
    });
    fake.add(Disk {
        parent: Some(("nvme0n1", 1)),
        udev: vec![("ID_PART_ENTRY_UUID", "1111"), ("ID_PART_ENTRY_TYPE", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b")],
        ..disk("nvme0n1p1", GIB)
    });
    fake.add(Disk {
        parent: Some(("nvme0n1", 2)),
        udev: vec![("ID_PART_ENTRY_UUID", "2222"), ("ID_PART_ENTRY_TYPE", "0fc63daf-8483-4772-8e79-3d69d8477de4")],
        ..disk("nvme0n1p2", 2 * GIB)
    });
    let (devices, _) = fake.scan();
    let whole = find(&devices, "/dev/nvme0n1");
    assert!(whole.partitioned && !whole.blank);
    assert!(whole.refusal.as_ref().is_some_and(|refusal| refusal.message.contains("partition table")));
    let reserved = find(&devices, "/dev/nvme0n1p1");
    assert!(reserved.refusal.is_some() && !reserved.fs_type.is_empty());
    let free = find(&devices, "/dev/nvme0n1p2");
    assert_eq!((free.kind, free.parent.as_deref(), free.drive_type), ("partition", Some("/dev/nvme0n1"), "SSD"));
    assert!(free.refusal.is_none() && free.fs_type.is_empty());
    assert_eq!(free.hardware.serial, "S4EV");
    // Each has keys of its own.
    let kinds: Vec<KeyKind> = free.keys.iter().map(|key| key.kind).collect();
    assert_eq!(kinds, [KeyKind::Wwn, KeyKind::Partition, KeyKind::Name]);
    assert!(free.keys.iter().all(|key| !whole.keys.contains(key) && !reserved.keys.contains(key)));
}

#[test]
fn virtio_without_serial_is_known_by_its_place() {
    let mut fake = Fake::new();
    let vdb = Disk {
        attributes: vec![("device/vendor", "0x1af4")],
        udev: vec![("ID_PATH", "pci-0000:00:05.0")],
        ..disk("vdb", GIB)
    };
    fake.add(vdb.clone());
    let (devices, _) = fake.scan();
    let kinds = |devices: &[_], path: &str| find(devices, path).keys.iter().map(|key| key.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&devices, "/dev/vdb"), [KeyKind::Place, KeyKind::Name]);
    assert_eq!(find(&devices, "/dev/vdb").hardware.vendor, "", "a PCI number is no name");
    let place = find(&devices, "/dev/vdb").keys[0].clone();
    // The same slot under another name.
    fake.remove("vdb");
    fake.add(Disk { name: "vdc", ..vdb });
    let (devices, _) = fake.scan();
    assert_eq!(find(&devices, "/dev/vdc").keys[0], place);
    // A label is better.
    let pool = label(&fake.path("dev/vdc"));
    let (devices, _) = fake.scan();
    let vdc = find(&devices, "/dev/vdc");
    assert_eq!(vdc.keys[0].kind, KeyKind::Label);
    assert_eq!(vdc.label.as_ref().map(|label| label.pool.to_string()), Some(pool));
    assert!(vdc.refusal.is_none() && vdc.fs_type.is_empty() && !vdc.blank);
}

#[test]
fn models_that_share_their_serials() {
    let mut fake = Fake::new();
    let attributes = vec![("device/model", "Virtual_disk"), ("device/wwid", "naa.6000c29000000001")];
    fake.add(Disk { attributes: attributes.clone(), ..disk("sdb", GIB) });
    fake.add(Disk { attributes: vec![("device/model", "EphemeralDisk"), ("serial", "1")], ..disk("sdc", GIB) });
    let (devices, _) = fake.scan();
    let kinds: Vec<KeyKind> = find(&devices, "/dev/sdc").keys.iter().map(|key| key.kind).collect();
    assert_eq!(kinds, [KeyKind::Name]);
    // The name counts on this node only: elsewhere the same disk has another key.
    let tree = ballast_ndm::tree::Tree::read(&fake.roots()).unwrap();
    let selection = ballast_ndm::device::select(&tree, &Config::default(), true);
    let elsewhere = ballast_ndm::device::devices("node-2", &tree, &selection, &Default::default());
    assert_eq!(find(&elsewhere, "/dev/sdb").keys[0].kind, KeyKind::Wwn);
    assert_ne!(find(&elsewhere, "/dev/sdb").keys[0], find(&devices, "/dev/sdb").keys[0]);
}

#[test]
fn lvm_on_dm_crypt_on_a_disk() {
    let mut fake = Fake::new();
    fake.add(disk("sdb", 4 * GIB));
    fake.put("sdb", 0, b"LUKS\xba\xbe");
    let crypt = vec![("dm/name", "secret"), ("dm/uuid", "CRYPT-LUKS2-0011-secret")];
    fake.add(Disk { attributes: crypt, slaves: vec!["sdb"], ..disk("dm-0", 4 * GIB) });
    fake.put("dm-0", 512, b"LABELONE");
    let volume = vec![("dm/name", "vg-data"), ("dm/uuid", "LVM-abcdef")];
    fake.add(Disk { attributes: volume, slaves: vec!["dm-0"], ..disk("dm-1", GIB) });
    fake.mount(&[("dm-1", "/data", "xfs")]);

    // By default only the disk is listed.
    let (devices, selection) = fake.scan();
    assert_eq!(paths(&devices), ["/dev/sdb"]);
    assert!(selection.left_out["dm-0"].contains("path-filter"));
    assert_eq!(find(&devices, "/dev/sdb").fs_type, "crypto_LUKS");
    assert!(reason(&fake, "/dev/sdb").contains("/dev/dm-0"));

    let mut config = Config::default();
    config.paths.exclude = vec!["loop".to_owned()];
    let (devices, _) = fake.scan_with(&config);
    assert_eq!(find(&devices, "/dev/dm-0").kind, "crypt");
    let volume = find(&devices, "/dev/dm-1");
    assert_eq!((volume.kind, volume.fs_type.as_str(), volume.mount_point.as_str()), ("lvm", "xfs", "/data"));
    assert_eq!(volume.keys[0].kind, KeyKind::Mapper);

    // The root file system on it takes the whole stack away, also when it is named by the mapper's name only.
    fake.write("proc/1/mountinfo", "27 1 0:40 / / rw - btrfs /dev/mapper/vg-data rw\n");
    let (devices, selection) = fake.scan_with(&config);
    assert!(devices.is_empty(), "{:?}", paths(&devices));
    assert!(selection.left_out["sdb"].contains("operating system"));
}

#[test]
fn raid_and_the_operating_system() {
    let mut fake = Fake::new();
    for name in ["sda", "sdb", "sdc"] {
        fake.add(disk(name, 4 * GIB));
    }
    for (part, parent) in [("sda1", "sda"), ("sdb1", "sdb")] {
        fake.add(Disk { parent: Some((parent, 1)), ..disk(part, 2 * GIB) });
        fake.put(part, 4096, &[0xfc, 0x4e, 0x2b, 0xa9]);
    }
    fake.add(Disk { parent: Some(("sda", 2)), ..disk("sda2", GIB) });
    let raid = vec![("md/uuid", "0123"), ("md/level", "raid1")];
    fake.add(Disk { attributes: raid, slaves: vec!["sda1", "sdb1"], ..disk("md0", 2 * GIB) });
    fake.mount(&[("md0", "/boot", "ext4")]);
    // Both disks of the mirror, with all their partitions, and the mirror itself.
    let (devices, _) = fake.scan();
    assert_eq!(paths(&devices), ["/dev/sdc"]);
    // Without that filter they are listed, and in use.
    let mut config = Config::default();
    config.os_disks.enabled = false;
    config.paths.enabled = false;
    let (devices, _) = fake.scan_with(&config);
    assert_eq!(find(&devices, "/dev/md0").kind, "raid");
    assert_eq!(find(&devices, "/dev/md0").mount_point, "/boot");
    assert_eq!(find(&devices, "/dev/sda1").fs_type, "linux_raid_member");
    assert!(find(&devices, "/dev/sda1").refusal.as_ref().is_some_and(|r| r.message.contains("/dev/md0")));
    assert!(find(&devices, "/dev/sda2").refusal.is_none());
}

/// In a pod, /etc/hosts is mounted from the kubelet's directory.
#[test]
fn the_kubelets_disk_is_found_by_etc_hosts() {
    let mut fake = Fake::new();
    fake.add(disk("sdb", GIB));
    fake.add(disk("sdc", GIB));
    let line = format!("27 1 {} /kubelet/hosts /etc/hosts rw - ext4 /dev/sdb rw\n", fake.devno("sdb"));
    fake.write("proc/self/mountinfo", line);
    let (devices, _) = fake.scan();
    assert_eq!(paths(&devices), ["/dev/sdc"]);
}

#[test]
fn multipath_is_one_device() {
    let mut fake = Fake::new();
    let path = |name| Disk { attributes: vec![("device/wwid", "naa.600a098038303053")], ..disk(name, 4 * GIB) };
    fake.add(path("sdb"));
    fake.add(path("sdc"));
    let mpath = vec![("dm/name", "mpatha"), ("dm/uuid", "mpath-3600a098038303053")];
    fake.add(Disk { attributes: mpath, slaves: vec!["sdb", "sdc"], ..disk("dm-0", 4 * GIB) });
    let mut config = Config::default();
    config.paths.exclude.clear();
    let (devices, selection) = fake.scan_with(&config);
    assert_eq!(paths(&devices), ["/dev/dm-0"]);
    assert_eq!((devices[0].kind, devices[0].refusal.is_none()), ("mpath", true));
    assert!(selection.left_out["sdb"].contains("/dev/dm-0"));
}

#[test]
fn what_is_never_listed() {
    let mut fake = Fake::new();
    for name in ["zram0", "ram3", "fd0", "sr0"] {
        fake.add(disk(name, GIB));
    }
    fake.add(disk("sdb", 0));
    fake.add(Disk { attributes: vec![("hidden", "1")], ..disk("nvme0c0n1", GIB) });
    fake.add(Disk { attributes: vec![("device/type", "5")], ..disk("sdc", GIB) });
    fake.add(Disk { attributes: vec![("device/vendor", "BALLAST")], ..disk("sdd", GIB) });
    fake.add(Disk { attributes: vec![("device/vendor", "OpenEBS")], ..disk("sde", GIB) });
    fake.add(Disk { attributes: vec![("loop/backing_file", "/x")], ..disk("loop0", GIB) });
    fake.add(disk("zd0", GIB));
    let mut config = Config::default();
    let (devices, selection) = fake.scan_with(&config);
    assert_eq!(paths(&devices), [""; 0]);
    assert_eq!(selection.left_out.len(), 11);
    // Settings change nothing about most of them.
    config.vendors.enabled = false;
    config.paths.enabled = false;
    assert_eq!(paths(&fake.scan_with(&config).0), ["/dev/loop0", "/dev/sde", "/dev/zd0"]);
}

#[test]
fn what_is_listed_but_not_offered() {
    let mut fake = Fake::new();
    fake.add(Disk { attributes: vec![("ro", "1")], ..disk("sdb", GIB) });
    fake.add(Disk { attributes: vec![("removable", "1")], ..disk("sdc", GIB) });
    for name in ["sdd", "sde", "sdf", "sdg", "sdh"] {
        fake.add(disk(name, GIB));
    }
    fake.put("sdd", 0, b"XFSB");
    fake.put("sde", 4096 - 10, b"SWAPSPACE2");
    fake.put("sdf", 500_000, b"whatever");
    std::fs::remove_file(fake.path("dev/sdg")).unwrap();
    fake.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sde partition 1 0 -2\n");
    fake.mount(&[("sdh", "/mnt/h", "ext4")]);
    let (devices, _) = fake.scan();
    let expected = [
        ("sdb", "read_only", "cannot be written"),
        ("sdc", "removable", "removable"),
        ("sdd", "xfs", "wipefs"),
        ("sde", "swap", "in use: swap"),
        ("sdf", "unknown", "first MiB"),
        ("sdg", "unreadable", "cannot be read"),
        ("sdh", "ext4", "mounted at /mnt/h"),
    ];
    for (name, fs_type, message) in expected {
        let device = find(&devices, &format!("/dev/{name}"));
        assert_eq!(device.fs_type, fs_type, "{name}");
        assert!(device.refusal.as_ref().is_some_and(|refusal| refusal.message.contains(message)), "{device:?}");
    }
}

#[test]
fn a_device_waits_for_udev_where_udev_runs() {
    let mut fake = Fake::new();
    fake.add(disk("sdb", GIB));
    let database = fake.path(&format!("udev/data/b{}", fake.devno("sdb")));
    std::fs::remove_file(database).unwrap();
    let (devices, selection) = fake.scan();
    assert!(devices.is_empty());
    assert_eq!(selection.unsettled, ["sdb"]);
    // Without udev nobody waits.
    std::fs::remove_dir(fake.path("udev/data")).unwrap();
    assert_eq!(paths(&fake.scan().0), ["/dev/sdb"]);
}

#[test]
fn filters_of_the_settings() {
    let mut fake = Fake::new();
    fake.add(Disk { attributes: vec![("device/vendor", "ATA")], ..disk("sdb", GIB) });
    fake.add(Disk { attributes: vec![("device/vendor", "DELL")], ..disk("sdc", GIB) });
    fake.add(disk("nvme0n1", GIB));
    let with = |text: &str| {
        let (devices, _) = fake.scan_with(&Config::parse(&format!("filterconfigs:\n{text}")).unwrap());
        paths(&devices).iter().map(|path| (*path).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(with("- {key: path-filter, state: true, include: nvme}"), ["/dev/nvme0n1"]);
    assert_eq!(with("- {key: path-filter, state: true, include: '/dev/sd', exclude: '/dev/SDC'}"), ["/dev/sdb"]);
    assert_eq!(with("- {key: vendor-filter, state: true, include: 'dell,ibm'}"), ["/dev/sdc"]);
    assert_eq!(with("- {key: vendor-filter, state: true, exclude: dell}"), ["/dev/nvme0n1", "/dev/sdb"]);
    // A vendor is a whole word.
    assert_eq!(with("- {key: vendor-filter, state: true, exclude: DEL}").len(), 3);
}

#[test]
fn trees_that_are_missing_are_an_error_not_an_empty_node() {
    let fake = Fake::new();
    std::fs::remove_file(fake.path("proc/1/mountinfo")).unwrap();
    let error = ballast_ndm::tree::Tree::read(&fake.roots()).unwrap_err().to_string();
    assert!(error.contains("--proc"), "{error}");
    std::fs::remove_dir_all(fake.path("sys")).unwrap();
    let error = ballast_ndm::tree::Tree::read(&fake.roots()).unwrap_err().to_string();
    assert!(error.contains("--sys"), "{error}");
}
