//! The controller of StoragePoolClaims: writes the CStorPools that a claim lacks, and keeps them to what it lists.
//!
//! Nothing is remembered: the pools that exist are read from the API server before each choice, and a pool's name is a
//! function of claim and node, so that a choice that is made twice makes one pool.

use std::sync::Arc;
use std::time::Duration;

use ballast_api::k8s::claim::StoragePoolClaimStatus;
use ballast_api::k8s::config::{Config, PoolSettings};
use ballast_api::k8s::{BlockDevice, CStorPool, Condition, StoragePoolClaim, labels};
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::select::{Growth, Pick, Selection, device_names, select};
use super::{budget, objects};
use crate::api;
use crate::clock;
use crate::context::{Context, is_cordoned};
use crate::error::Error;

/// Devices and nodes come and go without a word to us.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Names that are tried for a pool.
const ATTEMPTS: usize = 4;

/// Looks at one claim.
pub(crate) async fn reconcile(claim: Arc<StoragePoolClaim>, context: Arc<Context>) -> Result<Action, Error> {
    let claims: Api<StoragePoolClaim> = Api::all(context.client.clone());
    if claim.metadata.deletion_timestamp.is_some() {
        return delete(&claims, &claim, &context).await;
    }
    api::add_finalizer(&claims, &*claim, labels::CLAIM_FINALIZER).await?;

    let all: Api<CStorPool> = Api::all(context.client.clone());
    let config = claim.annotations().get(labels::CONFIG).map_or("", String::as_str);
    let checked = Config::parse(config).and_then(|config| PoolSettings::from_config(&config));
    let mut pools: Vec<CStorPool> = context.pools.state().iter().map(|pool| CStorPool::clone(pool)).collect();
    let mut selected = checked.map_err(|error| error.to_string()).and_then(|_| choose(&claim, &pools, &context));
    // What is chosen is chosen from the API server's pools: a stale list could give a device twice.
    if selected.as_ref().is_ok_and(Selection::changes) {
        pools = all.list(&ListParams::default()).await?.items;
        selected = choose(&claim, &pools, &context);
    }
    let selection = match selected {
        Ok(selection) => selection,
        Err(problem) => {
            context.say(&*claim, true, "InvalidClaim", &problem).await;
            let condition = condition("False", "InvalidClaim", &problem);
            let status =
                StoragePoolClaimStatus { phase: String::from("Invalid"), conditions: vec![condition], ..of(&claim) };
            api::set_status(&claims, &claim.name_any(), claim.status.as_ref(), &status).await?;
            return Ok(Action::requeue(LOOK_AGAIN));
        }
    };
    let own: Vec<&CStorPool> = pools.iter().filter(|pool| belongs(pool, &claim)).collect();
    for (made, pick) in selection.picks.iter().enumerate() {
        let number = selection.present + made + 1;
        let note = format!("Provisioning pool {number}/{} for storagepoolclaim {}", selection.wanted, claim.name_any());
        make(&all, &claim, pick).await?;
        context.say(&*claim, false, "Provisioning", &note).await;
    }
    for growth in &selection.growths {
        if let Some(pool) = own.iter().find(|pool| pool.name_any() == growth.pool) {
            grow(&all, pool, growth).await?;
            let names: Vec<&str> = growth.devices.iter().map(|device| device.name.as_str()).collect();
            let note = format!("pool {} gets {} and restarts with it", growth.pool, names.join(", "));
            context.say(&*claim, false, "Growing", &note).await;
        }
    }
    if let Some(pool) = &selection.retire {
        api::delete(&all, pool).await?;
        let note =
            format!("pool {pool} has devices that the claim does not list any more: its replicas move, then it goes");
        context.say(&*claim, false, "Replacing", &note).await;
    }
    budget::ensure(&claim, &own, &context).await?;
    let status = status(&claim, &own, &selection);
    api::set_status(&claims, &claim.name_any(), claim.status.as_ref(), &status).await?;
    Ok(Action::requeue(LOOK_AGAIN))
}

fn choose(claim: &StoragePoolClaim, pools: &[CStorPool], context: &Context) -> Result<Selection, String> {
    let devices: Vec<BlockDevice> = context.devices.state().iter().map(|device| BlockDevice::clone(device)).collect();
    select(claim, &devices, pools, &|host| usable(context, host)).map_err(|error| error.to_string())
}

