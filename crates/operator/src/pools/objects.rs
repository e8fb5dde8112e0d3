//! The objects of a pool: CStorPool, BlockDeviceClaims, Service, Deployment. Pure builders.

use ballast_api::k8s::config::PoolSettings;
use ballast_api::k8s::device::BlockDeviceClaimSpec;
use ballast_api::k8s::pool::{CStorPoolSpec, DeviceGroup, PoolDevice};
use ballast_api::k8s::{BlockDeviceClaim, CStorPool, StoragePoolClaim, labels, quantity};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, Container, HostPathVolumeSource, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, SecurityContext, Service, ServiceSpec, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::ResourceExt as _;

use super::select::{Pick, PickedDevice};
use crate::objects::{
    container_port, env, grpc_probe, metadata, owned_by, owner_reference, service_port, text_map, unprivileged,
};
use crate::options::Options;

/// The ConfigMap with the addresses of all pools.
pub const PEERS: &str = "ballast-peers";
/// Its key, and the name of the file.
pub const PEERS_FILE: &str = "peers.json";
const PEERS_DIR: &str = "/etc/ballast/peers";

/// Memory for recently written blocks when the pod has no limit.
const DEFAULT_CACHE: u64 = 128 << 20;
/// The share of the pod's memory limit that they get.
const CACHE_SHARE: u64 = 4;
/// A pool reads its journal when it starts, on a slow disk for minutes.
const START_LIMIT_S: i32 = 1800;

/// A name for the pool of `claim` on `host`: always the same, so that a repeated creation cannot make two.
/// `attempt` makes it longer when another pool has the name already.
pub fn pool_name(claim: &StoragePoolClaim, host: &str, attempt: usize) -> String {
    let seed = format!("{}/{host}", claim.uid().unwrap_or_default());
    // FNV-1a: small, stable over versions, and nobody gains by a collision, which only costs one more attempt.
    let mut hash = seed
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut suffix = String::new();
    for _ in 0..4 + attempt.min(8) {
        const DIGITS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        suffix.push(char::from(DIGITS[usize::try_from(hash % 36).unwrap_or(0)]));
        hash /= 36;
    }
    format!("{}-{suffix}", claim.name_any())
}

/// The pool on the devices of `pick`.
pub fn pool(claim: &StoragePoolClaim, pick: &Pick, name: &str) -> CStorPool {
    let mut spec = CStorPoolSpec {
        pool_spec: claim.spec.pool_spec.clone(),
        host_name: pick.host_name.clone(),
        ..CStorPoolSpec::default()
    };
    add_devices(&mut spec, &pick.devices);
    let mut pool = CStorPool::new(name, spec);
    pool.metadata.labels = Some(text_map([
        (labels::STORAGE_POOL_CLAIM, &claim.name_any()),
        (labels::HOSTNAME, &pick.host_name),
        (labels::BALLAST_VERSION, env!("CARGO_PKG_VERSION")),
    ]));
    pool.metadata.finalizers = Some(vec![labels::POOL_FINALIZER.to_owned()]);
    pool.metadata.owner_references = Some(vec![owner_reference(claim)]);
    if let Some(config) = claim.annotations().get(labels::CONFIG) {
        pool.annotations_mut().insert(labels::CONFIG.to_owned(), config.clone());
    }
    pool
}

/// More devices for a pool.
pub(crate) fn add_devices(spec: &mut CStorPoolSpec, devices: &[PickedDevice]) {
    spec.disks.disk_list.extend(devices.iter().map(|device| device.path.clone()));
    let new = devices.iter().map(|device| PoolDevice {
        name: device.name.clone(),
        device_id: device.path.clone(),
        in_use_by_pool: true,
    });
    match spec.group.first_mut() {
        Some(group) => group.block_device.extend(new),
        None => spec.group.push(DeviceGroup { block_device: new.collect() }),
    }
}

/// The claim of one device of the pool.
pub fn device_claim(options: &Options, pool: &CStorPool, device: &PoolDevice, sparse: bool) -> BlockDeviceClaim {
    let spec = BlockDeviceClaimSpec {
        block_device_name: device.name.clone(),
        host_name: pool.spec.host_name.clone(),
        device_type: String::from(if sparse { "sparse" } else { "blockdevice" }),
    };
    let mut claim = BlockDeviceClaim::new("", spec);
    // One claim a device: whoever makes it first has the device.
    claim.metadata =
        metadata(options, &format!("bdc-{}", device.name), [(labels::CSTOR_POOL, pool.name_any().as_str())]);
    claim.metadata.owner_references = Some(vec![owner_reference(pool)]);
    claim.metadata.finalizers = Some(vec![labels::DEVICE_CLAIM_FINALIZER.to_owned()]);
    claim
}

