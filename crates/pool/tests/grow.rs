//! A pool grows by devices: nothing that was there is lost, whenever it is interrupted; and nothing grows by mistake.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use ballast_pool::sim::SimDisks;
use ballast_pool::*;
use support::workload::{Workload, options};
use support::*;

const META: u64 = 8 * MIB;
const JOURNAL: u64 = 512 << 10;

fn config(paths: &[PathBuf]) -> PoolConfig {
    let device = |path: &PathBuf| DeviceConfig { path: path.clone(), size: Some(32 * MIB) };
    let devices = paths.iter().map(device).collect();
    PoolConfig { name: String::from("tank"), devices, journal_bytes: Some(JOURNAL), meta_bytes: Some(META) }
}

fn start(paths: &[PathBuf]) -> Result<Pool, PoolError> {
    Pool::open_or_create(&config(paths), OpenOptions::default())
}

/// Disks that have room for this many blocks; the first one also for the metadata, the others for a little.
fn disks(count: usize, blocks: u64) -> SimDisks {
    let mut sizes = vec![MIB + MIB + JOURNAL + blocks * 4096; count];
    sizes[0] += META - MIB;
    SimDisks::new(&sizes)
}

fn some(disks: &SimDisks, which: &[usize]) -> Vec<Arc<dyn Device>> {
    let all = disks.devices();
    which.iter().map(|at| Arc::clone(&all[*at])).collect()
}

fn start_on(disks: &SimDisks, which: &[usize]) -> Result<Pool, PoolError> {
    Pool::open_or_create_on(some(disks, which), &config(&[]), options())
}

fn open_on(disks: &SimDisks, which: &[usize]) -> Result<Pool, PoolError> {
    Pool::open_on(some(disks, which), options())
}

#[test]
fn a_pool_grows_by_the_blank_devices_that_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| dir.path().join(name));
    let pool = start(std::slice::from_ref(&a)).unwrap();
    let (id, capacity) = (pool.id(), pool.stats().capacity_bytes);
    let one = replica(&pool, 1, 100_000);
    for index in 1..=20 {
        append(&one, vec![write(index, index, &[index])]).unwrap();
    }
    wait(one.apply(10, &[], None)).unwrap();
    // Not closed: the journal has a tail.
    drop((one, pool));

    // By one that is missing and has a size.
    let pool = start(&[b.clone(), a.clone()]).unwrap();
    assert_eq!(pool.id(), id);
    let grown = pool.stats();
    assert!(grown.capacity_bytes > capacity + 30 * MIB, "{grown:?}");
    let one = pool.replica(volume(1)).unwrap();
    let written = |pool: &Pool| pool.stats().devices.iter().map(|d| d.written_bytes).collect::<Vec<_>>();
    let before = written(&pool);
    for index in 21..=40 {
        append(&one, vec![write(index, index, &[index; 16])]).unwrap();
    }
    let after = written(&pool);
    assert!(after[1] - before[1] > 8 * 65536, "it is used at once: {before:?} {after:?}");
    wait(one.apply(40, &[], None)).unwrap();
    pool.close().unwrap();

    // By two, of which one is there and blank, in any order.
    std::fs::File::create(&c).unwrap().set_len(32 * MIB).unwrap();
    assert!(matches!(
        Pool::open(&[a.clone(), b.clone(), c.clone()], OpenOptions::default()),
        Err(PoolError::BadLabel { .. })
    ));
    let pool = start(&[d.clone(), b.clone(), c.clone(), a.clone()]).unwrap();
    let last = pool.stats();
    assert!(pool.id() == id && last.devices.len() == 4 && last.capacity_bytes > grown.capacity_bytes + 60 * MIB);
    let one = pool.replica(volume(1)).unwrap();
    for index in 41..=80 {
        append(&one, vec![write(index, index, &[index; 16])]).unwrap();
    }
    assert!(pool.stats().devices.iter().all(|device| device.written_bytes > 8 * 65536), "{:?}", pool.stats());
    wait(one.apply(80, &[], None)).unwrap();
    drop((one, pool));

    let all = [c.clone(), d.clone(), a.clone(), b.clone()];
    let report = inspect(&all, true).unwrap();
    assert!(report.problems.is_empty(), "{report}");
    let indexes: Vec<(u8, &str)> = report.devices.iter().map(|d| (d.index, d.name.as_str())).collect();
    // The order given when it grew: d came before c.
    let expected: Vec<String> = [&a, &b, &d, &c].iter().map(|path| path.display().to_string()).collect();
    assert_eq!(indexes, (0..).zip(expected.iter().map(String::as_str)).collect::<Vec<_>>());
    assert_eq!(label_of(&a).unwrap().map(|label| (label.index, label.devices)), Some((0, 4)));
    for open in [|all: &[PathBuf]| Pool::open(all, OpenOptions::default()), start] {
        let pool = open(&all).unwrap();
        assert!(pool.id() == id && pool.stats().capacity_bytes == last.capacity_bytes);
        let one = pool.replica(volume(1)).unwrap();
        wait(one.apply(80, &[], None)).unwrap();
        for index in 1..=80 {
            assert_eq!(read(&one, index, 1).payload, block(index));
        }
        assert_eq!(pool.check(true).unwrap(), Vec::<String>::new());
        pool.close().unwrap();
    }
    for missing in 0..4 {
        let rest: Vec<PathBuf> = [&a, &b, &d, &c]
            .into_iter()
            .cloned()
            .enumerate()
            .filter(|(at, _)| *at != missing)
            .map(|(_, path)| path)
            .collect();
        let refused = Pool::open(&rest, OpenOptions::default()).unwrap_err();
        assert!(matches!(refused, PoolError::DeviceMissing { index, count: 4, .. } if usize::from(index) == missing));
        assert!(matches!(start(&rest), Err(PoolError::DeviceMissing { .. })));
    }
}

