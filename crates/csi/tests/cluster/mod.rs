//! A cluster around a provisioner: what Kubernetes' volume controller and Ballast's operator do, undisturbed by faults.

#![allow(clippy::unwrap_used, dead_code)]

use std::time::Duration;

use ballast_api::k8s::volume::CStorVolumeStatus;
use ballast_api::k8s::{CStorVolume, StoragePoolClaim, labels};
use ballast_apisim::{ApiSim, Connection};
use ballast_csi::provisioner::{Options, run};
use ballast_kubeutil::{Stop, Stopper};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const PROVISIONER: &str = "openebs.io/provisioner-iscsi";

pub(crate) struct Cluster {
    pub(crate) sim: ApiSim,
    others: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.others.abort();
    }
}

/// A running provisioner.
pub(crate) struct Process {
    pub(crate) connection: Connection,
    task: JoinHandle<()>,
    stopper: Stopper,
}

impl Process {
    /// At once, wherever it stands.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    pub(crate) async fn stop(mut self) {
        self.stopper.stop();
        tokio::time::timeout(MINUTE, &mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn start(sim: &ApiSim, name: &str) -> Process {
    let connection = sim.connect(name);
    let (stopper, stop) = Stop::pair();
    let task = tokio::spawn(run(connection.client(), Options::new("openebs", name), stop));
    Process { connection, task, stopper }
}

impl Cluster {
    /// With the walkthrough's pool claim and class, and an operator that forms volumes at once.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, true)
    }

    /// `forms`: whether there is an operator that forms volumes. Without one, volumes still go when they are deleted.
    pub(crate) fn with(seed: u64, forms: bool) -> Self {
        let sim = ApiSim::new(seed);
        sim.namespace("openebs").unwrap();
        sim.namespace("app").unwrap();
        let cluster = Self { others: tokio::spawn(others(sim.clone(), forms)), sim };
        cluster.add_pool_claim();
        cluster.add_class("openebs-sparse-sc", |_| {});
        cluster
    }

    pub(crate) fn add_pool_claim(&self) {
        let claim = json!({
            "apiVersion": "openebs.io/v1alpha1", "kind": "StoragePoolClaim", "metadata": {"name": "cstor-pool"},
            "spec": {"name": "cstor-pool", "type": "sparse", "maxPools": 3, "poolSpec": {"poolType": "striped"}},
        });
        self.sim.insert(&serde_json::from_value::<StoragePoolClaim>(claim).unwrap()).unwrap();
    }

    pub(crate) fn add_class(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let config = "- name: StoragePoolClaim\n  value: \"cstor-pool\"\n- name: ReplicaCount\n  value: \"2\"\n";
        let mut class = json!({
            "metadata": {"name": name, "annotations": {"openebs.io/cas-type": "cstor", "cas.openebs.io/config": config}},
            "provisioner": PROVISIONER,
        });
        change(&mut class);
        self.sim.insert(&serde_json::from_value::<StorageClass>(class).unwrap()).unwrap();
    }

    /// Makes a claim and says the name of its volume.
    pub(crate) fn add_claim(&self, name: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claim = json!({
            "metadata": {"name": name, "namespace": "app"},
            "spec": {
                "storageClassName": "openebs-sparse-sc", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        change(&mut claim);
        let claim = self.sim.insert(&serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap()).unwrap();
        format!("pvc-{}", claim.uid().unwrap())
    }

    pub(crate) fn claim(&self, name: &str) -> Option<PersistentVolumeClaim> {
        self.sim.get("app", name)
    }

    pub(crate) fn persistent(&self, name: &str) -> Option<PersistentVolume> {
        self.sim.get("", name)
    }

    pub(crate) fn volume(&self, name: &str) -> Option<CStorVolume> {
        self.sim.get("openebs", name)
    }

    pub(crate) fn bound(&self, claim: &str) -> bool {
        bound(&self.sim, claim)
    }

    pub(crate) async fn until_bound(&self, claim: &str) -> bool {
        self.sim.until(10 * MINUTE, |sim| bound(sim, claim)).await
    }

    /// Neither volume nor PersistentVolume is left.
    pub(crate) async fn until_empty(&self) -> bool {
        self.sim.until(20 * MINUTE, empty).await
    }

    /// The notes of all events of this reason.
    pub(crate) fn notes(&self, reason: &str) -> Vec<String> {
        let events = self.sim.list::<Event>();
        events
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter_map(|event| event.note)
            .collect()
    }

    pub(crate) async fn until_told(&self, words: &str) -> bool {
        self.sim.until(MINUTE, |_| self.notes("ProvisioningFailed").iter().any(|note| note.contains(words))).await
    }
}

pub(crate) fn bound(sim: &ApiSim, claim: &str) -> bool {
    let claim: Option<PersistentVolumeClaim> = sim.get("app", claim);
    claim.and_then(|claim| claim.status?.phase).as_deref() == Some("Bound")
}

pub(crate) fn empty(sim: &ApiSim) -> bool {
    sim.list::<PersistentVolume>().is_empty() && sim.list::<CStorVolume>().is_empty()
}

/// Kubernetes and the operator: after each change, all that they would do about it.
async fn others(sim: ApiSim, forms: bool) {
    sim.until(Duration::from_secs(100_000_000), |sim| {
        ask(sim);
        bind(sim);
        release(sim);
        operate(sim, forms);
        false
    })
    .await;
}

/// The volume controller asks the class's provisioner; for a class that waits, when a node is chosen.
fn ask(sim: &ApiSim) {
    const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
    for claim in sim.list::<PersistentVolumeClaim>() {
        let spec = claim.spec.clone().unwrap_or_default();
        let class: Option<StorageClass> = sim.get("", spec.storage_class_name.as_deref().unwrap_or_default());
        let Some(class) = class else { continue };
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        let chosen = claim.annotations().contains_key("volume.kubernetes.io/selected-node");
        if spec.volume_name.is_none() && !claim.annotations().contains_key(ASKED) && (!waits || chosen) {
            sim.edit("app", &claim.name_any(), |claim: &mut PersistentVolumeClaim| {
                claim.annotations_mut().insert(ASKED.to_owned(), class.provisioner);
            })
            .unwrap();
        }
    }
}

fn phase(persistent: &PersistentVolume) -> String {
    persistent.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default()
}

fn set_phase(sim: &ApiSim, name: &str, phase: &str) {
    sim.edit("", name, |persistent: &mut PersistentVolume| {
        persistent.status.get_or_insert_default().phase = Some(phase.to_owned());
    })
    .unwrap();
}

fn claim_of(sim: &ApiSim, persistent: &PersistentVolume) -> Option<PersistentVolumeClaim> {
    let reference = persistent.spec.as_ref()?.claim_ref.as_ref()?;
    let claim: PersistentVolumeClaim = sim.get(reference.namespace.as_deref()?, reference.name.as_deref()?)?;
    (claim.uid() == reference.uid).then_some(claim)
}

fn bind(sim: &ApiSim) {
    for persistent in sim.list::<PersistentVolume>() {
        let Some(claim) = claim_of(sim, &persistent) else { continue };
        let name = persistent.name_any();
        if phase(&persistent) == "Pending" && persistent.metadata.deletion_timestamp.is_none() {
            set_phase(sim, &name, "Bound");
        }
        if claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_none()) {
            sim.edit("app", &claim.name_any(), |claim: &mut PersistentVolumeClaim| {
                claim.spec.get_or_insert_default().volume_name = Some(name.clone());
                claim.status.get_or_insert_default().phase = Some("Bound".into());
            })
            .unwrap();
        }
    }
}

fn release(sim: &ApiSim) {
    for persistent in sim.list::<PersistentVolume>() {
        let reference = persistent.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let gone = reference.is_some() && claim_of(sim, &persistent).is_none();
        if gone && phase(&persistent) != "Released" {
            set_phase(sim, &persistent.name_any(), "Released");
        }
    }
}

fn operate(sim: &ApiSim, forms: bool) {
    for volume in sim.list::<CStorVolume>() {
        let name = volume.name_any();
        if volume.metadata.deletion_timestamp.is_some() {
            if volume.finalizers().iter().any(|finalizer| finalizer == labels::VOLUME_FINALIZER) {
                sim.edit("openebs", &name, |volume: &mut CStorVolume| {
                    volume.finalizers_mut().retain(|finalizer| finalizer != labels::VOLUME_FINALIZER);
                })
                .unwrap();
            }
        } else if forms && volume.spec.target_portal.is_none() {
            form(sim, &name);
        }
    }
}

/// What the operator writes when a volume is made.
pub(crate) fn form(sim: &ApiSim, name: &str) {
    sim.edit("openebs", name, |volume: &mut CStorVolume| {
        volume.spec.target_ip = Some("10.96.1.1".into());
        volume.spec.target_portal = Some("10.96.1.1:3260".into());
        volume.status =
            Some(CStorVolumeStatus { formed: true, phase: "Healthy".into(), ..CStorVolumeStatus::default() });
    })
    .unwrap();
}

/// The objects of volumes without what differs from run to run.
pub(crate) fn end(sim: &ApiSim) -> Vec<Value> {
    let mut objects = sim.snapshot(&["persistentvolumes", "persistentvolumeclaims", "cstorvolumes"]);
    for object in &mut objects {
        if let Some(reference) = object["spec"].get_mut("claimRef").and_then(Value::as_object_mut) {
            reference.remove("resourceVersion");
        }
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove("openEBSProvisionerIdentity");
        }
    }
    objects
}

/// A volume that this provisioner made for a claim of the name `gone`.
pub(crate) fn orphan(name: &str, change: impl FnOnce(&mut Value)) -> CStorVolume {
    let mut volume = json!({
        "apiVersion": "openebs.io/v1alpha1", "kind": "CStorVolume",
        "metadata": {
            "name": name, "namespace": "openebs",
            "labels": {"app.kubernetes.io/managed-by": "ballast-provisioner"},
            "annotations": {
                "pv.kubernetes.io/provisioned-by": PROVISIONER,
                "openebs.io/persistent-volume-claim": "gone", "openebs.io/pvc-namespace": "app",
            },
        },
        "spec": {"capacity": "1Gi", "replicationFactor": 1},
    });
    change(&mut volume);
    serde_json::from_value(volume).unwrap()
}
