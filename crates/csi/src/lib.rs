//! Volumes for Kubernetes.
//!
//! [`provisioner`] serves storage classes with the provisioner `openebs.io/provisioner-iscsi` and settings in the
//! annotation `cas.openebs.io/config`, as cStor's manifests have them, and makes in-tree iSCSI volumes.

pub mod provisioner;
