//! What fifty idle volumes cost: next to nothing, since hundreds of volumes on one pool are the normal case.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ballast_tests::cluster::{Cluster, Options};
use ballast_tests::process;
use ballast_tests::runner::{self, Outcome, TestResult};

const VOLUMES: usize = 50;
const WINDOW: Duration = Duration::from_secs(20);
const CPU_BOUND: f64 = 0.10;
const RESIDENT_BOUND: u64 = 400 << 20;

fn main() -> ExitCode {
    runner::main(&[("fifty_idle_volumes_cost_little", fifty_idle_volumes_cost_little)])
}

fn cpu(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|&pid| process::cpu_time(pid)).sum()
}

fn fifty_idle_volumes_cost_little() -> TestResult {
    let names: Vec<String> = (0..VOLUMES).map(|number| format!("idle-{number:02}")).collect();
    let volumes: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1Gi")).collect();
    let mut cluster = Cluster::start(Options::with_volumes(&volumes))?;
    std::thread::sleep(Duration::from_secs(10)); // elections and first checkpoints are over
    let pids = process::mentioning(&cluster.data_dir());
    ensure!(pids.len() >= 5, "three pools, a target and their supervisor expected: {pids:?}");
    let (begun, before) = (Instant::now(), cpu(&pids)?);
    std::thread::sleep(WINDOW);
    let share = (cpu(&pids)? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let resident: u64 = pids.iter().map(|&pid| process::resident_bytes(pid)).sum::<Result<u64>>()?;
    println!(
        "idle: {VOLUMES} volumes x 3 replicas: {:.1}% of one core, {} MiB resident in {} processes",
        share * 100.0,
        resident >> 20,
        pids.len()
    );
    ensure!(share < CPU_BOUND, "{:.1}% of one core when idle; the bound is {:.0}%", share * 100.0, CPU_BOUND * 100.0);
    ensure!(resident < RESIDENT_BOUND, "{} MiB resident; the bound is {} MiB", resident >> 20, RESIDENT_BOUND >> 20);
    cluster.stop()?;
    Ok(Outcome::Passed)
}