/// Notes the devices on the pool; its own controller does the rest. With the version that was read: two lists of
/// devices are never mixed.
async fn grow(pools: &Api<CStorPool>, pool: &CStorPool, growth: &Growth) -> Result<(), Error> {
    let mut spec = pool.spec.clone();
    objects::add_devices(&mut spec, &growth.devices);
    let patch = json!({ "metadata": { "resourceVersion": pool.resource_version() }, "spec": spec });
    Ok(api::merge(pools, &growth.pool, &patch).await?)
}

fn of(claim: &StoragePoolClaim) -> StoragePoolClaimStatus {
    claim.status.clone().unwrap_or_default()
}

fn belongs(pool: &CStorPool, claim: &StoragePoolClaim) -> bool {
    pool.labels().get(labels::STORAGE_POOL_CLAIM) == Some(&claim.name_any())
}

/// Whether a node may get a pool now: it is ready and takes pods.
fn usable(context: &Context, host: &str) -> bool {
    context.node(host).is_some_and(|node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions.is_some_and(|list| list.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        ready && !is_cordoned(&node)
    })
}

/// Writes the pool. Under another name when that of the first choice belongs to another pool.
async fn make(pools: &Api<CStorPool>, claim: &StoragePoolClaim, pick: &Pick) -> Result<(), Error> {
    for attempt in 0..ATTEMPTS {
        let name = objects::pool_name(claim, &pick.host_name, attempt);
        if api::create(pools, &objects::pool(claim, pick, &name)).await? {
            return Ok(());
        }
        if pools.get_opt(&name).await?.is_some_and(|pool| {
            belongs(&pool, claim) && device_names(&pool).eq(pick.devices.iter().map(|d| d.name.as_str()))
        }) {
            return Ok(());
        }
    }
    Err(Error::NotYet(format!("no free name for the pool on node {}", pick.host_name)))
}

fn condition(status: &str, reason: &str, message: &str) -> Condition {
    Condition::new("PoolsProvisioned", status, reason, message)
}

fn status(claim: &StoragePoolClaim, own: &[&CStorPool], selection: &Selection) -> StoragePoolClaimStatus {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let pools = selection.present + selection.picks.len();
    let healthy =
        own.iter().filter(|pool| pool.status.as_ref().is_some_and(|status| status.phase == "Healthy")).count();
    let condition = if pools >= selection.wanted {
        condition("True", "Provisioned", "")
    } else {
        condition("False", "TooFewDevices", &selection.missing.join("; "))
    };
    StoragePoolClaimStatus {
        phase: String::from(if healthy > 0 { "Online" } else { "Pending" }),
        pools: count(pools),
        healthy_pools: count(healthy),
        conditions: vec![condition.keep_time(&of(claim).conditions, clock::now)],
    }
}

/// Deletes the pools of a claim that goes, unless volumes need them.
async fn delete(claims: &Api<StoragePoolClaim>, claim: &StoragePoolClaim, context: &Context) -> Result<Action, Error> {
    let all: Api<CStorPool> = Api::all(context.client.clone());
    let of_claim = ListParams::default().labels(&format!("{}={}", labels::STORAGE_POOL_CLAIM, claim.name_any()));
    let pools = all.list(&of_claim).await?.items;
    let forced = claim.annotations().get(labels::FORCE_DELETE).is_some_and(|value| value == "true");
    let name = claim.name_any();
    let volumes = context.volumes.state().iter().filter(|volume| volume.spec.storage_pool_claim == name).count();
    if volumes > 0 && !forced {
        let note = format!(
            "{volumes} volumes use the pools of this claim: delete their PersistentVolumeClaims first, or lose their data by \
             `kubectl annotate spc {name} {}=true`",
            labels::FORCE_DELETE
        );
        context.say(claim, true, "InUse", &note).await;
        return Ok(Action::requeue(LOOK_AGAIN));
    }
    if pools.is_empty() {
        api::remove_finalizer(claims, claim, labels::CLAIM_FINALIZER).await?;
        return Ok(Action::await_change());
    }
    for pool in pools {
        if forced {
            let force = serde_json::json!({ "metadata": { "annotations": { labels::FORCE_DELETE: "true" } } });
            api::merge(&all, &pool.name_any(), &force).await?;
        }
        if pool.metadata.deletion_timestamp.is_none() {
            api::delete(&all, &pool.name_any()).await?;
        }
    }
    Ok(Action::requeue(Duration::from_secs(1)))
}