#[derive(Default, Debug)]
struct Seen {
    points: u64,
    whole_without: u64,
    missing: u64,
    violations: Vec<String>,
}

/// Random work, a growth (perhaps behind one that was interrupted), more random work; and a crash at each point since the
/// growth began.
fn growth(seed: u64, seen: &mut Seen) {
    let mut rng = Rng::new(seed ^ 0x9209);
    let (old, new) = (1 + seed as usize % 2, 1 + seed as usize / 2 % 2);
    let all: Vec<usize> = (0..old + new).rev().collect();
    let disks = disks(old + new, 66 + 20 * (seed % 3));
    let before: Vec<usize> = (0..old).collect();
    // Half of them are sparse files, which are prepared first.
    let sparse = |disks: &SimDisks| {
        if seed / 16 % 2 == 1 {
            disks.set_host_limit(1 << 40);
        }
    };
    sparse(&disks);
    // Some of the new devices have room for metadata.
    let growth = PoolConfig { meta_bytes: Some(META + MIB * (seed / 4 % 2)), ..config(&[]) };
    let start = |disks: &SimDisks| Pool::open_or_create_on(some(disks, &all), &growth, options());
    let id = Pool::create_on(&some(&disks, &before), &config(&[])).unwrap();
    let mut work = Workload::new(disks.clone(), open_on(&disks, &before).unwrap(), seed);
    work.given = old;
    for _ in 0..rng.below(200) {
        work.step();
    }
    let clean = !seed.is_multiple_of(3);
    let capacity = work.pool.as_ref().unwrap().stats().capacity_bytes;
    if clean {
        work.close();
    } else {
        let pool = work.pool.take().unwrap();
        while pool.write_batch().unwrap() {}
    }
    disks.record();
    if seed / 8 % 2 == 1 {
        drop(start(&disks).unwrap());
        let at = rng.below(disks.events() as u64) as usize;
        disks.crashes(|point| point == at, |n| rng.below(n), |_, left| work.disks = left);
        work.disks.record();
    }
    let disks = work.disks.clone();
    sparse(&disks);
    let pool = start(&disks).unwrap();
    assert!(pool.id() == id && pool.stats().capacity_bytes >= capacity + new as u64 * 66 * 4096);
    let grown = (disks.events(), pool.stats().capacity_bytes);
    work.pool = Some(pool);
    work.given = old + new;
    // The model does not know what a pool that was not closed has forgotten.
    for _ in 0..if clean { 40 } else { 0 } {
        work.step();
    }
    work.pool = None;
    let mut fate = rng.clone();
    disks.crashes(
        |_| true,
        |n| fate.below(n),
        |point, after| {
            seen.points += 1;
            sparse(&after);
            let check = |pool: Pool| -> Result<Pool, String> {
                if pool.id() != id {
                    return Err(String::from("another pool"));
                }
                work.verify(&pool, point)?;
                Ok(pool)
            };
            let vote = || bytes::Bytes::from(format!("vote {point}"));
            let whole = |pool: Pool| match pool.stats().capacity_bytes == grown.1 {
                true => Ok(pool),
                false => Err(format!("capacity {} of {}", pool.stats().capacity_bytes, grown.1)),
            };
            let failed = |e: PoolError| e.to_string();
            let mut run = || -> Result<(), String> {
                // Without the new devices: whole, or refused.
                let left = after.copy();
                sparse(&left);
                match open_on(&left, &before) {
                    Ok(pool) => {
                        seen.whole_without += 1;
                        if point >= grown.0 {
                            return Err(String::from("it opens without devices that are in use"));
                        }
                        let pool = check(pool)?;
                        ready(replica(&pool, 9, 100).save_hard_state(vote())).map_err(failed)?;
                        if point % 2 == 0 {
                            pool.close().map_err(failed)?;
                        } else {
                            drop(pool);
                        }
                        let pool = check(whole(start(&left).map_err(failed)?)?)?;
                        let kept = pool.replica(volume(9)).map_err(failed)?.hard_state();
                        if kept != Some(vote()) {
                            return Err(format!("{kept:?} is left of what was written without the new devices"));
                        }
                    }
                    Err(PoolError::DeviceMissing { index, .. }) if usize::from(index) >= old => seen.missing += 1,
                    Err(e) => return Err(format!("without the new devices: {e}")),
                }
                // With them: grown.
                let pool = check(whole(start(&after).map_err(failed)?)?)?;
                let more = replica(&pool, 9, 100);
                for index in 1..=4 {
                    match more.append(vec![write(index, index, &[index])], Box::new(|_| {})) {
                        Ok(()) => ready(more.apply(index, &[], None)).map_err(failed)?,
                        Err(PoolError::NoSpace { .. }) => break,
                        Err(e) => return Err(failed(e)),
                    }
                }
                let last = more.applied().map_or(0, |mark| mark.index);
                drop((more, pool));
                let pool = check(whole(open_on(&after, &all).map_err(failed)?)?)?;
                let more = pool.replica(volume(9)).map_err(failed)?;
                ready(more.apply(last, &[], None)).map_err(failed)?;
                for index in 1..=last {
                    let one = ready(more.read(ballast_api::Lba(index), ballast_api::BlockCount(1))).map_err(failed)?;
                    if one.payload != block(index) {
                        return Err(format!("block {index} written after the growth is not there"));
                    }
                }
                Ok(())
            };
            if let Err(what) = run() {
                seen.violations.push(format!("seed {seed}, crash point {point} of {}: {what}", grown.0));
            }
        },
    );
}

