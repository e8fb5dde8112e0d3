//! What all controllers share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ballast_api::PoolId;
use ballast_api::control::{Peer, PeerTable};
use ballast_api::k8s::{BlockDevice, BlockDeviceClaim, CStorPool, CStorVolume, CStorVolumeReplica, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::store::WriterDropped;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt as _};
use tokio::time::Instant;

use crate::api::{Object, event};
use crate::observe::{Heartbeats, Observations};
use crate::options::Options;
use crate::pools::conditions::Orphans;
use crate::processes::Processes;

/// After a pod was changed, the next one waits so long: its own trouble shows by then.
const BETWEEN_RESTARTS: Duration = Duration::from_secs(20);
/// The same event about the same object is not repeated within this time.
const BETWEEN_EVENTS: Duration = Duration::from_secs(300);

/// The operator's memory of the cluster. Stores may be a moment old; what must not be is read from the API server.
pub(crate) struct Context {
    /// The way to the API server.
    pub(crate) client: Client,
    /// Settings.
    pub(crate) options: Options,
    /// The way to pools and targets.
    pub(crate) processes: Arc<dyn Processes>,
    /// What pools said last.
    pub(crate) observations: Observations,
    /// Replicas in pools that belong to no volume.
    pub(crate) orphans: Orphans,
    /// Which targets serve.
    pub(crate) targets: Heartbeats,
    /// The way to events.
    pub(crate) recorder: Recorder,
    /// All pools.
    pub(crate) pools: Store<CStorPool>,
    /// All volumes.
    pub(crate) volumes: Store<CStorVolume>,
    /// All replicas.
    pub(crate) replicas: Store<CStorVolumeReplica>,
    /// All devices.
    pub(crate) devices: Store<BlockDevice>,
    /// All claims of devices.
    pub(crate) device_claims: Store<BlockDeviceClaim>,
    /// All nodes.
    pub(crate) nodes: Store<Node>,
    /// Our Deployments.
    pub(crate) deployments: Store<Deployment>,
    /// Our Services.
    pub(crate) services: Store<Service>,
    /// Our ConfigMaps.
    pub(crate) config_maps: Store<ConfigMap>,
    /// Our PodDisruptionBudgets.
    pub(crate) budgets: Store<PodDisruptionBudget>,
    /// What was said about which object, and when.
    said: Mutex<HashMap<String, Instant>>,
    /// The last change of a running pod, by kind.
    restarted: Mutex<HashMap<&'static str, Instant>>,
}

/// The stores of a [`Context`].
pub(crate) struct Stores {
    pub(crate) pools: Store<CStorPool>,
    pub(crate) volumes: Store<CStorVolume>,
    pub(crate) replicas: Store<CStorVolumeReplica>,
    pub(crate) devices: Store<BlockDevice>,
    pub(crate) device_claims: Store<BlockDeviceClaim>,
    pub(crate) nodes: Store<Node>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) services: Store<Service>,
    pub(crate) config_maps: Store<ConfigMap>,
    pub(crate) budgets: Store<PodDisruptionBudget>,
}

impl Stores {
    /// Waits until all of them are filled: an empty store is not an empty cluster.
    pub(crate) async fn ready(&self) -> Result<(), WriterDropped> {
        self.pools.wait_until_ready().await?;
        self.volumes.wait_until_ready().await?;
        self.replicas.wait_until_ready().await?;
        self.devices.wait_until_ready().await?;
        self.device_claims.wait_until_ready().await?;
        self.nodes.wait_until_ready().await?;
        self.deployments.wait_until_ready().await?;
        self.services.wait_until_ready().await?;
        self.config_maps.wait_until_ready().await?;
        self.budgets.wait_until_ready().await
    }
}

