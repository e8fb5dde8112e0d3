//! The next step for one volume. No I/O.
//!
//! ```text
//! claim                       -> MakeVolume
//! claim + formed volume       -> [Keep, when the policy is not Delete] -> MakePersistent
//! released, policy Delete     -> DeleteVolume -> DeletePersistent -> LetGo
//! deleted by hand, Delete     -> DeleteVolume -> LetGo
//! deleted by hand, other      -> Keep -> LetGo
//! volume alone                -> DeleteOrphan, unless it is kept
//! ```

use ballast_api::k8s::CStorVolume;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;

use super::claim::{Refusal, asks, bound_to, class_name, wish};
use super::objects::{self, PROVISIONED_BY};
use super::{FINALIZER, Options};

/// What there is under one key.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The claim with this uid.
    pub(super) claim: Option<PersistentVolumeClaim>,
    /// The claim's class.
    pub(super) class: Option<StorageClass>,
    pub(super) volume: Option<CStorVolume>,
    pub(super) persistent: Option<PersistentVolume>,
}

/// What to do.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Wait for a change.
    Nothing,
    /// Tell the claim's owner.
    Refuse(Refusal),
    MakeVolume(Box<CStorVolume>),
    MakePersistent(Box<PersistentVolume>),
    /// Mark the volume as outliving its PersistentVolume, or no longer so.
    Keep(bool),
    /// Put the finalizer on the PersistentVolume.
    Hold,
    /// Take the finalizer off the PersistentVolume.
    LetGo,
    /// Delete the volume of a PersistentVolume.
    DeleteVolume,
    DeletePersistent,
    /// Delete a volume that has neither claim nor PersistentVolume.
    DeleteOrphan,
}

/// The next step.
pub(super) fn next(name: &str, view: &View, options: &Options, pool_claim_exists: impl Fn(&str) -> bool) -> Step {
    match (&view.persistent, &view.volume, &view.claim) {
        (Some(persistent), volume, _) => of_persistent(name, persistent, volume.as_ref(), options),
        (None, Some(volume), Some(claim)) => of_pair(name, claim, view.class.as_ref(), volume, options),
        (None, Some(volume), None) => of_volume(volume, options),
        (None, None, Some(claim)) => of_claim(name, claim, view.class.as_ref(), options, pool_claim_exists),
        (None, None, None) => Step::Nothing,
    }
}

fn of_claim(
    name: &str,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    options: &Options,
    pool_claim_exists: impl Fn(&str) -> bool,
) -> Step {
    // Without its class nobody knows whose the claim is.
    let Some(class) = class.filter(|class| asks(claim, class, &options.provisioner)) else { return Step::Nothing };
    match wish(claim, class, pool_claim_exists) {
        Ok(wish) => Step::MakeVolume(Box::new(objects::volume(name, claim, &wish, options))),
        Err(refusal) => Step::Refuse(refusal),
    }
}

fn of_pair(
    name: &str,
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: &CStorVolume,
    options: &Options,
) -> Step {
    if volume.metadata.deletion_timestamp.is_some() || claim.metadata.deletion_timestamp.is_some() {
        // The claim may be served again, or the volume becomes an orphan.
        return Step::Nothing;
    }
    match bound_to(claim) {
        // Its PersistentVolume was there and is lost; nobody knows what happened to it.
        Some(bound) if bound == name => return Step::Nothing,
        // It has another one, for good: this field never changes again.
        Some(_) => return of_volume(volume, options),
        None => {}
    }
    if !objects::made(volume, options) {
        return Step::Refuse(Refusal::ForeignVolume(name.to_owned()));
    }
    let status = volume.status.clone().unwrap_or_default();
    let portal = volume.spec.target_portal.as_deref().filter(|portal| !portal.is_empty());
    let Some(portal) = portal.filter(|_| status.formed) else {
        if status.message.is_empty() {
            return Step::Nothing;
        }
        // The operator also says what it waits for when all goes well.
        let soon = status.phase != "Invalid";
        return Step::Refuse(Refusal::NotFormed { name: name.to_owned(), message: status.message, soon });
    };
    let Some(class) = class else {
        return Step::Refuse(Refusal::NoClass(class_name(claim).unwrap_or_default().to_owned()));
    };
    let keep = !objects::deletes(class);
    if keep != objects::kept(volume) {
        return Step::Keep(keep);
    }
    match objects::persistent(claim, class, volume, portal, options) {
        Ok(persistent) => Step::MakePersistent(Box::new(persistent)),
        Err(refusal) => Step::Refuse(refusal),
    }
}

