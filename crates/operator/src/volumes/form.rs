//! Making a volume: choose pools, write the replicas' objects, make the replicas, form the group.
//!
//! ```text
//! note lastReplicaID -> write CStorVolumeReplica objects -> CreateReplica on each pool -> FormGroup on one -> note formed
//! ```
//! Until `formed` is noted no target exists, so nothing was written: what is half made may be deleted and made again,
//! under new ids. The pools make sure of it: a replica that a target has opened is not deleted in this way, whatever the
//! objects say (an old state of the API server may have been restored).

use std::collections::BTreeSet;

use ballast_api::control::{CreateReplicaRequest, FormGroupRequest, Member, VolumeRef};
use ballast_api::k8s::config::VolumeSettings;
use ballast_api::k8s::{CStorPool, CStorVolume, CStorVolumeReplica, labels, quantity};
use ballast_api::{BLOCK_SIZE, PoolId};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use super::place::{Candidate, Wish, place};
use super::view::{pool_of, volume_id};
use super::{objects, repair};
use crate::api;
use crate::context::{Context, is_closed, is_cordoned};
use crate::error::Error;
use crate::pools::pending::pending_deletions;
use crate::processes::CallError;

/// Takes the volume as far as its group.
pub(crate) async fn form(
    volumes: &Api<CStorVolume>,
    volume: &mut CStorVolume,
    replicas: &mut Vec<CStorVolumeReplica>,
    settings: &VolumeSettings,
    context: &Context,
) -> Result<(), Error> {
    drop_unusable(volume, replicas, context).await?;
    let wanted = usize::try_from(volume.spec.replication_factor).unwrap_or(0);
    if replicas.len() < wanted {
        let count = wanted - replicas.len();
        let chosen = choose(volume, replicas, count, settings, context)?;
        let first = give_ids(volumes, volume, chosen.len()).await?;
        let api: Api<CStorVolumeReplica> = api::namespaced(&context.client, &context.options.namespace);
        for ((pool, pool_id), id) in chosen.iter().zip(first..) {
            let replica = objects::replica(volume, (pool, *pool_id), id, true);
            if !api::create(&api, &replica).await? {
                return Err(Error::NotYet(format!("{} exists already; it is looked at again", replica.name_any())));
            }
            replicas.push(replica);
        }
    }
    make(volume, replicas, context).await?;
    note_formed(volumes, volume).await
}

/// Before the group is formed a replica whose pool is lost, or that somebody deletes, is given up.
async fn drop_unusable(
    volume: &CStorVolume,
    replicas: &mut Vec<CStorVolumeReplica>,
    context: &Context,
) -> Result<(), Error> {
    let usable = |replica: &CStorVolumeReplica| {
        let pool = pool_of(replica);
        let replaced =
            context.observations.fresh(&pool).is_some_and(|heard| heard.id.to_string() != replica.spec.pool_id);
        let silent = context.observations.silence(&pool).is_some();
        let gone = context.pool(&pool).is_none_or(|pool| pool.metadata.deletion_timestamp.is_some());
        replica.metadata.deletion_timestamp.is_none() && !replaced && !silent && !gone
    };
    let (stay, go): (Vec<_>, Vec<_>) = replicas.drain(..).partition(usable);
    for replica in &go {
        repair::drop_replica(volume, replica, &go, context).await?;
    }
    *replicas = stay;
    Ok(())
}

/// Raises `status.lastReplicaID` by `count` and returns the first of the new ids.
pub(crate) async fn give_ids(volumes: &Api<CStorVolume>, volume: &mut CStorVolume, count: usize) -> Result<u64, Error> {
    // From the API server: a stale object could give an id twice.
    let fresh = volumes.get_status(&volume.name_any()).await?;
    let last = fresh.status.as_ref().map_or(0, |status| status.last_replica_id);
    let next = last + i64::try_from(count).unwrap_or(0);
    // The size is decided with the first ids: all first replicas are made with it, however often the object is edited until
    // they are.
    let decided = fresh.status.as_ref().map(|status| status.capacity.clone()).filter(|_| last > 0);
    let capacity = decided.filter(|capacity| !capacity.is_empty()).unwrap_or_else(|| fresh.spec.capacity.clone());
    let patch = json!({
        "metadata": { "resourceVersion": fresh.resource_version() },
        "status": { "lastReplicaID": next, "capacity": capacity },
    });
    volumes
        .patch_status(&volume.name_any(), &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch))
        .await?;
    let status = volume.status.get_or_insert_default();
    (status.last_replica_id, status.capacity) = (next, capacity);
    Ok(u64::try_from(last).unwrap_or(0) + 1)
}

