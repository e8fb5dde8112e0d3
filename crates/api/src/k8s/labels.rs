//! Labels, annotations, finalizers and names that objects carry. Most are cStor's own.

/// On pools and what belongs to them: the name of the StoragePoolClaim.
pub const STORAGE_POOL_CLAIM: &str = "openebs.io/storage-pool-claim";
/// On what belongs to a pool: the name of the CStorPool.
pub const CSTOR_POOL: &str = "openebs.io/cstor-pool";
/// On volumes and what belongs to them: the name of the persistent volume.
pub const PERSISTENT_VOLUME: &str = "openebs.io/persistent-volume";
/// On volumes and what belongs to them: the name of the claim.
pub const PERSISTENT_VOLUME_CLAIM: &str = "openebs.io/persistent-volume-claim";
/// The namespace of that claim.
pub const PVC_NAMESPACE: &str = "openebs.io/pvc-namespace";
/// On the objects of a volume: the name of its CStorVolume.
pub const CSTOR_VOLUME: &str = "cstorvolume.openebs.io/name";
/// On replicas: the name of the CStorPool.
pub const REPLICA_POOL_NAME: &str = "cstorpool.openebs.io/name";
/// On replicas: the uid of the CStorPool.
pub const REPLICA_POOL_UID: &str = "cstorpool.openebs.io/uid";
/// On replicas, an annotation: the node of the pool.
pub const REPLICA_HOSTNAME: &str = "cstorpool.openebs.io/hostname";
/// On persistent volumes and Services: "cstor".
pub const CAS_TYPE: &str = "openebs.io/cas-type";
/// On persistent volumes: the name of the StorageClass.
pub const STORAGE_CLASS: &str = "openebs.io/storageclass";
/// On the Service of a volume.
pub const TARGET_SERVICE: &str = "openebs.io/target-service";
/// On the Service of a volume: "cstor".
pub const STORAGE_ENGINE: &str = "openebs.io/storage-engine-type";
/// On the target's pod: "cstor-target".
pub const TARGET: &str = "openebs.io/target";
/// What kind of component a pod is: "cstor-pool", "cstor-volume-manager".
pub const APP: &str = "app";
/// The version of Ballast that made an object.
pub const BALLAST_VERSION: &str = "openebs.io/version";
/// The node of an object, Kubernetes' own label.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The zone of a node, Kubernetes' own label.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The annotation with pool and volume settings (see [`super::config`]).
pub const CONFIG: &str = "cas.openebs.io/config";

/// On devices: "blockdevice" or "sparse".
pub const DEVICE_TYPE: &str = "ndm.io/blockdevice-type";
/// On disks, the older name: "disk" or "sparse".
pub const DISK_TYPE: &str = "ndm.io/disk-type";
/// On devices: "false" takes the object out of the node disk manager's hands.
pub const NDM_MANAGED: &str = "ndm.io/managed";
/// On devices, set by an administrator: pools take only devices with a tag that they ask for.
pub const DEVICE_TAG: &str = "openebs.io/block-device-tag";

/// PVC label: replicas of volumes with the same value go to different pools, or the volume is not made.
pub const REPLICA_ANTI_AFFINITY: &str = "openebs.io/replica-anti-affinity";
/// PVC label: the same, where possible.
pub const PREFERRED_REPLICA_ANTI_AFFINITY: &str = "openebs.io/preferred-replica-anti-affinity";
/// PVC label: the target runs beside the application's pods with this label.
pub const TARGET_AFFINITY: &str = "openebs.io/target-affinity";

/// Annotation of a CStorPool, followed by a volume's id: its replica here is to be deleted when the pool answers again.
pub const PENDING_DELETION: &str = "deletion.openebs.io/";
/// Annotation "true" on a StoragePoolClaim, CStorPool or CStorVolume that is being deleted: do not wait for what it holds.
pub const FORCE_DELETE: &str = "openebs.io/force-delete";

/// Annotation "true" on a CStorPool: it gets no new replicas.
pub const CORDON: &str = "openebs.io/cordon";
/// Annotation "true" on a CStorPool: it gets no new replicas, and those it has move to other pools.
pub const DRAIN: &str = "openebs.io/drain";

/// Holds a CStorPool until its Deployment is gone and its devices are released.
pub const POOL_FINALIZER: &str = "cstorpool.openebs.io/finalizer";
/// Holds a StoragePoolClaim while volumes use its pools.
pub const CLAIM_FINALIZER: &str = "storagepoolclaim.openebs.io/finalizer";
/// Holds a CStorVolume until its replicas are deleted or noted for deletion.
pub const VOLUME_FINALIZER: &str = "cstorvolume.openebs.io/finalizer";
/// Holds a CStorVolumeReplica until its blocks are freed or noted to be.
pub const REPLICA_FINALIZER: &str = "cstorvolumereplica.openebs.io/finalizer";
/// Holds a BlockDeviceClaim until its device is released.
pub const DEVICE_CLAIM_FINALIZER: &str = "blockdeviceclaim.openebs.io/finalizer";

/// The iSCSI name of a volume begins with this (RFC 7143 section 4.2.7.4 gives the grammar).
pub const IQN_PREFIX: &str = "iqn.2016-09.com.openebs.cstor:";

/// Ports of a pool's Service and pod: its gRPC.
pub const POOL_PORT: u16 = 12000;
/// Ports of a volume's Service: iSCSI.
pub const ISCSI_PORT: u16 = 3260;
/// Control of the target, gRPC.
pub const TARGET_CONTROL_PORT: u16 = 7777;
/// Management; kept because manifests and monitors name it.
pub const MANAGEMENT_PORT: u16 = 6060;
/// Metrics.
pub const METRICS_PORT: u16 = 9500;
