//! The whole of `ballast up` with a shell script as the children and fakes behind their sockets.

use clap::Parser as _;
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::cli::{Cli, Command};
use crate::cluster::fake::World;
use crate::report::{ProcessState, StatusReport};

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-ballast.sh")
}

fn args(more: &[&str]) -> UpArgs {
    let Command::Up(args) = Cli::parse_from(["ballast", "up"].iter().chain(more)).command else { unreachable!() };
    args
}

/// One run: up, look, down.
async fn run(world: &World, more: &[&str]) -> Result<StatusReport, UpError> {
    let args = args(more);
    let _lock = world.dir.lock()?;
    let initialized = world.dir.check_format()?;
    let prepared = pools::prepare(&program(), &world.dir, &args).await?;
    let starts = |index: &usize| !world.dir.root().join(format!("pools/pool-{index}/broken")).exists();
    let servers: Vec<_> = (0..=world.pools.len()).filter(starts).map(|index| world.serve(index)).collect();
    let running = Running::start(&program(), &world.dir, &prepared, &args, &[])?;
    let up = running.bring_up(&args, initialized).await;
    let report = running.cluster.status().await;
    let cluster = Arc::clone(&running.cluster);
    running.stop().await;
    assert!(cluster.nodes().iter().all(|node| node.status.borrow().state == ProcessState::Stopped));
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    up.map(|()| report)
}

fn names(report: &StatusReport) -> Vec<&str> {
    report.volumes.iter().map(|volume| volume.name.as_str()).collect()
}

#[tokio::test]
async fn the_first_start_makes_pools_and_a_volume_and_later_ones_keep_them() {
    let world = World::new();
    let report = run(&world, &[]).await.unwrap();
    assert_eq!(names(&report), ["demo"]);
    assert_eq!(report.volumes[0].replicas.len(), 3);
    assert_eq!(report.processes.iter().filter(|p| p.state == ProcessState::Running && p.pid.is_some()).count(), 4);
    assert_eq!(world.dir.scan_pools().unwrap().len(), 3);

    let report = run(&world, &["--volume", "more=5Mi", "--volume", "demo=2Gi"]).await.unwrap();
    assert_eq!(names(&report), ["demo", "more"]);
    let sizes: Vec<u64> = report.volumes.iter().map(|volume| volume.size_bytes).collect();
    assert_eq!(sizes, [1 << 30, 5 << 20]);
}

#[tokio::test]
async fn the_default_volume_is_made_only_once() {
    let world = World::new();
    run(&world, &[]).await.unwrap();
    // As if it had been deleted.
    for pool in &world.pools {
        pool.memory().replicas.clear();
    }
    assert!(names(&run(&world, &[]).await.unwrap()).is_empty());
}

#[tokio::test]
async fn more_replicas_than_pools_are_refused_before_anything_is_made() {
    let world = World::new();
    let refused = run(&world, &["--pools", "2", "--replicas", "3"]).await;
    assert!(matches!(refused, Err(UpError::TooFewPools { replicas: 3, pools: 2 })), "{refused:?}");
    assert!(world.dir.scan_pools().unwrap().is_empty());
}

#[tokio::test]
async fn a_killed_pool_is_back_and_is_told_its_peers() {
    let world = World::new();
    let args = args(&[]);
    let prepared = pools::prepare(&program(), &world.dir, &args).await.unwrap();
    let servers: Vec<_> = (0..=world.pools.len()).map(|index| world.serve(index)).collect();
    let running = Running::start(&program(), &world.dir, &prepared, &args, &[]).unwrap();
    running.bring_up(&args, true).await.unwrap();
    let before = world.pools[1].memory().peers.len();
    let pid = running.cluster.status().await.processes[1].pid.unwrap();
    let mut configured = running.cluster.nodes()[1].configured();
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let again = configured.wait_for(|start| *start == 2);
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("is back").unwrap();
    assert!(world.pools[1].memory().peers.len() > before);
    let process = running.cluster.status().await.processes[1].clone();
    assert_eq!((process.restarts, process.last_exit.as_deref()), (1, Some("killed by signal 9")));
    running.stop().await;
    servers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_pool_that_does_not_start_does_not_stop_the_others() {
    let world = World::new();
    run(&world, &[]).await.unwrap();
    let break_pool = |number| {
        std::fs::remove_file(world.dir.socket(&format!("pool-{number}"))).ok();
        std::fs::write(world.dir.root().join(format!("pools/pool-{number}/broken")), "").unwrap();
    };
    break_pool(1);
    let report = run(&world, &[]).await.unwrap();
    assert_eq!(names(&report), ["demo"]);
    assert!(report.processes[1].restarts >= HOPELESS - 1, "{report:?}");
    assert_eq!(report.processes[1].last_exit.as_deref(), Some("exited with code 3"));
    assert_eq!(report.volumes[0].replicas[1].role, "unknown");
    // None at all: the message says which, why, and where to read on.
    break_pool(0);
    break_pool(2);
    let refused = run(&world, &[]).await.unwrap_err().to_string();
    for part in ["pool-0 does not start", "exited with code 3", "log/pool-2.log", "the device is broken"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[tokio::test]
async fn a_portal_in_use_is_refused() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = check_portal(taken.local_addr().unwrap()).await;
    assert!(matches!(refused, Err(UpError::Portal { .. })), "{refused:?}");
    assert!(matches!(check_portal("127.0.0.1:0".parse().unwrap()).await, Err(UpError::PortalPort(_))));
}
