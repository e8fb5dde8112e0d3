//! `ballast crds`: the definitions of the Kubernetes objects, printed, written to files or installed.
//!
//! The chart carries the files for the first installation. Helm does not touch files of `crds/` at an upgrade, so the chart
//! runs `ballast crds --apply` before each. Definitions of the same names that something else made (OpenEBS cStor
//! itself) are left alone: their objects belong to controllers that would fight with Ballast's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ballast_api::k8s;
use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use super::causes::with_causes;
use crate::output::{print, progress};

/// The label by which Ballast knows its own definitions.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "ballast");
/// Under this name the API server notes who wrote the fields. Helm 4 applies `crds/` at each installation as "helm", and
/// would refuse to go on where another writer has set a field otherwise.
const WRITER: &str = "helm";
/// How long the API server may take to serve what it accepted, and how often it is asked.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct CrdsArgs {
    /// Write one file for each kind into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "apply")]
    dir: Option<PathBuf>,
    /// Install them in the cluster, or bring those that are there up to date
    #[arg(long)]
    apply: bool,
    /// Also replace definitions that Ballast did not make; their objects stay
    #[arg(long, requires = "apply")]
    take_over: bool,
}

#[derive(Debug, thiserror::Error)]
enum CrdsError {
    #[error("{path}: {error}. Give a directory that exists and can be written")]
    Write { path: String, error: std::io::Error },
    #[error(
        "the cluster has definitions of these names that Ballast did not make: {0}. Probably OpenEBS cStor runs here, and \
         two of them cannot share a cluster: move its volumes away and uninstall it, then delete its definitions. If \
         it is gone and only its definitions are left, `ballast crds --apply --take-over` (in the chart: \
         crds.takeOver=true) replaces them"
    )]
    Foreign(String),
    #[error("the API server accepted {0} but does not serve it after {wait} s: `kubectl describe crd {0}` says why", wait = SERVED_WITHIN.as_secs())]
    NotServed(String),
    #[error("the API server, {doing} {name}: {}", with_causes(.error))]
    Server { doing: &'static str, name: String, error: kube::Error },
}

pub(super) async fn run(args: CrdsArgs) -> anyhow::Result<()> {
    if args.apply {
        let client = ballast_kubeutil::connect().await?;
        return Ok(apply(&client, &definitions()?, args.take_over).await?);
    }
    match &args.dir {
        None => Ok(print(&documents()?.into_values().collect::<String>())?),
        Some(dir) => write(dir),
    }
}

/// The definitions as they are installed.
fn definitions() -> anyhow::Result<Vec<CustomResourceDefinition>> {
    let finish = |mut crd: CustomResourceDefinition| {
        crd.labels_mut().insert(PART_OF.0.to_owned(), PART_OF.1.to_owned());
        let mut value = serde_json::to_value(crd)?;
        for version in value["spec"]["versions"].as_array_mut().into_iter().flatten() {
            let schema = &mut version["schema"]["openAPIV3Schema"];
            // What `kubectl explain` says of the kind.
            schema["description"] = schema["properties"]["spec"]["description"].clone();
            drop_unsigned_formats(schema);
        }
        Ok(serde_json::from_value(value)?)
    };
    k8s::crds().into_iter().map(finish).collect()
}

/// Kubernetes knows no formats of unsigned numbers and warns of each at every installation; their `minimum` says it.
fn drop_unsigned_formats(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields
                .retain(|name, value| name != "format" || !value.as_str().is_some_and(|text| text.starts_with("uint")));
            fields.values_mut().for_each(drop_unsigned_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_unsigned_formats),
        _ => {}
    }
}

/// A YAML document for each kind, by the name of its file.
fn documents() -> anyhow::Result<BTreeMap<String, String>> {
    let document = |crd: CustomResourceDefinition| {
        let yaml = serde_saphyr::to_string(&crd)?;
        let text = format!("---\n# Written by `ballast crds`; changes belong into crates/api/src/k8s.\n{yaml}");
        Ok((format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural), text))
    };
    definitions()?.into_iter().map(document).collect()
}

fn write(dir: &Path) -> anyhow::Result<()> {
    for (name, text) in documents()? {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|error| CrdsError::Write { path: path.display().to_string(), error })?;
        progress(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Whether it may be replaced: it is not there, or Ballast made it.
fn is_ours(existing: Option<&CustomResourceDefinition>) -> bool {
    existing.is_none_or(|crd| crd.labels().get(PART_OF.0).is_some_and(|value| value == PART_OF.1))
}

pub(super) fn is_served(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
}

fn failed(doing: &'static str, name: &str) -> impl FnOnce(kube::Error) -> CrdsError {
    let name = name.to_owned();
    move |error| CrdsError::Server { doing, name, error }
}

async fn apply(client: &Client, wanted: &[CustomResourceDefinition], take_over: bool) -> Result<(), CrdsError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut foreign = Vec::new();
    for crd in wanted {
        let name = crd.name_any();
        let existing = api.get_opt(&name).await.map_err(failed("reading", &name))?;
        if !is_ours(existing.as_ref()) {
            foreign.push(name);
        }
    }
    // All or none: half of the kinds would be of no use to either side.
    if !foreign.is_empty() && !take_over {
        return Err(CrdsError::Foreign(foreign.join(", ")));
    }
    for crd in wanted {
        let name = crd.name_any();
        let params = PatchParams::apply(WRITER).force();
        api.patch(&name, &params, &Patch::Apply(crd)).await.map_err(failed("applying", &name))?;
        progress(&format!("applied {name}"));
    }
    for crd in wanted {
        wait_until_served(&api, &crd.name_any()).await?;
    }
    Ok(())
}

async fn wait_until_served(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), CrdsError> {
    let wait = async {
        loop {
            let existing = api.get_opt(name).await.map_err(failed("reading", name))?;
            if existing.as_ref().is_some_and(is_served) {
                return Ok(());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    tokio::time::timeout(SERVED_WITHIN, wait).await.unwrap_or_else(|_| Err(CrdsError::NotServed(name.to_owned())))
}

#[cfg(test)]
#[path = "crds_tests.rs"]
mod tests;
