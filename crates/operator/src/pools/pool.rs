//! The controller of CStorPools: devices, Service, Deployment; asks the pool how it is, and tells it where the others are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ballast_api::control::VolumeRef;
use ballast_api::k8s::config::{Config, PoolSettings};
use ballast_api::k8s::device::{BlockDevice, ClaimRef};
use ballast_api::k8s::pool::{CStorPoolStatus, PoolDevice};
use ballast_api::k8s::{BlockDeviceClaim, CStorPool, labels};
use ballast_api::{PoolId, VolumeId};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::objects;
use super::status::{Known, status};
use crate::api;
use crate::clock;
use crate::context::Context;
use crate::error::Error;
use crate::objects::{metadata, text_map};
use crate::volumes::view::pool_of;

/// A pool is asked this often. With the time until it counts as silent, an object says so within 15 s.
const ASK: Duration = Duration::from_secs(3);

/// Looks at one pool.
pub(crate) async fn reconcile(pool: Arc<CStorPool>, context: Arc<Context>) -> Result<Action, Error> {
    let pools: Api<CStorPool> = Api::all(context.client.clone());
    if pool.metadata.deletion_timestamp.is_some() {
        return delete(&pools, &pool, &context).await;
    }
    api::add_finalizer(&pools, &*pool, labels::POOL_FINALIZER).await?;
    let old = pool.status.clone().unwrap_or_default();
    let (known, new) = match serve(&pool, &context, &old).await {
        Ok((known, new)) => (known, new),
        Err(Error::NotYet(problem)) => {
            context.say(&*pool, true, "CannotServe", &problem).await;
            (Known::Broken(problem), old.clone())
        }
        Err(Error::Config(problem)) => (Known::Broken(problem.to_string()), old.clone()),
        Err(other) => return Err(other),
    };
    let new = status(&new, &known, &clock::now, &clock::this_minute);
    if new.phase != old.phase && !old.phase.is_empty() {
        let note = format!("{} -> {} {}", old.phase, new.phase, new.message);
        context.say(&*pool, new.phase != "Healthy", &new.phase, note.trim()).await;
    }
    api::set_status(&pools, &pool.name_any(), pool.status.as_ref(), &new).await?;
    Ok(Action::requeue(ASK))
}

/// Everything but the status object.
async fn serve(pool: &CStorPool, context: &Context, old: &CStorPoolStatus) -> Result<(Known, CStorPoolStatus), Error> {
    let (options, name) = (&context.options, pool.name_any());
    let config = Config::parse(pool.annotations().get(labels::CONFIG).map_or("", String::as_str))?;
    let settings = PoolSettings::from_config(&config)?;
    let sparse = bind_devices(pool, context).await?;

    let services: Api<Service> = api::namespaced(&context.client, &options.namespace);
    let current = context.own(&context.services, &name);
    let service = api::ensure(&services, &objects::service(options, pool), current.as_deref()).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).filter(|ip| !ip.is_empty() && ip != "None");
    let mut new = old.clone();
    new.endpoint = address
        .map(|ip| if ip.contains(':') { format!("[{ip}]") } else { ip })
        .map(|ip| format!("{ip}:{}", labels::POOL_PORT));
    ensure_peers(context).await?;
    ensure_deployment(pool, context, &settings, sparse).await?;

    let Some(endpoint) = &new.endpoint else { return Ok((Known::Waiting, new)) };
    let asked = Instant::now();
    match context.processes.pool_status(endpoint).await {
        Ok(answer) => {
            let id = PoolId::from_slice(&answer.pool).map_err(|error| Error::NotYet(error.to_string()))?;
            if new.pool_id.as_ref().is_some_and(|known| *known != id.to_string()) {
                let note = format!(
                    "the devices carry another pool now ({id}): it is empty, and the replicas of the old one are made anew"
                );
                context.say(pool, true, "PoolReplaced", &note).await;
            }
            new.pool_id = Some(id.to_string());
            context.observations.answered(&name, id, answer.clone(), asked);
            tell(pool, context, endpoint, id, &answer.peers).await;
            Ok((Known::Answers(answer), new))
        }
        Err(error) => {
            context.observations.silent(&name, error.to_string());
            let deployment = context.own(&context.deployments, &name);
            let ready = deployment.and_then(|d| d.status.as_ref()?.ready_replicas).unwrap_or(0);
            Ok(match context.observations.silence(&name) {
                // Before the first answer it is being started.
                Some(_) if new.pool_id.is_none() => (Known::Waiting, new),
                Some((since, error)) => (Known::Silent { since, error, pod_ready: ready > 0 }, new),
                None => (Known::Waiting, new),
            })
        }
    }
}

