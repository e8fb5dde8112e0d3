//! The objects of a volume: replicas, Service, ConfigMap and Deployment of the target. Pure builders.

use std::collections::BTreeMap;

use ballast_api::PoolId;
use ballast_api::k8s::config::VolumeSettings;
use ballast_api::k8s::replica::CStorVolumeReplicaSpec;
use ballast_api::k8s::{CStorPool, CStorVolume, CStorVolumeReplica, labels};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMap, ConfigMapVolumeSource, Container, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm,
    PodAffinity, PodAffinityTerm, PodSpec, PodTemplateSpec, PreferredSchedulingTerm, Service, ServiceSpec, Toleration,
    Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::ResourceExt as _;

use crate::objects::{
    container_port, env, grpc_probe, metadata, owned_by, owner_reference, service_port, text_map, unprivileged,
};
use crate::options::Options;

/// Key of the target's ConfigMap, and the name of the file.
pub const VOLUMES_FILE: &str = "volumes.json";
const TARGET_DIR: &str = "/etc/ballast/target";
/// A user that owns nothing.
const NOBODY: i64 = 65534;
/// A target on a node that went away starts elsewhere after so many seconds: well within the 120 s that the Linux initiator waits
/// before a file system sees an error.
const EVICTION_S: i64 = 5;

/// Name of the target's Deployment and ConfigMap.
pub fn target_name(volume: &CStorVolume) -> String {
    format!("{}-target", volume.name_any())
}

fn volume_labels(volume: &CStorVolume) -> BTreeMap<String, String> {
    let claim = volume.labels().get(labels::PERSISTENT_VOLUME_CLAIM).cloned().unwrap_or_default();
    text_map([
        (labels::PERSISTENT_VOLUME, volume.name_any().as_str()),
        (labels::PERSISTENT_VOLUME_CLAIM, claim.as_str()),
        (labels::STORAGE_ENGINE, "cstor"),
        (labels::CAS_TYPE, "cstor"),
    ])
}

fn meta(options: &Options, volume: &CStorVolume, name: &str) -> ObjectMeta {
    let mut metadata = owned_by(metadata(options, name, []), volume);
    metadata.labels.get_or_insert_default().extend(volume_labels(volume));
    metadata
}

fn selector(volume: &CStorVolume) -> BTreeMap<String, String> {
    text_map([
        (labels::APP, "cstor-volume-manager"),
        (labels::TARGET, "cstor-target"),
        (labels::PERSISTENT_VOLUME, volume.name_any().as_str()),
    ])
}

/// A replica of the volume in `pool`, under the Raft id `replica`.
pub fn replica(
    volume: &CStorVolume,
    (pool, pool_id): (&CStorPool, PoolId),
    replica: u64,
    founding: bool,
) -> CStorVolumeReplica {
    let pool_name = pool.name_any();
    let name = format!("{}-{pool_name}", volume.name_any());
    let spec = CStorVolumeReplicaSpec {
        target_ip: volume.spec.target_ip.clone().unwrap_or_default(),
        capacity: volume.spec.capacity.clone(),
        replicaid: replica.to_string(),
        pool_id: pool_id.to_string(),
        founding,
        zvol_workers: None,
    };
    let mut object = CStorVolumeReplica::new(&name, spec);
    object.metadata.namespace = volume.namespace();
    object.metadata.labels = Some(text_map([
        (labels::REPLICA_POOL_NAME, pool_name.as_str()),
        (labels::REPLICA_POOL_UID, pool.uid().unwrap_or_default().as_str()),
        (labels::CSTOR_VOLUME, volume.name_any().as_str()),
        (labels::PERSISTENT_VOLUME, volume.name_any().as_str()),
        (labels::BALLAST_VERSION, env!("CARGO_PKG_VERSION")),
    ]));
    object.metadata.annotations = Some(text_map([(labels::REPLICA_HOSTNAME, pool.spec.host_name.as_str())]));
    object.metadata.finalizers = Some(vec![labels::REPLICA_FINALIZER.to_owned()]);
    object.metadata.owner_references = Some(vec![owner_reference(volume)]);
    object
}

