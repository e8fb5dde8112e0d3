//! `ballast uninstall-check` and `ballast uninstall-clean`: what the chart runs before and after it is uninstalled.
//!
//! Without the operator nobody serves a volume and no finalizer is ever taken away, so the check refuses while there is
//! anything that holds data. Without the node disk manager nobody wipes what deleted pools gave back, and a later installation
//! takes such devices for those of pools, so the check waits for that. The clean-up removes what the parts wrote into the API at run time and nobody keeps true
//! any more, and does nothing at all while there is data. Definitions stay: deleting one deletes its objects.

use std::fmt::{Debug, Write as _};
use std::time::Duration;

use ballast_api::k8s::{BlockDevice, CStorPool, CStorVolume, Disk, StoragePoolClaim, labels};
use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::causes::with_causes;
use crate::output::progress;

/// Names that a message lists before it only counts.
const NAMES_SHOWN: usize = 20;
/// On objects that the operator or the provisioner made.
const MADE_BY_US: &str = "app.kubernetes.io/managed-by in (ballast-operator, ballast-provisioner)";
/// Leases of the parts begin with this.
const OUR_LEASES: &str = "ballast-";
/// Devices that are to be wiped are waited for so long: the process of a pool may take 30 s to end. Twice this is less than the
/// time that the chart gives its Job.
const WIPED_WITHIN: Duration = Duration::from_secs(75);
/// Between two looks at them.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// The namespace of the installation
    #[arg(long, env = "NAMESPACE", default_value = "openebs", value_name = "NAMESPACE")]
    namespace: String,
}

#[derive(Debug, thiserror::Error)]
enum UninstallError {
    #[error("{0}")]
    Data(String),
    #[error("the API server, {doing} {kind}: {}", with_causes(.error))]
    Server { doing: &'static str, kind: String, error: kube::Error },
}

/// What holds data, by name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holders {
    /// Volumes, each with the claim it serves.
    volumes: Vec<String>,
    claims: Vec<String>,
    pools: Vec<String>,
}

impl Holders {
    async fn find(client: &Client, namespace: &str) -> Result<Self, UninstallError> {
        let volumes: Vec<CStorVolume> = list(&Api::namespaced(client.clone(), namespace), "").await?;
        let claims: Vec<StoragePoolClaim> = list(&Api::all(client.clone()), "").await?;
        let pools: Vec<CStorPool> = list(&Api::all(client.clone()), "").await?;
        Ok(Self {
            volumes: volumes.iter().map(volume_and_claim).collect(),
            claims: claims.iter().map(ResourceExt::name_any).collect(),
            pools: pools.iter().map(ResourceExt::name_any).collect(),
        })
    }

    fn is_empty(&self) -> bool {
        self.volumes.is_empty() && self.claims.is_empty() && self.pools.is_empty()
    }

    /// What there is and what to do about it.
    fn refusal(&self) -> String {
        let mut text = String::from("uninstalling would leave data behind that nobody serves:");
        for (what, names) in
            [("CStorVolumes", &self.volumes), ("StoragePoolClaims", &self.claims), ("CStorPools", &self.pools)]
        {
            if !names.is_empty() {
                let shown = names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
                let more = names.len().saturating_sub(NAMES_SHOWN);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                // Writing to a String cannot fail.
                let _ = write!(text, "\n  {} {what}: {shown}{more}", names.len());
            }
        }
        if !self.volumes.is_empty() {
            text.push_str("\nDelete the PersistentVolumeClaims (or retained PersistentVolumes), which deletes their CStorVolumes and all data.");
        }
        if !self.claims.is_empty() {
            text.push_str("\nDelete the StoragePoolClaims, which deletes their CStorPools.");
        } else if !self.pools.is_empty() {
            text.push_str(
                "\nThe CStorPools have no StoragePoolClaim: delete them, or wait until the operator has done it.",
            );
        }
        text.push_str(
            "\nThen uninstall again. To keep the data on its devices for a later installation under the same names: \
             helm uninstall --no-hooks",
        );
        text
    }
}

