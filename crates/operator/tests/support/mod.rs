//! A cluster for tests: a simulated API server, and a world of pools and groups that obeys the objects in it.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod world;

use std::sync::Arc;
use std::time::Duration;

use ballast_api::k8s::claim::{BlockDeviceList, StoragePoolClaim, StoragePoolClaimSpec};
use ballast_api::k8s::device::{BlockDevice, BlockDeviceSpec, BlockDeviceStatus, NodeAttributes};
use ballast_api::k8s::pool::{CStorPool, PoolSpec};
use ballast_api::k8s::volume::{CStorVolume, CStorVolumeSpec};
use ballast_api::k8s::{BlockDeviceClaim, CStorVolumeReplica, labels};
use ballast_apisim::{ApiSim, Connection};
use ballast_operator::{Options, Processes};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, NodeCondition, NodeStatus, Service};
use kube::ResourceExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use world::World;

pub(crate) const NAMESPACE: &str = "openebs";

/// An API server with nodes and devices, and their world.
pub(crate) struct Cluster {
    pub(crate) sim: ApiSim,
    pub(crate) world: Arc<World>,
    /// What the next operator makes pods of.
    pub(crate) image: String,
    runs: u32,
}

/// A running operator.
pub(crate) struct Operator {
    pub(crate) connection: Connection,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Cluster {
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        let sim = ApiSim::new(seed);
        sim.namespace(NAMESPACE).unwrap();
        for number in 1..=nodes {
            let name = format!("node{number}");
            let mut node = Node::default();
            node.metadata.name = Some(name.clone());
            node.labels_mut().insert(labels::HOSTNAME.to_owned(), name.clone());
            let ready = NodeCondition {
                type_: String::from("Ready"),
                status: String::from("True"),
                ..NodeCondition::default()
            };
            node.status = Some(NodeStatus { conditions: Some(vec![ready]), ..NodeStatus::default() });
            sim.insert(&node).unwrap();
            sim.insert(&device(&format!("sparse-{name}"), &name)).unwrap();
        }
        Self { world: Arc::new(World::new(sim.clone())), sim, image: String::from("ballast:1"), runs: 0 }
    }

    /// Starts an operator, as another process than those before.
    pub(crate) fn start(&mut self) -> Operator {
        self.runs += 1;
        let connection = self.sim.connect(&format!("operator-{}", self.runs));
        let options = Options {
            namespace: NAMESPACE.to_owned(),
            image: self.image.clone(),
            image_pull_policy: String::from("Never"),
            service_account: None,
            priority_class: None,
            sparse_dir: String::from("/var/openebs/sparse"),
            replica_grace_period: Duration::from_secs(60),
            identity: format!("operator-{}", self.runs),
        };
        let (stop, stopped) = oneshot::channel();
        let client = connection.client();
        let processes: Arc<dyn Processes> = self.world.clone();
        let shutdown = Box::pin(async move { _ = stopped.await });
        let task = tokio::spawn(async move {
            ballast_operator::run(client, options, processes, shutdown).await.unwrap();
        });
        Operator { connection, stop: Some(stop), task }
    }

    pub(crate) fn claim(&self, name: &str, max_pools: i32) {
        let pool_spec = PoolSpec { pool_type: String::from("striped"), ..PoolSpec::default() };
        let spec = StoragePoolClaimSpec {
            type_: String::from("sparse"),
            max_pools: Some(max_pools),
            pool_spec,
            ..StoragePoolClaimSpec::default()
        };
        let mut claim = StoragePoolClaim::new(name, spec);
        let config = "- name: PoolResourceLimits\n  value: |-\n      memory: 1Gi\n";
        claim.annotations_mut().insert(labels::CONFIG.to_owned(), config.to_owned());
        self.sim.insert(&claim).unwrap();
    }

    /// One more device on a node.
    pub(crate) fn device(&self, name: &str, node: &str) {
        self.sim.insert(&device(name, node)).unwrap();
    }

    /// Makes the claim list its devices, or changes the list.
    pub(crate) fn list(&self, claim: &str, devices: &[&str]) {
        let block_device_list = devices.iter().map(|name| (*name).to_owned()).collect();
        let list = Some(BlockDeviceList { block_device_list });
        self.sim.edit::<StoragePoolClaim>("", claim, |claim| claim.spec.block_devices = list.clone()).unwrap();
    }

    /// Sets an annotation of a pool, or takes it away.
    pub(crate) fn annotate(&self, pool: &str, key: &str, value: Option<&str>) {
        let edit = |object: &mut CStorPool| {
            match value {
                Some(value) => object.annotations_mut().insert(key.to_owned(), value.to_owned()),
                None => object.annotations_mut().remove(key),
            };
        };
        self.sim.edit("", pool, edit).unwrap();
    }