/// The address of the volume.
pub fn service(options: &Options, volume: &CStorVolume) -> Service {
    let mut metadata = meta(options, volume, &volume.name_any());
    metadata.labels.get_or_insert_default().insert(labels::TARGET_SERVICE.to_owned(), String::from("cstor-target-svc"));
    let spec = ServiceSpec {
        ports: Some(vec![
            service_port("cstor-iscsi", labels::ISCSI_PORT),
            service_port("cstor-grpc", labels::TARGET_CONTROL_PORT),
            service_port("mgmt", labels::MANAGEMENT_PORT),
            service_port("exporter", labels::METRICS_PORT),
        ]),
        selector: Some(selector(volume)),
        // A target that waits for its quorum must stay reachable, so that I/O waits with it instead of failing.
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    Service { metadata, spec: Some(spec), ..Service::default() }
}

/// What the target serves, read when it starts.
pub fn config_map(options: &Options, volume: &CStorVolume, volumes: &str) -> ConfigMap {
    ConfigMap {
        metadata: meta(options, volume, &target_name(volume)),
        data: Some(text_map([(VOLUMES_FILE, volumes)])),
        ..ConfigMap::default()
    }
}

fn not_for_long(key: &str) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        operator: Some(String::from("Exists")),
        effect: Some(String::from("NoExecute")),
        toleration_seconds: Some(EVICTION_S),
        value: None,
    }
}

fn prefer(weight: i32, hosts: Vec<String>) -> PreferredSchedulingTerm {
    let on_host =
        NodeSelectorRequirement { key: labels::HOSTNAME.to_owned(), operator: String::from("In"), values: Some(hosts) };
    PreferredSchedulingTerm {
        weight,
        preference: NodeSelectorTerm { match_expressions: Some(vec![on_host]), match_fields: None },
    }
}

/// Near the pods of the application, when its claim has the label that those have. A wish: a target that waited for its
/// application's pod would be a volume without a target for all who look at it meanwhile.
fn near_application(volume: &CStorVolume) -> Option<PodAffinity> {
    let value = volume.labels().get(labels::TARGET_AFFINITY)?;
    let pods = text_map([(labels::TARGET_AFFINITY, value.as_str())]);
    let term = PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(pods), match_expressions: None }),
        namespaces: volume.annotations().get(labels::PVC_NAMESPACE).map(|namespace| vec![namespace.clone()]),
        topology_key: labels::HOSTNAME.to_owned(),
        ..PodAffinityTerm::default()
    };
    let term = WeightedPodAffinityTerm { weight: 100, pod_affinity_term: term };
    Some(PodAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![term]),
        required_during_scheduling_ignored_during_execution: None,
    })
}

