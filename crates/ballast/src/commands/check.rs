//! `ballast check`: whether an installation works, part by part. The chart runs it as its test (`helm test`).
//!
//! Only what is stored in the API is looked at. The parts are true about themselves there: a controller that works renews its
//! Lease, pools and volumes carry a status that the operator keeps true.

use std::fmt::Debug;
use std::time::Duration;

use ballast_api::k8s::{self, BlockDevice, CStorPool, CStorVolume, StoragePoolClaim};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::causes::with_causes;
use crate::output::print;

/// The Leases of the controllers, and who they are.
const LEASES: [(&str, &str); 2] = [("ballast-operator", "operator"), ("ballast-provisioner", "provisioner")];
/// A lease that was not renewed for so many of its durations is nobody's.
const MISSED: i32 = 2;
const NODE_DISK_MANAGERS: &str = "app.kubernetes.io/part-of=ballast";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The namespace of the installation
    #[arg(long, env = "NAMESPACE", default_value = "openebs", value_name = "NAMESPACE")]
    namespace: String,
    /// Parts that this installation has not
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    without: Vec<Part>,
}

/// A part that an installation may do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Ndm,
    Provisioner,
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("{failed} of {all} checks failed; what to do stands behind each of them")]
    Failed { failed: usize, all: usize },
}

/// One line of the answer.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    what: String,
    /// What is wrong and what to do; nothing when all is well.
    wrong: Option<String>,
}

fn line(what: impl Into<String>, wrong: Option<String>) -> Line {
    Line { what: what.into(), wrong }
}

pub(super) async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let lines = look(&ballast_kubeutil::connect().await?, &args, Timestamp::now()).await;
    let failed = lines.iter().filter(|line| line.wrong.is_some()).count();
    for line in &lines {
        match &line.wrong {
            None => print(&format!("ok      {}\n", line.what))?,
            Some(wrong) => print(&format!("FAILED  {}: {wrong}\n", line.what))?,
        }
    }
    if failed > 0 {
        return Err(CheckError::Failed { failed, all: lines.len() }.into());
    }
    Ok(())
}

async fn look(client: &Client, args: &CheckArgs, now: Timestamp) -> Vec<Line> {
    let namespace = args.namespace.as_str();
    let own = || namespace.to_owned();
    let mut lines = vec![definitions(client).await];
    for (name, part) in LEASES {
        if part == "provisioner" && args.without.contains(&Part::Provisioner) {
            continue;
        }
        let leases: Api<Lease> = Api::namespaced(client.clone(), &own());
        lines.push(match leases.get_opt(name).await {
            Ok(lease) => line(format!("the {part} works"), stale(lease.as_ref(), part, namespace, now)),
            Err(error) => unknown(&format!("the {part}"), &error),
        });
    }
    if !args.without.contains(&Part::Ndm) {
        let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &own());
        lines.push(match list(&sets, NODE_DISK_MANAGERS).await {
            Ok(sets) => line("every node has its node disk manager", managers(&sets, namespace)),
            Err(error) => unknown("the node disk managers", &error),
        });
        let devices: Api<BlockDevice> = Api::namespaced(client.clone(), &own());
        lines.push(match list(&devices, "").await {
            Ok(found) => line(format!("{} block devices are known", found.len()), none(&found)),
            Err(error) => unknown("block devices", &error),
        });
    }
    let claims: Api<StoragePoolClaim> = Api::all(client.clone());
    lines.push(
        phases("storage pool claims", &claims, &["Online"], |claim| {
            let status = claim.status.clone().unwrap_or_default();
            let message = status.conditions.first().map(|condition| condition.message.clone()).unwrap_or_default();
            (status.phase, message)
        })
        .await,
    );
    let pools: Api<CStorPool> = Api::all(client.clone());
    let of_pool = |pool: &CStorPool| pool.status.clone().map(|s| (s.phase, s.message)).unwrap_or_default();
    lines.push(phases("pools", &pools, &["Healthy"], of_pool).await);
    let volumes: Api<CStorVolume> = Api::namespaced(client.clone(), &own());
    let of_volume = |volume: &CStorVolume| volume.status.clone().map(|s| (s.phase, s.message)).unwrap_or_default();
    lines.push(phases("volumes", &volumes, &["Healthy"], of_volume).await);
    lines
}

