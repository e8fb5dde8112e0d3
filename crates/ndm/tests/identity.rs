//! One object for one device, whatever happens to it.

#![allow(clippy::unwrap_used)]

mod support;

use ballast_ndm::plan::Scan;
use support::world::{World, message, state};
use support::*;

const N1: &str = "node-1";
const N2: &str = "node-2";

fn with_wwn<'a>(name: &'a str, wwn: &'a str) -> Disk<'a> {
    Disk { attributes: vec![("device/wwid", wwn), ("device/serial", "S1")], ..disk(name, GIB) }
}

const WWN_A: &str = "naa.5000c500a1b2c3d4";
const WWN_B: &str = "naa.5000c500a1b2c3d5";

#[test]
fn rename_at_reboot() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    fake.add(with_wwn("sdb", WWN_B));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let (a, b) = (world.at(N1, "/dev/sda"), world.at(N1, "/dev/sdb"));
    assert_ne!(a, b);
    assert!(a.starts_with("blockdevice-") && a.len() == "blockdevice-".len() + 32, "{a}");
    // The names are swapped.
    fake.remove("sda");
    fake.remove("sdb");
    fake.add(with_wwn("sda", WWN_B));
    fake.add(with_wwn("sdb", WWN_A));
    world.step(N1, fake.on(N1));
    assert_eq!((world.at(N1, "/dev/sda"), world.at(N1, "/dev/sdb")), (b, a));
    assert_eq!(world.objects.devices.len(), 2);
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    fake.add(disk("vdb", GIB));
    fake.put("vdb", 0, b"XFSB");
    let mut world = World::default();
    assert!(!world.step(N1, fake.on(N1)).is_empty());
    for _ in 0..3 {
        assert_eq!(world.step(N1, fake.on(N1)), []);
    }
    let object = world.get(&world.at(N1, "/dev/sda"));
    assert_eq!(object.status.as_ref().unwrap().claim_state, "Unclaimed");
    let labels = object.metadata.labels.clone().unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], "host-node-1");
    assert_eq!(
        (labels["ndm.io/blockdevice-type"].as_str(), labels["ndm.io/managed"].as_str()),
        ("blockdevice", "true")
    );
    let disk = world.objects.disks.values().find(|disk| disk.spec.path == "/dev/sda").unwrap();
    assert_eq!(disk.metadata.labels.as_ref().unwrap()["ndm.io/disk-type"], "disk");
    assert_eq!(disk.status.as_ref().unwrap().state, "Active");
}

/// The claim is the operator's: no write of ours touches it.
#[test]
fn a_claim_stays_through_everything() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let name = world.at(N1, "/dev/sda");
    world.claim(&name, "Claimed");
    let claim = ballast_api::k8s::device::ClaimRef { name: "c".into(), ..Default::default() };
    world.objects.devices.get_mut(&name).unwrap().spec.claim_ref = Some(claim.clone());
    let pool = label(&fake.path("dev/sda"));
    world.step(N1, fake.on(N1));
    fake.remove("sda");
    world.step(N1, fake.on(N1));
    assert_eq!(state(world.get(&name)), "Inactive");
    let status = world.get(&name).status.clone().unwrap();
    assert_eq!((status.claim_state.as_str(), status.pool_id), ("Claimed", Some(pool)));
    assert_eq!(world.get(&name).spec.claim_ref, Some(claim));
    assert_eq!(world.step(N1, fake.on(N1)), []);
}

#[test]
fn a_label_keeps_the_object_of_a_disk_without_serial() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let name = world.at(N1, "/dev/vdb");
    assert!(message(world.get(&name)).contains("recognised by its place"));
    let pool = label(&fake.path("dev/vdb"));
    world.step(N1, fake.on(N1));
    assert_eq!(world.at(N1, "/dev/vdb"), name, "the label changes nothing");
    assert_eq!(message(world.get(&name)), "");
    assert_eq!(world.get(&name).status.as_ref().unwrap().pool_id, Some(pool));
    // Reboot: its place has a blank disk now, and it is somewhere else.
    let bytes = std::fs::read(fake.path("dev/vdb")).unwrap()[..2 << 20].to_vec();
    fake.remove("vdb");
    fake.add(disk("vdb", GIB));
    fake.add(disk("vdc", GIB));
    fake.put("vdc", 0, &bytes);
    world.step(N1, fake.on(N1));
    assert_eq!(world.at(N1, "/dev/vdc"), name);
    assert_ne!(world.at(N1, "/dev/vdb"), name);
    assert_eq!(world.objects.devices.len(), 2);
    assert_eq!(world.step(N1, fake.on(N1)), []);
}

