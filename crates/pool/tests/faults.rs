//! Failing devices, damaged bytes, full pools: on simulated disks.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::mpsc;

use ballast_api::{BlockCount, Lba};
use ballast_pool::sim::{SimDisks, SimFault};
use ballast_pool::*;
use bytes::Bytes;
use support::workload::options;
use support::*;

const JOURNAL: u64 = MIB + 8 * MIB;
const EXTENTS: u64 = JOURNAL + (512 << 10);

fn pool(blocks: u64) -> (SimDisks, Pool) {
    let disks = SimDisks::new(&[EXTENTS + blocks * 4096]);
    let config = PoolConfig {
        name: String::from("faults"),
        devices: Vec::new(),
        journal_bytes: Some(512 << 10),
        meta_bytes: Some(8 * MIB),
    };
    Pool::create_on(&disks.devices(), &config).unwrap();
    let pool = Pool::open_on(disks.devices(), options()).unwrap();
    (disks, pool)
}

fn put(pool: &Pool, replica: &Replica, records: Vec<LogRecord>) -> Result<(), PoolError> {
    let (tx, rx) = mpsc::channel();
    replica.append(records, Box::new(move |result| tx.send(result).unwrap()))?;
    while pool.write_batch().unwrap_or(false) {}
    rx.recv().unwrap()
}

fn create(pool: &Pool, n: u8) -> Replica {
    ready(pool.create_replica(volume(n), ReplicaConfig { blocks: BlockCount(10_000), user: Bytes::new() })).unwrap()
}

fn get(replica: &Replica, lba: u64) -> Result<Bytes, PoolError> {
    ready(replica.read(Lba(lba), BlockCount(1))).map(|data| data.payload)
}

#[test]
fn a_failed_write_or_flush_fences_the_pool() {
    for fault in [SimFault::FailWrites, SimFault::FailFlushes] {
        let (disks, pool) = pool(200);
        let one = create(&pool, 1);
        put(&pool, &one, vec![write(1, 1, &[1])]).unwrap();
        disks.set_fault(fault);
        assert!(matches!(put(&pool, &one, vec![write(2, 2, &[2])]), Err(PoolError::Fenced { .. })));
        disks.set_fault(SimFault::None);
        let refused = one.append(vec![write(3, 3, &[3])], Box::new(|_| {})).unwrap_err();
        assert!(matches!(refused, PoolError::Fenced { .. }), "fenced for good: {refused}");
        assert!(matches!(ready(one.save_hard_state(Bytes::new())), Err(PoolError::Fenced { .. })));
        assert!(pool.stats().devices[0].fenced.is_some());
        drop((one, pool));
        let pool = Pool::open_on(disks.devices(), options()).unwrap();
        let one = pool.replica(volume(1)).unwrap();
        assert!(one.log_state().last.unwrap().index >= 1);
        put(&pool, &one, vec![write(one.log_state().last.unwrap().index + 1, 3, &[3])]).unwrap();
    }
}

#[test]
fn a_damaged_middle_of_the_journal_is_never_dropped() {
    let (disks, pool) = pool(200);
    let one = create(&pool, 1);
    for index in 1..=6 {
        put(&pool, &one, vec![write(index, index, &[index])]).unwrap();
    }
    // Batch 1 created the replica; batch 3 is the second write.
    let damaged = disks.copy();
    damaged.damage(0, JOURNAL + 3 * 4096, |page| page[100] ^= 1);
    let refused = Pool::open_on(damaged.devices(), options()).unwrap_err();
    assert!(matches!(refused, PoolError::JournalDamaged { seq: 4, later: 5.., .. }), "{refused}");
    // The last one may be torn: it is dropped.
    let torn = disks.copy();
    torn.damage(0, JOURNAL + 6 * 4096, |page| page[100] ^= 1);
    let pool = Pool::open_on(torn.devices(), options()).unwrap();
    assert_eq!(pool.replica(volume(1)).unwrap().log_state().last, Some(mark(5)));
    // So is one whose payload did not arrive.
    let torn = disks.copy();
    torn.damage(0, EXTENTS + 5 * 4096, |page| page[0] ^= 1);
    let pool = Pool::open_on(torn.devices(), options()).unwrap();
    assert_eq!(pool.replica(volume(1)).unwrap().log_state().last, Some(mark(5)));
}

