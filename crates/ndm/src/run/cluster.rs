//! The requests to the API server.

use std::time::Duration;

use ballast_api::k8s::{BlockDevice, Disk, labels};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::error::NdmError;
use crate::plan::{Node, Write};

/// Who we are to server-side apply.
const MANAGER: &str = "ballast-ndm";
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two tries to learn who we are.
const RETRY: Duration = Duration::from_secs(5);

/// What a write left.
pub(super) enum Written {
    Device(Box<BlockDevice>),
    Disk(Box<Disk>),
    /// Somebody was faster, or the object is gone; the watch tells.
    Nothing,
}

/// The API server.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) devices: Api<BlockDevice>,
    pub(super) disks: Api<Disk>,
    nodes: Api<NodeObject>,
}

impl Cluster {
    pub(super) fn new(client: kube::Client, namespace: &str) -> Self {
        Self {
            devices: Api::namespaced(client.clone(), namespace),
            disks: Api::all(client.clone()),
            nodes: Api::all(client),
        }
    }

    /// This node as the scheduler knows it. Waits for the API server: without it nothing could be written anyway.
    pub(super) async fn this_node(&self, name: &str) -> Node {
        loop {
            match self.node(name).await {
                Ok(node) => {
                    let label = node.and_then(|node| node.metadata.labels?.remove(labels::HOSTNAME));
                    return Node { name: name.to_owned(), hostname: label.unwrap_or_else(|| name.to_owned()) };
                }
                Err(NdmError::Api { source, .. }) if is_refusal(&source) => {
                    tracing::warn!(%source, node = name, "cannot read this node's object; its name is taken for its hostname");
                    return Node { name: name.to_owned(), hostname: name.to_owned() };
                }
                Err(error) => tracing::warn!(%error, "trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether a node is known not to run: its object is gone, or the control plane does not hear of it. When nothing can be
    /// learned it counts as running.
    pub(super) async fn is_gone(&self, name: &str) -> bool {
        match self.node(name).await {
            Ok(None) => true,
            Ok(Some(node)) => {
                let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
                conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status != "True")
            }
            Err(error) => {
                tracing::warn!(%error, node = name, "cannot learn whether the node runs");
                false
            }
        }
    }

    async fn node(&self, name: &str) -> Result<Option<NodeObject>, NdmError> {
        limited(format!("get node {name}"), self.nodes.get_opt(name)).await
    }

    pub(super) async fn write(&self, write: &Write) -> Result<Written, NdmError> {
        let apply = PatchParams::apply(MANAGER).force();
        let device = |object| Written::Device(Box::new(object));
        let disk = |object| Written::Disk(Box::new(object));
        let result = match write {
            Write::Device(name, body) => {
                let body = Patch::Apply(body);
                let request = self.devices.patch(name, &apply, &body);
                limited(format!("apply BlockDevice {name}"), request).await.map(device)
            }
            Write::DeviceStatus(name, body) => {
                let body = Patch::Apply(body);
                let request = self.devices.patch_status(name, &apply, &body);
                limited(format!("apply the status of BlockDevice {name}"), request).await.map(device)
            }
            Write::Unclaim(name, version) => {
                let body = json!({
                    "metadata": { "resourceVersion": version },
                    "status": { "claimState": "Unclaimed" },
                });
                let body = Patch::Merge(body);
                let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
                let request = self.devices.patch_status(name, &params, &body);
                limited(format!("set BlockDevice {name} to Unclaimed"), request).await.map(device)
            }
            Write::Disk(name, body) => {
                let body = Patch::Apply(body);
                let request = self.disks.patch(name, &apply, &body);
                limited(format!("apply Disk {name}"), request).await.map(disk)
            }
            Write::DiskStatus(name, body) => {
                let body = Patch::Apply(body);
                let request = self.disks.patch_status(name, &apply, &body);
                limited(format!("apply the status of Disk {name}"), request).await.map(disk)
            }
        };
        match result {
            Err(NdmError::Api { source, what }) if has_code(&source, &[404, 409]) => {
                tracing::debug!(what, %source, "the object changed meanwhile");
                Ok(Written::Nothing)
            }
            result => result,
        }
    }
}

async fn limited<T>(what: String, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, NdmError> {
    match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(NdmError::Api { what, source: Box::new(source) }),
        Err(_) => Err(NdmError::Timeout { what, seconds: LIMIT.as_secs() }),
    }
}

fn has_code(error: &kube::Error, codes: &[u16]) -> bool {
    matches!(error, kube::Error::Api(status) if codes.contains(&status.code))
}

fn is_refusal(error: &kube::Error) -> bool {
    has_code(error, &[401, 403])
}
