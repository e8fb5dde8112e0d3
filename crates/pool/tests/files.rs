//! Pools on real files.

#![allow(clippy::unwrap_used)]

mod support;

use ballast_pool::*;
use support::*;

#[test]
fn written_data_survives_closing_and_dropping() {
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[128 * MIB]);
    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let one = replica(&pool, 1, 1000);
    append(&one, vec![write(1, 10, &[1, 2, 3]), nothing(2), write(3, 11, &[4])]).unwrap();
    assert!(read(&one, 10, 3).payload.iter().all(|byte| *byte == 0), "not applied yet");
    wait(one.apply(3, &[], None)).unwrap();
    assert_eq!(read(&one, 10, 3).payload, [block(1), block(4), block(3)].concat());
    wait(one.save_hard_state("vote".into())).unwrap();
    pool.close().unwrap();
    assert!(matches!(append(&one, vec![nothing(4)]), Err(PoolError::Closed)));

    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let one = pool.replica(volume(1)).unwrap();
    assert_eq!(one.applied(), Some(mark(3)));
    assert_eq!(one.hard_state().unwrap(), "vote");
    assert_eq!(read(&one, 10, 3).payload, [block(1), block(4), block(3)].concat());
    append(&one, vec![write(4, 500, &[9])]).unwrap();
    drop((one, pool));

    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let one = pool.replica(volume(1)).unwrap();
    assert_eq!(one.log_state(), LogState { purged: None, last: Some(mark(4)), durable: Some(4) });
    let log = wait(one.read_log(1..10, 1 << 20)).unwrap();
    assert_eq!(log.len(), 4);
    assert!(matches!(&log[3].op, LogOp::Write { payload, .. } if *payload == block(9)));
    wait(one.apply(4, &[], None)).unwrap();
    assert_eq!(read(&one, 500, 1).payload, block(9));
    pool.close().unwrap();
}

/// One append of more than the preparer keeps ahead waits for it; it does not wait for ever.
#[test]
fn an_append_larger_than_what_is_prepared_gets_its_space() {
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[512 * MIB]);
    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let one = replica(&pool, 1, 100_000);
    let LogOp::Write { crcs, payload, .. } = write(1, 0, &[7; 256]).op else { unreachable!() };
    let records = (1..=100).map(|index| {
        let op = LogOp::Write { lba: ballast_api::Lba(index * 256), crcs: crcs.clone(), payload: payload.clone() };
        LogRecord { mark: mark(index), header: bytes::Bytes::new(), op }
    });
    let records: Vec<LogRecord> = records.collect();
    let (tx, rx) = std::sync::mpsc::channel();
    let writer = one.clone();
    std::thread::spawn(move || tx.send(append(&writer, records)));
    rx.recv_timeout(std::time::Duration::from_secs(120)).expect("it gets its space").unwrap();
    wait(one.apply(100, &[], None)).unwrap();
    assert_eq!(read(&one, 100 * 256 + 255, 1).payload, block(7));
    pool.close().unwrap();
}

#[test]
fn a_pool_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[64 * MIB]);
    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let refused = Pool::open(&paths, OpenOptions::default()).unwrap_err();
    assert!(matches!(refused, PoolError::Locked { .. }));
    let text = refused.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    pool.close().unwrap();
    drop(Pool::open(&paths, OpenOptions::default()).unwrap());
    Pool::open(&paths, OpenOptions::default()).unwrap().close().unwrap();
}

#[test]
fn devices_with_data_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[64 * MIB]);
    let create = |path: &std::path::Path| {
        let devices = vec![DeviceConfig { path: path.to_owned(), size: Some(64 * MIB) }];
        Pool::create(&PoolConfig { name: String::from("x"), devices, ..PoolConfig::default() })
    };
    let text = create(&paths[0]).unwrap_err().to_string();
    assert!(text.contains("a device of pool test"), "{text}");
    let other = dir.path().join("ext4");
    let mut bytes = vec![0; 64 << 20];
    bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
    std::fs::write(&other, &bytes).unwrap();
    let text = create(&other).unwrap_err().to_string();
    assert!(text.contains("ext2/3/4") && text.contains("Wipe"), "{text}");
    assert_eq!(std::fs::read(&other).unwrap(), bytes, "untouched");
}

