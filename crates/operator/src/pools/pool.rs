//! The controller of CStorPools: devices, Service, Deployment; asks the pool how it is, and tells it where the others are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ballast_api::PoolId;
use ballast_api::control::VolumeRef;
use ballast_api::k8s::config::{Config, PoolSettings};
use ballast_api::k8s::pool::CStorPoolStatus;
use ballast_api::k8s::{CStorPool, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::conditions::conditions;
use super::devices::{bind_devices, release_devices};
use super::objects;
use super::pending::pending_deletions;
use super::status::{Known, status};
use crate::api;
use crate::clock;
use crate::context::Context;
use crate::error::Error;
use crate::objects::{metadata, text_map};
use crate::volumes::view::{pool_of, volume_id};

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
    let new = report(&pool, &known, &new, &context);
    if new.phase != old.phase && !old.phase.is_empty() {
        let note = format!("{} -> {} {}", old.phase, new.phase, new.message);
        context.say(&*pool, new.phase != "Healthy", &new.phase, note.trim()).await;
    }
    api::set_status(&pools, &pool.name_any(), pool.status.as_ref(), &new).await?;
    Ok(Action::requeue(ASK))
}

/// The status of a pool.
fn report(pool: &CStorPool, known: &Known, new: &CStorPoolStatus, context: &Context) -> CStorPoolStatus {
    let mut new = status(new, known, &clock::now, &clock::this_minute);
    let answer = match known {
        Known::Answers(answer) => Some(answer),
        _ => None,
    };
    let volumes = context.volumes.state().iter().filter_map(|volume| volume_id(volume).ok()).collect();
    new.conditions = conditions(pool, &new, answer, &volumes, &context.orphans, clock::now);
    new
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
    for pending in pending_deletions(pool) {
        let (key, volume) = (pending.key(), pending.volume);
        let request =
            VolumeRef { volume: volume.to_bytes(), pool: id.to_bytes(), replica: pending.replica, unused: false };
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
/// one pool is changed at a time. A pool that was not asked yet counts as running: a new operator knows nothing, and it often
/// is new because all is being upgraded.
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
    {
        let answers = context.observations.fresh(&name).is_some();
        let ready = current.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0) > 0;
        let down = !answers && !ready && context.observations.silence(&name).is_some();
        let may = down || (answers && dispensable(&name, context) && context.take_restart("pool"));
        if !may {
            return Ok(());
        }
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
        let new = report(pool, &known, &new, context);
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
