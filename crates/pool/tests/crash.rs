//! Every crash point: random work is recorded on simulated disks; then, for each device write, the disks are made as a
//! power loss there may leave them, the pool is recovered, compared with the model, and used a little more.
//!
//! `CRASH_SEEDS=n` runs more seeds, `CRASH_SEED=n` replays one.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ballast_pool::sim::{SimDisks, SimFault};
use ballast_pool::*;
use support::workload::{BLOCKS, Workload, options};
use support::*;

struct Run {
    points: u64,
    violations: Vec<String>,
}

fn config() -> PoolConfig {
    PoolConfig {
        name: String::from("crash"),
        devices: Vec::new(),
        journal_bytes: Some(512 << 10),
        meta_bytes: Some(8 * MIB),
    }
}

fn disks(seed: u64) -> SimDisks {
    // The first disk also holds 8 MiB of metadata; about a hundred blocks of extents, so that they are reused soon and
    // now and then run out.
    let (devices, blocks) = match seed % 4 {
        3 => (2, 64),
        1 => (1, 66),
        _ => (1, 110),
    };
    let mut sizes = vec![MIB + (512 << 10) + blocks * 4096; devices];
    sizes[0] += 8 * MIB;
    SimDisks::new(&sizes)
}

/// One seed: the work, then all its crashes.
fn run(seed: u64, fault: SimFault, early_reuse: bool, every: usize) -> Run {
    let mut rng = Rng::new(seed ^ 0xc0ffee);
    let disks = disks(seed);
    let pool_id = Pool::create_on(&disks.devices(), &config()).unwrap();
    let pool = Pool::open_on(disks.devices(), options()).unwrap();
    assert_eq!(pool.id(), pool_id);
    if early_reuse {
        pool.break_reuse_rule();
    }
    let mut work = Workload::new(disks.clone(), pool, seed);
    // What was before counts as durable: fragments the space, moves on in the journal ring.
    for _ in 0..rng.below(if early_reuse { 1 } else { 250 }) {
        work.step();
    }
    disks.record();
    disks.set_fault(fault);
    for _ in 0..90 {
        work.step();
    }
    work.pool = None;
    let mut run = Run { points: 0, violations: Vec::new() };
    let pick = rng.clone();
    let offset = pick.clone().below(every as u64) as usize;
    let mut cut = 0;
    let wanted = |point: usize| {
        // After each write: right behind it, before anything else happens.
        let is = point > 0 && disks.is_write(point - 1);
        cut += usize::from(is);
        is && cut % every == offset
    };
    let mut fate = rng.clone();
    disks.crashes(
        wanted,
        |n| fate.below(n),
        |point, after| {
            run.points += 1;
            let result = catch_unwind(AssertUnwindSafe(|| recover(&work, point, &after, &mut rng)));
            let result = result.unwrap_or_else(|_| Err(String::from("panicked")));
            if let Err(what) = result {
                run.violations.push(format!("seed {seed}, crash point {point}: {what}"));
            }
        },
    );
    run
}

/// Opens the pool after a crash, compares, works on.
fn recover(work: &Workload, point: usize, disks: &SimDisks, rng: &mut Rng) -> Result<(), String> {
    let pool = Pool::open_on(disks.devices(), options()).map_err(|e| format!("open: {e}"))?;
    work.verify(&pool, point)?;
    let mut expected: Vec<(u8, BTreeMap<u64, u64>)> = Vec::new();
    for n in 1..=3 {
        let Ok(replica) = pool.replica(volume(n)) else { continue };
        let mut written = BTreeMap::new();
        let next = replica.log_state().last.map_or(1, |last| last.index + 1);
        for index in next..next + 2 {
            let (lba, tag) = (BLOCKS[rng.below(24) as usize], (1 << 40) + rng.below(1 << 20));
            let (tx, rx) = std::sync::mpsc::channel();
            let done = Box::new(move |result: Result<(), PoolError>| {
                let _ = tx.send(result.is_ok());
            });
            match replica.append(vec![write(index, lba, &[tag])], done) {
                Ok(()) => {}
                Err(PoolError::NoSpace { .. }) => break,
                Err(e) => return Err(format!("append after recovery: {e}")),
            }
            ready(replica.apply(index, &[], None)).map_err(|e| format!("apply after recovery: {e}"))?;
            if rx.recv() != Ok(true) {
                return Err(String::from("an append after recovery was not acknowledged"));
            }
            written.insert(lba, tag);
        }
        expected.push((n, written));
    }
    let pool = match rng.below(3) {
        0 => pool,
        1 => {
            ready(pool.checkpoint()).map_err(|e| format!("checkpoint after recovery: {e}"))?;
            pool
        }
        _ => {
            // Once more, without having closed it.
            let copy = disks.copy();
            drop(pool);
            Pool::open_on(copy.devices(), options()).map_err(|e| format!("second open: {e}"))?
        }
    };
    for (n, written) in expected {
        let replica = pool.replica(volume(n)).map_err(|e| e.to_string())?;
        if let Some(last) = replica.log_state().last {
            ready(replica.apply(last.index, &[], None)).map_err(|e| format!("apply: {e}"))?;
        }
        for (lba, tag) in written {
            let data =
                ready(replica.read(ballast_api::Lba(lba), ballast_api::BlockCount(1))).map_err(|e| e.to_string())?;
            if data.payload != block(tag) {
                return Err(format!("volume {n}: block {lba} written after recovery is not there"));
            }
        }
    }
    let problems = pool.check(true).map_err(|e| e.to_string())?;
    if problems.is_empty() { Ok(()) } else { Err(format!("after working on: {}", problems.join("\n"))) }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn every_crash_point_recovers() {
    let seeds: Vec<u64> = match setting("CRASH_SEED") {
        Some(seed) => vec![seed],
        None => (0..setting("CRASH_SEEDS").unwrap_or(200)).collect(),
    };
    let (mut points, mut violations) = (0, Vec::new());
    for seed in &seeds {
        let run = run(*seed, SimFault::None, false, 1);
        points += run.points;
        violations.extend(run.violations);
        if violations.len() > 20 {
            break;
        }
    }
    println!("crash points: {points}, seeds: {}, violations: {}", seeds.len(), violations.len());
    assert!(violations.is_empty(), "{}", violations.join("\n\n"));
    assert!(points > 50 * seeds.len() as u64, "the workload writes too little to mean anything");
}

/// The harness itself: disks that lie about flushes must be found out.
#[test]
fn lost_flushes_are_noticed() {
    let violations: usize = (0..4).map(|seed| run(seed, SimFault::LyingFlush, false, 7).violations.len()).sum();
    assert!(violations > 0, "the harness did not notice that nothing is ever flushed");
}

/// Likewise: blocks that are reused before their release is durable.
#[test]
fn early_reuse_is_noticed() {
    let violations: usize = (0..40).map(|seed| run(4 * seed + 1, SimFault::None, true, 1).violations.len()).sum();
    assert!(violations > 0, "the harness did not notice that blocks are reused too early");
}