/// A blank disk where a pool's device was is not the pool's device.
#[test]
fn an_exchanged_disk_gets_an_object_of_its_own() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    label(&fake.path("dev/vdb"));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let old = world.at(N1, "/dev/vdb");
    fake.remove("vdb");
    fake.add(disk("vdb", GIB));
    world.step(N1, fake.on(N1));
    assert_ne!(world.at(N1, "/dev/vdb"), old);
    assert_eq!(state(world.get(&old)), "Inactive");
}

#[test]
fn a_disk_that_moves_to_another_node() {
    let (mut one, mut two) = (Fake::new(), Fake::new());
    one.add(with_wwn("sda", WWN_A));
    let mut world = World::default();
    world.step(N1, one.on(N1));
    let name = world.at(N1, "/dev/sda");
    one.remove("sda");
    world.step(N1, one.on(N1));
    assert_eq!(state(world.get(&name)), "Inactive");
    two.add(with_wwn("sdx", WWN_A));
    world.step(N2, two.on(N2));
    assert_eq!(world.at(N2, "/dev/sdx"), name);
    assert_eq!(world.get(&name).metadata.labels.as_ref().unwrap()["kubernetes.io/hostname"], "host-node-2");
    assert_eq!((world.objects.devices.len(), world.objects.disks.len()), (1, 1));
    // The old node has nothing to say about it any more.
    assert_eq!(world.step(N1, one.on(N1)), []);
    assert_eq!(world.stop(N1), []);
}

#[test]
fn two_nodes_with_one_identity_do_not_quarrel() {
    let (mut one, mut two) = (Fake::new(), Fake::new());
    one.add(with_wwn("sda", WWN_A));
    two.add(with_wwn("sdx", WWN_A));
    let mut world = World::default();
    world.step(N1, one.on(N1));
    let name = world.at(N1, "/dev/sda");
    world.step(N2, two.on(N2));
    assert_eq!(world.at(N1, "/dev/sda"), name, "the first one keeps it");
    let other = world.at(N2, "/dev/sdx");
    let text = message(world.get(&other));
    assert!(text.contains("not offered") && text.contains("/dev/sda on node node-1"), "{text}");
    assert_eq!(world.get(&other).spec.filesystem.fs_type, "duplicate");
    for _ in 0..2 {
        assert_eq!(world.step(N1, one.on(N1)), []);
        assert_eq!(world.step(N2, two.on(N2)), []);
    }
    // The first node is gone: the disk was moved, or is shared. Either way it is here now.
    world.gone.insert(N1.to_owned());
    world.step(N2, two.on(N2));
    assert_eq!(world.at(N2, "/dev/sdx"), name);
    assert_eq!(state(world.get(&other)), "Inactive");
}

/// Nodes made from one image have the same partition ids: no reason to refuse anything.
#[test]
fn images_share_partition_ids() {
    let mut world = World::default();
    for node in [N1, N2] {
        let mut fake = Fake::new();
        fake.add(disk("vdb", GIB));
        fake.put("vdb", 512, &[b"EFI PART".as_slice(), &[7; 100]].concat());
        fake.add(Disk { parent: Some(("vdb", 1)), udev: vec![("ID_PART_ENTRY_UUID", "77")], ..disk("vdb1", GIB / 2) });
        world.step(node, fake.on(node));
        assert_eq!(world.step(node, fake.on(node)), []);
    }
    for node in [N1, N2] {
        let text = message(world.get(&world.at(node, "/dev/vdb1"))).to_owned();
        assert!(!text.contains("not offered"), "{node}: {text}");
    }
    assert_eq!(world.objects.devices.len(), 4);
}

