//! Stopping, starting, and the volumes' life through the command line.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use ballast_tests::cluster::{Cluster, Options, iqn};
use ballast_tests::initiator;
use ballast_tests::process::{self, PATIENCE};
use ballast_tests::random::Random;
use ballast_tests::runner::{self, Outcome, TestResult};
use ballast_tests::status::Volume;
use ballast_tests::{skip_if, tools};

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    runner::main(&[
        ("data_survives_a_clean_stop", data_survives_a_clean_stop),
        ("a_lost_registry_is_rebuilt", a_lost_registry_is_rebuilt),
        ("a_second_up_is_refused", a_second_up_is_refused),
        ("volumes_come_and_go", volumes_come_and_go),
    ])
}

fn lacking() -> Option<String> {
    let no_qemu =
        || tools::qemu_img().is_none().then(|| "no qemu-img that knows iSCSI (scripts/install-tools.sh)".to_owned());
    tools::missing(&["iscsi-ls"]).or_else(no_qemu)
}

fn random_file(cluster: &Cluster, seed: u64, length: usize) -> Result<PathBuf> {
    let file = cluster.scratch().join(format!("random-{seed}.img"));
    fs::write(&file, Random::new(seed).bytes(length))?;
    Ok(file)
}

fn data_survives_a_clean_stop() -> TestResult {
    skip_if!(lacking());
    let mut cluster = Cluster::start(Options::with_volumes(&[("kept", "48Mi")]))?;
    let file = random_file(&cluster, 1, 48 * MIB)?;
    initiator::write_file(&file, &cluster.url("kept"))?;
    for _ in 0..2 {
        cluster.stop()?;
        cluster.inspect_pools()?;
        cluster.up()?;
        initiator::expect_same(&file, &cluster.url("kept"), cluster.scratch())?;
    }
    Ok(Outcome::Passed)
}

/// The registry only caches what the pools know; losing its directory costs nothing but time.
fn a_lost_registry_is_rebuilt() -> TestResult {
    skip_if!(lacking());
    let mut cluster = Cluster::start(Options::with_volumes(&[("first", "32Mi"), ("second", "32Mi")]))?;
    let file = random_file(&cluster, 2, 32 * MIB)?;
    initiator::write_file(&file, &cluster.url("second"))?;
    let before = cluster.status()?;
    cluster.stop()?;
    let registry = cluster.data_dir().join("registry");
    ensure!(registry.is_dir(), "the registry is not where it is said to be, so its loss cannot be tested");
    fs::remove_dir_all(&registry)?;
    cluster.up()?;
    let after = cluster.status()?;
    let shape = |volume: &Volume| (volume.name.clone(), volume.iqn.clone(), volume.size_bytes, volume.replicas.len());
    let mut volumes: [Vec<_>; 2] = [&before, &after].map(|status| status.volumes.iter().map(shape).collect());
    volumes.iter_mut().for_each(|list| list.sort());
    ensure!(volumes[0] == volumes[1], "other volumes without the registry: {volumes:?}");
    ensure!(before.pool_names() == after.pool_names(), "other pools without the registry");
    initiator::expect_same(&file, &cluster.url("second"), cluster.scratch())?;
    cluster.stop()?;
    Ok(Outcome::Passed)
}

fn a_second_up_is_refused() -> TestResult {
    let mut cluster = Cluster::start(Options::with_volumes(&[("demo", "32Mi")]))?;
    let pids = |cluster: &Cluster| cluster.status().map(|s| s.processes.iter().map(|p| p.pid).collect::<Vec<_>>());
    let before = pids(&cluster)?;
    let second = process::run_any(&mut cluster.up_command()?, PATIENCE)?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(!second.status.success(), "a second `ballast up` on the same directory was not refused");
    let directory = cluster.data_dir();
    ensure!(said.contains(&*directory.to_string_lossy()), "the refusal does not name the directory: {said}");
    ensure!(pids(&cluster)? == before, "the second `ballast up` disturbed the first");
    cluster.stop()?;
    Ok(Outcome::Passed)
}

fn volumes(cluster: &Cluster) -> Result<Vec<Volume>> {
    let text = process::run(&mut cluster.ballast(&["volume", "list", "--output", "json"])?, PATIENCE)?;
    Ok(serde_json::from_str(&text)?)
}

fn volumes_come_and_go() -> TestResult {
    skip_if!(lacking());
    let mut cluster = Cluster::start(Options::with_volumes(&[("stays", "32Mi")]))?;
    process::run(&mut cluster.ballast(&["volume", "create", "guest", "48Mi"])?, PATIENCE)?;
    let twice = process::run_any(&mut cluster.ballast(&["volume", "create", "guest", "48Mi"])?, PATIENCE)?;
    ensure!(!twice.status.success(), "the same volume was created twice");
    let listed = volumes(&cluster)?;
    let guest = listed.iter().find(|volume| volume.name == "guest");
    ensure!(guest.is_some_and(|volume| volume.iqn == iqn("guest") && volume.size_bytes == 48 << 20), "{listed:?}");
    cluster.wait_whole(PATIENCE)?;
    let listing = initiator::list(cluster.portal())?;
    ensure!(listing.contains(&iqn("guest")), "a new volume is not served:\n{listing}");

    let file = random_file(&cluster, 3, 48 * MIB)?;
    initiator::write_file(&file, &cluster.url("guest"))?;
    cluster.stop()?;
    cluster.up()?;
    initiator::expect_same(&file, &cluster.url("guest"), cluster.scratch())?;

    process::run(&mut cluster.ballast(&["volume", "delete", "guest", "--yes"])?, PATIENCE)?;
    for round in ["after its deletion", "after a restart"] {
        let names: Vec<String> = volumes(&cluster)?.into_iter().map(|volume| volume.name).collect();
        ensure!(names == ["stays"], "{round}: {names:?}");
        let listing = initiator::list(cluster.portal())?;
        ensure!(!listing.contains(&iqn("guest")), "{round} the volume is still served:\n{listing}");
        cluster.stop()?;
        cluster.up()?;
    }
    // Its name is free again, and nothing of what was in it shows.
    process::run(&mut cluster.ballast(&["volume", "create", "guest", "48Mi"])?, PATIENCE)?;
    cluster.wait_whole(PATIENCE)?;
    let empty = cluster.scratch().join("empty.img");
    fs::File::create(&empty)?.set_len(48 << 20)?;
    initiator::expect_same(&empty, &cluster.url("guest"), cluster.scratch())?;
    cluster.stop()?;
    Ok(Outcome::Passed)
}
