//! The Kubernetes objects of Ballast: names and fields of OpenEBS cStor's StoragePoolClaim generation, so that its
//! manifests, scripts and dashboards work unchanged, plus what Ballast adds.
//!
//! One file for each kind. `ballast crds` prints the definitions that the chart installs; the comments of the fields here
//! are what `kubectl explain` says.

// Several printed columns of one kind: clippy compares their parts without the column they belong to.
#![allow(clippy::duplicated_attributes)]

pub mod claim;
pub mod config;
pub mod device;
pub mod disk;
pub mod labels;
pub mod pool;
pub mod quantity;
pub mod replica;
pub mod volume;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use claim::StoragePoolClaim;
pub use device::{BlockDevice, BlockDeviceClaim};
pub use disk::Disk;
pub use pool::CStorPool;
pub use replica::CStorVolumeReplica;
pub use volume::CStorVolume;

/// API group of all kinds.
pub const GROUP: &str = "openebs.io";
/// Their version.
pub const VERSION: &str = "v1alpha1";

/// All definitions, in the order in which they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![
        StoragePoolClaim::crd(),
        CStorPool::crd(),
        CStorVolume::crd(),
        CStorVolumeReplica::crd(),
        BlockDevice::crd(),
        BlockDeviceClaim::crd(),
        Disk::crd(),
    ]
}

/// One aspect of an object's state, in the form of all Kubernetes conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect, for example "Ready".
    #[serde(rename = "type")]
    pub type_: String,
    /// "True", "False" or "Unknown".
    pub status: String,
    /// One word for programs.
    #[serde(default)]
    pub reason: String,
    /// For people: what is, and what to do next.
    #[serde(default)]
    pub message: String,
    /// When the status last changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

impl Condition {
    /// A condition without a time, which [`Self::keep_time`] adds.
    pub fn new(type_: &str, status: &str, reason: &str, message: impl Into<String>) -> Self {
        Self {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: None,
        }
    }

    /// "Ready" of an object in `phase`: in one of `ready` it is, in "Unknown" nobody knows, in all others it is not.
    pub fn ready(phase: &str, ready: &[&str], message: &str) -> Self {
        let status = match phase {
            "Unknown" => "Unknown",
            phase if ready.contains(&phase) => "True",
            _ => "False",
        };
        Self::new("Ready", status, phase, message)
    }

    /// With the time of the last change: that of the same condition in `old` while its status stays, else now.
    #[must_use]
    pub fn keep_time(mut self, old: &[Self], now: impl FnOnce() -> String) -> Self {
        let same = old.iter().find(|before| before.type_ == self.type_ && before.status == self.status);
        self.last_transition_time = same.and_then(|before| before.last_transition_time.clone()).or_else(|| Some(now()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_existing_scripts_use() {
        let names: Vec<_> = crds().into_iter().map(|crd| (crd.spec.names.plural, crd.spec.scope)).collect();
        let expected = [
            ("storagepoolclaims", "Cluster"),
            ("cstorpools", "Cluster"),
            ("cstorvolumes", "Namespaced"),
            ("cstorvolumereplicas", "Namespaced"),
            ("blockdevices", "Namespaced"),
            ("blockdeviceclaims", "Namespaced"),
            ("disks", "Cluster"),
        ];
        assert_eq!(names, expected.map(|(plural, scope)| (plural.to_owned(), scope.to_owned())));
    }

    #[test]
    fn definitions_are_structural() {
        for crd in crds() {
            for version in crd.spec.versions {
                let schema = version.schema.and_then(|schema| schema.open_api_v3_schema).expect("a schema");
                let text = serde_json::to_string(&schema).unwrap();
                assert!(!text.contains("\"$ref\""), "{}", crd.spec.names.kind);
                assert!(version.subresources.is_some_and(|sub| sub.status.is_some()) || crd.spec.names.kind == "Disk");
            }
        }
    }
}
