//! `ballast ndm`: the node disk manager.
//!
//! The JSON of `--once` is stable, like that of `report`:
//! ```text
//! {"node":"name","devices":[{"name":"blockdevice-..","offered":true,"message":null,"pool":null,"spec":{..BlockDevice's spec..}}],
//!  "left_out":[{"path":"/dev/loop0","why":".."}]}
//! ```

use std::fmt::Write as _;

use ballast_ndm::Report;
use tracing::info;

use super::StopSignals;
use crate::cli::NdmArgs;
use crate::output::{show, table};
use crate::size::ByteSize;

pub(super) fn run(args: NdmArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        if args.once {
            return show(&ballast_ndm::once(&args.options).await?, args.output, text);
        }
        let mut signals = StopSignals::new()?;
        let client = kube::Client::try_default().await.map_err(|error| {
            anyhow::anyhow!(
                "no cluster: {error}. Run it in a pod with a service account, set KUBECONFIG, or use --once"
            )
        })?;
        let shutdown = Box::pin(async move {
            let signal = signals.next().await;
            info!(signal, "stopping");
        });
        Ok(ballast_ndm::run(client, args.options, shutdown).await?)
    });
    // A disk that hangs holds the thread that reads it: do not wait for that one.
    runtime.shutdown_background();
    result
}

fn text(report: &Report) -> String {
    let rows = report.devices.iter().map(|device| {
        let spec = &device.spec;
        let content = match (&device.pool, spec.filesystem.mount_point.as_str()) {
            (Some(pool), _) => format!("pool {pool}"),
            (None, "") if spec.filesystem.fs_type.is_empty() => "-".to_owned(),
            (None, "") => spec.filesystem.fs_type.clone(),
            (None, point) => format!("{} at {point}", spec.filesystem.fs_type),
        };
        vec![
            spec.path.clone(),
            spec.details.device_type.clone(),
            ByteSize(spec.capacity.storage).to_string(),
            if device.offered { "yes" } else { "no" }.to_owned(),
            content,
            device.name.clone(),
        ]
    });
    let mut text = table::render(&["PATH", "TYPE", "SIZE", "OFFERED", "WHAT IS ON IT", "NAME"], &[2], rows);
    for device in &report.devices {
        if let Some(message) = &device.message {
            let _ = writeln!(text, "{}: {message}", device.spec.path);
        }
    }
    for left_out in &report.left_out {
        let _ = writeln!(text, "{} is left out: {}", left_out.path, left_out.why);
    }
    text
}
