//! Everything that can die is killed at random under a load that knows what every sector must hold.
//!
//! `KILL_SECONDS` (60) says for how long, `KILL_SEED` which order; the seed is printed, and the same seed strikes in the
//! same order again. Never more than one pool of the three is down, except where everything goes at once.

use std::collections::BTreeMap;
use std::env;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use ballast_tests::cluster::{Cluster, Options};
use ballast_tests::load::{CheckedLoad, LoadOptions, Report, verify_again};
use ballast_tests::process::{PATIENCE, Signal, signal};
use ballast_tests::random::Random;
use ballast_tests::runner::{self, Outcome, TestResult};
use ballast_tests::{skip_if, tools};

const SPAN: u64 = 128 << 20;
const VOLUME: &str = "battered";

fn main() -> ExitCode {
    runner::main(&[
        ("answered_writes_survive_kills", answered_writes_survive_kills),
        ("a_foreign_write_is_noticed", a_foreign_write_is_noticed),
    ])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strike {
    /// A pool, whichever.
    Pool,
    /// The pool that leads the volume.
    Leader,
    /// The target.
    Target,
    /// The leader's pool and the target at the same moment.
    LeaderAndTarget,
    /// The leader's pool stands still for some seconds and then goes on as if nothing had been.
    LeaderFrozen,
    /// All processes, the supervisor included.
    Everything,
}

use Strike::{Everything, Leader, LeaderAndTarget, LeaderFrozen, Pool, Target};

/// How often each is taken; the first round has each once, so that a short run has them all.
const ODDS: [(Strike, u64); 6] =
    [(Leader, 6), (Target, 4), (Pool, 4), (LeaderAndTarget, 2), (LeaderFrozen, 2), (Everything, 1)];

fn choose(random: &mut Random, turn: usize) -> Strike {
    if let Some((strike, _)) = ODDS.get(turn) {
        return *strike;
    }
    let mut left = random.below(ODDS.iter().map(|(_, odds)| odds).sum());
    for (strike, odds) in ODDS {
        if left < odds {
            return strike;
        }
        left -= odds;
    }
    Leader
}

fn strike(cluster: &mut Cluster, what: Strike, random: &mut Random) -> Result<()> {
    let status = cluster.status()?;
    let leader =
        status.volume(VOLUME).and_then(|volume| volume.leader()).context("the volume has no leader")?.to_owned();
    let pools = status.pool_names();
    let victims = match what {
        Pool => vec![pools[random.below(pools.len() as u64) as usize].clone()],
        Leader | LeaderFrozen => vec![leader],
        Target => vec!["target".to_owned()],
        LeaderAndTarget => vec![leader, "target".to_owned()],
        Everything => {
            cluster.kill_everything()?;
            return cluster.up();
        }
    };
    let mut pids = Vec::new();
    for name in &victims {
        pids.push((name, status.pid(name).with_context(|| format!("{name} does not run"))?));
    }
    if what == LeaderFrozen {
        for (_, pid) in &pids {
            signal(*pid, Signal::STOP);
        }
        std::thread::sleep(Duration::from_millis(1000 + random.below(4000)));
        for (_, pid) in &pids {
            signal(*pid, Signal::CONT);
        }
        return cluster.wait_whole(PATIENCE).map(drop);
    }
    for (_, pid) in &pids {
        signal(*pid, Signal::KILL);
    }
    for (name, pid) in pids {
        cluster.wait_replaced(name, pid)?;
    }
    Ok(())
}

/// Where the replicas stand, and whether what is wrong stays wrong (data is gone) or was only seen (a stale read).
fn diagnose(cluster: &Cluster, mut load: CheckedLoad) -> String {
    let volumes = cluster.status().map(|status| status.volumes);
    let faults = |report: &Report| report.lost + report.wrong + report.torn;
    let lasting = load.pause().and_then(|paused| Ok(faults(&load.verify_all()?) - faults(&paused)));
    format!("sectors still wrong when all is quiet: {lasting:?}; {volumes:#?}")
}

fn setting(name: &str) -> Result<Option<u64>> {
    env::var(name).ok().map(|text| text.parse().with_context(|| format!("{name}={text} is not a number"))).transpose()
}

fn answered_writes_survive_kills() -> TestResult {
    skip_if!(tools::missing_for_own());
    let seconds = setting("KILL_SECONDS")?.unwrap_or(60);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64 % 1_000_000;
    let seed = setting("KILL_SEED")?.unwrap_or(clock);
    println!("kill_test: seed {seed}, {seconds} s (again: KILL_SEED={seed} KILL_SECONDS={seconds} tests/kill-test.sh)");
    let mut random = Random::new(seed);
    let mut cluster = Cluster::start(Options::with_volumes(&[(VOLUME, "256Mi")]))?;
    let options = LoadOptions::new(cluster.url(VOLUME), seed, SPAN, cluster.scratch());
    let mut load = CheckedLoad::start(&options)?;
    let mut pauses: BTreeMap<Strike, Vec<f64>> = BTreeMap::new();
    let begun = Instant::now();
    let mut turn = 0;
    while turn < ODDS.len() || begun.elapsed() < Duration::from_secs(seconds) {
        load.wait_progress(500, PATIENCE)?;
        load.mark()?;
        let what = choose(&mut random, turn);
        strike(&mut cluster, what, &mut random).with_context(|| format!("strike {turn}: {what:?}, seed {seed}"))?;
        let place = || format!("after strike {turn}: {what:?}, seed {seed}");
        let report = load.wait_progress(200, PATIENCE).with_context(place)?;
        if let Err(fault) = report.expect_clean() {
            return Err(fault.context(diagnose(&cluster, load)).context(place()));
        }
        pauses.entry(what).or_default().push(report.gap_since_mark_ms);
        std::thread::sleep(Duration::from_millis(random.below(1000)));
        turn += 1;
    }
    load.pause()?;
    load.verify_all()?;
    let report = load.finish()?;
    println!("kill_test: {} commands, {} reissued, {} logins", report.ops, report.reissued, report.logins);
    for (what, of) in &pauses {
        let longest = of.iter().copied().fold(0.0, f64::max);
        let mean = of.iter().sum::<f64>() / of.len() as f64;
        println!("kill_test: {what:?} x {}: pause of the load mean {mean:.0} ms, longest {longest:.0} ms", of.len());
    }
    println!(
        "kill_test: errors {}, unanswered {}, lost {}, wrong {}, torn {}; longest command {:.0} ms",
        report.errors, report.stuck, report.lost, report.wrong, report.torn, report.longest_command_ms
    );
    report.expect_clean().with_context(|| format!("seed {seed}"))?;
    // The same once more by another process, after everything was down; then the pools by themselves.
    cluster.kill_everything()?;
    cluster.up()?;
    verify_again(&options)?.expect_clean().with_context(|| format!("after the last restart, seed {seed}"))?;
    cluster.stop()?;
    cluster.inspect_pools()?;
    Ok(Outcome::Passed)
}

/// Shows that the load would tell if Ballast returned something else: another initiator writes one sector.
fn a_foreign_write_is_noticed() -> TestResult {
    skip_if!(tools::missing_for_own());
    let mut cluster = Cluster::start(Options::with_volumes(&[(VOLUME, "64Mi")]))?;
    let options = LoadOptions { depth: 8, ..LoadOptions::new(cluster.url(VOLUME), 1, 16 << 20, cluster.scratch()) };
    let mut load = CheckedLoad::start(&options)?;
    load.wait_progress(2000, PATIENCE)?;
    load.pause()?;
    load.finish()?.expect_clean()?;
    ballast_tests::bench::random_writes(&cluster.url(VOLUME), 16 << 20, 1, 1)?;
    let report = verify_again(&options)?;
    ensure!(!report.ok && report.wrong == 8, "4 KiB of foreign bytes should be 8 wrong sectors: {report:?}");
    cluster.stop()?;
    Ok(Outcome::Passed)
}
