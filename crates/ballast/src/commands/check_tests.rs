use serde_json::{Value, json};

use super::super::fake_server::server;
use super::*;

const NOW: &str = "2026-01-01T00:01:00Z";

fn all() -> CheckArgs {
    CheckArgs { namespace: String::from("openebs"), without: Vec::new() }
}

fn list_of(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items})
}

fn lease(renewed: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {
        "holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": renewed
    }})
}

/// A good installation's answers.
fn good(path: &str) -> Option<Value> {
    let last = path.rsplit('/').next().unwrap_or_default();
    let phase = |name: &str, kind: &str, phase: &str, spec: &Value| {
        json!({"apiVersion": "openebs.io/v1alpha1", "kind": kind, "metadata": {"name": name},
            "spec": spec, "status": {"phase": phase}})
    };
    Some(match last {
        name if path.contains("/customresourcedefinitions/") => json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name},
            "spec": {"group": "g", "names": {"kind": "k", "plural": "p"}, "scope": "Cluster", "versions": []},
            "status": {"conditions": [{"type": "Established", "status": "True"}]}
        }),
        "ballast-operator" | "ballast-provisioner" => lease("2026-01-01T00:00:50.000000Z"),
        "daemonsets" => {
            list_of(&[json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ndm"}, "status": {
                "currentNumberScheduled": 3, "desiredNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 3
            }})])
        }
        "blockdevices" => list_of(&[phase("b", "BlockDevice", "", &json!({"path": "/dev/sdb"}))]),
        "storagepoolclaims" => list_of(&[phase("c", "StoragePoolClaim", "Online", &json!({"type": "sparse"}))]),
        "cstorpools" => list_of(&[phase("p", "CStorPool", "Healthy", &json!({}))]),
        "cstorvolumes" => {
            list_of(&[phase("v", "CStorVolume", "Healthy", &json!({"capacity": "1Gi", "replicationFactor": 1}))])
        }
        _ => return None,
    })
}

/// The failures of an installation that answers `change` for some paths and is good otherwise.
async fn failures(change: impl Fn(&str) -> Option<Value> + Send + Sync + 'static) -> Vec<String> {
    let (client, _) = server(move |_, path| change(path).or_else(|| good(path)));
    let lines = look(&client, &all(), NOW.parse().unwrap()).await;
    assert_eq!(lines.len(), 8);
    lines.into_iter().filter_map(|line| Some(format!("{}: {}", line.what, line.wrong?))).collect()
}

#[tokio::test]
async fn a_good_installation_passes() {
    assert_eq!(failures(|_| None).await, [""; 0]);
}

#[tokio::test]
async fn each_part_that_is_away_is_told() {
    let old = |path: &str| path.ends_with("ballast-provisioner").then(|| lease("2026-01-01T00:00:00.000000Z"));
    let told = failures(old).await;
    assert!(told.len() == 1 && told[0].contains("the provisioner") && told[0].contains("60 s ago"), "{told:?}");

    let not_held = |path: &str| {
        let mut lease = lease(NOW);
        lease["spec"]["holderIdentity"] = json!("");
        path.ends_with("ballast-operator").then_some(lease)
    };
    let told = failures(not_held).await;
    assert!(told.len() == 1 && told[0].contains("nobody holds its lease"), "{told:?}");

    let two_of_three = |path: &str| {
        let mut sets = path.ends_with("daemonsets").then(|| good(path))??;
        sets["items"][0]["status"]["numberReady"] = json!(2);
        Some(sets)
    };
    let told = failures(two_of_three).await;
    assert!(told.len() == 1 && told[0].contains("2 of 3 are ready"), "{told:?}");

    let told = failures(|path| path.ends_with("blockdevices").then(|| list_of(&[]))).await;
    assert!(told.len() == 1 && told[0].contains("no device can be used"), "{told:?}");

    let degraded = |path: &str| {
        let mut volumes = path.ends_with("cstorvolumes").then(|| good(path))??;
        volumes["items"][0]["status"] = json!({"phase": "Degraded", "message": "2 of 3 replicas are healthy"});
        Some(volumes)
    };
    let told = failures(degraded).await;
    assert_eq!(told, ["0 of 1 volumes are healthy: v is Degraded (2 of 3 replicas are healthy)"]);
}

#[tokio::test]
async fn what_the_server_does_not_tell_is_not_well() {
    let (client, _) = server(|_, _| None);
    let lines = look(&client, &all(), NOW.parse().unwrap()).await;
    assert!(lines.iter().all(|line| line.wrong.is_some()), "{lines:?}");
    let few = CheckArgs { without: vec![Part::Ndm, Part::Provisioner], ..all() };
    assert_eq!(look(&client, &few, NOW.parse().unwrap()).await.len(), 5);
}