/// A node disk manager that restarts has not given anything up, also not to a node that looks just like its own.
#[test]
fn nobody_takes_the_devices_of_a_node_disk_manager_that_restarts() {
    let node = |fake: &mut Fake, name| {
        fake.add(with_wwn(name, WWN_A));
        fake.add(Disk { parent: Some((name, 1)), udev: vec![("ID_PART_ENTRY_UUID", "77")], ..disk("vdb1", GIB / 2) });
        fake.add(disk("vdc", GIB));
        fake.put("vdc", 0, &[b"XFSB".as_slice(), &[7; 100]].concat());
    };
    let (mut one, mut two) = (Fake::new(), Fake::new());
    node(&mut one, "sda");
    node(&mut two, "sda");
    label(&one.path("dev/vdb1"));
    let mut world = World::default();
    world.step(N1, one.on(N1));
    world.step(N2, two.on(N2));
    world.step(N1, one.on(N1));
    let before = world.objects.devices.clone();
    assert_eq!(world.stop(N1).len(), 6);
    assert_eq!(world.step(N2, two.on(N2)), []);
    world.step(N1, one.on(N1));
    let states = |objects: &std::collections::BTreeMap<String, ballast_api::k8s::BlockDevice>| {
        objects.values().map(|object| (object.spec.clone(), object.status.clone())).collect::<Vec<_>>()
    };
    assert_eq!(states(&world.objects.devices), states(&before));
}

#[test]
fn cloned_disks_with_one_name_are_refused_but_told_apart() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    fake.add(with_wwn("sdb", WWN_A));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let (a, b) = (world.at(N1, "/dev/sda"), world.at(N1, "/dev/sdb"));
    assert_ne!(a, b);
    for name in [&a, &b] {
        assert!(message(world.get(name)).contains("same identity"), "{}", message(world.get(name)));
        assert_eq!(world.get(name).spec.filesystem.fs_type, "duplicate");
    }
    assert_eq!(world.step(N1, fake.on(N1)), []);
    // One goes: the other is offered, as the same object.
    fake.remove("sdb");
    world.step(N1, fake.on(N1));
    assert_eq!(world.at(N1, "/dev/sda"), a);
    assert_eq!((message(world.get(&a)), world.get(&a).spec.filesystem.fs_type.as_str()), ("", ""));
}

/// A second path, or a copy, that appears later takes nothing away from the disk that is in use.
#[test]
fn the_device_in_use_stays_what_it_is() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    label(&fake.path("dev/sda"));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let name = world.at(N1, "/dev/sda");
    let bytes = std::fs::read(fake.path("dev/sda")).unwrap()[..2 << 20].to_vec();
    // A second path to it.
    fake.add(with_wwn("sdb", WWN_A));
    fake.put("sdb", 0, &bytes);
    // A copy on a disk with a name of its own.
    fake.add(with_wwn("sdc", WWN_B));
    fake.put("sdc", 0, &bytes);
    world.step(N1, fake.on(N1));
    assert_eq!(world.at(N1, "/dev/sda"), name);
    assert_eq!(message(world.get(&name)), "");
    for path in ["/dev/sdb", "/dev/sdc"] {
        let other = world.get(&world.at(N1, path)).clone();
        assert!(message(&other).contains("/dev/sda"), "{path}: {}", message(&other));
        assert_eq!(other.spec.filesystem.fs_type, "duplicate");
    }
    assert_eq!(world.step(N1, fake.on(N1)), []);
    // The original dies; the copy takes its place.
    fake.remove("sda");
    fake.remove("sdb");
    world.step(N1, fake.on(N1));
    assert_eq!(world.at(N1, "/dev/sdc"), name);
}

/// Two disks that say the same name are told apart by their labels.
#[test]
fn labels_are_better_than_names() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    fake.add(with_wwn("sdb", WWN_A));
    label(&fake.path("dev/sda"));
    label(&fake.path("dev/sdb"));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let (a, b) = (world.at(N1, "/dev/sda"), world.at(N1, "/dev/sdb"));
    assert_ne!(a, b);
    assert_eq!((message(world.get(&a)), message(world.get(&b))), ("", ""));
}

