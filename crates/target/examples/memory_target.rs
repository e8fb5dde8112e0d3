//! Serves a device in memory: `memory_target [ADDRESS] [MIB] [TARGETS]`, by default 127.0.0.1:3260, 64 MiB, one target.
//!
//! Try it with `iscsi-ls -s iscsi://127.0.0.1:3260`.

use std::error::Error;
use std::sync::Arc;

use ballast_target::{MemoryDevice, ServerConfig, TargetAccess, TargetServer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:3260".into()).parse()?;
    let mib: u64 = args.next().map_or(Ok(64), |a| a.parse())?;
    let targets: u64 = args.next().map_or(Ok(1), |a| a.parse())?;
    let (server, run) = TargetServer::bind(ServerConfig::new(vec![address])).await?;
    for n in 0..targets {
        let iqn = format!("iqn.2026-01.example.ballast:memory{n}");
        let mut naa = *b"ballast-memory-0";
        naa[..8].copy_from_slice(&(n + 1).to_be_bytes());
        server.add_target(
            iqn.clone(),
            Arc::new(MemoryDevice::new(mib << 20, &format!("memory-{n}"), naa)),
            TargetAccess::default(),
        )?;
        for local in server.local_addrs() {
            println!("iscsi://{local}/{iqn}/0");
        }
    }
    let stopper = server.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopper.shutdown().await;
        }
    });
    Ok(run.await?)
}
