//! Pools on real files.

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
