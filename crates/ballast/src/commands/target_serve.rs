//! `ballast target serve`: the iSCSI target and its control service.

use ballast_target::volume::serve::{TargetOptions, serve_target};

use super::StopSignals;
use crate::cli::TargetServeArgs;
use crate::hints;

pub(super) async fn run(args: TargetServeArgs) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let control = args.control.parse()?;
    let shutdown = Box::pin(async move {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
    });
    let volumes = hints::volumes(args.volumes.as_deref());
    let TargetServeArgs { portal, advertise, chap, metrics, .. } = args;
    serve_target(TargetOptions { portal, advertise, chap, control, volumes, metrics, shutdown }).await?;
    Ok(())
}
