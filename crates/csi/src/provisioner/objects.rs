//! The objects that the provisioner makes: CStorVolume and PersistentVolume.

use std::collections::BTreeMap;

use ballast_api::k8s::config::{Config, VolumeSettings};
use ballast_api::k8s::labels;
use ballast_api::k8s::volume::{AntiAffinity, CStorVolume, CStorVolumeSpec};
use k8s_openapi::api::core::v1::{
    ISCSIPersistentVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt as _;
use kube::api::ObjectMeta;

use super::claim::{Refusal, Wish, class_name};
use super::{FINALIZER, MANAGER, Options};

/// Who made a PersistentVolume or a CStorVolume: the provisioner's name. Kubernetes looks at it too.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// As cStor has it.
const IDENTITY: &str = "openEBSProvisionerIdentity";
/// A label of what the provisioner made.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// On a CStorVolume, an annotation: "true" when its PersistentVolume had another policy than Delete, so that the volume
/// outlives it.
pub(super) const KEPT: &str = "openebs.io/keep-volume";

/// The name of a claim's CStorVolume and PersistentVolume.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.uid().filter(|uid| !uid.is_empty()).map(|uid| format!("pvc-{uid}"))
}

/// A name as the value of a label, which has at most 63 letters; longer names end in a checksum of the whole.
fn label_value(name: &str) -> String {
    if name.len() <= 63 {
        return name.to_owned();
    }
    // FNV-1a: short, the same everywhere, and no secret depends on it.
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let start: String = name.chars().take(46).collect();
    format!("{start}-{hash:016x}")
}

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The CStorVolume of a claim.
pub(super) fn volume(name: &str, claim: &PersistentVolumeClaim, wish: &Wish, options: &Options) -> CStorVolume {
    let claim_namespace = claim.namespace().unwrap_or_default();
    let mut own = strings([
        (labels::PERSISTENT_VOLUME, name),
        (labels::PERSISTENT_VOLUME_CLAIM, &label_value(&claim.name_any())),
        (labels::PVC_NAMESPACE, &claim_namespace),
        (labels::CAS_TYPE, "cstor"),
        (labels::STORAGE_POOL_CLAIM, &label_value(&wish.settings.storage_pool_claim)),
        (labels::BALLAST_VERSION, env!("CARGO_PKG_VERSION")),
        (MANAGED_BY, MANAGER),
    ]);
    if let Some(class) = class_name(claim) {
        own.insert(labels::STORAGE_CLASS.to_owned(), label_value(class));
    }
    let affinities = [labels::REPLICA_ANTI_AFFINITY, labels::PREFERRED_REPLICA_ANTI_AFFINITY, labels::TARGET_AFFINITY];
    for label in affinities {
        if let Some(value) = claim.labels().get(label) {
            own.insert(label.to_owned(), value.clone());
        }
    }
    let group = |label: &str, required: bool| {
        let group = claim.labels().get(label).filter(|value| !value.is_empty())?;
        Some(AntiAffinity { group: group.clone(), required })
    };
    let replicas = i32::try_from(wish.settings.replica_count).unwrap_or(1);
    CStorVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(options.namespace.clone()),
            labels: Some(own),
            // The whole names: labels may hold only their beginnings.
            annotations: Some(strings([
                (labels::CONFIG, &wish.config.to_annotation()),
                (labels::PERSISTENT_VOLUME_CLAIM, &claim.name_any()),
                (labels::PVC_NAMESPACE, &claim_namespace),
                (PROVISIONED_BY, &options.provisioner),
            ])),
            finalizers: Some(vec![labels::VOLUME_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: CStorVolumeSpec {
            capacity: wish.capacity.clone(),
            replication_factor: replicas,
            consistency_factor: replicas / 2 + 1,
            storage_pool_claim: wish.settings.storage_pool_claim.clone(),
            target_port: Some(labels::ISCSI_PORT.to_string()),
            iqn: Some(iqn(name)),
            preferred_node: wish.node.clone(),
            replica_anti_affinity: group(labels::REPLICA_ANTI_AFFINITY, true)
                .or_else(|| group(labels::PREFERRED_REPLICA_ANTI_AFFINITY, false)),
            ..CStorVolumeSpec::default()
        },
        status: None,
    }
}

/// The iSCSI name of a volume.
pub(super) fn iqn(name: &str) -> String {
    format!("{}{name}", labels::IQN_PREFIX)
}

/// Whether this provisioner made a CStorVolume.
pub(super) fn made(volume: &CStorVolume, options: &Options) -> bool {
    let is =
        |map: &BTreeMap<String, String>, name: &str, value: &str| map.get(name).is_some_and(|there| there == value);
    is(volume.labels(), MANAGED_BY, MANAGER) && is(volume.annotations(), PROVISIONED_BY, &options.provisioner)
}

/// Whether a CStorVolume outlives its PersistentVolume.
pub(super) fn kept(volume: &CStorVolume) -> bool {
    volume.annotations().get(KEPT).is_some_and(|text| text == "true")
}

/// Namespace and name of the claim that a CStorVolume was made for.
pub(super) fn claim_of(volume: &CStorVolume) -> Option<(&str, &str)> {
    let annotations = volume.annotations();
    Some((annotations.get(labels::PVC_NAMESPACE)?, annotations.get(labels::PERSISTENT_VOLUME_CLAIM)?))
}

/// Whether PersistentVolumes of this class are deleted with their claims.
pub(super) fn deletes(class: &StorageClass) -> bool {
    class.reclaim_policy.as_deref().unwrap_or("Delete") == "Delete"
}

/// The PersistentVolume of a claim, for a volume whose target is at `portal`.
pub(super) fn persistent(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    volume: &CStorVolume,
    portal: &str,
    options: &Options,
) -> Result<PersistentVolume, Refusal> {
    let name = volume.name_any();
    // As they were when the volume was made: the class may be another one by now.
    let config = Config::parse(volume.annotations().get(labels::CONFIG).map_or("", String::as_str))?;
    let settings = VolumeSettings::from_config(&config)?;
    let spec = claim.spec.clone().unwrap_or_default();
    let block = spec.volume_mode.as_deref() == Some("Block");
    let class_name = class.name_any();
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(strings([(labels::CAS_TYPE, "cstor"), (labels::STORAGE_CLASS, &label_value(&class_name))])),
            annotations: Some(strings([
                (IDENTITY, &options.identity),
                (labels::CAS_TYPE, "cstor"),
                (PROVISIONED_BY, &options.provisioner),
            ])),
            finalizers: deletes(class).then(|| vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some([("storage".to_owned(), Quantity(volume.spec.capacity.clone()))].into()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                name: claim.metadata.name.clone(),
                namespace: claim.namespace(),
                uid: claim.uid(),
                resource_version: claim.resource_version(),
                ..ObjectReference::default()
            }),
            iscsi: Some(ISCSIPersistentVolumeSource {
                target_portal: portal.to_owned(),
                iqn: iqn(&name),
                lun: i32::try_from(settings.lun).unwrap_or_default(),
                iscsi_interface: Some("default".to_owned()),
                // A raw device has no file system.
                fs_type: (!block).then_some(settings.fs_type),
                ..ISCSIPersistentVolumeSource::default()
            }),
            mount_options: class.mount_options.clone().filter(|options| !options.is_empty()),
            persistent_volume_reclaim_policy: Some(if deletes(class) { "Delete" } else { "Retain" }.to_owned()),
            storage_class_name: Some(class_name),
            volume_mode: Some(if block { "Block" } else { "Filesystem" }.to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_labels_too() {
        assert_eq!(label_value("short"), "short");
        let (one, two) = (label_value(&format!("{}a", "x".repeat(80))), label_value(&format!("{}b", "x".repeat(80))));
        assert_eq!((one.len(), two.len()), (63, 63));
        assert_ne!(one, two);
    }
}