/// What the pool must know and do: its peers; replicas that were deleted while it was away.
async fn tell(pool: &CStorPool, context: &Context, endpoint: &str, id: PoolId, known: &[ballast_api::control::Peer]) {
    let mut known = known.to_vec();
    known.sort_by(|a, b| a.pool.cmp(&b.pool));
    let wanted = context.peers();
    if known != wanted.peers
        && !wanted.peers.is_empty()
        && let Err(error) = context.processes.set_peers(endpoint, wanted).await
    {
        tracing::warn!(pool = pool.name_any(), %error, "the pool does not know its peers yet");
    }
    let pools: Api<CStorPool> = Api::all(context.client.clone());
    for (key, volume) in pending_deletions(pool) {
        let request = VolumeRef { volume: volume.to_bytes(), pool: id.to_bytes() };
        let deleted = context.processes.delete_replica(endpoint, request).await;
        let noted = match deleted {
            Ok(()) => {
                api::merge(&pools, &pool.name_any(), &json!({ "metadata": { "annotations": { key: null } } })).await
            }
            Err(error) => {
                tracing::warn!(pool = pool.name_any(), %volume, %error, "a replica of a deleted volume is deleted later");
                continue;
            }
        };
        if let Err(error) = noted {
            tracing::warn!(pool = pool.name_any(), %volume, %error, "a deletion is noted later");
        }
    }
}

/// Volumes whose replica in the pool is to be deleted, with the annotations that say so.
pub(crate) fn pending_deletions(pool: &CStorPool) -> Vec<(String, VolumeId)> {
    let pending = |key: &String| Some((key.clone(), key.strip_prefix(labels::PENDING_DELETION)?.parse().ok()?));
    pool.annotations().keys().filter_map(pending).collect()
}

