//! Takes one step of [`super::plan`].

use ballast_api::control::{
    AddLearnerRequest, ChangeVotersRequest, CreateReplicaRequest, GrowVolumeRequest, Member, RemoveLearnerRequest,
    VolumeRef,
};
use ballast_api::k8s::config::{Config, VolumeSettings};
use ballast_api::k8s::{CStorPool, CStorVolume, CStorVolumeReplica, labels};
use bytes::Bytes;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::form::{ask_again, choose, endpoint_of, give_ids, introduce, wanted_blocks};
use super::objects;
use super::plan::Step;
use super::view::{Group, State, View, pool_of, volume_id};
use crate::api;
use crate::context::Context;
use crate::error::Error;
use crate::pools::pending::PendingDeletion;

/// Takes the step.
pub(crate) async fn take(
    volumes: &Api<CStorVolume>,
    volume: &mut CStorVolume,
    seen: &View,
    replicas: &[CStorVolumeReplica],
    step: &Step,
    context: &Context,
) -> Result<(), Error> {
    match step {
        Step::AddReplica => add(volumes, volume, replicas, context).await,
        Step::Join { replica } => join(volume, seen, replicas, *replica, context).await,
        Step::ChangeVoters { voters } => {
            let (endpoint, pool) = leader(seen, context)?;
            let note = format!("the voters become replicas {voters:?}");
            context.say(volume, false, "ChangingReplicas", &note).await;
            let volume = volume_id(volume)?.to_bytes();
            let request = ChangeVotersRequest { volume, pool, voters: voters.clone() };
            context.processes.change_voters(&endpoint, request).await?;
            refresh_leader(seen, context).await
        }
        Step::RemoveLearner { replica } => {
            let (endpoint, pool) = leader(seen, context)?;
            let volume = volume_id(volume)?.to_bytes();
            context
                .processes
                .remove_learner(&endpoint, RemoveLearnerRequest { volume, pool, replica: *replica })
                .await?;
            refresh_leader(seen, context).await
        }
        Step::Drop { replica } => {
            let id = replica.to_string();
            match replicas.iter().find(|object| object.spec.replicaid == id) {
                Some(object) => drop_replica(volume, object, replicas, context).await,
                None => Ok(()),
            }
        }
    }
}

/// Makes the volume as large as its object says. Some text: why it is not so, or not yet.
pub(crate) async fn grow(
    volumes: &Api<CStorVolume>,
    volume: &CStorVolume,
    seen: &View,
    context: &Context,
) -> Result<Option<String>, Error> {
    let Some(group) = &seen.group else { return Ok(None) };
    let wanted = match wanted_blocks(volume) {
        Ok(wanted) => wanted,
        Err(error) => return Ok(Some(error.to_string())),
    };
    if wanted < group.blocks {
        let text =
            "spec.capacity is less than the volume has, and it is not made smaller: what lies beyond would be lost";
        return Ok(Some(text.to_owned()));
    }
    if wanted == group.blocks {
        return Ok(None);
    }
    // It cannot be taken back, so nothing is done by what was only watched.
    let fresh = volumes.get(&volume.name_any()).await?;
    if fresh.spec.capacity != volume.spec.capacity {
        return Ok(Some(String::from("spec.capacity was edited again")));
    }
    let (endpoint, pool) = leader(seen, context)?;
    context.say(volume, false, "Growing", &format!("the volume gets {}", volume.spec.capacity)).await;
    let request = GrowVolumeRequest { volume: volume_id(volume)?.to_bytes(), pool, blocks: wanted };
    context.processes.grow_volume(&endpoint, request).await?;
    refresh_leader(seen, context).await?;
    Ok(Some(String::from("the target is told the new size")))
}

/// Address and identity of the pool that leads.
fn leader(seen: &View, context: &Context) -> Result<(String, Bytes), Error> {
    let group: &Group =
        seen.group.as_ref().ok_or_else(|| Error::NotYet(String::from("the volume has no leader now")))?;
    let pool = seen.replicas.iter().find(|replica| replica.id == group.leader).and_then(|replica| replica.pool_id);
    Ok((endpoint_of(context, &group.pool)?, pool.map(|id| id.to_bytes()).unwrap_or_default()))
}

async fn refresh_leader(seen: &View, context: &Context) -> Result<(), Error> {
    if let Some(group) = &seen.group {
        // What it does not say now, it says later.
        _ = ask_again(context, &group.pool, &endpoint_of(context, &group.pool)?).await;
    }
    Ok(())
}

/// Writes the object of one more replica.
async fn add(
    volumes: &Api<CStorVolume>,
    volume: &mut CStorVolume,
    replicas: &[CStorVolumeReplica],
    context: &Context,
) -> Result<(), Error> {
    let settings = Config::parse(volume.annotations().get(labels::CONFIG).map_or("", String::as_str))
        .and_then(|config| VolumeSettings::from_config(&config))?;
    let chosen = choose(volume, replicas, 1, &settings, context)?;
    let Some((pool, pool_id)) = chosen.first() else { return Ok(()) };
    let id = give_ids(volumes, volume, 1).await?;
    let mut replica = objects::replica(volume, (pool, *pool_id), id, false);
    // The name may still be that of the replica which this pool has lost.
    if replicas.iter().any(|other| pool_of(other) == pool.name_any()) {
        replica.metadata.name = Some(format!("{}-{id}", replica.name_any()));
    }
    let api: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
    if !api::create(&api, &replica).await? {
        return Err(Error::NotYet(format!("{} exists already; it is looked at again", replica.name_any())));
    }
    let note = format!("replica {id} is made in pool {}", pool.name_any());
    context.say(volume, false, "AddingReplica", &note).await;
    Ok(())
}

