//! The target of a volume: its ConfigMap, its Deployment, and telling it when the replicas have changed.

use ballast_api::control::{Peer, TargetStatus, TargetVolume, VolumeTable};
use ballast_api::k8s::config::VolumeSettings;
use ballast_api::k8s::{CStorVolume, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::form::blocks;
use super::objects;
use super::view::{Target, View, volume_id};
use crate::api;
use crate::context::Context;
use crate::error::Error;

/// Makes the target be there and know the replicas. Returns whether it serves.
pub(crate) async fn ensure(
    volume: &CStorVolume,
    seen: &View,
    settings: &VolumeSettings,
    context: &Context,
) -> Result<Target, Error> {
    let table = table(volume, seen, context)?;
    let maps: Api<ConfigMap> = api::namespaced(&context.client, &context.options.namespace);
    let name = objects::target_name(volume);
    let current = context.own(&context.config_maps, &name);
    let wanted = objects::config_map(&context.options, volume, &text(&table)?);
    let changed = current.as_deref().is_some_and(|current| api::differs(&wanted, current));
    api::ensure(&maps, &wanted, current.as_deref()).await?;

    let deployments: Api<Deployment> = api::namespaced(&context.client, &context.options.namespace);
    let current = context.own(&context.deployments, &name);
    let hosts: Vec<String> = seen
        .replicas
        .iter()
        .filter_map(|replica| context.pool(&replica.pool))
        .map(|pool| pool.spec.host_name.clone())
        .collect();
    let mut wanted = objects::deployment(&context.options, settings, volume, &hosts);
    if let Some(current) = &current {
        // Where it would rather run was decided when it was made: a replica that moves is no reason to restart it.
        let affinity = current.spec.template.spec.as_ref().and_then(|pod| pod.affinity.clone());
        if let Some(pod) = &mut wanted.spec.template.spec {
            pod.affinity = affinity;
        }
    }
    let restarts = current.as_deref().is_some_and(|current| api::differs(&wanted, current));
    if !restarts || context.take_restart("target") {
        api::ensure(&deployments, &wanted, current.as_deref()).await?;
    }
    let status = ask(volume, context).await;
    let serving = serving(volume, &table, status.as_ref().map_err(String::as_str), context);
    if changed || status.is_ok_and(|status| !knows(&status, &table)) {
        tell(volume, table, context).await;
    }
    Ok(serving)
}

async fn ask(volume: &CStorVolume, context: &Context) -> Result<TargetStatus, String> {
    let endpoint = endpoint(volume).ok_or("it has no address yet")?;
    context.processes.target_status(&endpoint).await.map_err(|error| error.to_string())
}

/// What its answer says about whether initiators are served.
fn serving(
    volume: &CStorVolume,
    table: &VolumeTable,
    status: Result<&TargetStatus, &str>,
    context: &Context,
) -> Target {
    let name = volume.name_any();
    let why = match status {
        Err(error) => Some(error.to_owned()),
        Ok(status) => {
            match status.volumes.iter().find(|served| table.volumes.iter().any(|v| v.volume == served.volume)) {
                None => Some(String::from("it does not know the volume yet")),
                Some(served) => match served.state.as_str() {
                    "opening" => Some(String::from("it has not found the replicas yet")),
                    "waiting" => Some(String::from("it does not find the replicas' leader")),
                    "fenced" => Some(String::from("a newer one has taken the volume from it")),
                    _ => None,
                },
            }
        }
    };
    match (context.targets.asked(&name, why.is_none()), why) {
        (_, None) => Target::Serves,
        (None, Some(why)) => Target::Late(why),
        (Some(_), Some(why)) => Target::Away(why),
    }
}

/// What the target serves.
fn table(volume: &CStorVolume, seen: &View, context: &Context) -> Result<VolumeTable, Error> {
    let id = volume_id(volume)?;
    let replicas = seen.replicas.iter().filter_map(|replica| {
        let endpoint = context.pool(&replica.pool)?.status.as_ref()?.endpoint.clone()?;
        Some(Peer { pool: replica.pool_id?.to_bytes(), endpoint })
    });
    let target = TargetVolume {
        volume: id.to_bytes(),
        name: volume.name_any(),
        iqn: format!("{}{}", labels::IQN_PREFIX, volume.name_any()),
        blocks: blocks(volume)?,
        replicas: replicas.collect(),
    };
    Ok(VolumeTable { volumes: vec![target] })
}

/// The table in the form of the target's file.
fn text(table: &VolumeTable) -> Result<String, Error> {
    let uuid = |bytes: &[u8]| {
        ballast_api::VolumeId::from_slice(bytes)
            .map(|id| id.to_string())
            .map_err(|error| Error::NotYet(error.to_string()))
    };
    let mut volumes = Vec::new();
    for volume in &table.volumes {
        let mut replicas = Vec::new();
        for peer in &volume.replicas {
            replicas.push(json!({ "pool": uuid(&peer.pool)?, "endpoint": peer.endpoint }));
        }
        volumes.push(json!({
            "volume": uuid(&volume.volume)?,
            "name": volume.name,
            "iqn": volume.iqn,
            "blocks": volume.blocks,
            "replicas": replicas,
        }));
    }
    Ok(serde_json::to_string_pretty(&json!({ "volumes": volumes })).unwrap_or_default())
}

fn endpoint(volume: &CStorVolume) -> Option<String> {
    let ip = volume.spec.target_ip.as_ref()?;
    let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    Some(format!("{ip}:{}", labels::TARGET_CONTROL_PORT))
}

/// Whether the running target has what it shall. One that does not answer reads its file when it starts.
fn knows(status: &TargetStatus, table: &VolumeTable) -> bool {
    let serves = |wanted: &TargetVolume| {
        status.volumes.iter().any(|served| {
            let mut known = served.replicas.clone();
            let mut replicas = wanted.replicas.clone();
            known.sort_by(|a, b| a.pool.cmp(&b.pool));
            replicas.sort_by(|a, b| a.pool.cmp(&b.pool));
            served.volume == wanted.volume && served.blocks >= wanted.blocks && known == replicas
        })
    };
    table.volumes.iter().all(serves)
}

async fn tell(volume: &CStorVolume, table: VolumeTable, context: &Context) {
    let Some(endpoint) = endpoint(volume) else { return };
    if let Err(error) = context.processes.set_volumes(&endpoint, table).await {
        tracing::info!(volume = volume.name_any(), %error, "the target is told about its replicas later");
    }
}
