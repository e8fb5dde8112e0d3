//! Does the steps: looks again at what the API server says now, and acts on that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ballast_api::k8s::CStorVolume;
use ballast_kubeutil::queue::After;
use ballast_kubeutil::{Reporter, write};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Error, Resource, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::cache::Cache;
use super::claim::Refusal;
use super::objects::{self, KEPT};
use super::plan::{self, Step, View};
use super::{FINALIZER, MANAGER, Options};

/// What was refused is looked at again after so long, although nothing changed.
const REFUSED: Duration = Duration::from_secs(300);
/// What was done shows in the watches; this is for the case that it does not.
const DONE: Duration = Duration::from_secs(60);

/// A volume that is not formed for so long is worth a warning.
const FORMING: Duration = Duration::from_secs(30);

/// States that may pass by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passing {
    Alone,
    Forming,
}

/// Does the steps of all volumes.
pub(super) struct Worker {
    client: Client,
    options: Options,
    cache: Cache,
    reporter: Reporter,
    volumes: Api<CStorVolume>,
    persistents: Api<PersistentVolume>,
    /// Since when there are states that may pass by themselves.
    patience: Mutex<HashMap<String, (Passing, Instant)>>,
}

impl Worker {
    pub(super) fn new(client: Client, options: Options, cache: Cache) -> Self {
        let reporter = Reporter::new(client.clone(), &options.provisioner, &options.identity);
        let volumes = Api::namespaced(client.clone(), &options.namespace);
        let persistents = Api::all(client.clone());
        Self { client, options, cache, reporter, volumes, persistents, patience: Mutex::default() }
    }

    fn next(&self, name: &str, view: &View) -> Step {
        plan::next(name, view, &self.options, |name| self.cache.pool_claim_exists(name))
    }

    /// The next step of one volume.
    pub(super) async fn step(&self, name: String) -> After {
        let cached = self.cache.view(&name);
        let step = self.next(&name, &cached);
        if let Some(after) = self.wait(&name, &step) {
            return after;
        }
        match step {
            Step::Nothing => After::Change,
            Step::Refuse(refusal) => {
                self.refuse(cached.claim.as_ref(), &refusal.to_string()).await;
                After::Time(REFUSED)
            }
            _ => match self.act(&name, &cached).await {
                Ok(after) => after,
                Err(error) => {
                    self.failed(&name, cached.claim.as_ref(), &error).await;
                    After::Failure
                }
            },
        }
    }

