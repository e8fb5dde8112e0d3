//! The Linux kernel's initiator (open-iscsi in a User-Mode Linux guest): login, ext4 and xfs, fio with checksums, while
//! leaders and the target are killed underneath and the volumes grow. The file systems stay read-write and nothing in them
//! is wrong.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ballast_tests::cluster::{Cluster, Options, iqn};
use ballast_tests::process::{PATIENCE, Signal, run, signal};
use ballast_tests::runner::{self, Outcome, TestResult};
use ballast_tests::skip_if;
use ballast_tests::tgt::Tgt;
use ballast_tests::uml::{self, Guest, Network};

const GUEST: &str = include_str!("kernel_initiator.sh");

fn main() -> ExitCode {
    runner::main(&[
        ("the_guest_works_on_a_foreign_target", the_guest_works_on_a_foreign_target),
        ("file_systems_survive_killed_leaders_and_targets", file_systems_survive_killed_leaders_and_targets),
    ])
}

fn script(seconds: u32, volumes: &[(&str, &str)]) -> String {
    let volumes: Vec<String> = volumes.iter().map(|(iqn, kind)| format!("{iqn}={kind}")).collect();
    format!("PORTAL={}\nSECONDS_OF_IO={seconds}\nVOLUMES=\"{}\"\n{GUEST}", uml::portal(), volumes.join(" "))
}

/// So that a failure of the next test is Ballast's and not the guest's.
fn the_guest_works_on_a_foreign_target() -> TestResult {
    skip_if!(uml::lacking().or_else(|| ballast_tests::tools::missing(&["tgtd", "tgtadm"])));
    let network = Network::new()?;
    let mut tgt = Tgt::start(512 << 20, Some(uml::portal()), Some(network.name()))?;
    let directory = tgt.scratch().join("guest");
    fs::create_dir(&directory)?;
    let mut guest = Guest::boot(&network, &script(8, &[(tgt.iqn(), "ext4")]), &directory)?;
    guest.wait_line("PHASE io", 2 * PATIENCE)?;
    std::thread::sleep(Duration::from_secs(2));
    tgt.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    tgt.up()?;
    guest.wait_line("PHASE check", 4 * PATIENCE)?;
    let reconnects = guest.wait_line("RECONNECTS ", 2 * PATIENCE)?;
    ensure!(reconnects != "0", "the guest did not notice that its target died");
    guest.finish(PATIENCE)?;
    Ok(Outcome::Passed)
}

/// Kills the leader's pool of a volume, or the target, and waits until all is whole again.
fn strike(cluster: &mut Cluster, turn: usize) -> Result<String> {
    let status = cluster.status()?;
    let victim = match turn % 3 {
        2 => "target".to_owned(),
        volume => status.volumes.get(volume).and_then(|v| v.leader()).context("a volume without a leader")?.to_owned(),
    };
    let pid = status.pid(&victim).with_context(|| format!("{victim} does not run"))?;
    signal(pid, Signal::KILL);
    cluster.wait_replaced(&victim, pid)?;
    Ok(victim)
}

/// Makes a volume larger while it is in use.
fn grow(cluster: &Cluster, volume: &str, size: &str) -> Result<()> {
    run(&mut cluster.ballast(&["volume", "grow", volume, size])?, PATIENCE).map(drop)
}

fn file_systems_survive_killed_leaders_and_targets() -> TestResult {
    skip_if!(uml::lacking());
    let network = Network::new()?;
    let mut options = Options::with_volumes(&[("files", "256Mi"), ("wide", "512Mi")]);
    options.portal = uml::portal();
    options.network = Some(network.name().to_owned());
    let mut cluster = Cluster::start(options)?;
    let directory = cluster.scratch().join("guest");
    fs::create_dir(&directory)?;
    let volumes = [(iqn("files"), "ext4"), (iqn("wide"), "xfs")];
    let volumes: Vec<(&str, &str)> = volumes.iter().map(|(iqn, kind)| (iqn.as_str(), *kind)).collect();
    let mut guest = Guest::boot(&network, &script(30, &volumes), &directory)?;
    guest.wait_line("PHASE io", 2 * PATIENCE)?;
    let mut struck = Vec::new();
    while !guest.has_said("PHASE check") {
        std::thread::sleep(Duration::from_secs(2));
        if struck.len() < 9 && !guest.has_said("PHASE check") {
            struck.push(strike(&mut cluster, struck.len())?);
            if struck.len() == 1 {
                grow(&cluster, "files", "384Mi")?;
                grow(&cluster, "wide", "768Mi")?;
            }
        }
    }
    println!("killed under the kernel's initiator: {}", struck.join(", "));
    ensure!(struck.len() >= 3, "too few kills to show anything: {struck:?}");
    let reconnects = guest.wait_line("RECONNECTS ", 4 * PATIENCE)?;
    ensure!(reconnects != "0", "the guest did not notice that its target died");
    for grown in ["GROWN ext4 to 402653184", "GROWN xfs to 805306368"] {
        ensure!(guest.has_said(grown), "the guest did not say {grown:?}");
    }
    guest.finish(PATIENCE)?;
    cluster.stop()?;
    cluster.inspect_pools()?;
    Ok(Outcome::Passed)
}
