//! What a claim asks for, and why it may not get it.

use ballast_api::k8s::config::{Config, VolumeSettings};
use ballast_api::k8s::labels;
use ballast_api::k8s::quantity::parse_bytes;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;

/// Set by Kubernetes on a claim that a provisioner should serve, and the older name of the same
/// (<https://kubernetes.io/docs/reference/labels-annotations-taints/#volume-kubernetes-io-storage-provisioner>).
const ASKED: [&str; 2] = ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Set by the scheduler on a claim whose class waits for a consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The class of a claim, before it had a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Sizes are multiples of a block.
const BLOCK: u64 = 4096;

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wish {
    pub(super) settings: VolumeSettings,
    pub(super) config: Config,
    /// A Kubernetes quantity, a multiple of a block.
    pub(super) capacity: String,
    pub(super) node: Option<String>,
}

/// Why a claim gets no volume now. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Config(#[from] ballast_api::k8s::config::ConfigError),
    #[error("the StorageClass {0} is gone: create it again, or delete this claim")]
    NoClass(String),
    #[error(
        "the StoragePoolClaim {0} does not exist: create it, or name another one as StoragePoolClaim in cas.openebs.io/config of the StorageClass"
    )]
    NoPoolClaim(String),
    #[error(
        "the access mode ReadWriteMany is not supported: a block volume is mounted on one node at a time; use ReadWriteOnce, \
         and to share files run an NFS server on such a volume"
    )]
    ReadWriteMany,
    #[error(
        "the access mode ReadOnlyMany is not supported: use ReadWriteOnce, and mount the volume with readOnly in the pods \
         that only read"
    )]
    ReadOnlyMany,
    #[error("the access mode {0} is not known: use ReadWriteOnce or ReadWriteOncePod")]
    AccessMode(String),
    #[error("the claim has no access mode: use ReadWriteOnce or ReadWriteOncePod")]
    NoAccessMode,
    #[error("the volume mode {0} is not known: use Filesystem or Block")]
    VolumeMode(String),
    #[error("the size cannot be used: {0}: write spec.resources.requests.storage, for example 10Gi")]
    Size(String),
    #[error(
        "the claim has a selector, which dynamic volumes cannot satisfy: remove spec.selector, or make the volume by hand"
    )]
    Selector,
    #[error("volumes of this provisioner are made empty: remove spec.dataSource and spec.dataSourceRef")]
    Source,
    #[error(
        "a CStorVolume {0} exists that this provisioner did not make: delete it, or make its PersistentVolume by hand"
    )]
    ForeignVolume(String),
    /// `soon`: it may be a matter of seconds.
    #[error("the volume {name} is not made yet: {message}")]
    NotFormed { name: String, message: String, soon: bool },
}

/// The class of a claim.
pub(super) fn class_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let old = claim.annotations().get(OLD_CLASS).map(String::as_str);
    old.or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref()).filter(|name| !name.is_empty())
}

