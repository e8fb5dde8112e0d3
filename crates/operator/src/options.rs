//! What the operator is told when it starts.

use std::time::Duration;

/// Settings of the whole operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where pools, targets and the objects of volumes live.
    pub namespace: String,
    /// Image of the pods that the operator makes.
    pub image: String,
    /// When that image is pulled: "IfNotPresent", "Always" or "Never".
    pub image_pull_policy: String,
    /// ServiceAccount of pool and target pods, which need no access to the API.
    pub service_account: Option<String>,
    /// PriorityClass of pool and target pods.
    pub priority_class: Option<String>,
    /// Directory of sparse files on the nodes.
    pub sparse_dir: String,
    /// A replica whose pool has not answered for so long is made anew elsewhere.
    pub replica_grace_period: Duration,
    /// Name of this process, for leases and events.
    pub identity: String,
}