    pub(crate) fn volume(&self, name: &str, replicas: i32) {
        let spec = CStorVolumeSpec {
            capacity: String::from("1Gi"),
            replication_factor: replicas,
            storage_pool_claim: String::from("cstor-pool"),
            ..CStorVolumeSpec::default()
        };
        let mut volume = CStorVolume::new(name, spec);
        volume.metadata.namespace = Some(NAMESPACE.to_owned());
        let config = "[{name: StoragePoolClaim, value: cstor-pool}]";
        volume.annotations_mut().insert(labels::CONFIG.to_owned(), config.to_owned());
        self.sim.insert(&volume).unwrap();
    }

    pub(crate) fn phase(&self, volume: &str) -> String {
        self.sim
            .get::<CStorVolume>(NAMESPACE, volume)
            .and_then(|volume| volume.status)
            .map_or_else(|| String::from("none"), |status| status.phase)
    }

    pub(crate) fn pools(&self) -> Vec<CStorPool> {
        self.sim.list()
    }

    pub(crate) fn replicas(&self, volume: &str) -> Vec<CStorVolumeReplica> {
        let all = self.sim.list::<CStorVolumeReplica>();
        all.into_iter().filter(|r| r.labels().get(labels::CSTOR_VOLUME).is_some_and(|name| name == volume)).collect()
    }

    /// Waits in simulated time.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..600 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!("not within 10 minutes: {what}\n{}", self.dump());
    }

    /// Waits until all pools of the claim are healthy.
    pub(crate) async fn until_pools(&self, count: usize) {
        let healthy = |cluster: &Self| {
            let healthy = |pool: &CStorPool| pool.status.as_ref().is_some_and(|status| status.phase == "Healthy");
            cluster.pools().iter().filter(|pool| healthy(pool)).count() == count
        };
        self.until("pools are healthy", healthy).await;
    }

    pub(crate) fn dump(&self) -> String {
        let names = ["cstorpools", "cstorvolumes", "cstorvolumereplicas", "storagepoolclaims"];
        let text: Vec<String> = self.sim.snapshot(&names).iter().map(ToString::to_string).collect();
        format!("{}\n{}", text.join("\n"), self.world.dump())
    }

    /// Nothing is left of volumes; and of pools neither, when there is no claim.
    pub(crate) fn nothing_left(&self) {
        assert!(self.sim.list::<CStorVolume>().is_empty(), "{}", self.dump());
        assert!(self.sim.list::<CStorVolumeReplica>().is_empty(), "{}", self.dump());
        let targets = |name: &String| name.ends_with("-target") || name.starts_with("pvc-");
        let mut left: Vec<String> = self.sim.list::<Deployment>().iter().map(|object| object.name_any()).collect();
        left.extend(self.sim.list::<Service>().iter().map(|object| object.name_any()));
        left.extend(self.sim.list::<ConfigMap>().iter().map(|object| object.name_any()));
        assert!(!left.iter().any(targets), "{left:?}");
        assert_eq!(self.world.replica_count(), 0, "{}", self.world.dump());
        let pools = self.sim.list::<CStorPool>().len();
        assert_eq!(self.sim.list::<BlockDeviceClaim>().len(), pools);
    }
}

impl Operator {
    /// Stops it in good order.
    pub(crate) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
        tokio::time::timeout(Duration::from_secs(120), &mut self.task).await.expect("it stops").unwrap();
    }

    /// Kills it: nothing that it began goes on.
    pub(crate) async fn kill(self) {
        self.connection.freeze();
        self.task.abort();
        _ = self.task.await;
    }
}

fn device(name: &str, node: &str) -> BlockDevice {
    let path = format!("/var/openebs/sparse/{name}.img");
    let spec = BlockDeviceSpec {
        node_attributes: NodeAttributes { node_name: node.to_owned() },
        path,
        partitioned: String::from("No"),
        ..BlockDeviceSpec::default()
    };
    let mut device = BlockDevice::new(name, spec);
    device.metadata.namespace = Some(NAMESPACE.to_owned());
    device.labels_mut().insert(labels::DEVICE_TYPE.to_owned(), String::from("sparse"));
    device.labels_mut().insert(labels::HOSTNAME.to_owned(), node.to_owned());
    device.status = Some(BlockDeviceStatus {
        claim_state: String::from("Unclaimed"),
        state: String::from("Active"),
        ..BlockDeviceStatus::default()
    });
    device
}
