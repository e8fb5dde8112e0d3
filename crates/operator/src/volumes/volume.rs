//! The controller of CStorVolumes: replicas, Raft group, target, status, repair.
//!
//! Each look takes the volume as far as it can. What must not be done twice is noted before it is done: Raft ids
//! (`status.lastReplicaID`), a replica's making (`status.made`), the group (`status.formed`).
//!
//! What is watched may be old. So nothing is given or taken by it: the volume's object is read from the API server before its
//! group is formed, and the replicas' objects before a step is taken.

use std::sync::Arc;
use std::time::Duration;

use ballast_api::k8s::config::{Config, VolumeSettings};
use ballast_api::k8s::{CStorVolume, CStorVolumeReplica, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::objects;
use super::plan::{Plan, Step, plan};
use super::status::{replica_statuses, volume_status};
use super::view::{Replica, View, view, volume_id};
use super::{form, repair, target};
use crate::api;
use crate::clock;
use crate::context::{Context, is_draining};
use crate::error::Error;

/// How often a volume is looked at: what the pools say changes without a word to us.
const LOOK: Duration = Duration::from_secs(3);
/// After a step, and while it is being made.
const SOON: Duration = Duration::from_secs(1);

/// Looks at one volume.
pub(crate) async fn reconcile(volume: Arc<CStorVolume>, context: Arc<Context>) -> Result<Action, Error> {
    let volumes: Api<CStorVolume> = api::namespaced(&context.client, &context.options.namespace);
    if volume.metadata.deletion_timestamp.is_some() {
        return delete(&volumes, &volume, &context).await;
    }
    api::add_finalizer(&volumes, &*volume, labels::VOLUME_FINALIZER).await?;
    let mut volume = CStorVolume::clone(&volume);
    if !volume.status.as_ref().is_some_and(|status| status.formed) {
        let fresh = volumes.get_opt(&volume.name_any()).await?;
        match fresh.filter(|fresh| fresh.uid() == volume.uid() && fresh.metadata.deletion_timestamp.is_none()) {
            Some(fresh) => volume = fresh,
            None => return Ok(Action::requeue(SOON)), // it goes; the watch tells it
        }
    }
    let old = volume.status.clone().unwrap_or_default();
    let settings = Config::parse(volume.annotations().get(labels::CONFIG).map_or("", String::as_str))
        .and_then(|config| VolumeSettings::from_config(&config));
    let settings = match settings {
        Ok(settings) => settings,
        Err(problem) => return invalid(&volumes, &volume, &context, problem.to_string()).await,
    };
    ensure_service(&volumes, &mut volume, &context).await?;
    let steady = old.formed && old.phase == "Healthy";
    let mut replicas =
        if steady { watched_replicas(&volume, &context) } else { replicas_of(&volume, &context).await? };
    // What it waits for goes into the status, so it is no error here.
    let mut hindered = None;
    if !old.formed {
        match form::form(&volumes, &mut volume, &mut replicas, &settings, &context).await {
            Ok(()) => {}
            Err(error @ (Error::Place(_) | Error::NotYet(_) | Error::Call(_))) => {
                context.say(&volume, true, "CannotCreate", &error.to_string()).await;
                hindered = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let formed = volume.status.as_ref().is_some_and(|status| status.formed);
    let mut seen = look(&volume, formed, &replicas, &context)?;
    let mut next = Plan { step: None, waiting: hindered };
    if formed {
        let wanted = usize::try_from(volume.spec.replication_factor).unwrap_or(1);
        next = plan(&seen, wanted, context.options.replica_grace_period);
        // What was watched must not make a healthy volume look otherwise: the next look would say the contrary, at once.
        let doubtful = next != Plan::default() || !seen.replicas.iter().all(Replica::here);
        if steady && doubtful {
            replicas = replicas_of(&volume, &context).await?;
            seen = look(&volume, formed, &replicas, &context)?;
            next = plan(&seen, wanted, context.options.replica_grace_period);
        }
        // Nothing refuses the deletion of a replica, so what the group looks like is not taken from an older answer.
        if matches!(next.step, Some(Step::Drop { .. })) {
            let asked = ask_all(&seen, &context).await;
            seen = look(&volume, formed, &replicas, &context)?;
            next = match asked {
                Ok(()) => plan(&seen, wanted, context.options.replica_grace_period),
                Err(error) => Plan { step: None, waiting: Some(error.to_string()) },
            };
        }
        seen.target = target::ensure(&volume, &seen, &settings, &context).await?;
        if let Some(step) = next.step.clone()
            && let Err(error) = repair::take(&volumes, &mut volume, &seen, &replicas, &step, &context).await
        {
            match error {
                Error::Api(_) => return Err(error),
                other => next.waiting = Some(other.to_string()),
            }
        }
        if next.step.is_none() {
            match repair::grow(&volumes, &volume, &seen, &context).await {
                Ok(None) => {}
                Ok(Some(text)) => _ = next.waiting.get_or_insert(text),
                Err(error @ Error::Api(_)) => return Err(error),
                Err(error) => _ = next.waiting.get_or_insert(error.to_string()),
            }
        }
    }
    report(&volumes, &volume, &old, &replicas, &seen, &next, &context).await?;
    Ok(Action::requeue(if formed && next.step.is_none() { LOOK } else { SOON }))
}

/// The volume as it is now.
fn look(volume: &CStorVolume, formed: bool, replicas: &[CStorVolumeReplica], context: &Context) -> Result<View, Error> {
    let exists = |pool: &str| context.pool(pool).is_some();
    let seen = view(volume_id(volume)?, formed, replicas, &context.observations, &exists);
    Ok(mark_leaving(seen, context))
}

/// Asks the pools of a volume again. An error when one that answered before does not now: what it said counts no more, and
/// nobody knows yet what counts instead.
async fn ask_all(seen: &View, context: &Context) -> Result<(), Error> {
    let here = seen.replicas.iter().filter(|replica| context.observations.fresh(&replica.pool).is_some());
    let asked = here.map(async |replica| {
        let endpoint = form::endpoint_of(context, &replica.pool)?;
        form::ask_again(context, &replica.pool, &endpoint).await.map_err(Error::from)
    });
    futures_util::future::try_join_all(asked).await.map(drop)
}

/// The replicas' objects as they were watched: good enough to see that nothing has to be done.
fn watched_replicas(volume: &CStorVolume, context: &Context) -> Vec<CStorVolumeReplica> {
    let name = volume.name_any();
    let of_volume = |replica: &CStorVolumeReplica| replica.labels().get(labels::CSTOR_VOLUME) == Some(&name);
    let stored = context.replicas.state();
    stored.iter().filter(|replica| of_volume(replica)).map(|r| CStorVolumeReplica::clone(r)).collect()
}

/// The replicas' objects, from the API server.
async fn replicas_of(volume: &CStorVolume, context: &Context) -> Result<Vec<CStorVolumeReplica>, Error> {
    let name = volume.name_any();
    let api: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
    let list = ListParams::default().labels(&format!("{}={name}", labels::CSTOR_VOLUME));
    Ok(api.list(&list).await?.items)
}

/// A pool that is being deleted or drained gives its replicas away, as if each of them was to be deleted.
fn mark_leaving(mut seen: View, context: &Context) -> View {
    for replica in &mut seen.replicas {
        let leaving = context.pool(&replica.pool).is_some_and(|pool| is_draining(&pool));
        replica.deleting |= leaving;
    }
    seen
}

/// The Service, and its address on the volume.
async fn ensure_service(volumes: &Api<CStorVolume>, volume: &mut CStorVolume, context: &Context) -> Result<(), Error> {
    let services: Api<Service> = api::namespaced(&context.client, &context.options.namespace);
    let name = volume.name_any();
    let current = context.own(&context.services, &name);
    let service = api::ensure(&services, &objects::service(&context.options, volume), current.as_deref()).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).filter(|ip| !ip.is_empty());
    let address = address.ok_or_else(|| Error::NotYet(format!("the Service {name} has no address yet")))?;
    let portal = match address.contains(':') {
        true => format!("[{address}]:{}", labels::ISCSI_PORT),
        false => format!("{address}:{}", labels::ISCSI_PORT),
    };
    let iqn = format!("{}{name}", labels::IQN_PREFIX);
    let spec = &volume.spec;
    if spec.target_portal.as_ref() != Some(&portal) || spec.iqn.as_ref() != Some(&iqn) {
        let fields = json!({ "targetIP": address, "targetPort": labels::ISCSI_PORT.to_string(), "targetPortal": portal, "iqn": iqn });
        api::merge(volumes, &name, &json!({ "spec": fields })).await?;
        volume.spec.target_ip = Some(address);
        volume.spec.target_port = Some(labels::ISCSI_PORT.to_string());
        volume.spec.target_portal = Some(portal);
        volume.spec.iqn = Some(iqn);
    }
    Ok(())
}

async fn invalid(
    volumes: &Api<CStorVolume>,
    volume: &CStorVolume,
    context: &Context,
    problem: String,
) -> Result<Action, Error> {
    context.say(volume, true, "InvalidSettings", &problem).await;
    let mut status = volume.status.clone().unwrap_or_default();
    status.phase = String::from("Invalid");
    status.message = problem;
    api::set_status(volumes, &volume.name_any(), volume.status.as_ref(), &status).await?;
    Ok(Action::requeue(Duration::from_secs(30)))
}

/// Writes what is known.
async fn report(
    volumes: &Api<CStorVolume>,
    volume: &CStorVolume,
    old: &ballast_api::k8s::volume::CStorVolumeStatus,
    replicas: &[CStorVolumeReplica],
    seen: &View,
    next: &Plan,
    context: &Context,
) -> Result<(), Error> {
    let now = volume.status.clone().unwrap_or_default();
    let new = volume_status(volume, &now, seen, next, &clock::now, &clock::this_minute);
    if new.phase != old.phase && !old.phase.is_empty() && new.phase != "Unknown" {
        let note = format!("{} -> {} {}", old.phase, new.phase, new.message);
        context.say(volume, new.phase != "Healthy", &new.phase, note.trim()).await;
    }
    api::set_status(volumes, &volume.name_any(), volume.status.as_ref(), &new).await?;
    let objects: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
    let find = |name: &str| replicas.iter().find(|replica| replica.name_any() == name);
    let before = |name: &str| find(name).and_then(|replica| replica.status.clone()).unwrap_or_default();
    for (name, status) in replica_statuses(seen, &before, &clock::now) {
        let old = find(&name).and_then(|replica| replica.status.as_ref());
        api::set_status(&objects, &name, old, &status).await?;
    }
    // Objects that somebody deleted and whose replica has left the group.
    Ok(())
}

/// A volume goes: its target first, then its replicas, each at once or noted for the time when its pool is back.
async fn delete(volumes: &Api<CStorVolume>, volume: &CStorVolume, context: &Context) -> Result<Action, Error> {
    let deployments: Api<Deployment> = api::namespaced(&context.client, &context.options.namespace);
    api::delete(&deployments, &objects::target_name(volume)).await?;
    let objects: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
    let list = ListParams::default().labels(&format!("{}={}", labels::CSTOR_VOLUME, volume.name_any()));
    let replicas = objects.list(&list).await?.items;
    let gone = replicas.iter().map(|replica| repair::drop_replica(volume, replica, &replicas, context));
    futures_util::future::try_join_all(gone).await?;
    let config_maps: Api<k8s_openapi::api::core::v1::ConfigMap> =
        api::namespaced(&context.client, &context.options.namespace);
    api::delete(&config_maps, &objects::target_name(volume)).await?;
    let services: Api<Service> = api::namespaced(&context.client, &context.options.namespace);
    api::delete(&services, &volume.name_any()).await?;
    context.targets.forget(&volume.name_any());
    api::remove_finalizer(volumes, volume, labels::VOLUME_FINALIZER).await?;
    Ok(Action::await_change())
}