#[test]
fn corrupt_blocks_are_never_returned() {
    let (disks, pool) = pool(200);
    let one = create(&pool, 1);
    put(&pool, &one, vec![write(1, 70, &[1, 2, 3])]).unwrap();
    ready(one.apply(1, &[], None)).unwrap();
    disks.damage(0, EXTENTS + 4096, |page| page[9] ^= 1);
    assert_eq!(get(&one, 70).unwrap(), block(1));
    match get(&one, 71) {
        Err(PoolError::Corrupt { lba: 71, block, volume: of, expected, got, .. }) => {
            assert_eq!((block, of), (EXTENTS / 4096 + 1, volume(1)));
            assert_ne!(expected, got);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.check(true).unwrap().len(), 1);
    // Another batch, so that the first one is known to be durable and cannot be a torn tail.
    put(&pool, &one, vec![nothing(2)]).unwrap();
    drop((one, pool));
    let report = inspect_on(disks.devices(), true).unwrap();
    assert_eq!(report.problems.len(), 1, "{report}");
}

#[test]
fn what_is_remembered_is_read_from_memory_until_it_is_overwritten() {
    let (disks, pool) = pool(200);
    let one = create(&pool, 1);
    let payload = |record: &LogRecord| match &record.op {
        LogOp::Write { payload, .. } => payload.clone(),
        _ => unreachable!(),
    };
    let first = write(1, 70, &[1, 2, 3]);
    let remembered = payload(&first);
    put(&pool, &one, vec![first]).unwrap();
    ready(one.apply(1, &[], None)).unwrap();
    one.remember(Lba(70), 1, &remembered);
    for nth in 0..3 {
        disks.damage(0, EXTENTS + nth * 4096, |page| page[9] ^= 1);
    }
    let all = || ready(one.read(Lba(70), BlockCount(3)));
    assert_eq!(all().unwrap().payload, remembered, "no device was asked");
    // Overwritten, and nobody remembers the new one: it comes from the device, its neighbours do not.
    put(&pool, &one, vec![write(2, 71, &[9])]).unwrap();
    ready(one.apply(2, &[], None)).unwrap();
    assert_eq!(all().unwrap().payload, [block(1), block(9), block(3)].concat());
    // A replica that is opened again has forgotten.
    drop((one, pool));
    let pool = Pool::open_on(disks.devices(), options()).unwrap();
    let one = pool.replica(volume(1)).unwrap();
    ready(one.apply(2, &[], None)).unwrap();
    assert!(matches!(ready(one.read(Lba(70), BlockCount(3))), Err(PoolError::Corrupt { lba: 70, .. })));
}

#[test]
fn payloads_that_do_not_match_are_refused() {
    let (_, pool) = pool(200);
    let one = create(&pool, 1);
    let mut record = write(1, 5, &[1, 2]);
    let LogOp::Write { payload, .. } = &mut record.op else { unreachable!() };
    let mut bytes = payload.to_vec();
    bytes[5000] ^= 1;
    *payload = Bytes::from(bytes);
    assert!(matches!(put(&pool, &one, vec![record]), Err(PoolError::PayloadMismatch { lba: 6, .. })));
    assert!(matches!(put(&pool, &one, vec![write(1, 9_999, &[1, 2])]), Err(PoolError::OutOfRange { .. })));
    put(&pool, &one, vec![write(1, 9_999, &[1])]).unwrap();
    assert!(matches!(put(&pool, &one, vec![nothing(3)]), Err(PoolError::LogGap { got: 3, .. })));
    assert_eq!(one.allocated_blocks(), 1);
}

#[test]
fn a_full_pool_refuses_writes_and_recovers_by_unmap() {
    let (_, pool) = pool(200);
    let one = create(&pool, 1);
    let mut index = 1;
    let full = loop {
        match put(&pool, &one, vec![write(index, index * 4, &[index; 4])]) {
            Ok(()) => index += 1,
            Err(e) => break e,
        }
        ready(one.apply(index - 1, &[], None)).unwrap();
    };
    assert!(matches!(full, PoolError::NoSpace { needed: 4, .. }), "{full}");
    assert!(matches!(pool.admit(100), Err(PoolError::NoSpace { .. })));
    assert_eq!(one.log_state().last, Some(mark(index - 1)), "a refused append changes nothing");
    // Unmap, checkpoint, purge: then there is room again.
    put(&pool, &one, vec![unmap(index, 0, 10_000)]).unwrap();
    ready(one.apply(index, &[], None)).unwrap();
    assert_eq!(get(&one, 8).unwrap(), vec![0; 4096]);
    assert!(
        matches!(put(&pool, &one, vec![write(index + 1, 0, &[1; 4])]), Err(PoolError::NoSpace { .. })),
        "the log still needs them"
    );
    let covered = ready(one.checkpoint()).unwrap().unwrap();
    assert_eq!(covered, mark(index));
    assert!(matches!(one.purge(mark(index + 1)), Err(PoolError::LogGap { .. })));
    one.purge(covered).unwrap();
    for next in index + 1..index + 30 {
        put(&pool, &one, vec![write(next, next, &[next; 4])]).unwrap();
    }
    pool.admit(10).unwrap();
    assert!(pool.check(true).unwrap().is_empty());
}

#[test]
fn what_is_admitted_has_its_room_whoever_comes_next() {
    let (_, pool) = pool(200);
    let one = create(&pool, 1);
    let mut promised = Vec::new();
    let full = loop {
        match pool.admit(16) {
            Ok(admission) => promised.push(admission),
            Err(e) => break e,
        }
    };
    let PoolError::NoSpace { needed: 16, free } = full else { panic!("{full}") };
    assert!(free < 16, "{free}");
    assert!(promised.len() > 3, "{} promises", promised.len());
    for (nth, admission) in promised.drain(..).enumerate() {
        let index = nth as u64 + 1;
        put(&pool, &one, vec![write(index, index * 16, &[index; 16])]).unwrap();
        drop(admission);
    }
    assert!(matches!(pool.admit(16), Err(PoolError::NoSpace { .. })), "now the log holds it");
}

#[test]
fn deleted_replicas_give_their_blocks_back() {
    let (_, pool) = pool(200);
    let (one, two) = (create(&pool, 1), create(&pool, 2));
    for index in 1..=10 {
        put(&pool, &one, vec![write(index, index * 600, &[index; 4])]).unwrap();
        put(&pool, &two, vec![write(index, index * 600, &[100 + index; 4])]).unwrap();
    }
    ready(one.apply(8, &[3], None)).unwrap();
    assert_eq!(pool.stats().allocated_bytes, 80 * 4096);
    ready(pool.delete_replica(volume(1))).unwrap();
    assert!(matches!(pool.replica(volume(1)), Err(PoolError::UnknownReplica { .. })));
    assert!(matches!(one.append(vec![nothing(11)], Box::new(|_| {})), Err(PoolError::UnknownReplica { .. })));
    ready(pool.checkpoint()).unwrap();
    assert_eq!(pool.stats().allocated_bytes, 40 * 4096);
    let again = create(&pool, 1);
    assert_eq!((again.log_state(), again.applied()), (LogState::default(), None));
    let other = ReplicaConfig { blocks: BlockCount(20_000), user: Bytes::new() };
    assert!(matches!(ready(pool.create_replica(volume(1), other)), Err(PoolError::ReplicaExists { .. })));
    // One that has grown since is the same one.
    again.grow(BlockCount(20_000));
    create(&pool, 1);
    assert_eq!(again.config().blocks, BlockCount(20_000));
    assert!(pool.check(true).unwrap().is_empty());
}

#[test]
fn exports_and_installs_carry_a_replica_over() {
    let (_, from) = pool(300);
    let (disks, to) = pool(300);
    let (source, target) = (create(&from, 1), create(&to, 1));
    for index in 1..=20 {
        put(&from, &source, vec![write(index, index * 400, &[index, index + 1000, index + 2000])]).unwrap();
    }
    ready(source.apply(20, &[7], None)).unwrap();
    put(&to, &target, vec![write(1, 0, &[5]), write(2, 1, &[6])]).unwrap();
    ready(target.apply(1, &[], None)).unwrap();
    ready(target.save_hard_state(Bytes::from_static(b"vote"))).unwrap();
    let mut abandoned = target.begin_install(mark(20), Bytes::new()).unwrap();
    ready(abandoned.write(Lba(3), &[1], &[crc32fast::hash(&block(1))], Bytes::from(block(1)))).unwrap();
    drop(abandoned);
    let mut installer = target.begin_install(mark(20), Bytes::from_static(b"state")).unwrap();
    let mut at = Lba(0);
    let mut blocks = 0;
    while let Some(chunk) = ready(source.export(at, 2)).unwrap() {
        assert!(chunk.births.iter().all(|birth| *birth == chunk.lba.0 / 400));
        blocks += chunk.crcs.len();
        at = Lba(chunk.lba.0 + chunk.crcs.len() as u64);
        ready(installer.write(chunk.lba, &chunk.births, &chunk.crcs, chunk.payload)).unwrap();
    }
    assert_eq!(blocks, 19 * 3);
    assert_eq!(get(&target, 0).unwrap(), block(5), "nothing changes before the end");
    let watch = target.checkpointed();
    ready(installer.finish()).unwrap();
    assert_eq!(*watch.borrow(), Some(mark(20)), "the same channel tells of the new map");
    ready(to.checkpoint()).unwrap();
    assert_eq!(to.stats().allocated_bytes, 57 * 4096);
    drop((target, to));
    let to = Pool::open_on(disks.devices(), options()).unwrap();
    let target = to.replica(volume(1)).unwrap();
    assert_eq!(target.log_state(), LogState { purged: Some(mark(20)), last: Some(mark(20)), durable: Some(20) });
    assert_eq!(target.state_at_checkpoint(), (Some(mark(20)), Some(Bytes::from_static(b"state"))));
    assert_eq!(target.hard_state().unwrap(), "vote");
    assert_eq!(get(&target, 0).unwrap(), vec![0; 4096]);
    assert_eq!(get(&target, 8001).unwrap(), block(1020));
    assert_eq!(get(&target, 2801).unwrap(), vec![0; 4096], "entry 7 was skipped");
    put(&to, &target, vec![write(21, 0, &[9])]).unwrap();
    assert!(to.check(true).unwrap().is_empty());
}

#[test]
fn an_interrupted_creation_can_be_repeated() {
    let config = PoolConfig {
        name: String::from("again"),
        devices: Vec::new(),
        journal_bytes: Some(512 << 10),
        meta_bytes: Some(8 * MIB),
    };
    let disks = SimDisks::new(&[EXTENTS + 200 * 4096]);
    disks.record();
    Pool::create_on(&disks.devices(), &config).unwrap();
    let mut rng = Rng::new(1);
    let (mut made, mut repeated) = (0, 0);
    disks.crashes(
        |_| true,
        |n| rng.below(n),
        |point, after| match Pool::create_on(&after.devices(), &config) {
            Ok(_) => {
                repeated += 1;
                Pool::open_on(after.devices(), options()).unwrap().close().unwrap();
            }
            Err(PoolError::ForeignDevice { found, .. }) => {
                assert!(found.contains("pool again") || found.contains("unknown"), "crash point {point}: {found}");
                made += 1;
            }
            Err(e) => panic!("crash point {point}: {e}"),
        },
    );
    assert!(repeated > 5 && made > 0, "repeated {repeated}, made {made}");
}

#[test]
fn a_full_file_system_under_a_sparse_pool_is_a_full_pool() {
    let disks = SimDisks::new(&[EXTENTS + 40_000 * 4096]);
    disks.set_host_limit(EXTENTS + 20_000 * 4096);
    let config = PoolConfig {
        name: String::from("thin"),
        devices: Vec::new(),
        journal_bytes: Some(512 << 10),
        meta_bytes: Some(8 * MIB),
    };
    Pool::create_on(&disks.devices(), &config).unwrap();
    let pool = Pool::open_on(disks.devices(), options()).unwrap();
    let config = ReplicaConfig { blocks: BlockCount(1 << 20), user: Bytes::new() };
    let one = ready(pool.create_replica(volume(1), config)).unwrap();
    let zeroes = vec![0; 256];
    let mut index = 1;
    let full = loop {
        match put(&pool, &one, vec![write(index, index * 256, &zeroes)]) {
            Ok(()) => index += 1,
            Err(e) => break e,
        }
    };
    // One chunk of 16384 blocks was prepared, the second one did not fit.
    assert!(matches!(full, PoolError::NoSpace { needed: 256, .. }), "{full}");
    assert_eq!(index - 1, 16384 / 256);
    ready(one.apply(index - 1, &[], None)).unwrap();
    put(&pool, &one, vec![unmap(index, 0, 1 << 20)]).unwrap();
    ready(one.apply(index, &[], None)).unwrap();
    let covered = ready(one.checkpoint()).unwrap().unwrap();
    one.purge(covered).unwrap();
    put(&pool, &one, vec![write(index + 1, 0, &zeroes)]).unwrap();
    assert!(pool.stats().devices[0].fenced.is_none());
}
