//! How many pool pods an eviction (`kubectl drain`, a cluster upgrade) may take at a time: one, and none while a volume
//! still lacks what the last one took.
//!
//! A PodDisruptionBudget counts pods that are ready. That is not enough here: a pool that has just come back is ready at once,
//! and its replicas catch up afterwards. So the operator closes the budget until all volumes are healthy again. It is closed
//! from the moment on when a pool goes, long before the next one could be taken.

use ballast_api::k8s::{CStorPool, StoragePoolClaim, labels};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use crate::api;
use crate::context::Context;
use crate::objects::{metadata, owned_by, text_map};
use crate::options::Options;

/// Writes the budget of a claim's pools.
pub(crate) async fn ensure(claim: &StoragePoolClaim, own: &[&CStorPool], context: &Context) -> kube::Result<()> {
    let wanted = budget(&context.options, claim, may_lose_one(claim, own, context));
    let current = context.own(&context.budgets, &wanted.name_any());
    api::ensure(&api::namespaced(&context.client, &context.options.namespace), &wanted, current.as_deref()).await?;
    Ok(())
}

/// Whether all pools answer and all volumes in them are healthy.
fn may_lose_one(claim: &StoragePoolClaim, own: &[&CStorPool], context: &Context) -> bool {
    let name = claim.name_any();
    let volumes = context.volumes.state();
    let mut of_claim = volumes.iter().filter(|volume| volume.spec.storage_pool_claim == name);
    own.iter().all(|pool| context.observations.fresh(&pool.name_any()).is_some())
        && of_claim.all(|volume| volume.status.as_ref().is_some_and(|status| status.phase == "Healthy"))
}

/// The budget.
fn budget(options: &Options, claim: &StoragePoolClaim, open: bool) -> PodDisruptionBudget {
    let name = claim.name_any();
    let pods = text_map([(labels::APP, "cstor-pool"), (labels::STORAGE_POOL_CLAIM, &name)]);
    let spec = PodDisruptionBudgetSpec {
        max_unavailable: Some(IntOrString::Int(i32::from(open))),
        selector: Some(LabelSelector { match_labels: Some(pods), match_expressions: None }),
        // A pod that does not serve keeps nothing alive, and must not keep its node from being drained.
        unhealthy_pod_eviction_policy: Some(String::from("AlwaysAllow")),
        ..PodDisruptionBudgetSpec::default()
    };
    let metadata = metadata(options, &format!("{name}-pools"), [(labels::STORAGE_POOL_CLAIM, name.as_str())]);
    PodDisruptionBudget { metadata: owned_by(metadata, claim), spec: Some(spec), ..PodDisruptionBudget::default() }
}
