//! `ballast provisioner`: volumes for PersistentVolumeClaims, while this process holds the Lease.

use ballast_csi::provisioner::{Options, run as provision};
use ballast_kubeutil::lease::LeaseOptions;

use super::leading;
use crate::cli::ProvisionerArgs;

pub(super) async fn run(args: ProvisionerArgs) -> anyhow::Result<()> {
    let lease = LeaseOptions::new(&args.namespace, "ballast-provisioner", &args.identity);
    let options = Options { provisioner: args.provisioner, ..Options::new(&args.namespace, &args.identity) };
    leading(&lease, async |client, stop| {
        provision(client, options, stop).await;
        Ok(())
    })
    .await
}
