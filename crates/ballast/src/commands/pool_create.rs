//! `ballast pool create`

use ballast_pool::{Pool, PoolConfig};

use crate::cli::{DeviceArg, PoolCreateArgs};
use crate::output::progress;

pub(super) fn run(args: &PoolCreateArgs) -> anyhow::Result<()> {
    let devices = args.devices.iter().map(DeviceArg::config).collect();
    let config = PoolConfig { name: args.name.clone(), devices, ..PoolConfig::default() };
    let id = Pool::create(&config)?;
    progress(&format!("pool {} created: {id}", args.name));
    Ok(())
}