async fn note_formed(volumes: &Api<CStorVolume>, volume: &mut CStorVolume) -> Result<(), Error> {
    let patch = json!({ "status": { "formed": true } });
    volumes
        .patch_status(&volume.name_any(), &kube::api::PatchParams::default(), &kube::api::Patch::Merge(&patch))
        .await?;
    volume.status.get_or_insert_default().formed = true;
    Ok(())
}

/// Pools for `count` more replicas, with what they said they are: their objects may not say it yet, and a replica of another
/// pool's id would be given up at once.
pub(crate) fn choose(
    volume: &CStorVolume,
    replicas: &[CStorVolumeReplica],
    count: usize,
    settings: &VolumeSettings,
    context: &Context,
) -> Result<Vec<(CStorPool, PoolId)>, Error> {
    let id = volume_id(volume)?;
    let claim = if volume.spec.storage_pool_claim.is_empty() {
        &settings.storage_pool_claim
    } else {
        &volume.spec.storage_pool_claim
    };
    let apart = volume.spec.replica_anti_affinity.as_ref();
    let apart_from: BTreeSet<String> = context
        .volumes
        .state()
        .iter()
        .filter(|other| other.name_any() != volume.name_any())
        .filter(|other| {
            apart.is_some_and(|apart| other.spec.replica_anti_affinity.as_ref().is_some_and(|o| o.group == apart.group))
        })
        .map(|other| other.name_any())
        .collect();
    let all_replicas = context.replicas.state();
    let in_pool = |name: &str| all_replicas.iter().filter(|replica| pool_of(replica) == name).count();
    let kept_apart = |name: &str| {
        let of_others = |replica: &&std::sync::Arc<CStorVolumeReplica>| {
            replica.labels().get(labels::CSTOR_VOLUME).is_some_and(|other| apart_from.contains(other))
        };
        all_replicas.iter().filter(|replica| pool_of(replica) == name).filter(of_others).count()
    };
    let zone_of =
        |host: &str| context.node(host).and_then(|node| node.labels().get(labels::ZONE).cloned()).unwrap_or_default();
    let pools = context.pools.state();
    let candidates = pools.iter().filter_map(|pool| {
        let name = pool.name_any();
        let of_claim = pool.labels().get(labels::STORAGE_POOL_CLAIM) == Some(claim);
        let heard = context.observations.fresh(&name)?;
        // A pool that lost its replica of this volume, with all others, may get a new one.
        let has =
            replicas.iter().any(|replica| pool_of(replica) == name && replica.spec.pool_id == heard.id.to_string());
        let held = heard.status.replicas.iter().any(|held| held.volume[..] == id.as_bytes()[..]);
        let doomed = pending_deletions(pool).iter().any(|pending| pending.volume == id);
        if !of_claim || has || held || doomed || is_closed(pool) {
            return None;
        }
        Some(Candidate {
            node: pool.spec.host_name.clone(),
            zone: zone_of(&pool.spec.host_name),
            free_bytes: heard.status.free_bytes,
            capacity_bytes: heard.status.capacity_bytes,
            replicas: in_pool(&name),
            kept_apart: kept_apart(&name),
            cordoned: context.node(&pool.spec.host_name).is_some_and(|node| is_cordoned(&node)),
            pool: name,
        })
    });
    let stay = replicas.iter().filter_map(|replica| context.pool(&pool_of(replica)));
    let wish = Wish {
        count,
        present: stay.map(|pool| (pool.spec.host_name.clone(), zone_of(&pool.spec.host_name))).collect(),
        preferred_node: volume.spec.preferred_node.clone(),
        apart_required: apart.is_some_and(|apart| apart.required),
    };
    let chosen = place(candidates.collect(), &wish)?;
    let found = |name: &String| Some((CStorPool::clone(&*context.pool(name)?), context.observations.fresh(name)?.id));
    Ok(chosen.iter().filter_map(found).collect())
}

/// The size that the volume shall have, in blocks.
pub(crate) fn wanted_blocks(volume: &CStorVolume) -> Result<u64, Error> {
    in_blocks(&volume.spec.capacity)
}

/// The size that it has: what its group has agreed on, or what its first replicas are made with.
pub(crate) fn blocks(volume: &CStorVolume) -> Result<u64, Error> {
    let has = volume.status.as_ref().map(|status| status.capacity.as_str()).filter(|capacity| !capacity.is_empty());
    in_blocks(has.unwrap_or(&volume.spec.capacity))
}

