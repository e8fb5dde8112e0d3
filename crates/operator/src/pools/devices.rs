//! The devices of a pool: claimed for it alone, given back when it goes.
//!
//! A BlockDeviceClaim has the name of its device, so that the API server lets one pool have it. A device that is given back is
//! wiped by the node disk manager before anybody else gets it.

use ballast_api::k8s::device::{BlockDevice, ClaimRef};
use ballast_api::k8s::pool::{CStorPool, PoolDevice};
use ballast_api::k8s::{BlockDeviceClaim, labels};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::objects;
use crate::api;
use crate::context::Context;
use crate::error::Error;

/// Claims the pool's devices. Returns whether they are files.
pub(crate) async fn bind_devices(pool: &CStorPool, context: &Context) -> Result<bool, Error> {
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
pub(crate) async fn release_devices(pool: &CStorPool, context: &Context) -> Result<(), Error> {
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
