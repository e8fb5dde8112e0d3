//! A pool with all its threads, used by several replicas at once, on real files.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use ballast_pool::*;
use support::*;

const BLOCKS: u64 = 40_000;

/// One replica's life: appends in bursts, applies, reads back, purges behind checkpoints.
fn work(replica: &Replica, seed: u64, rounds: u64) -> (u64, BTreeMap<u64, u64>) {
    let mut rng = Rng::new(seed);
    let mut map = BTreeMap::new();
    let mut index = 0;
    for round in 0..rounds {
        let mut records = Vec::new();
        for _ in 0..1 + rng.below(12) {
            index += 1;
            let lba = rng.below(BLOCKS - 8);
            match rng.below(20) {
                0 => {
                    records.push(unmap(index, lba, 8));
                    map.retain(|at, _| *at < lba || *at >= lba + 8);
                }
                1 if round % 16 == 0 => {
                    records.push(unmap(index, 1000, BLOCKS / 2));
                    map.retain(|at, _| *at < 1000 || *at >= 1000 + BLOCKS / 2);
                }
                _ => {
                    let tags: Vec<u64> = (0..1 + rng.below(4)).map(|at| (seed << 32) + index * 8 + at).collect();
                    map.extend(tags.iter().enumerate().map(|(at, tag)| (lba + at as u64, *tag)));
                    records.push(write(index, lba, &tags));
                }
            }
        }
        replica.append(records, Box::new(|result| result.unwrap())).unwrap();
        if rng.chance(50) {
            wait(replica.apply(index, &[], None)).unwrap();
            for _ in 0..4 {
                let lba = rng.below(BLOCKS - 8);
                let data = read(replica, lba, 8);
                let expected: Vec<u64> = (lba..lba + 8).map(|at| map.get(&at).copied().unwrap_or(0)).collect();
                assert_eq!(support::model::tags(&data.payload), expected, "seed {seed}, index {index}, lba {lba}");
            }
        }
        let covered = *replica.checkpointed().borrow();
        if let Some(upto) = covered.and_then(|mark| replica.log_mark(mark.index.saturating_sub(20))) {
            replica.purge(upto).unwrap();
        }
        if rng.chance(10) {
            let first = replica.log_state().purged.map_or(1, |mark| mark.index + 1);
            let records = wait(replica.read_log(first..first + 50, 1 << 20)).unwrap();
            assert!(records.first().is_none_or(|record| record.mark.index == first));
        }
    }
    (index, map)
}

fn verify(replica: &Replica, index: u64, map: &BTreeMap<u64, u64>) {
    wait(replica.apply(index, &[], None)).unwrap();
    for lba in (0..BLOCKS).step_by(200) {
        let data = read(replica, lba, 200);
        let expected: Vec<u64> = (lba..lba + 200).map(|at| map.get(&at).copied().unwrap_or(0)).collect();
        assert_eq!(support::model::tags(&data.payload), expected, "lba {lba}");
    }
}

#[test]
fn replicas_at_work_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    for (io, sizes) in [(IoBackend::Threads, vec![256 * MIB]), (IoBackend::Auto, vec![128 * MIB, 64 * MIB])] {
        let dir = dir.path().join(format!("{io:?}"));
        std::fs::create_dir_all(&dir).unwrap();
        let paths = make(&dir, &sizes);
        // Few leaves in memory, many checkpoints.
        let options = OpenOptions { io, map_memory: 1 << 18, checkpoint_records: 400, ..OpenOptions::default() };
        let pool = Pool::open(&paths, options.clone()).unwrap();
        let replicas: Vec<Replica> = (1..=4).map(|n| replica(&pool, n, BLOCKS)).collect();
        let stop = AtomicBool::new(false);
        let results: Vec<(u64, BTreeMap<u64, u64>)> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                replicas.iter().enumerate().map(|(at, r)| scope.spawn(move || work(r, at as u64 + 1, 250))).collect();
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let extra = replica(&pool, 9, BLOCKS);
                    append(&extra, (1..20).map(|index| write(index, index * 600, &[index])).collect()).unwrap();
                    wait(extra.apply(10, &[], None)).unwrap();
                    wait(extra.save_hard_state("vote".into())).unwrap();
                    wait(pool.delete_replica(volume(9))).unwrap();
                    wait(pool.checkpoint()).unwrap();
                }
            });
            let results = threads.into_iter().map(|thread| thread.join());
            let results = results.collect::<Vec<_>>();
            stop.store(true, Ordering::Relaxed);
            results.into_iter().map(|result| result.unwrap()).collect()
        });
        for (replica, (index, map)) in replicas.iter().zip(&results) {
            verify(replica, *index, map);
        }
        assert!(pool.check(true).unwrap().is_empty());
        assert!(pool.stats().checkpoints > 3);
        // As after a crash: the journal is replayed.
        drop((replicas, pool));
        let pool = Pool::open(&paths, options).unwrap();
        for (at, (index, map)) in results.iter().enumerate() {
            verify(&pool.replica(volume(at as u8 + 1)).unwrap(), *index, map);
        }
        let problems = pool.check(true).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        pool.close().unwrap();
        let report = inspect(&paths, false).unwrap();
        assert!(report.problems.is_empty(), "{report}");
    }
}
