//! Bytes written to each device per byte written by the user: every block is written once.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ballast_tests::bench;
use ballast_tests::cluster::{Cluster, Options};
use ballast_tests::process::{self, PATIENCE};
use ballast_tests::runner::{self, Outcome, TestResult};
use ballast_tests::status::Pool;
use ballast_tests::{skip_if, tools};

const SPAN: u64 = 1 << 30;
const VOLUME: &str = "filled";

/// With 32 writes in flight they share journal blocks; a lone write takes one for itself.
const BOUND_DEPTH_32: f64 = 1.25;
const BOUND_DEPTH_1: f64 = 2.2;

fn main() -> ExitCode {
    runner::main(&[("every_block_is_written_once", every_block_is_written_once)])
}

/// What one pool has written so far.
struct Written {
    pool: String,
    /// Everything but prepared space, as the pool counts it.
    device: u64,
    /// User data.
    payload: u64,
    /// Everything but prepared space, as the kernel counts it.
    kernel: u64,
}

fn written(cluster: &Cluster) -> Result<Vec<Written>> {
    let status = cluster.status()?;
    let counted = |pool: Pool| {
        let pid = status.pid(&pool.name).with_context(|| format!("{} does not run", pool.name))?;
        let prepared = pool.prepare_bytes_written.context("no prepare_bytes_written")?;
        let device = pool.device_bytes_written.context("no device_bytes_written")?;
        let device = device.checked_sub(prepared).with_context(|| {
            format!("{} counts {prepared} prepared bytes and only {device} in all, of which they are a part", pool.name)
        })?;
        let payload = pool.payload_bytes_written.context("no payload_bytes_written")?;
        let kernel = process::bytes_written(pid)?.saturating_sub(prepared);
        Ok(Written { pool: pool.name, device, payload, kernel })
    };
    cluster.pools()?.into_iter().map(counted).collect()
}

/// Waits until no pool writes any more: the slowest replica has caught up, and nothing is being prepared.
fn settled(cluster: &mut Cluster) -> Result<Vec<Written>> {
    cluster.wait_whole(PATIENCE)?;
    let mut last = written(cluster)?;
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(500));
        let now = written(cluster)?;
        if now.iter().map(|pool| pool.kernel).eq(last.iter().map(|pool| pool.kernel)) {
            return Ok(now);
        }
        last = now;
    }
    anyhow::bail!("the pools still write half a minute after the load ended")
}

fn measure(cluster: &mut Cluster, depth: u32, ops: u64, bound: f64) -> Result<()> {
    let url = cluster.url(VOLUME);
    let before = settled(cluster)?;
    let done = bench::random_writes(&url, SPAN, depth, ops)?;
    let after = settled(cluster)?;
    for (after, before) in after.iter().zip(&before) {
        let name = &after.pool;
        let of = |now: u64, then: u64| (now - then) as f64 / done.bytes as f64;
        let (device, kernel) = (of(after.device, before.device), of(after.kernel, before.kernel));
        let payload = of(after.payload, before.payload);
        println!(
            "write_amplification: depth {depth}, {name}: {device:.3} bytes written per byte ({kernel:.3} by the kernel's count, \
             {payload:.3} of them payload)"
        );
        ensure!(payload > 0.99, "{name} did not store every write: {payload:.3} payload bytes per byte");
        ensure!(device > payload, "{name} counts {device:.3} bytes per byte, its journal cannot be among them");
        ensure!(
            (device / kernel - 1.0).abs() < 0.05,
            "{name} counts {device:.3} bytes per byte, the kernel {kernel:.3}"
        );
        ensure!(device <= bound, "{name} wrote {device:.3} bytes per byte at depth {depth}; the bound is {bound}");
    }
    Ok(())
}

fn every_block_is_written_once() -> TestResult {
    skip_if!(tools::missing_for_own());
    let mut cluster = Cluster::start(Options::with_volumes(&[(VOLUME, "1Gi")]))?;
    bench::prefill(&cluster.url(VOLUME), SPAN)?;
    measure(&mut cluster, 32, 40_000, BOUND_DEPTH_32)?;
    measure(&mut cluster, 1, 3_000, BOUND_DEPTH_1)?;
    cluster.stop()?;
    Ok(Outcome::Passed)
}
