//! `ballast target serve`: the iSCSI target and its control service.

use ballast_target::volume::serve::{TargetOptions, serve_target};

use super::StopSignals;
use crate::cli::TargetServeArgs;

pub(super) async fn run(args: TargetServeArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let control = args.control.parse()?;
    let shutdown = async move {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
    };
    serve_target(TargetOptions { portal: args.portal, control, volumes: None, shutdown }).await?;
    Ok(())
}