#[test]
fn wrong_sets_of_devices_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    std::fs::create_dir_all(&one).unwrap();
    std::fs::create_dir_all(&two).unwrap();
    let a = make(&one, &[64 * MIB, 32 * MIB, 32 * MIB]);
    let b = make(&two, &[64 * MIB, 32 * MIB, 32 * MIB]);
    let open = |paths: &[std::path::PathBuf]| Pool::open(paths, OpenOptions::default());
    assert!(matches!(open(&a[..2]), Err(PoolError::DeviceMissing { index: 2, count: 3, .. })));
    assert!(matches!(open(&a[1..]), Err(PoolError::DeviceMissing { index: 0, .. })));
    assert!(matches!(open(&[a[0].clone(), b[1].clone(), a[2].clone()]), Err(PoolError::BadLabel { .. })));
    let empty = dir.path().join("empty");
    std::fs::write(&empty, vec![0; 1 << 20]).unwrap();
    assert!(matches!(open(&[empty]), Err(PoolError::BadLabel { .. })));
    // Order does not matter: the labels tell.
    let pool = open(&[a[2].clone(), a[0].clone(), a[1].clone()]).unwrap();
    let replica = replica(&pool, 1, 3000);
    for index in 1..=300 {
        append(&replica, vec![write(index, index * 7, &[index, index + 1])]).unwrap();
    }
    wait(replica.apply(300, &[], None)).unwrap();
    let written: Vec<u64> = pool.stats().devices.iter().map(|device| device.written_bytes).collect();
    pool.close().unwrap();
    assert!(written[1] > 100 * 8192 && written[2] > 100 * 8192, "batches go to all devices: {written:?}");
    let report = inspect(&a, true).unwrap();
    assert!(report.problems.is_empty() && report.verified_blocks == 600, "{report}");
    let pool = open(&a).unwrap();
    assert_eq!(read(&pool.replica(volume(1)).unwrap(), 700, 2).payload, [block(100), block(101)].concat());
}

#[test]
fn other_versions_are_refused() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[64 * MIB]);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&paths[0]).unwrap();
    for offset in [0, 64 << 10] {
        let mut label = vec![0; 4096];
        file.read_exact_at(&mut label, offset).unwrap();
        label[8] = 9;
        let crc = crc32fast::hash(&label[..4092]);
        label[4092..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&label, offset).unwrap();
    }
    let refused = Pool::open(&paths, OpenOptions::default()).unwrap_err();
    assert!(matches!(refused, PoolError::WrongVersion { found: 9, supported: 1, .. }), "{refused}");
}

#[test]
fn sparse_files_grow_with_use_and_writes_wait_for_that() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[1 << 30]);
    let on_disk = || std::fs::metadata(&paths[0]).unwrap().blocks() * 512;
    assert!(on_disk() < 32 * MIB, "only labels, journal and a little metadata: {}", on_disk());
    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let replica = replica(&pool, 1, 1 << 20);
    // More than one chunk of 64 MiB, as fast as it goes.
    let tags: Vec<u64> = (1..=256).collect();
    for index in 1..=100 {
        replica.append(vec![write(index, index * 256, &tags)], Box::new(|result| result.unwrap())).unwrap();
    }
    wait(replica.wait_durable(100)).unwrap();
    wait(replica.apply(100, &[], None)).unwrap();
    assert_eq!(read(&replica, 100 * 256, 256).payload.len(), 1 << 20);
    let stats = pool.stats();
    assert_eq!(stats.payload_bytes_written, 100 * MIB);
    assert!(stats.devices[0].prepared_bytes >= 128 * MIB && on_disk() < 512 * MIB, "{stats:?}");
    pool.close().unwrap();
}

#[test]
fn batches_share_flushes_and_small_writes_cost_little() {
    let dir = tempfile::tempdir().unwrap();
    let paths = make(dir.path(), &[256 * MIB]);
    let pool = Pool::open(&paths, OpenOptions::default()).unwrap();
    let replica = replica(&pool, 1, 1 << 16);
    let before = pool.stats();
    // One at a time: a header block each.
    for index in 1..=64 {
        append(&replica, vec![write(index, index, &[index])]).unwrap();
    }
    let one = pool.stats();
    assert_eq!(one.payload_bytes_written - before.payload_bytes_written, 64 * 4096);
    assert_eq!(one.journal_bytes_written - before.journal_bytes_written, 64 * 4096);
    assert_eq!(one.batches - before.batches, 64);
    // 32 in one call: one header block, one flush.
    for round in 0..16 {
        let first = 65 + round * 32;
        append(&replica, (first..first + 32).map(|index| write(index, index, &[index])).collect()).unwrap();
    }
    let many = pool.stats();
    assert_eq!(many.payload_bytes_written - one.payload_bytes_written, 512 * 4096);
    assert_eq!(many.journal_bytes_written - one.journal_bytes_written, 16 * 4096);
    assert_eq!(many.batches - one.batches, 16);
    pool.close().unwrap();
}
