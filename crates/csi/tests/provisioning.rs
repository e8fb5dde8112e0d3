//! From claims to volumes and back, and what is said when that cannot be.

#![allow(clippy::unwrap_used)]

mod cluster;

use ballast_api::k8s::volume::CStorVolumeStatus;
use ballast_api::k8s::{CStorVolume, StoragePoolClaim};
use ballast_csi::provisioner::FINALIZER;
use cluster::{Cluster, MINUTE, SECOND, form, orphan, start};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn the_walkthrough() {
    let cluster = Cluster::new(1);
    let process = start(&cluster.sim, "p");
    let name = cluster.add_claim("mongo-pvc-mongo-0", |_| {});
    assert!(cluster.until_bound("mongo-pvc-mongo-0").await);
    let persistent = serde_json::to_value(cluster.persistent(&name).unwrap()).unwrap();
    assert_eq!(
        persistent["spec"]["iscsi"],
        json!({
            "targetPortal": "10.96.1.1:3260", "iqn": format!("iqn.2016-09.com.openebs.cstor:{name}"), "lun": 0,
            "iscsiInterface": "default", "fsType": "ext4",
        })
    );
    let labels = json!({"openebs.io/cas-type": "cstor", "openebs.io/storageclass": "openebs-sparse-sc"});
    assert_eq!(persistent["metadata"]["labels"], labels);
    assert_eq!(persistent["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"], cluster::PROVISIONER);
    let volume = cluster.volume(&name).unwrap();
    assert_eq!((volume.spec.replication_factor, volume.spec.consistency_factor), (2, 2));
    assert_eq!(volume.spec.storage_pool_claim, "cstor-pool");
    sleep(MINUTE).await;
    assert_eq!(cluster.notes("Provisioning").len(), 1);
    assert_eq!(cluster.notes("ProvisioningSucceeded").len(), 1);
    assert!(cluster.notes("ProvisioningFailed").is_empty());
    // Nothing more is asked of the server when there is nothing to do.
    let requests = cluster.sim.requests("p");
    sleep(4 * MINUTE).await;
    assert!(cluster.sim.requests("p") - requests < 10, "{}", cluster.sim.requests("p") - requests);

    assert!(cluster.sim.delete::<PersistentVolumeClaim>("app", "mongo-pvc-mongo-0"));
    assert!(cluster.until_empty().await);
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_told_and_made_when_it_can_be() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    cluster.add_claim("many", |claim| claim["spec"]["accessModes"] = json!(["ReadWriteMany"]));
    assert!(cluster.until_told("ReadWriteMany is not supported").await);
    cluster.add_claim("read", |claim| claim["spec"]["accessModes"] = json!(["ReadOnlyMany"]));
    assert!(cluster.until_told("ReadOnlyMany is not supported").await);
    cluster.add_claim("zero", |claim| claim["spec"]["resources"]["requests"]["storage"] = json!("0"));
    assert!(cluster.until_told("write spec.resources.requests.storage").await);
    cluster
        .add_claim("copy", |claim| claim["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"}));
    assert!(cluster.until_told("made empty").await);
    let wrong = "- {name: ReplicaCount, value: nine}";
    cluster.add_claim("wrong", |claim| claim["metadata"]["annotations"] = json!({"cas.openebs.io/config": wrong}));
    assert!(cluster.until_told("write a number from 1 to 5").await);
    // Mended, it is made.
    cluster
        .sim
        .edit("app", "wrong", |claim: &mut PersistentVolumeClaim| {
            claim.annotations_mut().remove("cas.openebs.io/config");
        })
        .unwrap();
    assert!(cluster.until_bound("wrong").await);

    cluster.sim.delete::<StoragePoolClaim>("", "cstor-pool");
    sleep(SECOND).await;
    cluster.add_claim("early", |_| {});
    assert!(cluster.until_told("the StoragePoolClaim cstor-pool does not exist").await);
    cluster.add_pool_claim();
    assert!(cluster.sim.until(SECOND, |_| cluster.bound("early")).await);

    cluster.add_class("bad", |class| class["metadata"]["annotations"]["cas.openebs.io/config"] = json!("x"));
    cluster.add_claim("classless", |claim| claim["spec"]["storageClassName"] = json!("bad"));
    assert!(cluster.until_told("is not a YAML list").await);
    cluster.add_class("bad", |_| {});
    assert!(cluster.sim.until(SECOND, |_| cluster.bound("classless")).await);

    // None of this is said again and again, and nothing was made of it.
    sleep(5 * MINUTE).await;
    assert_eq!(cluster.notes("ProvisioningFailed").len(), 7);
    assert_eq!(cluster.sim.list::<PersistentVolume>().len(), 3);
    assert_eq!(cluster.sim.list::<CStorVolume>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn others_claims_are_left_alone() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    cluster.add_class("other", |class| class["provisioner"] = json!("example.com/other"));
    cluster.add_claim("a", |claim| claim["spec"]["storageClassName"] = json!("other"));
    cluster.add_claim("b", |claim| claim["spec"]["storageClassName"] = json!(""));
    cluster.add_claim("c", |claim| claim["spec"]["storageClassName"] = json!("missing"));
    sleep(10 * MINUTE).await;
    assert!(cluster::empty(&cluster.sim));
    assert!(cluster.notes("ProvisioningFailed").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_class_can_wait_for_its_consumer() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    cluster.add_class("wait", |class| class["volumeBindingMode"] = json!("WaitForFirstConsumer"));
    let name = cluster.add_claim("a", |claim| claim["spec"]["storageClassName"] = json!("wait"));
    sleep(10 * MINUTE).await;
    assert!(cluster::empty(&cluster.sim));
    let choose = |claim: &mut PersistentVolumeClaim| {
        claim.annotations_mut().insert("volume.kubernetes.io/selected-node".into(), "worker-1".into());
    };
    cluster.sim.edit("app", "a", choose).unwrap();
    assert!(cluster.until_bound("a").await);
    assert_eq!(cluster.volume(&name).unwrap().spec.preferred_node.as_deref(), Some("worker-1"));
}

#[tokio::test(start_paused = true)]
async fn kinds_of_volumes() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    cluster.add_class("tuned", |class| class["mountOptions"] = json!(["noatime", "discard"]));
    let raw = cluster.add_claim("raw", |claim| claim["spec"]["volumeMode"] = json!("Block"));
    let xfs = cluster.add_claim("xfs", |claim| {
        claim["metadata"]["annotations"] = json!({"cas.openebs.io/config": "- {name: FSType, value: xfs}"});
        claim["metadata"]["labels"] = json!({"openebs.io/replica-anti-affinity": "db"});
        claim["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
        claim["spec"]["storageClassName"] = json!("tuned");
    });
    let long = "x".repeat(200);
    let odd = cluster.add_claim(&long, |claim| claim["spec"]["resources"]["requests"]["storage"] = json!("1000001"));
    for claim in ["raw", "xfs", &long] {
        assert!(cluster.until_bound(claim).await, "{claim}");
    }
    let spec = |name: &str| cluster.persistent(name).unwrap().spec.unwrap();
    assert_eq!((spec(&raw).volume_mode.as_deref(), spec(&raw).iscsi.unwrap().fs_type), (Some("Block"), None));
    let xfs_spec = spec(&xfs);
    assert_eq!(xfs_spec.iscsi.unwrap().fs_type.as_deref(), Some("xfs"));
    assert_eq!(xfs_spec.access_modes.unwrap(), ["ReadWriteOncePod"]);
    assert_eq!(xfs_spec.mount_options.unwrap(), ["noatime", "discard"]);
    assert!(cluster.volume(&xfs).unwrap().spec.replica_anti_affinity.unwrap().required);
    // Whole blocks, at least what was asked for.
    assert_eq!(spec(&odd).capacity.unwrap()["storage"].0, "1003520");
    assert_eq!(cluster.volume(&odd).unwrap().annotations()["openebs.io/persistent-volume-claim"], long);
}

/// What keeps the operator from forming a volume is shown on the claim.
#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_formed() {
    let cluster = Cluster::with(1, false);
    let _process = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.sim.until(MINUTE, |_| cluster.volume(&name).is_some()).await);
    let stuck = |phase: &str, message: &str| {
        let status = CStorVolumeStatus { phase: phase.into(), message: message.into(), ..Default::default() };
        cluster.sim.edit("openebs", &name, |volume: &mut CStorVolume| volume.status = Some(status)).unwrap();
    };
    // What may pass in a moment is no warning yet.
    stuck("Init", "not enough pools: 1 of 2");
    sleep(20 * SECOND).await;
    assert!(cluster.notes("ProvisioningFailed").is_empty());
    assert!(cluster.until_told("not enough pools: 1 of 2").await);
    stuck("Invalid", "the size is not a size");
    assert!(cluster.sim.until(SECOND, |_| cluster.notes("ProvisioningFailed").len() == 2).await);
    assert!(cluster.persistent(&name).is_none());
    form(&cluster.sim, &name);
    assert!(cluster.until_bound("a").await);
}