impl Context {
    /// With empty memory.
    pub(crate) fn new(
        client: Client,
        options: Options,
        processes: Arc<dyn Processes>,
        recorder: Recorder,
        stores: Stores,
    ) -> Self {
        let Stores {
            pools,
            volumes,
            replicas,
            devices,
            device_claims,
            nodes,
            deployments,
            services,
            config_maps,
            budgets,
        } = stores;
        Self {
            client,
            options,
            processes,
            observations: Observations::default(),
            orphans: Orphans::default(),
            targets: Heartbeats::default(),
            recorder,
            pools,
            volumes,
            replicas,
            devices,
            device_claims,
            nodes,
            deployments,
            services,
            config_maps,
            budgets,
            said: Mutex::default(),
            restarted: Mutex::default(),
        }
    }

    /// An object of the operator's namespace.
    pub(crate) fn own<K: Object>(&self, store: &Store<K>, name: &str) -> Option<Arc<K>> {
        store.get(&ObjectRef::new(name).within(&self.options.namespace))
    }

    /// A pool by its name.
    pub(crate) fn pool(&self, name: &str) -> Option<Arc<CStorPool>> {
        self.pools.get(&ObjectRef::new(name))
    }

    /// A node by its label kubernetes.io/hostname, or its name where it has none.
    pub(crate) fn node(&self, host: &str) -> Option<Arc<Node>> {
        let named = |node: &&Arc<Node>| {
            node.labels().get(labels::HOSTNAME).map_or_else(|| node.name_any() == host, |label| label == host)
        };
        self.nodes.state().iter().find(named).cloned()
    }

    /// Where all known pools listen, sorted.
    pub(crate) fn peers(&self) -> PeerTable {
        let mut peers: Vec<Peer> = self.pools.state().iter().filter_map(|pool| peer(pool)).collect();
        peers.sort_by(|a, b| a.pool.cmp(&b.pool));
        PeerTable { peers }
    }

    /// Tells people something about an object, not again and again.
    pub(crate) async fn say<K: Object>(&self, object: &K, warning: bool, reason: &str, note: &str) {
        let key = format!("{}/{}/{reason}/{note}", K::kind(&()), object.name_any());
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.retain(|_, at| at.elapsed() < BETWEEN_EVENTS);
            if said.insert(key, Instant::now()).is_some() {
                return;
            }
        }
        if warning {
            tracing::warn!(kind = %K::kind(&()), name = object.name_any(), reason, "{note}");
        } else {
            tracing::info!(kind = %K::kind(&()), name = object.name_any(), reason, "{note}");
        }
        event(&self.recorder, object, warning, reason, note.to_owned()).await;
    }

    /// Whether a running pod of this kind may be changed now; notes that it is. One after the other.
    pub(crate) fn take_restart(&self, kind: &'static str) -> bool {
        let mut restarted = self.restarted.lock().unwrap_or_else(PoisonError::into_inner);
        if restarted.get(kind).is_some_and(|at| at.elapsed() < BETWEEN_RESTARTS) {
            return false;
        }
        restarted.insert(kind, Instant::now());
        true
    }
}

/// Whether somebody has cordoned the node (`kubectl cordon`).
pub(crate) fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false)
}

/// Whether a pool is to be empty: it is being deleted, or its annotation says so.
pub(crate) fn is_draining(pool: &CStorPool) -> bool {
    pool.metadata.deletion_timestamp.is_some() || says_true(pool, labels::DRAIN)
}

/// Whether a pool is to get no new replicas.
pub(crate) fn is_closed(pool: &CStorPool) -> bool {
    is_draining(pool) || says_true(pool, labels::CORDON)
}

fn says_true(pool: &CStorPool, annotation: &str) -> bool {
    pool.annotations().get(annotation).is_some_and(|value| value == "true")
}

/// How a pool is reached, once its identity and its address are known.
fn peer(pool: &CStorPool) -> Option<Peer> {
    let status = pool.status.as_ref()?;
    let id: PoolId = status.pool_id.as_ref()?.parse().ok()?;
    Some(Peer { pool: id.to_bytes(), endpoint: status.endpoint.clone()? })
}
