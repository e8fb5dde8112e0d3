//! What the watches show: the objects of each kind, and which volume's key a change is about.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ballast_api::k8s::{CStorVolume, StoragePoolClaim};
use ballast_kubeutil::queue::Queue;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::Api;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::Options;
use super::claim::{bound_to, class_name};
use super::objects::volume_name;
use super::plan::View;

/// The objects as the watches last showed them.
#[derive(Clone)]
pub(super) struct Cache {
    namespace: String,
    claims: Store<PersistentVolumeClaim>,
    classes: Store<StorageClass>,
    pool_claims: Store<StoragePoolClaim>,
    volumes: Store<CStorVolume>,
    persistents: Store<PersistentVolume>,
    /// Claims by the name of their volume.
    places: Arc<Mutex<HashMap<String, ObjectRef<PersistentVolumeClaim>>>>,
    queue: Queue<String>,
}

/// Starts the watches; they run as long as the future is polled and put the keys of what changes into the queue.
pub(super) fn start(client: &Client, options: &Options, queue: Queue<String>) -> (Cache, BoxFuture<'static, ()>) {
    let (claims, claim_writer) = store();
    let (classes, class_writer) = store();
    let (pool_claims, pool_claim_writer) = store();
    let (volumes, volume_writer) = store();
    let (persistents, persistent_writer) = store();
    let places = Arc::default();
    let cache = Cache {
        namespace: options.namespace.clone(),
        claims,
        classes,
        pool_claims,
        volumes,
        persistents,
        places,
        queue,
    };
    let on = |about: fn(&Cache, Seen<'_, PersistentVolumeClaim>)| (cache.clone(), about);
    let watches = futures_util::future::join5(
        follow(Api::all(client.clone()), claim_writer, on(Cache::claim_changed)),
        follow(Api::all(client.clone()), class_writer, (cache.clone(), Cache::class_changed)),
        follow(Api::all(client.clone()), pool_claim_writer, (cache.clone(), Cache::pool_claim_changed)),
        follow(
            Api::namespaced(client.clone(), &options.namespace),
            volume_writer,
            (cache.clone(), Cache::volume_changed),
        ),
        follow(Api::all(client.clone()), persistent_writer, (cache.clone(), Cache::persistent_changed)),
    );
    (
        cache,
        Box::pin(async move {
            watches.await;
        }),
    )
}

/// What a watch shows.
enum Seen<'a, K> {
    /// An object is there, or changed.
    There(&'a K),
    Gone(&'a K),
    /// All objects were listed; those that went meanwhile are not shown one by one.
    Listed,
}

async fn follow<K>(api: Api<K>, writer: reflector::store::Writer<K>, (cache, about): (Cache, fn(&Cache, Seen<'_, K>)))
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let stream = watcher(api, watcher::Config::default()).modify(|object| object.managed_fields_mut().clear());
    let mut events = std::pin::pin!(stream.default_backoff().reflect(writer));
    while let Some(event) = events.next().await {
        match &event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => about(&cache, Seen::There(object)),
            Ok(Event::Delete(object)) => about(&cache, Seen::Gone(object)),
            Ok(Event::InitDone) => about(&cache, Seen::Listed),
            Ok(Event::Init) => {}
            Err(error) => {
                let hint =
                    "check that the API server answers, the definitions are installed and the role allows to watch";
                tracing::warn!(kind = %K::kind(&()), %error, hint, "cannot watch");
            }
        }
    }
}

impl Cache {
    /// Waits until everything was listed once.
    pub(super) async fn ready(&self) {
        // An error means that the watches ended, and with them this process's work.
        let _ = self.claims.wait_until_ready().await;
        let _ = self.classes.wait_until_ready().await;
        let _ = self.pool_claims.wait_until_ready().await;
        let _ = self.volumes.wait_until_ready().await;
        let _ = self.persistents.wait_until_ready().await;
    }

    /// What there is under a key.
    pub(super) fn view(&self, name: &str) -> View {
        let place = self.places().get(name).cloned();
        let claim = place.and_then(|place| self.claims.get(&place));
        let claim = claim.filter(|claim| volume_name(claim).as_deref() == Some(name)).map(|claim| (*claim).clone());
        let class = claim.as_ref().and_then(|claim| self.class_of(claim));
        let volume = self.volumes.get(&ObjectRef::new(name).within(&self.namespace)).map(|volume| (*volume).clone());
        let persistent = self.persistents.get(&ObjectRef::new(name)).map(|persistent| (*persistent).clone());
        View { claim, class, volume, persistent }
    }

    /// The class of a claim.
    pub(super) fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<StorageClass> {
        self.classes.get(&ObjectRef::new(class_name(claim)?)).map(|class| (*class).clone())
    }

    pub(super) fn pool_claim_exists(&self, name: &str) -> bool {
        self.pool_claims.get(&ObjectRef::new(name)).is_some_and(|claim| claim.metadata.deletion_timestamp.is_none())
    }

    /// Whether any PersistentVolume, under whatever name, is about this iSCSI name.
    pub(super) fn uses(&self, iqn: &str) -> bool {
        self.persistents.state().iter().any(|persistent| {
            let iscsi = persistent.spec.as_ref().and_then(|spec| spec.iscsi.as_ref());
            iscsi.is_some_and(|iscsi| iscsi.iqn == iqn)
        })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<String, ObjectRef<PersistentVolumeClaim>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_changed(&self, seen: Seen<'_, PersistentVolumeClaim>) {
        match seen {
            Seen::There(claim) => {
                if let Some(name) = volume_name(claim) {
                    self.places().insert(name.clone(), ObjectRef::from_obj(claim));
                    self.queue.add(name);
                }
            }
            Seen::Gone(claim) => {
                if let Some(name) = volume_name(claim) {
                    self.places().remove(&name);
                    self.queue.add(name);
                }
            }
            Seen::Listed => {
                let names: Vec<String> = self.places().keys().cloned().collect();
                names.into_iter().for_each(|name| self.queue.add(name));
                let exists = |name: &String, place: &ObjectRef<PersistentVolumeClaim>| {
                    self.claims.get(place).is_some_and(|claim| volume_name(&claim).as_ref() == Some(name))
                };
                self.places().retain(|name, place| exists(name, place));
            }
        }
    }

    fn add_waiting_claims(&self, which: impl Fn(&PersistentVolumeClaim) -> bool) {
        for claim in self.claims.state() {
            if bound_to(&claim).is_none() && which(&claim) {
                volume_name(&claim).into_iter().for_each(|name| self.queue.add(name));
            }
        }
    }

    fn class_changed(&self, seen: Seen<'_, StorageClass>) {
        match seen {
            Seen::There(class) | Seen::Gone(class) => {
                let name = class.name_any();
                self.add_waiting_claims(|claim| class_name(claim) == Some(&name));
            }
            Seen::Listed => self.add_waiting_claims(|_| true),
        }
    }

    fn pool_claim_changed(&self, seen: Seen<'_, StoragePoolClaim>) {
        // Objects of this kind change their status often; only their coming lets a claim go on.
        if let Seen::Gone(_) = seen {
            return;
        }
        self.add_waiting_claims(|claim| {
            volume_name(claim)
                .is_some_and(|name| self.volumes.get(&ObjectRef::new(&name).within(&self.namespace)).is_none())
        });
    }

    fn volume_changed(&self, seen: Seen<'_, CStorVolume>) {
        match seen {
            Seen::There(volume) | Seen::Gone(volume) => self.queue.add(volume.name_any()),
            Seen::Listed => {
                self.volumes.state().iter().for_each(|volume| self.queue.add(volume.name_any()));
                self.persistents.state().iter().for_each(|persistent| self.queue.add(persistent.name_any()));
                self.add_waiting_claims(|_| true);
            }
        }
    }

    fn persistent_changed(&self, seen: Seen<'_, PersistentVolume>) {
        match seen {
            Seen::There(persistent) | Seen::Gone(persistent) => self.queue.add(persistent.name_any()),
            Seen::Listed => {
                self.persistents.state().iter().for_each(|persistent| self.queue.add(persistent.name_any()));
                self.volumes.state().iter().for_each(|volume| self.queue.add(volume.name_any()));
            }
        }
    }
}