#[test]
fn hot_add_remove_and_what_nobody_may_touch() {
    let mut fake = Fake::new();
    fake.add(with_wwn("sda", WWN_A));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let name = world.at(N1, "/dev/sda");
    fake.add(with_wwn("sdb", WWN_B));
    world.step(N1, fake.on(N1));
    let other = world.at(N1, "/dev/sdb");
    // While something could not be looked at, nothing is missing.
    fake.remove("sda");
    let scan = Scan { devices: fake.on(N1), unsettled: true, ..Scan::default() };
    assert_eq!(world.step_scan(N1, scan), []);
    // An administrator takes the object.
    let labels = world.objects.devices.get_mut(&name).unwrap().metadata.labels.as_mut().unwrap();
    labels.insert("ndm.io/managed".to_owned(), "false".to_owned());
    world.claim(&name, "Released");
    assert_eq!(world.step(N1, fake.on(N1)), []);
    fake.add(with_wwn("sdc", WWN_A));
    label(&fake.path("dev/sdc"));
    assert_eq!(world.step(N1, fake.on(N1)), [], "also no second object for the same disk");
    assert_eq!(world.to_wipe(N1, fake.on(N1)), []);
    let stopped = world.stop(N1);
    assert_eq!(stopped.len(), 2, "{stopped:?}");
    assert_eq!((state(world.get(&name)), state(world.get(&other))), ("Active", "Unknown"));
    // Back again.
    world.step(N1, fake.on(N1));
    assert_eq!(state(world.get(&other)), "Active");
}

#[test]
fn a_device_that_cannot_be_read_keeps_its_object_and_its_pool() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    let pool = label(&fake.path("dev/vdb"));
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let name = world.at(N1, "/dev/vdb");
    let node = fake.path("dev/vdb");
    std::fs::rename(&node, fake.path("dev/away")).unwrap();
    world.step(N1, fake.on(N1));
    assert_eq!(world.at(N1, "/dev/vdb"), name);
    assert!(message(world.get(&name)).contains("cannot be read"));
    assert_eq!(world.get(&name).status.as_ref().unwrap().pool_id, Some(pool));
    assert_eq!(world.step(N1, fake.on(N1)), []);
    std::fs::rename(fake.path("dev/away"), &node).unwrap();
    world.step(N1, fake.on(N1));
    assert_eq!((world.at(N1, "/dev/vdb"), message(world.get(&name))), (name.clone(), ""));
}

#[test]
fn release_and_wipe() {
    let mut fake = Fake::new();
    fake.add(disk("vdb", GIB));
    fake.add(disk("vdc", GIB));
    for name in ["vdb", "vdc"] {
        label(&fake.path(&format!("dev/{name}")));
    }
    let mut world = World::default();
    world.step(N1, fake.on(N1));
    let (b, c) = (world.at(N1, "/dev/vdb"), world.at(N1, "/dev/vdc"));
    world.claim(&b, "Claimed");
    assert_eq!(world.to_wipe(N1, fake.on(N1)), [], "only what was released");
    world.claim(&b, "Released");
    world.claim(&c, "Released");
    // Somebody made a file system on the second one meanwhile.
    fake.put("vdc", 0, &[0; 1 << 20]);
    fake.put("vdc", 0, b"XFSB");
    assert_eq!(world.to_wipe(N1, fake.on(N1)), [("/dev/vdb".to_owned(), true), ("/dev/vdc".to_owned(), false)]);
    world.wipes.trouble.insert(c.clone(), "it holds xfs".to_owned());
    world.step(N1, fake.on(N1));
    assert_eq!(world.get(&b).status.as_ref().unwrap().claim_state, "Released", "not wiped yet");
    assert_eq!(message(world.get(&c)), "not wiped: it holds xfs");

    ballast_pool::wipe(&fake.path("dev/vdb")).unwrap();
    world.step(N1, fake.on(N1));
    assert_eq!(world.get(&b).status.as_ref().unwrap().claim_state, "Released", "blank is not enough: was it wiped?");
    world.wipes.cleaned.insert(b.clone());
    world.step(N1, fake.on(N1));
    let status = world.get(&b).status.clone().unwrap();
    assert_eq!((status.claim_state.as_str(), status.pool_id), ("Unclaimed", None));
    assert_eq!(world.at(N1, "/dev/vdb"), b, "the same object as before");
    assert_eq!(world.get(&c).status.as_ref().unwrap().claim_state, "Released");
    assert_eq!(world.step(N1, fake.on(N1)), []);
}