#[test]
fn a_growth_that_was_interrupted_anywhere_loses_nothing_and_is_finished() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match setting("CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("CRASH_SEEDS").unwrap_or(32),
    };
    let single = seeds.end - seeds.start == 1;
    let mut seen = Seen::default();
    for seed in seeds {
        growth(seed, &mut seen);
    }
    println!("{seen:?}");
    assert!(seen.violations.is_empty(), "{}", seen.violations.join("\n\n"));
    assert!(single || (seen.whole_without > 50 && seen.missing > 100 && seen.points > 1000), "{seen:?}");
}

/// The pool began to grow by a device, was started without it, and grew by another one. The first device has a good label.
#[test]
fn a_device_that_another_one_has_replaced_does_not_come_back() {
    let disks = disks(4, 100);
    Pool::create_on(&some(&disks, &[0]), &config(&[])).unwrap();
    start_on(&disks, &[0]).unwrap().close().unwrap();
    disks.record();
    drop(start_on(&disks, &[0, 1]).unwrap());
    let mut strays = 0;
    disks.crashes(
        |_| true,
        |_| 0,
        |point, left| {
            let whole_without = open_on(&left.copy(), &[0]).is_ok();
            let labelled = open_on(&left.copy(), &[0, 1]).is_ok();
            if !whole_without || !labelled {
                return;
            }
            strays += 1;
            let pool = start_on(&left, &[0, 2]).unwrap();
            let id = pool.id();
            ready(replica(&pool, 1, 100).save_hard_state("vote".into())).unwrap();
            pool.close().unwrap();
            let stray = |result: Result<Pool, PoolError>| {
                let error = result.unwrap_err();
                assert!(matches!(&error, PoolError::BadLabel { device, .. } if device == "sim1"), "{point}: {error}");
            };
            left.record();
            stray(open_on(&left, &[0, 1]));
            stray(start_on(&left, &[0, 1]));
            stray(start_on(&left, &[3, 0, 1]));
            assert!(matches!(start_on(&left, &[0, 1, 2]), Err(PoolError::BadLabel { .. })), "two with one number");
            assert_eq!(left.events(), 0, "nothing was written");
            start_on(&left, &[3, 0, 2]).unwrap().close().unwrap();
            left.record();
            stray(open_on(&left, &[0, 1, 3]));
            stray(start_on(&left, &[0, 1, 3]));
            assert_eq!(left.events(), 0, "nothing was written");
            let pool = start_on(&left, &[0, 2, 3]).unwrap();
            assert!(pool.id() == id && pool.replica(volume(1)).unwrap().hard_state() == Some("vote".into()));
        },
    );
    assert!(strays > 0);
}