/// Devices that deleted pools gave back and that are not wiped yet, with what hinders it.
async fn unwiped(client: &Client, namespace: &str) -> Result<Vec<String>, UninstallError> {
    let devices: Vec<BlockDevice> = list(&Api::namespaced(client.clone(), namespace), "").await?;
    let unwiped = |device: &BlockDevice| {
        let status = device.status.as_ref().filter(|status| status.claim_state == "Released")?;
        let why = status.message.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("{} on {}{why}", device.name_any(), device.spec.node_attributes.node_name))
    };
    Ok(devices.iter().filter_map(unwiped).collect())
}

/// Waits until the node disk managers have wiped what deleted pools gave back.
async fn wait_for_wipes(client: &Client, namespace: &str) -> Result<(), UninstallError> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        let devices = unwiped(client, namespace).await?;
        if devices.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= WIPED_WITHIN {
            return Err(UninstallError::Data(format!(
                "devices of deleted pools are not wiped yet, and nobody would do it after the uninstallation:\n  {}\n\
                 Uninstall again when they are Unclaimed: kubectl get blockdevices -n {namespace}. To leave one as it is, \
                 for example on a node that does not come back: kubectl delete blockdevice NAME -n {namespace}",
                devices.join("\n  ")
            )));
        }
        if !said {
            progress(&format!("waiting until {} devices of deleted pools are wiped", devices.len()));
            said = true;
        }
        sleep(LOOK).await;
    }
}

/// `pvc-... (claim namespace/name)`
fn volume_and_claim(volume: &CStorVolume) -> String {
    let label = |key: &str| volume.labels().get(key).map(String::as_str);
    match (label(labels::PVC_NAMESPACE), label(labels::PERSISTENT_VOLUME_CLAIM)) {
        (Some(namespace), Some(claim)) => format!("{} (claim {namespace}/{claim})", volume.name_any()),
        _ => volume.name_any(),
    }
}

/// All objects of a kind; none when the cluster does not know the kind.
async fn list<K>(api: &Api<K>, selector: &str) -> Result<Vec<K>, UninstallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match api.list(&ListParams::default().labels(selector)).await {
        Ok(found) => Ok(found.items),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(UninstallError::Server { doing: "listing", kind: K::plural(&()).into_owned(), error }),
    }
}

/// Deletes the objects that `which` takes, and says how many.
async fn delete<K>(api: &Api<K>, selector: &str, which: impl Fn(&K) -> bool) -> Result<(), UninstallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = || K::plural(&()).into_owned();
    let mut deleted = 0;
    for object in list(api, selector).await?.iter().filter(|object| which(object)) {
        match api.delete(&object.name_any(), &DeleteParams::default()).await {
            Ok(_) => deleted += 1,
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(UninstallError::Server { doing: "deleting", kind: kind(), error }),
        }
    }
    progress(&format!("{deleted} {} deleted", kind()));
    Ok(())
}

pub(super) async fn check(args: UninstallArgs) -> anyhow::Result<()> {
    Ok(check_with(&ballast_kubeutil::connect().await?, &args.namespace).await?)
}

async fn check_with(client: &Client, namespace: &str) -> Result<(), UninstallError> {
    let holders = Holders::find(client, namespace).await?;
    if !holders.is_empty() {
        return Err(UninstallError::Data(holders.refusal()));
    }
    wait_for_wipes(client, namespace).await?;
    progress("no volumes and no pools: nothing is lost by uninstalling");
    Ok(())
}

pub(super) async fn clean(args: UninstallArgs) -> anyhow::Result<()> {
    Ok(clean_with(&ballast_kubeutil::connect().await?, &args.namespace).await?)
}

async fn clean_with(client: &Client, namespace: &str) -> Result<(), UninstallError> {
    if !Holders::find(client, namespace).await?.is_empty() {
        progress("there are volumes or pools: their devices and settings are kept for a later installation");
        return Ok(());
    }
    delete(&Api::<BlockDevice>::namespaced(client.clone(), namespace), "", |_| true).await?;
    delete(&Api::<Disk>::all(client.clone()), "", |_| true).await?;
    delete(&Api::<ConfigMap>::namespaced(client.clone(), namespace), MADE_BY_US, |_| true).await?;
    delete(&Api::<PodDisruptionBudget>::namespaced(client.clone(), namespace), MADE_BY_US, |_| true).await?;
    let ours = |lease: &Lease| lease.name_any().starts_with(OUR_LEASES);
    delete(&Api::<Lease>::namespaced(client.clone(), namespace), "", ours).await
}

#[cfg(test)]
#[path = "uninstall_tests.rs"]
mod tests;
