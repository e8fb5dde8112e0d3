//! `ballast operator`: the controllers, while this process holds the Lease.

use std::sync::Arc;
use std::time::Duration;

use ballast_kubeutil::lease::LeaseOptions;
use ballast_operator::{Grpc, Options};

use super::leading;
use crate::cli::OperatorArgs;

pub(super) async fn run(args: OperatorArgs) -> anyhow::Result<()> {
    let lease = LeaseOptions::new(&args.namespace, "ballast-operator", &args.identity);
    let options = Options {
        namespace: args.namespace,
        image: args.image,
        image_pull_policy: args.image_pull_policy,
        service_account: args.pool_service_account.filter(|name| !name.is_empty()),
        priority_class: args.priority_class.filter(|name| !name.is_empty()),
        sparse_dir: args.sparse_dir,
        replica_grace_period: Duration::from_secs(args.replica_grace_period),
        identity: args.identity,
    };
    leading(&lease, async |client, stop| {
        Ok(ballast_operator::run(client, options, Arc::new(Grpc), Box::pin(stop.requested())).await?)
    })
    .await
}
