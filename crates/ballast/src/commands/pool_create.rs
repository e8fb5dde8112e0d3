//! `ballast pool create`

use ballast_pool::{DeviceConfig, Pool, PoolConfig};

use crate::cli::PoolCreateArgs;
use crate::output::progress;

pub(super) fn run(args: &PoolCreateArgs) -> anyhow::Result<()> {
    let devices = args
        .devices
        .iter()
        .map(|device| DeviceConfig { path: device.path.clone(), size: device.size.map(|size| size.0) });
    let config = PoolConfig { name: args.name.clone(), devices: devices.collect(), ..PoolConfig::default() };
    let id = Pool::create(&config)?;
    progress(&format!("pool {} created: {id}", args.name));
    Ok(())
}