/// The volume that a claim is bound to, or should be.
pub(super) fn bound_to(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether Kubernetes asks this provisioner for a volume now.
pub(super) fn asks(claim: &PersistentVolumeClaim, class: &StorageClass, provisioner: &str) -> bool {
    let asked = ASKED.iter().any(|name| claim.annotations().get(*name).is_some_and(|text| text == provisioner));
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    asked
        && class.provisioner == provisioner
        && bound_to(claim).is_none()
        && claim.metadata.deletion_timestamp.is_none()
        && (!waits || claim.annotations().contains_key(SELECTED_NODE))
}

/// What the claim asks for.
pub(super) fn wish(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    pool_claim_exists: impl Fn(&str) -> bool,
) -> Result<Wish, Refusal> {
    let text = |annotations: &std::collections::BTreeMap<String, String>| {
        Config::parse(annotations.get(labels::CONFIG).map_or("", String::as_str))
    };
    let config = text(claim.annotations())?.over(text(class.annotations())?);
    let settings = VolumeSettings::from_config(&config)?;
    let spec = claim.spec.clone().unwrap_or_default();
    access(spec.access_modes.as_deref().unwrap_or_default())?;
    if let Some(mode) = &spec.volume_mode
        && mode != "Filesystem"
        && mode != "Block"
    {
        return Err(Refusal::VolumeMode(mode.clone()));
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(Refusal::Source);
    }
    if spec.selector.is_some() {
        return Err(Refusal::Selector);
    }
    let requests = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let Some(size) = requests.get("storage") else {
        return Err(Refusal::Size("the claim says none".to_owned()));
    };
    let capacity = capacity(&size.0)?;
    if !pool_claim_exists(&settings.storage_pool_claim) {
        return Err(Refusal::NoPoolClaim(settings.storage_pool_claim));
    }
    let node = claim.annotations().get(SELECTED_NODE).filter(|node| !node.is_empty()).cloned();
    Ok(Wish { settings, config, capacity, node })
}

fn access(modes: &[String]) -> Result<(), Refusal> {
    for mode in modes {
        match mode.as_str() {
            "ReadWriteOnce" | "ReadWriteOncePod" => {}
            "ReadWriteMany" => return Err(Refusal::ReadWriteMany),
            "ReadOnlyMany" => return Err(Refusal::ReadOnlyMany),
            other => return Err(Refusal::AccessMode(other.to_owned())),
        }
    }
    if modes.is_empty() { Err(Refusal::NoAccessMode) } else { Ok(()) }
}

/// The claim's own words where they are a whole number of blocks, else the next one up in bytes.
fn capacity(text: &str) -> Result<String, Refusal> {
    let bytes = parse_bytes(text).map_err(|error| Refusal::Size(error.to_string()))?;
    if bytes == 0 {
        return Err(Refusal::Size("it is 0".to_owned()));
    }
    if bytes % BLOCK == 0 {
        return Ok(text.trim().to_owned());
    }
    let rounded = bytes.checked_next_multiple_of(BLOCK).ok_or_else(|| Refusal::Size(format!("{text} is too large")))?;
    Ok(rounded.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in crate::provisioner) fn class(config: &str) -> StorageClass {
        let class = json!({
            "metadata": {"name": "sc", "annotations": {labels::CONFIG: config, "openebs.io/cas-type": "cstor"}},
            "provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        });
        serde_json::from_value(class).unwrap()
    }

    pub(in crate::provisioner) fn claim() -> Value {
        json!({
            "metadata": {
                "name": "c", "namespace": "n", "uid": "u", "annotations": {"volume.kubernetes.io/storage-provisioner": "p"},
            },
            "spec": {
                "storageClassName": "sc", "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        })
    }

    pub(in crate::provisioner) const POOLS: &str = "[{name: StoragePoolClaim, value: pools}]";

    fn wished(claim: &Value, config: &str) -> Result<Wish, Refusal> {
        wish(&serde_json::from_value(claim.clone()).unwrap(), &class(config), |name| name == "pools")
    }

    #[test]
    fn the_claims_settings_go_before_the_classes() {
        let mut claim = claim();
        claim["metadata"]["annotations"][labels::CONFIG] =
            json!("[{name: ReplicaCount, value: 2}, {name: Later, value: kept}]");
        let wish = wished(&claim, "[{name: StoragePoolClaim, value: pools}, {name: ReplicaCount, value: 5}]").unwrap();
        assert_eq!((wish.settings.replica_count, wish.capacity.as_str(), wish.node), (2, "1Gi", None));
        assert_eq!(wish.config.text("Later").as_deref(), Some("kept"));
        assert_eq!(wish.config.text("StoragePoolClaim").as_deref(), Some("pools"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut claim = claim();
            change(&mut claim);
            wished(&claim, POOLS).unwrap_err()
        };
        let modes = |modes: Value| refused(&|claim| claim["spec"]["accessModes"] = modes.clone());
        assert_eq!(modes(json!(["ReadWriteMany"])), Refusal::ReadWriteMany);
        assert_eq!(modes(json!(["ReadWriteOnce", "ReadOnlyMany"])), Refusal::ReadOnlyMany);
        assert_eq!(modes(json!(["Never"])), Refusal::AccessMode("Never".into()));
        assert_eq!(modes(json!([])), Refusal::NoAccessMode);
        let size = |size: Value| refused(&|claim| claim["spec"]["resources"]["requests"] = size.clone());
        for wrong in [json!({"storage": "0"}), json!({"storage": "x"}), json!({}), json!({"storage": "-1Gi"})] {
            assert!(matches!(size(wrong.clone()), Refusal::Size(_)), "{wrong}");
        }
        assert_eq!(refused(&|claim| claim["spec"]["volumeMode"] = json!("Tape")), Refusal::VolumeMode("Tape".into()));
        assert_eq!(refused(&|claim| claim["spec"]["selector"] = json!({})), Refusal::Selector);
        let source = json!({"kind": "PersistentVolumeClaim", "name": "x"});
        assert_eq!(refused(&|claim| claim["spec"]["dataSource"] = source.clone()), Refusal::Source);
        let elsewhere = wished(&claim(), "[{name: StoragePoolClaim, value: others}]");
        assert_eq!(elsewhere, Err(Refusal::NoPoolClaim("others".into())));
        for config in ["", "x", "[{name: StoragePoolClaim, value: pools}, {name: ReplicaCount, value: 9}]"] {
            assert!(matches!(wished(&claim(), config), Err(Refusal::Config(_))), "{config}");
        }
    }

    #[test]
    fn sizes_are_whole_blocks() {
        assert_eq!(capacity("1Gi").unwrap(), "1Gi");
        assert_eq!(capacity("8192").unwrap(), "8192");
        assert_eq!(capacity("1").unwrap(), "4096");
        assert_eq!(capacity("1G").unwrap(), "1000001536");
        assert!(capacity(&u64::MAX.to_string()).is_err());
    }

    #[test]
    fn only_those_that_ask() {
        let asks = |claim: &Value, class: &StorageClass| {
            super::asks(&serde_json::from_value(claim.clone()).unwrap(), class, "p")
        };
        let mut class = class(POOLS);
        assert!(asks(&claim(), &class));
        let mut old = claim();
        old["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-provisioner": "p"});
        assert!(asks(&old, &class));
        for (pointer, value) in [
            ("/metadata/annotations", json!({})),
            ("/metadata/annotations", json!({"volume.kubernetes.io/storage-provisioner": "q"})),
            ("/spec/volumeName", json!("v")),
            ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        ] {
            let mut claim = claim();
            claim["spec"]["volumeName"] = json!("");
            claim["metadata"]["deletionTimestamp"] = Value::Null;
            *claim.pointer_mut(pointer).unwrap() = value;
            assert!(!asks(&claim, &class), "{pointer}");
        }
        class.volume_binding_mode = Some("WaitForFirstConsumer".into());
        assert!(!asks(&claim(), &class));
        let mut chosen = claim();
        chosen["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = json!("w1");
        assert!(asks(&chosen, &class));
        assert_eq!(wished(&chosen, POOLS).unwrap().node.as_deref(), Some("w1"));
        class.provisioner = "q".into();
        assert!(!asks(&chosen, &class));
    }
}
