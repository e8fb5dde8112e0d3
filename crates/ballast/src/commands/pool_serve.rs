//! `ballast pool serve`: one pool, its replicas, and their gRPC services.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ballast_pool::{OpenOptions, Pool, PoolError};
use ballast_replica::{ServeOptions, serve};

use super::StopSignals;
use crate::cli::PoolServeArgs;
use crate::memory;

pub(super) async fn run(args: PoolServeArgs) -> anyhow::Result<()> {
    // First of all: a stop that comes during recovery is an orderly one too.
    let mut signals = StopSignals::new()?;
    let listen = args.listen.parse()?;
    let cache = args.cache.unwrap_or_else(memory::default_cache);
    let options = OpenOptions { name: args.name.clone(), cache, ..OpenOptions::default() };
    let devices = args.devices;
    // Recovery reads the journal and blocks.
    let pool = tokio::task::spawn_blocking(move || open(&devices, &options)).await??;
    let shutdown = async move {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
    };
    serve(ServeOptions { pool, name: args.name, listen, peers: Vec::new(), shutdown }).await?;
    Ok(())
}

/// A killed predecessor holds its lock until the kernel has finished its last I/O.
const PREDECESSOR: Duration = Duration::from_secs(3);

fn open(devices: &[PathBuf], options: &OpenOptions) -> Result<Pool, PoolError> {
    let give_up = Instant::now() + PREDECESSOR;
    loop {
        match Pool::open(devices, options.clone()) {
            Err(PoolError::Locked { .. }) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}
