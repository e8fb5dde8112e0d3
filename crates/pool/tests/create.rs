//! Making a pool at its first start: interrupted at any point it is made again, and nothing that was in use is wiped.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ballast_pool::sim::SimDisks;
use ballast_pool::*;
use support::*;

fn config(paths: &[PathBuf]) -> PoolConfig {
    let device = |path: &PathBuf| DeviceConfig { path: path.clone(), size: Some(32 * MIB) };
    PoolConfig {
        name: String::from("new"),
        devices: paths.iter().map(device).collect(),
        journal_bytes: Some(MIB),
        meta_bytes: Some(8 * MIB),
    }
}

fn start(paths: &[PathBuf]) -> Result<Pool, PoolError> {
    Pool::open_or_create(&config(paths), OpenOptions::default())
}

fn use_it(pool: &Pool) {
    let replica = replica(pool, 1, 100);
    append(&replica, vec![write(1, 7, &[3])]).unwrap();
    wait(replica.apply(1, &[], None)).unwrap();
}

fn is_used(pool: &Pool) -> bool {
    read(&pool.replica(volume(1)).unwrap(), 7, 1).payload == block(3)
}

fn two(dir: &Path) -> [PathBuf; 2] {
    ["a", "b"].map(|name| dir.join(name))
}

#[test]
fn the_first_start_makes_the_pool_and_the_next_ones_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let paths = two(dir.path());
    let pool = start(&paths).unwrap();
    let id = pool.id();
    use_it(&pool);
    assert!(matches!(start(&paths), Err(PoolError::Locked { .. })));
    pool.close().unwrap();
    // In any order; a size that is not asked for any more changes nothing.
    let [a, b] = paths.clone();
    let pool = start(&[b, a]).unwrap();
    assert!(pool.id() == id && is_used(&pool));
    pool.close().unwrap();
    // The same with what `pool create` made, and on a file that is there, blank.
    let blank = dir.path().join("c");
    std::fs::File::create(&blank).unwrap().set_len(32 * MIB).unwrap();
    let made = Pool::create(&config(std::slice::from_ref(&blank))).unwrap();
    assert_eq!(start(std::slice::from_ref(&blank)).unwrap().id(), made);
    // A file that was made and has no size yet.
    let empty = dir.path().join("d");
    std::fs::File::create(&empty).unwrap();
    start(&[empty]).unwrap().close().unwrap();
}

#[test]
fn what_is_neither_blank_nor_the_whole_pool_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let paths = two(dir.path());
    let pool = start(&paths).unwrap();
    use_it(&pool);
    pool.close().unwrap();
    let [a, b] = paths.clone();
    let kept = |path: &Path| std::fs::read(path).unwrap();
    let before = [kept(&a), kept(&b)];
    let blank = dir.path().join("blank");
    let make_blank = || std::fs::File::create(&blank).unwrap().set_len(32 * MIB).unwrap();

    // One device is lost, or another one is in its place.
    assert!(matches!(start(std::slice::from_ref(&a)), Err(PoolError::DeviceMissing { index: 1, .. })));
    let missing = dir.path().join("missing");
    assert!(matches!(start(&[a.clone(), missing.clone()]), Err(PoolError::Io { .. })));
    assert!(!missing.exists(), "an empty file does not make up for it");
    make_blank();
    assert!(matches!(start(&[a.clone(), blank.clone()]), Err(PoolError::DeviceMissing { index: 1, .. })));
    assert!(matches!(start(&[blank.clone(), b.clone()]), Err(PoolError::DeviceMissing { index: 0, .. })));
    assert!(kept(&blank).iter().all(|byte| *byte == 0));

    // Somebody's data, also beside a blank device.
    let ext4 = dir.path().join("ext4");
    make_blank();
    std::fs::copy(&blank, &ext4).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&ext4).unwrap();
    file.write_all_at(&[0x53, 0xef], 0x438).unwrap();
    let refused = start(&[blank.clone(), ext4]).unwrap_err().to_string();
    assert!(refused.contains("ext2/3/4"), "{refused}");
    assert!(kept(&blank).iter().all(|byte| *byte == 0));

    // A device in use whose labels are damaged is not taken for one that was never finished, alone or with the other.
    let file = std::fs::OpenOptions::new().write(true).open(&b).unwrap();
    for offset in [0, 64 << 10] {
        file.write_all_at(&[0; 512], offset).unwrap();
    }
    let damaged = kept(&b);
    assert!(matches!(start(&paths), Err(PoolError::BadLabel { .. })));
    assert!(matches!(start(std::slice::from_ref(&b)), Err(PoolError::ForeignDevice { .. })));
    assert!(matches!(Pool::create(&config(std::slice::from_ref(&b))), Err(PoolError::ForeignDevice { .. })));
    assert_eq!(kept(&a), before[0]);
    assert_eq!(kept(&b), damaged);
    file.write_all_at(&before[1][..512], 0).unwrap();
    assert!(is_used(&start(&paths).unwrap()));
}

#[test]
fn a_creation_that_was_interrupted_anywhere_begins_again() {
    let config = config(&[]);
    let mut points = 0;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let disks = SimDisks::new(&[16 * MIB, 12 * MIB, 12 * MIB][..1 + seed as usize % 3]);
        disks.record();
        // Of half of them an earlier attempt is there, crashed at some point too.
        let disks = if seed % 2 == 0 { disks } else { crashed_once(&disks, &config, &mut rng) };
        let id = Pool::create_on(&disks.devices(), &config).unwrap();
        let (last, mut choice) = (disks.events(), rng.clone());
        disks.crashes(
            |_| true,
            |n| choice.below(n),
            |point, disks| {
                points += 1;
                let options = || OpenOptions { manual: true, ..OpenOptions::default() };
                let start = || Pool::open_or_create_on(disks.devices(), &config, options());
                let pool = start().unwrap_or_else(|error| panic!("seed {seed}, point {point} of {last}: {error}"));
                let made = pool.id();
                assert!(point < last || made == id, "a finished one is kept");
                let vote = bytes::Bytes::from_static(b"vote");
                ready(replica(&pool, 1, 100).save_hard_state(vote.clone())).unwrap();
                pool.close().unwrap();
                let pool = start().unwrap();
                let kept = pool.replica(volume(1)).unwrap().hard_state();
                assert!(pool.id() == made && kept == Some(vote), "seed {seed}, point {point}");
            },
        );
    }
    assert!(points > 400, "{points}");
}

fn crashed_once(disks: &SimDisks, config: &PoolConfig, rng: &mut Rng) -> SimDisks {
    Pool::create_on(&disks.devices(), config).unwrap();
    let at = rng.below(disks.events() as u64) as usize;
    let mut left = None;
    disks.crashes(|point| point == at, |n| rng.below(n), |_, disks| left = Some(disks));
    let left = left.unwrap();
    left.record();
    left
}