/// A quantity in blocks.
pub(crate) fn in_blocks(capacity: &str) -> Result<u64, Error> {
    let bytes = quantity::parse_bytes(capacity).map_err(|error| Error::NotYet(error.to_string()))?;
    if bytes == 0 {
        return Err(Error::NotYet(String::from("spec.capacity is 0: give the volume a size, for example 10Gi")));
    }
    Ok(bytes.div_ceil(BLOCK_SIZE as u64))
}

/// Asks a pool again at once, so that what was just made there is known.
pub(crate) async fn ask_again(context: &Context, pool: &str, endpoint: &str) -> Result<(), CallError> {
    let asked = Instant::now();
    let status = context.processes.pool_status(endpoint).await?;
    if let Ok(id) = PoolId::from_slice(&status.pool) {
        context.observations.answered(pool, id, status, asked);
    }
    Ok(())
}

/// Where a replica's pool listens.
pub(crate) fn endpoint_of(context: &Context, pool: &str) -> Result<String, Error> {
    let endpoint = context.pool(pool).and_then(|pool| pool.status.as_ref()?.endpoint.clone());
    endpoint.ok_or_else(|| Error::NotYet(format!("the pool {pool} has no address yet")))
}

/// Makes the replicas in their pools and the group of them.
async fn make(volume: &CStorVolume, replicas: &[CStorVolumeReplica], context: &Context) -> Result<(), Error> {
    let id = volume_id(volume)?;
    let blocks = blocks(volume)?;
    let mut members = Vec::new();
    for replica in replicas {
        let pool: PoolId =
            replica.spec.pool_id.parse().map_err(|_| {
                Error::NotYet(format!("the pool of replica {} has not answered yet", replica.name_any()))
            })?;
        let number = replica
            .spec
            .replicaid
            .parse::<u64>()
            .map_err(|_| Error::NotYet(format!("spec.replicaid of {} is no number", replica.name_any())))?;
        members.push((
            pool_of(replica),
            endpoint_of(context, &pool_of(replica))?,
            Member { replica: number, pool: pool.to_bytes() },
        ));
    }
    members.sort_by_key(|(_, _, member)| member.replica);
    let group: Vec<Member> = members.iter().map(|(_, _, member)| member.clone()).collect();
    let make = members.iter().map(async |(pool, endpoint, member)| {
        introduce(context, pool, endpoint, &group).await?;
        let request = CreateReplicaRequest {
            volume: id.to_bytes(),
            name: volume.name_any(),
            blocks,
            replica: member.replica,
            members: group.clone(),
            pool: member.pool.clone(),
        };
        match context.processes.create_replica(endpoint, request.clone()).await {
            // Half made by an earlier try with other members: nothing was ever written to it.
            Err(error) if error.is(tonic::Code::AlreadyExists) => {
                let volume = id.to_bytes();
                let old = VolumeRef { volume, pool: member.pool.clone(), replica: 0, unused: true };
                context.processes.delete_replica(endpoint, old).await?;
                context.processes.create_replica(endpoint, request).await?;
            }
            other => other?,
        }
        Ok::<(), Error>(())
    });
    for made in futures_util::future::join_all(make).await {
        made?;
    }
    // The member that forms the group usually leads it: a different one for each volume.
    let first = usize::from(id.as_bytes()[15]) % members.len().max(1);
    let Some((_, endpoint, member)) = members.get(first) else {
        return Err(Error::NotYet(String::from("spec.replicationFactor is 0: give at least 1")));
    };
    let request = FormGroupRequest { volume: id.to_bytes(), members: group, pool: member.pool.clone() };
    context.processes.form_group(endpoint, request).await?;
    for (pool, endpoint, _) in &members {
        _ = ask_again(context, pool, endpoint).await;
    }
    Ok(())
}

/// Tells a pool where the others are, unless it knows.
pub(crate) async fn introduce(context: &Context, pool: &str, endpoint: &str, group: &[Member]) -> Result<(), Error> {
    let known = context.observations.fresh(pool);
    let knows = |member: &Member| {
        known.as_ref().is_some_and(|heard| heard.status.peers.iter().any(|peer| peer.pool == member.pool))
    };
    if !group.iter().all(knows) {
        context.processes.set_peers(endpoint, context.peers()).await?;
    }
    Ok(())
}