    /// What may pass by itself is given some time: what to do then, None to go on.
    fn wait(&self, name: &str, step: &Step) -> Option<After> {
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, time) = match step {
            Step::DeleteOrphan => (Passing::Alone, self.options.orphan_after),
            Step::Refuse(Refusal::NotFormed { soon: true, .. }) => (Passing::Forming, FORMING),
            _ => {
                patience.remove(name);
                return None;
            }
        };
        let now = Instant::now();
        let entry = patience.entry(name.to_owned()).or_insert((state, now));
        if entry.0 != state {
            *entry = (state, now);
        }
        let left = time.saturating_sub(entry.1.elapsed());
        (!left.is_zero()).then_some(After::Time(left))
    }

    async fn refuse(&self, claim: Option<&PersistentVolumeClaim>, why: &str) {
        if let Some(claim) = claim {
            tracing::warn!(claim = claim.name_any(), namespace = claim.namespace(), why, "no volume is made");
            self.reporter.warning(claim, "ProvisioningFailed", why).await;
        }
    }

    async fn failed(&self, name: &str, claim: Option<&PersistentVolumeClaim>, error: &Error) {
        tracing::warn!(volume = name, %error, "a step failed; trying again");
        // What an administrator must mend; all else passes by itself.
        if let (Some(claim), Error::Api(status)) = (claim, error)
            && matches!(status.code, 400 | 401 | 403 | 405 | 413 | 415 | 422)
        {
            let why =
                format!("the API server refuses what the provisioner asks for ({error}); check its role and the chart");
            self.reporter.warning(claim, "ProvisioningFailed", &why).await;
        }
    }

    /// What the API server says now. The claim is found where the cache or the volume say.
    async fn look(&self, name: &str, cached: &View) -> Result<View, Error> {
        let persistent = self.persistents.get_opt(name).await?;
        let volume = self.volumes.get_opt(name).await?;
        let place = match (&cached.claim, &volume) {
            (Some(claim), _) => claim.namespace().map(|namespace| (namespace, claim.name_any())),
            (None, Some(volume)) => {
                objects::claim_of(volume).map(|(namespace, claim)| (namespace.to_owned(), claim.to_owned()))
            }
            (None, None) => None,
        };
        let claim = match place {
            Some((namespace, claim)) => {
                let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
                // Another claim may have its name by now.
                claims.get_opt(&claim).await?.filter(|claim| objects::volume_name(claim).as_deref() == Some(name))
            }
            None => None,
        };
        let class = claim.as_ref().and_then(|claim| self.cache.class_of(claim));
        Ok(View { claim, class, volume, persistent })
    }

    async fn act(&self, name: &str, cached: &View) -> Result<After, Error> {
        let live = self.look(name, cached).await?;
        let step = self.next(name, &live);
        // The cache may not have shown yet that the volume is alone.
        if let Some(after) = self.wait(name, &step) {
            return Ok(after);
        }
        let (volume, persistent) = (live.volume.as_ref(), live.persistent.as_ref());
        match step {
            // The caches will show why.
            Step::Nothing => {}
            Step::Refuse(refusal) => {
                self.refuse(live.claim.as_ref(), &refusal.to_string()).await;
                return Ok(After::Time(REFUSED));
            }
            Step::MakeVolume(volume) => self.make_volume(&live, &volume).await?,
            Step::MakePersistent(persistent) => self.make_persistent(&live, &persistent).await?,
            Step::Keep(keep) => {
                if let Some(volume) = volume {
                    self.keep(volume, keep).await?;
                }
            }
            Step::Hold => {
                if let Some(persistent) = persistent {
                    write::add_finalizer(&self.persistents, persistent, FINALIZER).await?;
                }
            }
            Step::LetGo => {
                if let Some(persistent) = persistent {
                    write::remove_finalizer(&self.persistents, persistent, FINALIZER).await?;
                }
            }
            Step::DeleteVolume => {
                if let Some(volume) = volume {
                    tracing::info!(volume = name, "deleting the volume of a released persistent volume");
                    delete(&self.volumes, volume, false).await?;
                }
            }
            Step::DeletePersistent => {
                if let Some(persistent) = persistent {
                    // As it was looked at: it must not have been given to another claim, or another policy, meanwhile.
                    delete(&self.persistents, persistent, true).await?;
                }
            }
            Step::DeleteOrphan => {
                if let Some(volume) = volume
                    && !self.cache.uses(&objects::iqn(name))
                {
                    tracing::info!(volume = name, "deleting a volume whose claim is gone");
                    delete(&self.volumes, volume, false).await?;
                }
            }
        }
        Ok(After::Time(DONE))
    }

    async fn make_volume(&self, live: &View, volume: &CStorVolume) -> Result<(), Error> {
        // Not an apply: one that is there already may have been changed since, and stays as it is.
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let made = self.volumes.create(&params, volume).await;
        if write::is_status(&made, 409) {
            return Ok(());
        }
        let name = made?.name_any();
        tracing::info!(volume = name, "volume asked for");
        if let Some(claim) = &live.claim {
            let note = format!("the volume {name} is being made");
            self.reporter.normal(claim, "Provisioning", &note).await;
        }
        Ok(())
    }

    async fn make_persistent(&self, live: &View, persistent: &PersistentVolume) -> Result<(), Error> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let made = self.persistents.create(&params, persistent).await;
        if write::is_status(&made, 409) {
            return Ok(());
        }
        let name = made?.name_any();
        tracing::info!(volume = name, "persistent volume made");
        if let Some(claim) = &live.claim {
            let note = format!("the volume {name} is made");
            self.reporter.normal(claim, "ProvisioningSucceeded", &note).await;
        }
        Ok(())
    }

    async fn keep(&self, volume: &CStorVolume, keep: bool) -> Result<(), Error> {
        let value = keep.then_some("true");
        let patch = json!({"metadata": {
            "annotations": {KEPT: value}, "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version,
        }});
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        self.volumes.patch(&volume.name_any(), &params, &Patch::Merge(patch)).await.map(|_| ())
    }
}

/// Deletes the object that was looked at, and no other of its name.
async fn delete<K>(api: &Api<K>, object: &K, unchanged: bool) -> Result<(), Error>
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Preconditions {
        uid: object.meta().uid.clone(),
        resource_version: object.meta().resource_version.clone().filter(|_| unchanged),
    };
    let result = api.delete(&object.name_any(), &DeleteParams::default().preconditions(preconditions)).await;
    if write::is_status(&result, 404) { Ok(()) } else { result.map(|_| ()) }
}