/// An administrator scaled the volume; the provisioner starts anew.
#[tokio::test(start_paused = true)]
async fn what_was_changed_since_stays() {
    let cluster = Cluster::new(1);
    let first = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.until_bound("a").await);
    cluster.sim.edit("openebs", &name, |volume: &mut CStorVolume| volume.spec.replication_factor = 3).unwrap();
    first.stop().await;
    let _second = start(&cluster.sim, "q");
    sleep(10 * MINUTE).await;
    assert_eq!(cluster.volume(&name).unwrap().spec.replication_factor, 3);
}

#[tokio::test(start_paused = true)]
async fn retained_volumes_outlive_everything() {
    let cluster = Cluster::new(1);
    let first = start(&cluster.sim, "p");
    cluster.add_class("retain", |class| class["reclaimPolicy"] = json!("Retain"));
    let name = cluster.add_claim("a", |claim| claim["spec"]["storageClassName"] = json!("retain"));
    assert!(cluster.until_bound("a").await);
    assert!(!cluster.persistent(&name).unwrap().finalizers().contains(&FINALIZER.to_owned()));
    cluster.sim.delete::<PersistentVolumeClaim>("app", "a");
    sleep(10 * MINUTE).await;
    assert_eq!(cluster.persistent(&name).unwrap().status.unwrap().phase.as_deref(), Some("Released"));
    // By hand: the object goes, the volume stays, also with another provisioner process.
    cluster.sim.delete::<PersistentVolume>("", &name);
    sleep(10 * MINUTE).await;
    first.stop().await;
    let _second = start(&cluster.sim, "q");
    sleep(10 * MINUTE).await;
    assert!(cluster.persistent(&name).is_none());
    assert!(cluster.volume(&name).unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_policy_can_be_changed() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    let policy = |name: &str, policy: &str| {
        let policy = Some(policy.to_owned());
        let set = |volume: &mut PersistentVolume| {
            volume.spec.get_or_insert_default().persistent_volume_reclaim_policy = policy;
        };
        cluster.sim.edit("", name, set).unwrap();
    };
    let held = |name: &str| cluster.persistent(name).unwrap().finalizers().contains(&FINALIZER.to_owned());
    let (a, b) = (cluster.add_claim("a", |_| {}), cluster.add_claim("b", |_| {}));
    assert!(cluster.until_bound("a").await && cluster.until_bound("b").await);
    assert!(held(&a));
    policy(&a, "Retain");
    policy(&b, "Retain");
    sleep(MINUTE).await;
    assert!(!held(&a));
    cluster.sim.delete::<PersistentVolumeClaim>("app", "a");
    sleep(10 * MINUTE).await;
    assert!(cluster.volume(&a).is_some() && cluster.persistent(&a).is_some());
    // And back: the one that is released already goes now.
    policy(&a, "Delete");
    policy(&b, "Delete");
    sleep(10 * MINUTE).await;
    assert!(cluster.volume(&a).is_none() && cluster.persistent(&a).is_none());
    assert!(held(&b));
    cluster.sim.delete::<PersistentVolumeClaim>("app", "b");
    assert!(cluster.until_empty().await);
}

/// Changed to Retain and deleted at once, before the provisioner could do anything about the first.
#[tokio::test(start_paused = true)]
async fn retained_and_deleted_in_one_moment() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.until_bound("a").await);
    sleep(SECOND).await;
    let retain = |volume: &mut PersistentVolume| {
        volume.spec.get_or_insert_default().persistent_volume_reclaim_policy = Some("Retain".into());
    };
    cluster.sim.edit("", &name, retain).unwrap();
    cluster.sim.delete::<PersistentVolume>("", &name);
    cluster.sim.delete::<PersistentVolumeClaim>("app", "a");
    sleep(20 * MINUTE).await;
    assert!(cluster.persistent(&name).is_none());
    assert!(cluster.volume(&name).unwrap().metadata.deletion_timestamp.is_none());
}

