//! Long random work on a pool without crashes, compared with the model all the time; and with crashes that lose nothing.

#![allow(clippy::unwrap_used)]

mod support;

use ballast_pool::sim::SimDisks;
use ballast_pool::*;
use support::workload::{Workload, options};
use support::*;

fn config() -> PoolConfig {
    PoolConfig {
        name: String::from("model"),
        devices: Vec::new(),
        journal_bytes: Some(512 << 10),
        meta_bytes: Some(8 * MIB),
    }
}

fn run(seed: u64, devices: usize, steps: usize) {
    println!("seed {seed}, {devices} devices");
    let mut sizes = vec![MIB + (512 << 10) + 100 * 4096; devices];
    sizes[0] += 8 * MIB;
    let disks = SimDisks::new(&sizes);
    Pool::create_on(&disks.devices(), &config()).unwrap();
    let pool = Pool::open_on(disks.devices(), options()).unwrap();
    disks.record();
    let mut work = Workload::new(disks.clone(), pool, seed);
    for step in 0..steps {
        work.step();
        if step % 50 == 49 {
            let pool = work.pool.clone().unwrap();
            // Write what is queued, so that "now" has one meaning; verifying applies again, so let a copy do it.
            while pool.write_batch().unwrap() {}
            let problems = pool.check(true).unwrap();
            assert!(problems.is_empty(), "seed {seed}, step {step}: {problems:?}");
            let copy = Pool::open_on(disks.copy().devices(), options()).unwrap();
            if let Err(what) = work.verify(&copy, disks.events()) {
                panic!("seed {seed}, step {step}: {what}");
            }
        }
    }
    let pool = work.pool.take().unwrap();
    pool.close().unwrap();
    let report = inspect_on(disks.devices(), true).unwrap();
    assert!(report.problems.is_empty(), "seed {seed}: {report}");
    assert!(report.devices.iter().all(|device| device.clean));
}

#[test]
fn random_work_agrees_with_the_model() {
    for seed in 0..12 {
        run(1000 + seed, 1 + (seed % 3) as usize, 1500);
    }
}
