//! Pieces that the objects of pools and of volumes have in common.

use std::collections::BTreeMap;

use ballast_api::k8s::labels;
use k8s_openapi::api::core::v1::{
    Capabilities, ContainerPort, EnvVar, GRPCAction, Probe, SeccompProfile, SecurityContext, ServicePort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt as _};

use crate::options::Options;

/// On everything that the operator makes.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "ballast-operator");

/// Metadata of an object in the operator's namespace.
pub(crate) fn metadata<const N: usize>(options: &Options, name: &str, own: [(&str, &str); N]) -> ObjectMeta {
    let mut all = text_map(own);
    all.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    all.insert(labels::BALLAST_VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(options.namespace.clone()),
        labels: Some(all),
        ..ObjectMeta::default()
    }
}

/// Labels or the like.
pub(crate) fn text_map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The object goes when its owner goes.
pub(crate) fn owned_by<K: Resource<DynamicType = ()>>(mut metadata: ObjectMeta, owner: &K) -> ObjectMeta {
    metadata.owner_references = Some(vec![owner_reference(owner)]);
    metadata
}

/// A controller reference to `owner`.
pub(crate) fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        // The owner's own finalizer decides the order, not the garbage collector.
        block_owner_deletion: Some(false),
    }
}

/// A TCP port of a Service, to the port of the same number.
pub(crate) fn service_port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some(String::from("TCP")),
        ..ServicePort::default()
    }
}

/// A TCP port of a container.
pub(crate) fn container_port(name: &str, port: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some(String::from("TCP")),
        ..ContainerPort::default()
    }
}

/// An environment variable with a fixed value.
pub(crate) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

/// The standard gRPC health check on `port`: every `period` seconds, failed after `failures` in a row.
pub(crate) fn grpc_probe(port: u16, service: &str, period: i32, failures: i32) -> Probe {
    Probe {
        grpc: Some(GRPCAction { port: i32::from(port), service: Some(service.to_owned()), ..GRPCAction::default() }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

/// The least that a process without root needs.
pub(crate) fn unprivileged(user: i64) -> SecurityContext {
    SecurityContext {
        run_as_user: Some(user),
        run_as_non_root: Some(user != 0),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec![String::from("ALL")]), add: None }),
        seccomp_profile: Some(SeccompProfile { type_: String::from("RuntimeDefault"), localhost_profile: None }),
        ..SecurityContext::default()
    }
}