#[tokio::test(start_paused = true)]
async fn deleted_by_hand_while_in_use() {
    let cluster = Cluster::new(1);
    let _process = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.until_bound("a").await);
    sleep(SECOND).await;
    cluster.sim.delete::<PersistentVolume>("", &name);
    sleep(10 * MINUTE).await;
    // The claim still uses it.
    assert!(cluster.persistent(&name).unwrap().metadata.deletion_timestamp.is_some());
    assert!(cluster.volume(&name).unwrap().metadata.deletion_timestamp.is_none());
    cluster.sim.delete::<PersistentVolumeClaim>("app", "a");
    assert!(cluster.until_empty().await);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_goes_before_its_volume_is_made() {
    let cluster = Cluster::with(1, false);
    let _process = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.sim.until(MINUTE, |_| cluster.volume(&name).is_some()).await);
    cluster.sim.delete::<PersistentVolumeClaim>("app", "a");
    // A claim of the same name is another one.
    let other = cluster.add_claim("a", |_| {});
    sleep(5 * MINUTE).await;
    assert!(cluster.volume(&name).is_none());
    assert!(cluster.volume(&other).is_some());
}

#[tokio::test(start_paused = true)]
async fn only_ones_own_orphans_go() {
    let cluster = Cluster::new(1);
    let put = |name: &str, change: &dyn Fn(&mut Value)| {
        cluster.sim.insert(&orphan(name, change)).unwrap();
    };
    put("pvc-own", &|_| {});
    put("pvc-unlabelled", &|volume| volume["metadata"]["labels"] = json!({}));
    put("pvc-other", &|volume| volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"] = json!("other"));
    put("pvc-nameless", &|volume| {
        volume["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": cluster::PROVISIONER});
    });
    put("pvc-kept", &|volume| volume["metadata"]["annotations"]["openebs.io/keep-volume"] = json!("true"));
    put("pvc-used", &|_| {});
    // By hand, after a loss of the cluster's database: the same volume under another name.
    let used = json!({
        "metadata": {"name": "by-hand"},
        "spec": {"iscsi": {"iqn": "iqn.2016-09.com.openebs.cstor:pvc-used", "lun": 0, "targetPortal": "10.96.1.1:3260"}},
    });
    cluster.sim.insert(&serde_json::from_value::<PersistentVolume>(used).unwrap()).unwrap();
    let _process = start(&cluster.sim, "p");
    sleep(30 * SECOND).await;
    assert_eq!(cluster.sim.list::<CStorVolume>().len(), 6);
    sleep(5 * MINUTE).await;
    let left: Vec<_> = cluster.sim.list::<CStorVolume>().iter().map(|volume| volume.name_any()).collect();
    assert_eq!(left, ["pvc-kept", "pvc-nameless", "pvc-other", "pvc-unlabelled", "pvc-used"]);
}

/// The claim got another volume, made by hand.
#[tokio::test(start_paused = true)]
async fn a_claim_that_takes_another_volume() {
    let cluster = Cluster::with(1, false);
    let _process = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.sim.until(MINUTE, |_| cluster.volume(&name).is_some()).await);
    let bind = |claim: &mut PersistentVolumeClaim| claim.spec.get_or_insert_default().volume_name = Some("mine".into());
    cluster.sim.edit("app", "a", bind).unwrap();
    sleep(5 * MINUTE).await;
    assert!(cluster.volume(&name).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_gone_in_between() {
    let cluster = Cluster::with(1, false);
    let _process = start(&cluster.sim, "p");
    let name = cluster.add_claim("a", |_| {});
    assert!(cluster.sim.until(MINUTE, |_| cluster.volume(&name).is_some()).await);
    cluster.sim.delete::<StorageClass>("", "openebs-sparse-sc");
    sleep(SECOND).await;
    form(&cluster.sim, &name);
    assert!(cluster.until_told("the StorageClass openebs-sparse-sc is gone").await);
    cluster.add_class("openebs-sparse-sc", |_| {});
    assert!(cluster.until_bound("a").await);
}