/// The addresses of all pools, for those that start while the operator is away.
async fn ensure_peers(context: &Context) -> Result<(), Error> {
    let table: Vec<_> = context
        .peers()
        .peers
        .iter()
        .filter_map(|peer| {
            Some(json!({ "pool": PoolId::from_slice(&peer.pool).ok()?.to_string(), "endpoint": peer.endpoint }))
        })
        .collect();
    let text = serde_json::to_string_pretty(&json!({ "peers": table })).unwrap_or_default();
    let wanted = ConfigMap {
        metadata: metadata(&context.options, objects::PEERS, []),
        data: Some(text_map([(objects::PEERS_FILE, text.as_str())])),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = api::namespaced(&context.client, &context.options.namespace);
    let current = context.own(&context.config_maps, objects::PEERS);
    api::ensure(&maps, &wanted, current.as_deref()).await?;
    Ok(())
}

/// The pod. A change of a running pool's pod restarts it, so it waits until every volume can do without this pool, and
/// one pool is changed at a time.
async fn ensure_deployment(
    pool: &CStorPool,
    context: &Context,
    settings: &PoolSettings,
    sparse: bool,
) -> Result<(), Error> {
    let name = pool.name_any();
    let wanted = objects::deployment(&context.options, settings, pool, sparse);
    let deployments: Api<Deployment> = api::namespaced(&context.client, &context.options.namespace);
    let current = context.own(&context.deployments, &name);
    if let Some(current) = &current
        && api::differs(&wanted, current)
        && context.observations.fresh(&name).is_some()
        && !(dispensable(&name, context) && context.take_restart("pool"))
    {
        return Ok(());
    }
    api::ensure(&deployments, &wanted, current.as_deref()).await?;
    Ok(())
}

/// Whether every volume with a replica in the pool is healthy now, and every other pool answers.
fn dispensable(name: &str, context: &Context) -> bool {
    let others = context.pools.state();
    if others.iter().any(|other| other.name_any() != name && context.observations.fresh(&other.name_any()).is_none()) {
        return false;
    }
    let here: Vec<String> = context
        .replicas
        .state()
        .iter()
        .filter(|replica| pool_of(replica) == name)
        .filter_map(|replica| replica.labels().get(labels::CSTOR_VOLUME).cloned())
        .collect();
    context
        .volumes
        .state()
        .iter()
        .filter(|volume| here.contains(&volume.name_any()))
        .all(|volume| volume.status.as_ref().is_some_and(|status| status.phase == "Healthy"))
}

/// Claims the pool's devices. Returns whether they are files.
async fn bind_devices(pool: &CStorPool, context: &Context) -> Result<bool, Error> {
    let devices: Vec<&PoolDevice> = pool.spec.group.iter().flat_map(|group| &group.block_device).collect();
    let mut sparse = !devices.is_empty();
    for device in devices {
        let object = context.own(&context.devices, &device.name);
        let is_sparse = match &object {
            Some(object) => object.labels().get(labels::DEVICE_TYPE).is_some_and(|kind| kind == "sparse"),
            None => device.name.starts_with("sparse-"),
        };
        sparse &= is_sparse;
        let claims: Api<BlockDeviceClaim> = api::namespaced(&context.client, &context.options.namespace);
        let wanted = objects::device_claim(&context.options, pool, device, is_sparse);
        let name = wanted.name_any();
        let mut claim = context.own(&context.device_claims, &name).map(|claim| BlockDeviceClaim::clone(&claim));
        if claim.is_none() {
            api::create(&claims, &wanted).await?;
            claim = claims.get_opt(&name).await?;
        }
        let Some(claim) = claim else { continue };
        let owner = claim.labels().get(labels::CSTOR_POOL).cloned().unwrap_or_default();
        if owner != pool.name_any() {
            return Err(Error::NotYet(format!(
                "device {} belongs to pool {owner}: choose another device",
                device.name
            )));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(Error::NotYet(format!("the claim of device {} is being deleted", device.name)));
        }
        if let Some(object) = object {
            bind(context, &object, &claim).await?;
        }
        let bound = ballast_api::k8s::device::BlockDeviceClaimStatus { phase: String::from("Bound"), message: None };
        api::set_status(&claims, &name, claim.status.as_ref(), &bound).await?;
    }
    Ok(sparse)
}

/// Notes the claim on the device.
async fn bind(context: &Context, device: &BlockDevice, claim: &BlockDeviceClaim) -> Result<(), Error> {
    let devices: Api<BlockDevice> = api::namespaced(&context.client, &context.options.namespace);
    let reference = ClaimRef {
        name: claim.name_any(),
        namespace: claim.namespace().unwrap_or_default(),
        uid: claim.uid().unwrap_or_default(),
    };
    if device.spec.claim_ref.as_ref() != Some(&reference) {
        api::merge(&devices, &device.name_any(), &json!({ "spec": { "claimRef": reference } })).await?;
    }
    let mut status = device.status.clone().unwrap_or_default();
    status.claim_state = String::from("Claimed");
    api::set_status(&devices, &device.name_any(), device.status.as_ref(), &status).await?;
    Ok(())
}

/// Gives the devices of a pool back: to be wiped by the node disk manager.
async fn release_devices(pool: &CStorPool, context: &Context) -> Result<(), Error> {
    let claims: Api<BlockDeviceClaim> = api::namespaced(&context.client, &context.options.namespace);
    let devices: Api<BlockDevice> = api::namespaced(&context.client, &context.options.namespace);
    for device in pool.spec.group.iter().flat_map(|group| &group.block_device) {
        let name = format!("bdc-{}", device.name);
        let Some(claim) = claims.get_opt(&name).await? else { continue };
        if claim.labels().get(labels::CSTOR_POOL) != Some(&pool.name_any()) {
            continue;
        }
        if let Some(object) = devices.get_opt(&device.name).await? {
            let mut status = object.status.clone().unwrap_or_default();
            status.claim_state = String::from("Released");
            api::set_status(&devices, &device.name, object.status.as_ref(), &status).await?;
            api::merge(&devices, &device.name, &json!({ "spec": { "claimRef": null } })).await?;
        }
        api::remove_finalizer(&claims, &claim, labels::DEVICE_CLAIM_FINALIZER).await?;
        api::delete(&claims, &name).await?;
    }
    Ok(())
}

/// A pool goes: first its replicas are made elsewhere (the volumes' controller does that), then its process, then its devices.
async fn delete(pools: &Api<CStorPool>, pool: &CStorPool, context: &Context) -> Result<Action, Error> {
    let name = pool.name_any();
    let forced = pool.annotations().get(labels::FORCE_DELETE).is_some_and(|value| value == "true");
    let replicas: BTreeMap<String, ()> = context
        .replicas
        .state()
        .iter()
        .filter(|replica| pool_of(replica) == name)
        .map(|replica| (replica.name_any(), ()))
        .collect();
    if !replicas.is_empty() && !forced {
        let note = format!(
            "{} replicas are still in this pool; they are moved to other pools where there are enough of them. To lose them: \
             `kubectl annotate csp {name} {}=true`",
            replicas.len(),
            labels::FORCE_DELETE
        );
        context.say(pool, true, "InUse", &note).await;
        // It must serve until they are moved.
        let old = pool.status.clone().unwrap_or_default();
        let (known, new) = serve(pool, context, &old).await?;
        let new = status(&new, &known, &clock::now, &clock::this_minute);
        api::set_status(pools, &name, pool.status.as_ref(), &new).await?;
        return Ok(Action::requeue(ASK));
    }
    let deployments: Api<Deployment> = api::namespaced(&context.client, &context.options.namespace);
    api::delete(&deployments, &name).await?;
    let services: Api<Service> = api::namespaced(&context.client, &context.options.namespace);
    api::delete(&services, &name).await?;
    release_devices(pool, context).await?;
    context.observations.forget(&name);
    api::remove_finalizer(pools, pool, labels::POOL_FINALIZER).await?;
    Ok(Action::await_change())
}