#[test]
fn devices_that_cannot_be_added_are_refused_before_anything_is_written() {
    let (other, disks) = (disks(1, 100), disks(5, 100));
    start_on(&other, &[0]).unwrap().close().unwrap();
    Pool::create_on(&some(&disks, &[0, 1]), &config(&[])).unwrap();
    start_on(&disks, &[0, 1]).unwrap().close().unwrap();
    disks.damage(4, 0, |page| page[0x438..0x43a].copy_from_slice(&[0x53, 0xef]));
    let refused = |which: &[usize]| {
        let error = start_on(&disks, which).unwrap_err();
        assert_eq!(disks.events(), 0, "{error}");
        error
    };
    disks.record();
    // Somebody's data; another pool's device; a device of this pool is missing.
    let foreign = refused(&[2, 0, 1, 4]);
    assert!(
        matches!(&foreign, PoolError::ForeignDevice { device, found } if device == "sim4" && found.contains("ext"))
    );
    assert!(matches!(refused(&[2, 3, 0]), PoolError::DeviceMissing { index: 1, count: 2, .. }));
    assert!(matches!(refused(&[2, 1]), PoolError::DeviceMissing { index: 0, count: 2, .. }));
    assert!(matches!(refused(&[0, 4]), PoolError::BadLabel { .. }), "it may be the missing one");
    // Without creating, a blank device is none of the pool's.
    assert!(matches!(open_on(&disks, &[0, 1, 2]), Err(PoolError::BadLabel { .. })));
    assert!(matches!(Pool::create_on(&some(&disks, &[0, 1, 2]), &config(&[])), Err(PoolError::ForeignDevice { .. })));
    assert_eq!(disks.events(), 0);
    other.record();
    let devices = [some(&disks, &[0, 1, 2]), other.devices()].concat();
    assert!(matches!(Pool::open_or_create_on(devices, &config(&[]), options()), Err(PoolError::BadLabel { .. })));
    assert_eq!(other.events(), 0);
    // A device that is too small, behind one that is not.
    let small = SimDisks::new(&[MIB + JOURNAL]).devices();
    let devices = [some(&disks, &[0, 1, 2]), small].concat();
    assert!(matches!(Pool::open_or_create_on(devices, &config(&[]), options()), Err(PoolError::BadLabel { .. })));
    // More than a pool can have.
    let many = SimDisks::new(&[MIB; 199]).devices();
    let devices = [some(&disks, &[0, 1]), many].concat();
    let error = Pool::open_or_create_on(devices, &config(&[]), options()).unwrap_err();
    assert!(matches!(error, PoolError::TooManyDevices { given: 201, limit: 200 }), "{error}");
    assert_eq!(disks.events(), 0);
    start_on(&disks, &[0, 1, 2, 3]).unwrap().close().unwrap();
}

