//! `ballast pool serve`: one pool, its replicas, and their gRPC services.

use ballast_pool::{OpenOptions, Pool};
use ballast_replica::{ServeOptions, serve};

use super::StopSignals;
use crate::cli::PoolServeArgs;

pub(super) async fn run(args: PoolServeArgs) -> anyhow::Result<()> {
    // First of all: a stop that comes during recovery is an orderly one too.
    let mut signals = StopSignals::new()?;
    let listen = args.listen.parse()?;
    let options = OpenOptions { name: args.name.clone(), ..OpenOptions::default() };
    let devices = args.devices;
    // Recovery reads the journal and blocks.
    let pool = tokio::task::spawn_blocking(move || Pool::open(&devices, options)).await??;
    let shutdown = async move {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
    };
    serve(ServeOptions { pool, name: args.name, listen, shutdown }).await?;
    Ok(())
}
