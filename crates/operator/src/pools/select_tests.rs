use ballast_api::k8s::claim::{BlockDeviceList, DiskList, StoragePoolClaimSpec};
use ballast_api::k8s::device::{BlockDeviceSpec, BlockDeviceStatus, ClaimRef, DevLink, NodeAttributes};
use ballast_api::k8s::pool::{CStorPoolSpec, CStorPoolStatus, DeviceGroup, PoolDevice, PoolSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

fn device(name: &str, node: &str, sparse: bool) -> BlockDevice {
    let spec = BlockDeviceSpec {
        node_attributes: NodeAttributes { node_name: node.to_owned() },
        path: format!("/dev/{name}"),
        partitioned: String::from("No"),
        ..BlockDeviceSpec::default()
    };
    let mut device = BlockDevice::new(name, spec);
    let kind = if sparse { "sparse" } else { "blockdevice" };
    device.labels_mut().insert(labels::DEVICE_TYPE.to_owned(), kind.to_owned());
    device.labels_mut().insert(labels::HOSTNAME.to_owned(), node.to_owned());
    device.status = Some(BlockDeviceStatus {
        claim_state: String::from("Unclaimed"),
        state: String::from("Active"),
        ..BlockDeviceStatus::default()
    });
    device
}

fn claim(type_: &str, max_pools: Option<i32>) -> StoragePoolClaim {
    let pool_spec = PoolSpec { pool_type: String::from("striped"), ..PoolSpec::default() };
    let spec = StoragePoolClaimSpec { type_: type_.to_owned(), max_pools, pool_spec, ..Default::default() };
    StoragePoolClaim::new("cstor-pool", spec)
}

fn pool(claim: &str, host: &str, devices: &[&str]) -> CStorPool {
    let block_device = devices.iter().map(|name| PoolDevice { name: (*name).to_owned(), ..PoolDevice::default() });
    let group = vec![DeviceGroup { block_device: block_device.collect() }];
    let mut pool = CStorPool::new("p", CStorPoolSpec { group, host_name: host.to_owned(), ..CStorPoolSpec::default() });
    pool.labels_mut().insert(labels::STORAGE_POOL_CLAIM.to_owned(), claim.to_owned());
    pool
}

fn hosts(selection: &Selection) -> Vec<&str> {
    selection.picks.iter().map(|pick| pick.host_name.as_str()).collect()
}

const ALL: &dyn Fn(&str) -> bool = &|_| true;

#[test]
fn one_pool_a_node_up_to_the_limit() {
    let devices: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .flat_map(|node| [device(&format!("{node}1"), node, true), device(&format!("{node}0"), node, true)])
        .chain([device("disk", "e", false)])
        .collect();
    let selection = select(&claim("sparse", None), &devices, &[], ALL).unwrap();
    assert_eq!((hosts(&selection), selection.wanted), (vec!["a", "b", "c"], 3));
    assert_eq!(selection.picks[0].devices.len(), 1);
    assert_eq!(selection.picks[0].devices[0].name, "a0");
    assert!(selection.missing.is_empty());

    // A pool exists on a; its device and its node are passed over. Raising the limit adds pools.
    let pools = [pool("cstor-pool", "a", &["a0"])];
    let selection = select(&claim("sparse", Some(4)), &devices, &pools, ALL).unwrap();
    assert_eq!(hosts(&selection), ["b", "c", "d"]);
    let selection = select(&claim("disk", Some(2)), &devices, &pools, ALL).unwrap();
    assert_eq!(hosts(&selection), ["e"]);
    assert!(selection.missing.is_empty());
    let selection = select(&claim("disk", Some(3)), &devices, &pools, ALL).unwrap();
    assert_eq!((hosts(&selection), selection.missing.len()), (vec!["e"], 1));
}

#[test]
fn another_claims_device_is_never_taken() {
    let devices = [device("a0", "a", true), device("a1", "a", true)];
    let pools = [pool("other", "a", &["a0"])];
    let selection = select(&claim("sparse", Some(1)), &devices, &pools, ALL).unwrap();
    assert_eq!(selection.picks[0].devices[0].name, "a1");
}

#[test]
fn what_carries_something_or_is_away_is_not_taken() {
    let spoil: [fn(&mut BlockDevice); 8] = [
        |d| d.spec.filesystem.fs_type = String::from("ext4"),
        |d| d.spec.partitioned = String::from("Yes"),
        |d| d.spec.claim_ref = Some(ClaimRef::default()),
        |d| d.status.as_mut().unwrap().state = String::from("Inactive"),
        |d| d.status.as_mut().unwrap().claim_state = String::from("Released"),
        |d| d.status.as_mut().unwrap().pool_id = Some(String::from("x")),
        |d| d.status.as_mut().unwrap().message = Some(String::from("mounted")),
        |d| d.status = None,
    ];
    for (number, spoil) in spoil.into_iter().enumerate() {
        let mut bad = device("a0", "a", true);
        spoil(&mut bad);
        let selection = select(&claim("sparse", None), &[bad], &[], ALL).unwrap();
        assert!(selection.picks.is_empty(), "case {number}");
        assert_eq!(selection.missing.len(), 1);
    }
}

#[test]
fn listed_devices_make_one_pool_a_node_with_all_of_them() {
    let mut claim = claim("disk", None);
    claim.spec.block_devices = Some(BlockDeviceList {
        block_device_list: ["blockdevice-2", "blockdevice-1", "blockdevice-9"].map(String::from).to_vec(),
    });
    claim.spec.disks = Some(DiskList { disk_list: vec![String::from("disk-3")] });
    let mut devices: Vec<_> = [("1", "a"), ("2", "a"), ("3", "b"), ("4", "b")]
        .map(|(n, node)| device(&format!("blockdevice-{n}"), node, false))
        .into();
    devices[0].spec.devlinks =
        vec![DevLink { kind: String::from("by-id"), links: vec![String::from("/dev/disk/by-id/x")] }];
    let selection = select(&claim, &devices, &[], ALL).unwrap();
    assert_eq!(hosts(&selection), ["a", "b"]);
    let names: Vec<_> = selection.picks[0].devices.iter().map(|device| (&*device.name, &*device.path)).collect();
    assert_eq!(names, [("blockdevice-1", "/dev/disk/by-id/x"), ("blockdevice-2", "/dev/blockdevice-2")]);
    assert_eq!(selection.missing, ["blockdevice-9: there is no such BlockDevice"]);
}

#[test]
fn nodes_that_cannot_take_a_pool_are_passed_over() {
    let devices = [device("a0", "a", true), device("b0", "b", true)];
    let selection = select(&claim("sparse", Some(2)), &devices, &[], &|host| host == "b").unwrap();
    assert_eq!(hosts(&selection), ["b"]);
    let mut selected = claim("sparse", Some(2));
    selected.spec.node_selector = vec![String::from("a")];
    assert_eq!(hosts(&select(&selected, &devices, &[], ALL).unwrap()), ["a"]);
}

#[test]
fn unsupported_layouts_are_refused() {
    let mut mirrored = claim("disk", None);
    mirrored.spec.pool_spec.pool_type = String::from("mirrored");
    assert_eq!(select(&mirrored, &[], &[], ALL), Err(SelectError::PoolType(String::from("mirrored"))));
    assert_eq!(select(&claim("tape", None), &[], &[], ALL), Err(SelectError::Type(String::from("tape"))));
}

fn listing(devices: &[&str]) -> StoragePoolClaim {
    let mut claim = claim("disk", None);
    let block_device_list = devices.iter().map(|name| (*name).to_owned()).collect();
    claim.spec.block_devices = Some(BlockDeviceList { block_device_list });
    claim
}

/// A healthy pool "p-<host>" of the claim, and what that makes of its devices.
fn healthy(host: &str, names: &[&str], devices: &mut [BlockDevice]) -> CStorPool {
    let mut pool = pool("cstor-pool", host, names);
    pool.metadata.name = Some(format!("p-{host}"));
    pool.status = Some(CStorPoolStatus { phase: String::from("Healthy"), ..CStorPoolStatus::default() });
    for device in devices.iter_mut().filter(|device| names.contains(&device.name_any().as_str())) {
        device.status.as_mut().unwrap().claim_state = String::from("Claimed");
    }
    pool
}

#[test]
fn a_device_that_is_listed_newly_extends_its_nodes_pool() {
    let mut devices = ["a0", "a1", "b0"].map(|name| device(name, &name[..1], false));
    let pools = [healthy("a", &["a0"], &mut devices)];
    let selection = select(&listing(&["a0", "a1", "b0"]), &devices, &pools, ALL).unwrap();
    assert_eq!(hosts(&selection), ["b"]);
    assert_eq!(selection.growths.len(), 1);
    assert_eq!((selection.growths[0].pool.as_str(), selection.growths[0].devices[0].name.as_str()), ("p-a", "a1"));
    assert_eq!((selection.wanted, selection.present, selection.retire), (2, 1, None));
    // Without a list nothing grows.
    let selection = select(&claim("disk", Some(1)), &devices, &pools, ALL).unwrap();
    assert!(!selection.changes(), "{selection:?}");
    // A file cannot join disks, and one that is not free cannot join anything.
    devices[1] = device("a1", "a", true);
    let selection = select(&listing(&["a0", "a1", "b0"]), &devices, &pools, ALL).unwrap();
    assert_eq!(selection.missing, ["a1: files and disks cannot be in one pool"]);
    assert!(selection.growths.is_empty());
    devices[1] = device("a1", "a", false);
    devices[1].spec.filesystem.fs_type = String::from("ext4");
    let selection = select(&listing(&["a0", "a1", "b0"]), &devices, &pools, ALL).unwrap();
    assert_eq!((selection.growths.len(), selection.missing.len()), (0, 1));
}

#[test]
fn a_device_that_is_listed_no_more_is_replaced() {
    let mut devices = ["a0", "a1", "b0"].map(|name| device(name, &name[..1], false));
    let mut pools = vec![healthy("a", &["a0"], &mut devices), healthy("b", &["b0"], &mut devices)];
    // First the successor on the same node is made, then the old one goes.
    let claim = listing(&["a1", "b0"]);
    let selection = select(&claim, &devices, &pools, ALL).unwrap();
    assert_eq!((hosts(&selection), selection.picks[0].devices[0].name.as_str()), (vec!["a"], "a1"));
    assert_eq!((selection.retire, selection.wanted, selection.present), (None, 2, 1));
    let mut successor = healthy("a", &["a1"], &mut devices);
    successor.metadata.name = Some(String::from("p-a2"));
    successor.status = None;
    pools.push(successor);
    assert!(!select(&claim, &devices, &pools, ALL).unwrap().changes(), "the successor does not serve yet");
    let serving = pools[0].status.clone();
    pools[2].status = serving;
    let selection = select(&claim, &devices, &pools, ALL).unwrap();
    assert_eq!((selection.retire.as_deref(), selection.picks.len()), (Some("p-a"), 0));
    // What is not there keeps the old one.
    let selection = select(&listing(&["a1", "b0", "a9"]), &devices, &pools, ALL).unwrap();
    assert_eq!((selection.retire, selection.missing.len()), (None, 1));
    // One that nobody can serve any more is replaced all the same: its own health does not count.
    pools[0].status = None;
    assert_eq!(select(&claim, &devices, &pools, ALL).unwrap().retire.as_deref(), Some("p-a"));
    // One at a time.
    pools[0].metadata.deletion_timestamp = Some(Time::from(jiff::Timestamp::UNIX_EPOCH));
    assert!(!select(&listing(&["a1"]), &devices, &pools, ALL).unwrap().changes());
    pools.remove(0);
    assert_eq!(select(&listing(&["a1"]), &devices, &pools, ALL).unwrap().retire.as_deref(), Some("p-b"));
}

#[test]
fn a_pool_that_loses_one_of_its_devices_is_replaced_as_a_whole() {
    let mut devices = ["a0", "a1", "a2"].map(|name| device(name, "a", false));
    let old = healthy("a", &["a0", "a1"], &mut devices);
    let claim = listing(&["a0", "a2"]);
    let selection = select(&claim, &devices, std::slice::from_ref(&old), ALL).unwrap();
    assert_eq!(selection.picks[0].devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a2"]);
    let mut successor = healthy("a", &["a2"], &mut devices);
    successor.metadata.name = Some(String::from("p-a2"));
    let pools = [old, successor];
    assert_eq!(select(&claim, &devices, &pools, ALL).unwrap().retire.as_deref(), Some("p-a"));
    // The device that stays listed joins the successor when the old pool is gone and it is wiped.
    let selection = select(&claim, &devices, &pools[1..], ALL).unwrap();
    assert_eq!((selection.growths.len(), selection.missing), (0, vec![String::from("a0: it is Claimed")]));
    devices[0].status.as_mut().unwrap().claim_state = String::from("Unclaimed");
    let selection = select(&claim, &devices, &pools[1..], ALL).unwrap();
    assert_eq!((selection.growths[0].pool.as_str(), selection.growths[0].devices[0].name.as_str()), ("p-a2", "a0"));
}

#[test]
fn a_pool_that_is_deleted_by_hand_is_replaced_where_there_is_a_device() {
    let mut devices = ["a0", "a1"].map(|name| device(name, "a", true));
    let mut pools = [healthy("a", &["a0"], &mut devices)];
    assert!(!select(&claim("sparse", Some(1)), &devices, &pools, ALL).unwrap().changes());
    pools[0].metadata.deletion_timestamp = Some(Time::from(jiff::Timestamp::UNIX_EPOCH));
    let selection = select(&claim("sparse", Some(1)), &devices, &pools, ALL).unwrap();
    assert_eq!((hosts(&selection), selection.picks[0].devices[0].name.as_str()), (vec!["a"], "a1"));
    assert_eq!(select(&claim("sparse", Some(1)), &devices, &pools, &|_| false).unwrap().picks, []);
}
