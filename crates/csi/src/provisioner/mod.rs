//! The provisioner of in-tree iSCSI volumes: from a PersistentVolumeClaim to a CStorVolume to a PersistentVolume, and back
//! (docs/kubernetes.md, "Making a volume", "Deleting a volume").
//!
//! Everything about one volume has one key, the name `pvc-<uid of the claim>`: that of its CStorVolume and of its
//! PersistentVolume. `plan::next` looks at what there is under a key and says the one next step; it has no I/O. The
//! worker does that step and waits for the watches to show what became of it.
//!
//! What must hold:
//! * Whether there is something to do is decided on caches, which are old. What is done is decided again on what the API
//!   server says now, and each deletion names the uid that was looked at.
//! * Each step can be done twice, and the process can end between any two.
//! * Data is deleted only for a PersistentVolume that is released or being deleted under the policy Delete, or for a claim
//!   that went before it got a PersistentVolume. A volume that had a PersistentVolume with another policy is marked as kept
//!   before anything else, and is never deleted here.

mod cache;
mod claim;
mod objects;
mod plan;
mod worker;

use std::time::Duration;

use ballast_kubeutil::Stop;
use futures_util::future::BoxFuture;
use kube::Client;

/// The finalizer of PersistentVolumes with the policy Delete: one that is deleted by hand stays until its volume is gone.
pub const FINALIZER: &str = "persistentvolume.openebs.io/finalizer";
/// The field manager of what the provisioner writes.
pub const MANAGER: &str = "ballast-provisioner";

/// How a provisioner works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the CStorVolumes are: the operator's namespace.
    pub namespace: String,
    /// The name that storage classes say: `openebs.io/provisioner-iscsi`.
    pub provisioner: String,
    /// Who this is, for the annotation `openEBSProvisionerIdentity` and for events.
    pub identity: String,
    /// How many volumes are worked on at once.
    pub at_once: usize,
    /// A volume without claim and PersistentVolume is deleted after so long.
    pub orphan_after: Duration,
}

impl Options {
    /// With the usual name and times.
    pub fn new(namespace: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            provisioner: "openebs.io/provisioner-iscsi".to_owned(),
            identity: identity.to_owned(),
            at_once: 16,
            orphan_after: Duration::from_secs(60),
        }
    }
}

/// Works until it is told to stop, and ends when what was begun is done. Only one may do this at a time
/// ([`ballast_kubeutil::lease`]); two for a short while do no harm. All work happens inside this future.
///
/// A boxed future is compiled here, once, and not in the crate of each caller.
pub fn run(client: Client, options: Options, stop: Stop) -> BoxFuture<'static, ()> {
    Box::pin(provision(client, options, stop))
}

async fn provision(client: Client, options: Options, stop: Stop) {
    let queue = ballast_kubeutil::queue::Queue::default();
    let (cache, watches) = cache::start(&client, &options, queue.clone());
    let worker = worker::Worker::new(client, options.clone(), cache.clone());
    let work = async {
        tokio::select! {
            () = cache.ready() => {}
            () = stop.clone().requested() => return,
        }
        tracing::info!(provisioner = options.provisioner, namespace = options.namespace, "provisioning");
        queue.run(options.at_once, stop, |name| worker.step(name)).await;
    };
    tokio::select! {
        () = watches => {}
        () = work => {}
    }
}
