//! `ballast volume stats`: where the time of I/O goes, as the target counts it.

use std::io;
use std::time::{Duration, Instant};

use ballast_api::control::LatencyReport;
use ballast_rpc::{Endpoint, EndpointError};

use super::StopSignals;
use crate::cli::VolumeStatsArgs;
use crate::datadir::DataDir;
use crate::output::{Format, stats as table, try_print};
use crate::protocol::{ProtocolError, Request, ask};
use crate::rpc::{Rpc, RpcError};
use crate::stats::{Earlier, VolumeStats, volumes};
use crate::supervisor::TARGET;

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
enum StatsError {
    /// An older program.
    #[error("the target is older than this program and counts no times: restart it with this version")]
    Older,
    /// Another volume.
    #[error("the target serves no volume {0}: see `ballast volume list`")]
    NoVolume(String),
    /// The argument.
    #[error("--target: {0}")]
    Endpoint(#[from] EndpointError),
    /// No answer.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Nothing runs.
    #[error(transparent)]
    NotRunning(#[from] ProtocolError),
}

/// Who is asked.
struct Source {
    rpc: Rpc,
    /// Whose child it is.
    supervisor: Option<DataDir>,
}

impl Source {
    async fn ask(&self) -> Result<LatencyReport, StatsError> {
        match self.rpc.latencies().await {
            Ok(report) => Ok(report),
            Err(RpcError::Refused { status, .. }) if status.code() == tonic::Code::Unimplemented => {
                Err(StatsError::Older)
            }
            Err(error) => {
                if let (RpcError::Connect { .. }, Some(dir)) = (&error, &self.supervisor) {
                    // When nothing runs at all, this says what to start.
                    ask(dir, &Request::Status).await?;
                }
                Err(error.into())
            }
        }
    }
}

pub(super) async fn run(args: VolumeStatsArgs) -> anyhow::Result<()> {
    let source = match &args.target {
        Some(at) => {
            let endpoint: Endpoint = at.parse().map_err(StatsError::from)?;
            Source { rpc: Rpc::at(&format!("the target at {endpoint}"), &endpoint), supervisor: None }
        }
        None => {
            let dir = DataDir::new(&args.read.dir.data_dir)?;
            Source { rpc: Rpc::new(TARGET, dir.socket(TARGET)), supervisor: Some(dir) }
        }
    };
    // From here on a signal ends the loop and not the process, so that a print is whole.
    let mut signals = StopSignals::new()?;
    let first = tokio::select! {
        first = source.ask() => first?,
        _ = signals.next() => return Ok(()),
    };
    let mut last = (first, Instant::now());
    if !show(&named(volumes(&last.0, None, args.name.as_deref()), &args)?, &args)? {
        return Ok(());
    }
    let Some(seconds) = args.watch else { return Ok(()) };
    loop {
        let look = async {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            source.ask().await
        };
        let asked = tokio::select! {
            asked = look => asked,
            _ = signals.next() => return Ok(()),
        };
        // A target that is being restarted is waited for: that may be what somebody watches.
        let shown = match asked {
            Ok(now) => {
                let at = Instant::now();
                let earlier = Earlier { report: &last.0, seconds: at.duration_since(last.1).as_secs_f64() };
                let shown = named(volumes(&now, Some(&earlier), args.name.as_deref()), &args);
                last = (now, at);
                shown
            }
            Err(error) => Err(error),
        };
        match shown {
            Ok(stats) if show(&stats, &args)? => {}
            Ok(_) => return Ok(()),
            Err(error) => tracing::warn!("{error}; trying again"),
        }
    }
}

/// A volume that was asked for by its name has to be there.
fn named(stats: Vec<VolumeStats>, args: &VolumeStatsArgs) -> Result<Vec<VolumeStats>, StatsError> {
    match &args.name {
        Some(name) if stats.is_empty() => Err(StatsError::NoVolume(name.clone())),
        _ => Ok(stats),
    }
}

/// Prints; false when nobody reads any more.
fn show(stats: &[VolumeStats], args: &VolumeStatsArgs) -> anyhow::Result<bool> {
    let text = match (args.read.output, args.watch) {
        (Format::Json, None) => serde_json::to_string_pretty(stats)? + "\n",
        // One line each time.
        (Format::Json, Some(_)) => serde_json::to_string(stats)? + "\n",
        (Format::Table, None) => table::stats(stats),
        (Format::Table, Some(_)) => table::stats(stats) + "\n",
    };
    match try_print(&text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}