/// Makes the replica in its pool, if it is not there, and lets the leader fill it.
async fn join(
    volume: &CStorVolume,
    seen: &View,
    replicas: &[CStorVolumeReplica],
    id: u64,
    context: &Context,
) -> Result<(), Error> {
    let Some(replica) = seen.replicas.iter().find(|replica| replica.id == id) else { return Ok(()) };
    let Some(object) = replicas.iter().find(|object| object.name_any() == replica.name) else { return Ok(()) };
    let Some(pool) = replica.pool_id else { return Ok(()) };
    let endpoint = endpoint_of(context, &replica.pool)?;
    let member = Member { replica: id, pool: pool.to_bytes() };
    if replica.state == State::Absent {
        let api: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
        let patch = json!({ "metadata": { "resourceVersion": object.resource_version() }, "status": { "made": true } });
        api.patch_status(&replica.name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch)).await?;
        introduce(context, &replica.pool, &endpoint, std::slice::from_ref(&member)).await?;
        let request = CreateReplicaRequest {
            volume: volume_id(volume)?.to_bytes(),
            name: volume.name_any(),
            // As large as the group is: what shall become of it comes through the log.
            blocks: seen.group.as_ref().map_or(0, |group| group.blocks),
            replica: id,
            members: Vec::new(),
            pool: pool.to_bytes(),
        };
        context.processes.create_replica(&endpoint, request).await?;
        _ = ask_again(context, &replica.pool, &endpoint).await;
    }
    let (leads, leader_pool) = leader(seen, context)?;
    if let Some(group) = &seen.group {
        introduce(context, &group.pool, &leads, std::slice::from_ref(&member)).await?;
    }
    let request = AddLearnerRequest { volume: volume_id(volume)?.to_bytes(), pool: leader_pool, member: Some(member) };
    context.processes.add_learner(&leads, request).await?;
    refresh_leader(seen, context).await
}

/// Deletes a replica that is in its group no more, or whose volume goes: its object begins to go, its blocks go now or when
/// its pool is back, then the object is let go.
pub(crate) async fn drop_replica(
    volume: &CStorVolume,
    replica: &CStorVolumeReplica,
    all: &[CStorVolumeReplica],
    context: &Context,
) -> Result<(), Error> {
    let id = volume_id(volume)?;
    let name = pool_of(replica);
    // First of all it is decided for good, in its object: a look that comes after an error in between must not take the replica
    // for a good one again, and a pool that is told later to delete it must not find it at work.
    let objects: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
    if replica.metadata.deletion_timestamp.is_none() {
        api::delete(&objects, &replica.name_any()).await?;
    }
    // Another replica of the volume lives in this pool by now: this one's blocks went with its old devices.
    let succeeded = all.iter().any(|other| other.name_any() != replica.name_any() && pool_of(other) == name);
    let going = volume.metadata.deletion_timestamp.is_some();
    let formed = volume.status.as_ref().is_some_and(|status| status.formed);
    let number = replica.spec.replicaid.parse().unwrap_or(u64::MAX); // no number: no replica
    if let Some(pool) = context.pool(&name)
        && (!succeeded || going)
    {
        // By its number: in its place there may be another one by now, of which the objects that were read know nothing.
        let (pool_id, unused) = (pool_bytes(replica), !formed && !going);
        let request = VolumeRef { volume: id.to_bytes(), pool: pool_id, replica: number, unused };
        let endpoint = endpoint_of(context, &name);
        let deleted = match &endpoint {
            Ok(endpoint) if context.observations.fresh(&name).is_some() => {
                context.processes.delete_replica(endpoint, request).await.map_err(Error::from)
            }
            _ => Err(Error::NotYet(String::from("the pool does not answer"))),
        };
        match deleted {
            Ok(()) => {
                if let Ok(endpoint) = &endpoint {
                    _ = ask_again(context, &name, endpoint).await;
                }
            }
            // Another pool is there: the replica went with its devices.
            Err(Error::Call(error)) if error.is(tonic::Code::FailedPrecondition) => {}
            // It holds data, so the volume's object is wrong. Nothing is given up because of that.
            Err(Error::Call(error)) if error.is(tonic::Code::PermissionDenied) => return Err(Error::Call(error)),
            Err(error) => {
                tracing::warn!(volume = volume.name_any(), pool = name, %error, "its blocks are freed when the pool is back");
                note_pending(&pool, &PendingDeletion { volume: id, replica: number }, context).await?;
            }
        }
    }
    if let Some(current) = objects.get_opt(&replica.name_any()).await? {
        api::remove_finalizer(&objects, &current, labels::REPLICA_FINALIZER).await?;
    }
    Ok(())
}

fn pool_bytes(replica: &CStorVolumeReplica) -> Bytes {
    replica.spec.pool_id.parse().map(|id: ballast_api::PoolId| id.to_bytes()).unwrap_or_default()
}

/// The pool frees the blocks when it is back.
async fn note_pending(pool: &CStorPool, deletion: &PendingDeletion, context: &Context) -> Result<(), Error> {
    let pools: Api<CStorPool> = Api::all(context.client.clone());
    let note = json!({ "metadata": { "annotations": { deletion.key(): "true" } } });
    match api::merge(&pools, &pool.name_any(), &note).await {
        Err(error) if api::is_code(&error, 404) => Ok(()),
        other => Ok(other?),
    }
}