fn unknown(what: &str, error: &kube::Error) -> Line {
    line(what, Some(format!("not known, the API server does not tell: {}", with_causes(error))))
}

async fn list<K>(api: &Api<K>, selector: &str) -> kube::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    Ok(api.list(&ListParams::default().labels(selector)).await?.items)
}

async fn definitions(client: &Client) -> Line {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut missing = Vec::new();
    let wanted: Vec<String> = k8s::crds().iter().map(|crd| crd.name_any()).collect();
    for name in &wanted {
        match api.get_opt(name).await {
            Ok(Some(crd)) if super::crds::is_served(&crd) => {}
            Ok(_) => missing.push(name.clone()),
            Err(error) => return unknown("definitions", &error),
        }
    }
    let wrong =
        (!missing.is_empty()).then(|| format!("{} are not served: run `ballast crds --apply`", missing.join(", ")));
    line(format!("{} definitions are served", wanted.len()), wrong)
}

/// Why a Lease shows that nobody works.
fn stale(lease: Option<&Lease>, part: &str, namespace: &str, now: Timestamp) -> Option<String> {
    let see = format!("see `kubectl -n {namespace} logs -l app.kubernetes.io/component={part}`");
    let spec = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    if spec.holder_identity.as_ref().is_none_or(String::is_empty) {
        return Some(format!("nobody holds its lease: {see}"));
    }
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(15).saturating_mul(MISSED)).unwrap_or(0);
    let renewed = spec.renew_time.map(|time| time.0).unwrap_or(Timestamp::UNIX_EPOCH);
    let age = Duration::try_from(now.duration_since(renewed)).unwrap_or_default();
    (age > Duration::from_secs(seconds))
        .then(|| format!("its lease was renewed {} s ago for the last time: {see}", age.as_secs()))
}

fn managers(sets: &[DaemonSet], namespace: &str) -> Option<String> {
    if sets.is_empty() {
        return Some(format!(
            "there is no DaemonSet in namespace {namespace}: is ndm.enabled off, or the namespace another?"
        ));
    }
    let status = |set: &DaemonSet| set.status.clone().unwrap_or_default();
    let wanted: i32 = sets.iter().map(|set| status(set).desired_number_scheduled).sum();
    let ready: i32 = sets.iter().map(|set| status(set).number_ready).sum();
    let see = format!("see `kubectl -n {namespace} get pods -l app.kubernetes.io/component=ndm -o wide`");
    match (wanted, ready) {
        (0, _) => Some(format!("no node takes one: {see}")),
        (wanted, ready) if ready < wanted => Some(format!("{ready} of {wanted} are ready: {see}")),
        _ => None,
    }
}

fn none(found: &[BlockDevice]) -> Option<String> {
    found
        .is_empty()
        .then(|| String::from("no device can be used: see ndm.filters, or set ndm.sparse for files instead of disks"))
}

/// Whether all objects of a kind are in one of the good phases.
async fn phases<K>(what: &str, api: &Api<K>, good: &[&str], phase: impl Fn(&K) -> (String, String)) -> Line
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let objects = match list(api, "").await {
        Ok(objects) => objects,
        Err(error) => return unknown(what, &error),
    };
    let bad: Vec<String> = objects
        .iter()
        .filter_map(|object| {
            let (phase, message) = phase(object);
            let shown = if phase.is_empty() { "without a status" } else { &phase };
            (!good.contains(&phase.as_str())).then(|| format!("{} is {shown} ({message})", object.name_any()))
        })
        .collect();
    let wrong = (!bad.is_empty()).then(|| bad.join("; "));
    line(format!("{} of {} {what} are healthy", objects.len() - bad.len(), objects.len()), wrong)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