/// The target's process. It prefers nodes that hold a replica: then a write costs one hop less.
pub fn deployment(options: &Options, settings: &VolumeSettings, volume: &CStorVolume, hosts: &[String]) -> Deployment {
    let listen = |port: u16| format!("0.0.0.0:{port}");
    let mut args: Vec<String> = ["target", "serve", "--portal"].map(String::from).to_vec();
    args.push(listen(labels::ISCSI_PORT));
    args.extend([String::from("--control"), listen(labels::TARGET_CONTROL_PORT)]);
    args.extend([String::from("--volumes"), format!("{TARGET_DIR}/{VOLUMES_FILE}")]);
    if let Some(portal) = &volume.spec.target_portal {
        // Initiators log in to the address that discovery tells, which must be the Service's and not the pod's.
        args.extend([String::from("--advertise"), portal.clone()]);
    }
    let container = Container {
        name: String::from("cstor-istgt"),
        image: Some(options.image.clone()),
        image_pull_policy: Some(options.image_pull_policy.clone()),
        args: Some(args),
        env: Some(vec![env("RUST_LOG", "info")]),
        ports: Some(vec![
            container_port("iscsi", labels::ISCSI_PORT),
            container_port("control", labels::TARGET_CONTROL_PORT),
        ]),
        resources: settings.resources.clone(),
        startup_probe: Some(grpc_probe(labels::TARGET_CONTROL_PORT, "", 1, 60)),
        liveness_probe: Some(grpc_probe(labels::TARGET_CONTROL_PORT, "", 10, 6)),
        readiness_probe: Some(grpc_probe(labels::TARGET_CONTROL_PORT, "", 5, 3)),
        security_context: Some(unprivileged(NOBODY)),
        volume_mounts: Some(vec![VolumeMount {
            name: String::from("volumes"),
            mount_path: TARGET_DIR.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    };
    let mut preferred = Vec::new();
    if let Some(node) = volume.spec.preferred_node.clone().filter(|node| hosts.contains(node)) {
        preferred.push(prefer(100, vec![node]));
    }
    if !hosts.is_empty() {
        preferred.push(prefer(50, hosts.to_vec()));
    }
    let affinity = Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(preferred).filter(|terms| !terms.is_empty()),
            required_during_scheduling_ignored_during_execution: None,
        }),
        pod_affinity: near_application(volume),
        ..Affinity::default()
    };
    let mut tolerations = settings.tolerations.clone();
    tolerations.extend(["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(not_for_long));
    let config = ConfigMapVolumeSource { name: target_name(volume), ..ConfigMapVolumeSource::default() };
    let pod = PodSpec {
        affinity: Some(affinity),
        automount_service_account_token: Some(false),
        containers: vec![container],
        enable_service_links: Some(false),
        node_selector: Some(settings.node_selector.clone()).filter(|labels| !labels.is_empty()),
        priority_class_name: options.priority_class.clone(),
        service_account_name: options.service_account.clone(),
        termination_grace_period_seconds: Some(15),
        tolerations: Some(tolerations),
        volumes: Some(vec![Volume { name: String::from("volumes"), config_map: Some(config), ..Volume::default() }]),
        ..PodSpec::default()
    };
    let mut pod_labels = volume_labels(volume);
    pod_labels.extend(selector(volume));
    Deployment {
        metadata: meta(options, volume, &target_name(volume)),
        spec: DeploymentSpec {
            replicas: Some(1),
            selector: LabelSelector { match_labels: Some(selector(volume)), match_expressions: None },
            strategy: Some(DeploymentStrategy { type_: Some(String::from("Recreate")), rolling_update: None }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(pod_labels), ..ObjectMeta::default() }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ballast_api::k8s::config::Config;
    use ballast_api::k8s::volume::CStorVolumeSpec;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_target_goes_where_its_application_is() {
        let options = Options {
            namespace: String::from("openebs"),
            image: String::from("ballast:test"),
            image_pull_policy: String::from("Never"),
            service_account: None,
            priority_class: None,
            sparse_dir: String::from("/var/openebs/sparse"),
            replica_grace_period: Duration::from_secs(60),
            identity: String::from("test"),
        };
        let mut volume = CStorVolume::new("pvc-1", CStorVolumeSpec::default());
        let config = Config::parse("- {name: StoragePoolClaim, value: p}").unwrap();
        let settings = VolumeSettings::from_config(&config).unwrap();
        let affinity = |volume: &CStorVolume| {
            let deployment = deployment(&options, &settings, volume, &[String::from("node1")]);
            serde_json::to_value(deployment).unwrap()["spec"]["template"]["spec"]["affinity"].clone()
        };
        assert!(affinity(&volume)["podAffinity"].is_null());
        assert_eq!(
            affinity(&volume)["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["weight"],
            50
        );
        volume.labels_mut().insert(labels::TARGET_AFFINITY.to_owned(), String::from("db"));
        volume.annotations_mut().insert(labels::PVC_NAMESPACE.to_owned(), String::from("shop"));
        let term = &affinity(&volume)["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(
            term["podAffinityTerm"]["labelSelector"]["matchLabels"],
            json!({ "openebs.io/target-affinity": "db" })
        );
        assert_eq!(term["podAffinityTerm"]["namespaces"], json!(["shop"]));
    }
}