fn of_volume(volume: &CStorVolume, options: &Options) -> Step {
    let deleting = volume.metadata.deletion_timestamp.is_some();
    let known = objects::made(volume, options) && objects::claim_of(volume).is_some();
    if deleting || !known || objects::kept(volume) { Step::Nothing } else { Step::DeleteOrphan }
}

fn of_persistent(name: &str, persistent: &PersistentVolume, volume: Option<&CStorVolume>, options: &Options) -> Step {
    let spec = persistent.spec.clone().unwrap_or_default();
    let by_us = persistent.annotations().get(PROVISIONED_BY).is_some_and(|by| *by == options.provisioner);
    // One that was made by hand under this name need not be about this volume.
    if !by_us || spec.iscsi.is_none_or(|iscsi| iscsi.iqn != objects::iqn(name)) {
        return Step::Nothing;
    }
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let deleting = persistent.metadata.deletion_timestamp.is_some();
    let held = persistent.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let phase = persistent.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let standing = volume.filter(|volume| volume.metadata.deletion_timestamp.is_none());
    if !deletes {
        // First the mark: without finalizer, the PersistentVolume can go at any time.
        return match standing {
            Some(volume) if !objects::kept(volume) => Step::Keep(true),
            _ if held => Step::LetGo,
            _ => Step::Nothing,
        };
    }
    if !deleting {
        if !held {
            return Step::Hold;
        }
        if standing.is_some_and(objects::kept) {
            return Step::Keep(false);
        }
    }
    let over = if deleting { phase != "Bound" } else { phase == "Released" };
    match (over, volume, standing) {
        (false, ..) => Step::Nothing,
        (true, _, Some(_)) => Step::DeleteVolume,
        // It is being deleted.
        (true, Some(_), None) => Step::Nothing,
        (true, None, None) if !deleting => Step::DeletePersistent,
        (true, None, None) if held => Step::LetGo,
        (true, None, None) => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::claim::tests::{POOLS, claim, class};
    use super::*;

    const NAME: &str = "pvc-u";
    const GONE: &str = "2026-01-01T00:00:00Z";

    fn options() -> Options {
        Options { provisioner: "p".into(), ..Options::new("openebs", "me") }
    }

    /// The kinds of Kubernetes cannot all be compared; what they show can.
    impl PartialEq for Step {
        fn eq(&self, other: &Self) -> bool {
            format!("{self:?}") == format!("{other:?}")
        }
    }

    fn step(view: &View) -> Step {
        next(NAME, view, &options(), |name| name == "pools")
    }

    fn view(claim: Option<Value>, volume: Option<CStorVolume>, persistent: Option<Value>) -> View {
        View {
            claim: claim.map(|claim| serde_json::from_value(claim).unwrap()),
            class: Some(class(POOLS)),
            volume,
            persistent: persistent.map(|persistent| serde_json::from_value(persistent).unwrap()),
        }
    }

    fn volume() -> CStorVolume {
        match step(&view(Some(claim()), None, None)) {
            Step::MakeVolume(volume) => *volume,
            other => panic!("{other:?}"),
        }
    }

    fn formed() -> CStorVolume {
        let mut volume = volume();
        volume.spec.target_portal = Some("10.0.0.1:3260".into());
        volume.status = Some(ballast_api::k8s::volume::CStorVolumeStatus { formed: true, ..Default::default() });
        volume
    }

    fn kept(mut volume: CStorVolume) -> CStorVolume {
        volume.annotations_mut().insert(objects::KEPT.into(), "true".into());
        volume
    }

    fn deleting(mut volume: CStorVolume) -> CStorVolume {
        volume.metadata.deletion_timestamp = Some(serde_json::from_value(json!(GONE)).unwrap());
        volume
    }

    fn persistent(policy: &str, phase: &str, held: bool, deleted: bool) -> Value {
        let finalizers = if held { json!(["kubernetes.io/pv-protection", FINALIZER]) } else { json!([]) };
        json!({
            "metadata": {
                "name": NAME, "annotations": {PROVISIONED_BY: "p"}, "finalizers": finalizers,
                "deletionTimestamp": if deleted { json!(GONE) } else { Value::Null },
            },
            "spec": {
                "persistentVolumeReclaimPolicy": policy,
                "iscsi": {"iqn": format!("iqn.2016-09.com.openebs.cstor:{NAME}"), "lun": 0, "targetPortal": "a:3260"},
            },
            "status": {"phase": phase},
        })
    }

    #[test]
    fn a_volume_as_cstor_has_it() {
        let mut claim = claim();
        claim["metadata"]["labels"] =
            json!({"openebs.io/replica-anti-affinity": "db", "openebs.io/target-affinity": "app"});
        claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = json!("w1");
        let Step::MakeVolume(volume) = step(&view(Some(claim), None, None)) else { panic!() };
        let spec = &volume.spec;
        assert_eq!((spec.capacity.as_str(), spec.replication_factor, spec.consistency_factor), ("1Gi", 3, 2));
        assert_eq!(spec.iqn.as_deref(), Some("iqn.2016-09.com.openebs.cstor:pvc-u"));
        assert_eq!((spec.target_port.as_deref(), spec.preferred_node.as_deref()), (Some("3260"), Some("w1")));
        let apart = spec.replica_anti_affinity.as_ref().unwrap();
        assert_eq!((apart.group.as_str(), apart.required), ("db", true));
        assert_eq!(volume.labels()["openebs.io/persistent-volume"], NAME);
        assert_eq!(volume.labels()["openebs.io/persistent-volume-claim"], "c");
        assert_eq!(volume.labels()["openebs.io/pvc-namespace"], "n");
        assert_eq!(volume.labels()["openebs.io/target-affinity"], "app");
        assert_eq!(volume.namespace().as_deref(), Some("openebs"));
        assert_eq!(volume.finalizers(), [ballast_api::k8s::labels::VOLUME_FINALIZER]);
    }

    #[test]
    fn a_persistent_volume_as_cstor_has_it() {
        let mut view = view(Some(claim()), Some(formed()), None);
        view.class.as_mut().unwrap().mount_options = Some(vec!["noatime".into()]);
        let Step::MakePersistent(made) = step(&view) else { panic!() };
        let made = serde_json::to_value(*made).unwrap();
        assert_eq!(
            made,
            json!({
                "apiVersion": "v1", "kind": "PersistentVolume",
                "metadata": {
                    "name": NAME,
                    "labels": {"openebs.io/cas-type": "cstor", "openebs.io/storageclass": "sc"},
                    "annotations": {
                        "openEBSProvisionerIdentity": "me", "openebs.io/cas-type": "cstor", "pv.kubernetes.io/provisioned-by": "p",
                    },
                    "finalizers": [FINALIZER],
                },
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                    "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "c", "namespace": "n", "uid": "u"},
                    "iscsi": {
                        "targetPortal": "10.0.0.1:3260", "iqn": "iqn.2016-09.com.openebs.cstor:pvc-u", "lun": 0,
                        "iscsiInterface": "default", "fsType": "ext4",
                    },
                    "mountOptions": ["noatime"], "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "sc",
                    "volumeMode": "Filesystem",
                },
            })
        );
        let mut raw = claim();
        raw["spec"]["volumeMode"] = json!("Block");
        view.claim = Some(serde_json::from_value(raw).unwrap());
        let Step::MakePersistent(made) = step(&view) else { panic!() };
        let spec = made.spec.unwrap();
        assert_eq!((spec.volume_mode.as_deref(), spec.iscsi.unwrap().fs_type), (Some("Block"), None));
    }

    #[test]
    fn making() {
        // Not formed, with and without a reason.
        assert_eq!(step(&view(Some(claim()), Some(volume()), None)), Step::Nothing);
        let mut stuck = volume();
        let status = ballast_api::k8s::volume::CStorVolumeStatus { message: "add a pool".into(), ..Default::default() };
        stuck.status = Some(status);
        let refusal = Refusal::NotFormed { name: NAME.into(), message: "add a pool".into(), soon: true };
        assert_eq!(step(&view(Some(claim()), Some(stuck), None)), Step::Refuse(refusal));
        // Formed, but its address is not known.
        let mut nowhere = formed();
        nowhere.spec.target_portal = None;
        assert_eq!(step(&view(Some(claim()), Some(nowhere), None)), Step::Nothing);
        // Another policy: first the mark.
        let mut retain = view(Some(claim()), Some(formed()), None);
        retain.class.as_mut().unwrap().reclaim_policy = Some("Retain".into());
        assert_eq!(step(&retain), Step::Keep(true));
        retain.volume = Some(kept(formed()));
        let Step::MakePersistent(made) = step(&retain) else { panic!() };
        assert_eq!(made.spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
        assert_eq!(made.metadata.finalizers, None);
        // The class is gone.
        retain.class = None;
        assert_eq!(step(&retain), Step::Refuse(Refusal::NoClass("sc".into())));
        assert_eq!(step(&View { volume: None, ..retain }), Step::Nothing);
        // Somebody else's volume.
        let mut foreign = formed();
        foreign.labels_mut().clear();
        assert_eq!(step(&view(Some(claim()), Some(foreign), None)), Step::Refuse(Refusal::ForeignVolume(NAME.into())));
        // Being deleted.
        assert_eq!(step(&view(Some(claim()), Some(deleting(formed())), None)), Step::Nothing);
    }

    #[test]
    fn volumes_alone() {
        assert_eq!(step(&view(None, Some(formed()), None)), Step::DeleteOrphan);
        assert_eq!(step(&view(None, Some(volume()), None)), Step::DeleteOrphan);
        assert_eq!(step(&view(None, Some(kept(formed())), None)), Step::Nothing);
        assert_eq!(step(&view(None, Some(deleting(formed())), None)), Step::Nothing);
        let mut foreign = formed();
        foreign.labels_mut().clear();
        assert_eq!(step(&view(None, Some(foreign), None)), Step::Nothing);
        let mut nameless = formed();
        nameless.annotations_mut().remove(ballast_api::k8s::labels::PVC_NAMESPACE);
        assert_eq!(step(&view(None, Some(nameless), None)), Step::Nothing);
        // The claim took another volume; or this one, whose PersistentVolume is lost.
        let bound = |to: &str| {
            let mut claim = claim();
            claim["spec"]["volumeName"] = json!(to);
            step(&view(Some(claim), Some(formed()), None))
        };
        assert_eq!((bound("other"), bound(NAME)), (Step::DeleteOrphan, Step::Nothing));
    }

    #[test]
    fn deleting_persistent_volumes() {
        use Step::*;
        let (some, none, going) = (Some(formed()), None, Some(deleting(formed())));
        for (policy, phase, held, deleted, volume, expected) in [
            ("Delete", "Bound", true, false, &some, Nothing),
            ("Delete", "Pending", false, false, &some, Hold),
            ("Delete", "Released", true, false, &some, DeleteVolume),
            ("Delete", "Released", true, false, &going, Nothing),
            ("Delete", "Released", true, false, &none, DeletePersistent),
            ("Delete", "Released", true, true, &none, LetGo),
            ("Delete", "Released", false, true, &none, Nothing),
            ("Delete", "Bound", true, true, &some, Nothing),
            ("Delete", "Available", true, true, &some, DeleteVolume),
            ("Delete", "Failed", true, true, &going, Nothing),
            ("Retain", "Released", false, false, &some, Keep(true)),
            ("Retain", "Released", false, true, &some, Keep(true)),
            ("Retain", "Bound", true, false, &some, Keep(true)),
            ("Retain", "Bound", true, false, &Some(kept(formed())), LetGo),
            ("Retain", "Released", false, false, &Some(kept(formed())), Nothing),
            ("Retain", "Released", true, true, &Some(kept(formed())), LetGo),
            ("Retain", "Released", true, true, &none, LetGo),
            ("Recycle", "Released", false, false, &Some(kept(formed())), Nothing),
            ("Delete", "Bound", false, false, &Some(kept(formed())), Hold),
            ("Delete", "Bound", true, false, &Some(kept(formed())), Keep(false)),
            ("Delete", "Released", true, false, &Some(kept(formed())), Keep(false)),
        ] {
            let view = view(None, volume.clone(), Some(persistent(policy, phase, held, deleted)));
            assert_eq!(step(&view), expected, "{policy} {phase} held {held} deleted {deleted}");
        }
        // Somebody else's, or about something else.
        let mut other = persistent("Delete", "Released", true, false);
        other["metadata"]["annotations"] = json!({});
        assert_eq!(step(&view(None, some.clone(), Some(other))), Nothing);
        let mut other = persistent("Delete", "Released", true, false);
        other["spec"]["iscsi"]["iqn"] = json!("iqn.x");
        assert_eq!(step(&view(None, some, Some(other))), Nothing);
    }
}
