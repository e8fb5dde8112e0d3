use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::super::fake_server::server;
use super::*;

fn named(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "openebs.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The answer to listing what `path` names.
fn listed(items: &[Value]) -> Option<Value> {
    Some(json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
}

fn volume(name: &str) -> Value {
    let mut volume = named("CStorVolume", name, &json!({"capacity": "1Gi", "replicationFactor": 1}));
    volume["metadata"]["labels"] = json!({
        "openebs.io/persistent-volume-claim": "mongo-pvc-mongo-0", "openebs.io/pvc-namespace": "default"
    });
    volume
}

fn plural(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

#[tokio::test]
async fn data_is_named_and_refused() {
    let (client, calls) = server(|_, path| match plural(path) {
        "cstorvolumes" => listed(&[volume("pvc-1")]),
        "storagepoolclaims" => listed(&[named("StoragePoolClaim", "cstor-pool", &json!({"type": "sparse"}))]),
        "cstorpools" => listed(&[named("CStorPool", "cstor-pool-a1b2", &json!({}))]),
        _ => None,
    });
    let text = check_with(&client, "openebs").await.unwrap_err().to_string();
    for part in [
        "1 CStorVolumes: pvc-1 (claim default/mongo-pvc-mongo-0)",
        "1 StoragePoolClaims: cstor-pool\n",
        "1 CStorPools: cstor-pool-a1b2",
        "helm uninstall --no-hooks",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(calls.of("GET").iter().any(|path| path.contains("/namespaces/openebs/cstorvolumes")));
    clean_with(&client, "openebs").await.unwrap();
    assert_eq!(calls.of("DELETE"), [""; 0]);
}

#[test]
fn a_long_list_is_cut_and_lone_pools_are_explained() {
    let pools = (0..25).map(|number| format!("p{number}")).collect();
    let text = Holders { pools, ..Holders::default() }.refusal();
    assert!(text.contains("25 CStorPools: p0, p1,") && text.contains("p19 and 5 more\n"), "{text}");
    assert!(text.contains("have no StoragePoolClaim") && !text.contains("PersistentVolumeClaims"), "{text}");
}

#[tokio::test]
async fn a_cluster_without_our_kinds_is_free_and_any_other_error_is_not() {
    let (client, _) = server(|_, _| None);
    check_with(&client, "openebs").await.unwrap();
    clean_with(&client, "openebs").await.unwrap();
    // Not a list: whatever the server says here, it is not "nothing there".
    let (client, _) = server(|_, _| Some(json!({"kind": "Nonsense"})));
    let error = check_with(&client, "openebs").await.unwrap_err();
    assert!(matches!(error, UninstallError::Server { .. }), "{error}");
}

#[tokio::test]
async fn what_the_parts_wrote_is_deleted_and_nothing_else() {
    let lease = |name: &str| json!({"metadata": {"name": name, "namespace": "openebs"}, "spec": {}});
    let (client, calls) = server(move |method, path| match (method, plural(path)) {
        ("GET", "blockdevices") => listed(&[named("BlockDevice", "blockdevice-1", &json!({}))]),
        ("GET", "disks") => listed(&[named("Disk", "disk-1", &json!({}))]),
        ("GET", "leases") => listed(&[lease("ballast-operator"), lease("somebody-else")]),
        ("GET", "configmaps") => listed(&[json!({"metadata": {"name": "ballast-peers"}})]),
        ("GET", _) => listed(&[]),
        // One is gone by itself meanwhile.
        ("DELETE", "disk-1") => None,
        _ => Some(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
    });
    clean_with(&client, "openebs").await.unwrap();
    let names: Vec<_> = calls.of("DELETE").iter().map(|path| plural(path).to_owned()).collect();
    assert_eq!(names, ["blockdevice-1", "disk-1", "ballast-peers", "ballast-operator"]);
}

/// A cluster with one device of a deleted pool, which is wiped at the look of this number.
fn device_wiped_at(look: u32) -> (Client, Arc<AtomicU32>) {
    let looks = Arc::new(AtomicU32::new(0));
    let counted = looks.clone();
    let (client, _) = server(move |_, path| {
        if plural(path) != "blockdevices" {
            return listed(&[]);
        }
        let wiped = counted.fetch_add(1, Ordering::Relaxed) + 1 >= look;
        let mut device = named("BlockDevice", "sparse-1", &json!({"nodeAttributes": {"nodeName": "n1"}}));
        let state = if wiped { "Unclaimed" } else { "Released" };
        device["status"] = json!({"claimState": state, "state": "Active", "message": "not wiped: in use by p1"});
        listed(&[device])
    });
    (client, looks)
}

#[tokio::test(start_paused = true)]
async fn devices_that_are_to_be_wiped_are_waited_for() {
    let (client, looks) = device_wiped_at(5);
    check_with(&client, "openebs").await.unwrap();
    assert_eq!(looks.load(Ordering::Relaxed), 5);
    let (client, _) = device_wiped_at(u32::MAX);
    let begun = Instant::now();
    let text = check_with(&client, "openebs").await.unwrap_err().to_string();
    assert!(text.contains("sparse-1 on n1: not wiped: in use by p1") && text.contains("delete blockdevice"), "{text}");
    assert!(begun.elapsed() < WIPED_WITHIN + LOOK * 2);
}
