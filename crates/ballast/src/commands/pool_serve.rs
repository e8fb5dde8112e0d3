//! `ballast pool serve`: one pool, its replicas, and their gRPC services.

use std::time::{Duration, Instant};

use ballast_pool::{OpenOptions, Pool, PoolConfig, PoolError};
use ballast_replica::{ServeOptions, serve};

use super::StopSignals;
use crate::cli::{DeviceArg, PoolServeArgs};
use crate::{hints, memory};

pub(super) async fn run(args: PoolServeArgs) -> anyhow::Result<()> {
    // First of all: a stop that comes during recovery is an orderly one too.
    let mut signals = StopSignals::new()?;
    let listen = args.listen.parse()?;
    let cache = args.cache.unwrap_or_else(memory::default_cache);
    let options = OpenOptions { name: args.name.clone(), cache, ..OpenOptions::default() };
    let devices = args.devices.iter().map(DeviceArg::config).collect();
    let config = PoolConfig { name: args.name.clone(), devices, ..PoolConfig::default() };
    // Recovery reads the journal and blocks.
    let pool = tokio::task::spawn_blocking(move || open(&config, args.create, &options)).await??;
    let peers = hints::peers(args.peers.as_deref());
    let shutdown = Box::pin(async move {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
    });
    serve(ServeOptions { pool, name: args.name, listen, peers, shutdown }).await?;
    Ok(())
}

/// A killed predecessor holds its lock until the kernel has finished its last I/O.
const PREDECESSOR: Duration = Duration::from_secs(3);

fn open(config: &PoolConfig, create: bool, options: &OpenOptions) -> Result<Pool, PoolError> {
    let paths: Vec<_> = config.devices.iter().map(|device| device.path.clone()).collect();
    let give_up = Instant::now() + PREDECESSOR;
    loop {
        let opened = match create {
            true => Pool::open_or_create(config, options.clone()),
            false => Pool::open(&paths, options.clone()),
        };
        match opened {
            Err(PoolError::Locked { .. }) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}