#[test]
fn files_are_not_made_for_a_pool_that_cannot_grow() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, c, ext4] = ["a", "b", "c", "ext4"].map(|name| dir.path().join(name));
    start(&[a.clone(), b.clone()]).unwrap().close().unwrap();
    std::fs::File::create(&ext4).unwrap().set_len(32 * MIB).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&ext4).unwrap();
    file.write_all_at(&[0x53, 0xef], 0x438).unwrap();
    let kept = std::fs::read(&a).unwrap();
    assert!(matches!(start(&[a.clone(), c.clone()]), Err(PoolError::Io { .. })), "one device is missing");
    assert!(matches!(start(&[a.clone(), b.clone(), c.clone(), ext4]), Err(PoolError::ForeignDevice { .. })));
    let many: Vec<PathBuf> = (0..201).map(|n| dir.path().join(format!("many{n}"))).collect();
    assert!(matches!(start(&many), Err(PoolError::TooManyDevices { .. })));
    assert!(!c.exists() && !many[0].exists());
    assert!(std::fs::read(&a).unwrap() == kept);
    start(&[a, b, c]).unwrap().close().unwrap();
}

/// A pool that has grown has more to keep books about than its first device has room for.
#[test]
fn metadata_goes_on_on_new_devices() {
    let run = |more: u64| -> Result<(), PoolError> {
        let sizes = [2 * MIB + META, 2 * MIB + more];
        let disks = SimDisks::new(&sizes);
        Pool::create_on(&some(&disks, &[0]), &config(&[]))?;
        let growth = PoolConfig { meta_bytes: Some(META + more), ..config(&[]) };
        let start = |disks: &SimDisks| Pool::open_or_create_on(some(disks, &[1, 0]), &growth, options());
        let pool = start(&disks)?;
        let state = |n: u8| bytes::Bytes::from(vec![n; 60_000]);
        for n in 1..=160 {
            ready(replica(&pool, n, 100).save_hard_state(state(n)))?;
        }
        ready(pool.checkpoint())?;
        drop(pool);
        let found = inspect_on(some(&disks.copy(), &[0, 1]), true)?;
        assert!(found.problems.is_empty() && found.devices[1].metadata == more, "{found}");
        // Crashed, and closed.
        for _ in 0..2 {
            let pool = open_on(&disks, &[1, 0])?;
            for n in 1..=160 {
                assert_eq!(pool.replica(volume(n))?.hard_state(), Some(state(n)));
            }
            pool.close()?;
        }
        Ok(())
    };
    run(25 * MIB).unwrap();
    let full = run(0).unwrap_err().to_string();
    assert!(full.contains("metadata region"), "{full}");
}