fn pool_labels(pool: &CStorPool) -> [(&'static str, String); 4] {
    [
        (labels::APP, String::from("cstor-pool")),
        (labels::CSTOR_POOL, pool.name_any()),
        (labels::STORAGE_POOL_CLAIM, pool.labels().get(labels::STORAGE_POOL_CLAIM).cloned().unwrap_or_default()),
        ("openebs.io/cstor-pool-uid", pool.uid().unwrap_or_default()),
    ]
}

fn meta(options: &Options, pool: &CStorPool) -> ObjectMeta {
    let labels = pool_labels(pool);
    owned_by(metadata(options, &pool.name_any(), labels.each_ref().map(|(key, value)| (*key, value.as_str()))), pool)
}

/// An address for the pool that outlives its pod.
pub fn service(options: &Options, pool: &CStorPool) -> Service {
    let spec = ServiceSpec {
        ports: Some(vec![service_port("pool-grpc", labels::POOL_PORT)]),
        selector: Some(text_map([(labels::APP, "cstor-pool"), (labels::CSTOR_POOL, &pool.name_any())])),
        // A pool that a probe finds slow must stay reachable: its peers decide themselves.
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    Service { metadata: meta(options, pool), spec: Some(spec), ..Service::default() }
}

fn host_path(name: &str, path: &str, kind: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        host_path: Some(HostPathVolumeSource { path: path.to_owned(), type_: Some(kind.to_owned()) }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn cache_bytes(settings: &PoolSettings) -> u64 {
    let limits = settings.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let memory = limits.and_then(|limits| limits.get("memory")).and_then(|limit| quantity::parse_bytes(&limit.0).ok());
    memory.map_or(DEFAULT_CACHE, |bytes| bytes / CACHE_SHARE)
}

/// The pool's process. Only pools on real disks are privileged: a container sees no block devices otherwise.
pub fn deployment(options: &Options, settings: &PoolSettings, pool: &CStorPool, sparse: bool) -> Deployment {
    let name = pool.name_any();
    let paths = &pool.spec.disks.disk_list;
    let sparse_dir = settings.sparse_dir.as_ref().unwrap_or(&options.sparse_dir);
    let mut args: Vec<String> = ["pool", "serve", "--create", "--name", &name].map(String::from).to_vec();
    for path in paths {
        args.extend([String::from("--device"), path.clone()]);
    }
    args.extend([String::from("--listen"), format!("0.0.0.0:{}", labels::POOL_PORT)]);
    args.extend([String::from("--peers"), format!("{PEERS_DIR}/{PEERS_FILE}")]);
    args.extend([String::from("--cache"), cache_bytes(settings).to_string()]);
    let data =
        if sparse { host_path("sparse", sparse_dir, "Directory") } else { host_path("dev", "/dev", "Directory") };
    let data_mount = if sparse { mount("sparse", sparse_dir, false) } else { mount("dev", "/dev", false) };
    let peers = Volume {
        name: String::from("peers"),
        config_map: Some(ConfigMapVolumeSource {
            name: PEERS.to_owned(),
            optional: Some(true),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let security = if sparse {
        unprivileged(0)
    } else {
        SecurityContext { run_as_user: Some(0), privileged: Some(true), ..SecurityContext::default() }
    };
    let container = Container {
        name: String::from("cstor-pool"),
        image: Some(options.image.clone()),
        image_pull_policy: Some(options.image_pull_policy.clone()),
        args: Some(args),
        env: Some(vec![env("RUST_LOG", "info")]),
        ports: Some(vec![container_port("pool-grpc", labels::POOL_PORT)]),
        resources: settings.resources.clone(),
        startup_probe: Some(grpc_probe(labels::POOL_PORT, "", 1, START_LIMIT_S)),
        liveness_probe: Some(grpc_probe(labels::POOL_PORT, "", 10, 6)),
        readiness_probe: Some(grpc_probe(labels::POOL_PORT, "", 5, 3)),
        security_context: Some(security),
        volume_mounts: Some(vec![data_mount, mount("peers", PEERS_DIR, true)]),
        ..Container::default()
    };
    // By affinity and not by nodeName: a cordoned node keeps its pool, a node that is gone leaves it pending.
    let on_host = NodeSelectorRequirement {
        key: labels::HOSTNAME.to_owned(),
        operator: String::from("In"),
        values: Some(vec![pool.spec.host_name.clone()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![on_host]), match_fields: None };
    let affinity = Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: vec![term] }),
            preferred_during_scheduling_ignored_during_execution: None,
        }),
        ..Affinity::default()
    };
    let own = pool_labels(pool);
    let pod = PodSpec {
        affinity: Some(affinity),
        automount_service_account_token: Some(false),
        containers: vec![container],
        enable_service_links: Some(false),
        priority_class_name: options.priority_class.clone(),
        service_account_name: options.service_account.clone(),
        termination_grace_period_seconds: Some(30),
        tolerations: Some(settings.tolerations.clone()).filter(|list| !list.is_empty()),
        volumes: Some(vec![data, peers]),
        ..PodSpec::default()
    };
    let labels_of_pod = text_map(own.each_ref().map(|(key, value)| (*key, value.as_str())));
    Deployment {
        metadata: meta(options, pool),
        spec: DeploymentSpec {
            replicas: Some(1),
            selector: LabelSelector {
                match_labels: Some(text_map([(labels::APP, "cstor-pool"), (labels::CSTOR_POOL, &name)])),
                match_expressions: None,
            },
            // Two processes can never open one pool.
            strategy: Some(DeploymentStrategy { type_: Some(String::from("Recreate")), rolling_update: None }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels_of_pod), ..ObjectMeta::default() }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}
