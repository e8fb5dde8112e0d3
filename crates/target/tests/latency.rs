//! What the histograms say after commands over loopback TCP.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ballast_target::iscsi::pdu::TaskFunction;
use ballast_target::latency::{Kind, Snapshot};
use ballast_target::{DeviceError, TargetServer};
use common::{Held, IQN, Initiator, cdb, rw16, serve};

/// The snapshots of one kind, stage by stage.
fn stages(server: &TargetServer<Held>, wanted: Kind) -> [Snapshot; 5] {
    let all = server.latencies(IQN).into_iter();
    let of_kind: Vec<_> = all.filter(|(kind, ..)| *kind == wanted).map(|(.., snapshot)| snapshot).collect();
    of_kind.try_into().expect("each stage once")
}

fn counts(server: &TargetServer<Held>, kind: Kind) -> [u64; 5] {
    stages(server, kind).map(|snapshot| snapshot.count())
}

/// A command counts when its response is written, which the initiator may see a moment before.
async fn until_counted(server: &TargetServer<Held>, kind: Kind, wanted: [u64; 5]) {
    let counted = async {
        while counts(server, kind) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), counted).await;
    assert!(waited.is_ok(), "{kind:?}: {:?} and not {wanted:?}", counts(server, kind));
}

#[tokio::test]
async fn every_answered_command_is_counted_once_in_each_of_its_stages() {
    let (server, address, device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    for n in 0..5 {
        me.write(n * 8, &[n as u8; 4096]).await;
    }
    // In several PDUs each way.
    me.write(64, &vec![7; 600 * 512]).await;
    for _ in 0..3 {
        me.read(64, 600 * 512).await;
    }
    // This one asks no leader, like a refused one.
    device.skip_leader();
    me.read(0, 4096).await;
    device.fail(DeviceError::NoSpace);
    assert_eq!(me.command(rw16(0x8a, 0, 8), &[1; 4096], 0).await.status, 2);
    me.command(cdb(&[0x35]), &[], 0).await;
    until_counted(&server, Kind::Write, [7, 6, 6, 6, 7]).await;
    until_counted(&server, Kind::Read, [4, 3, 3, 3, 4]).await;
    // SYNCHRONIZE CACHE, and the TEST UNIT READY of the beginning that met a unit attention is answered without being run.
    until_counted(&server, Kind::Other, [1, 0, 0, 0, 1]).await;
}

#[tokio::test]
async fn the_stages_of_commands_add_up_to_their_total() {
    let (server, address, _device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "InitialR2T=No\n").await;
    let mut writes = Vec::new();
    for n in 0..40 {
        writes.push(me.start(rw16(0x8a, n * 8, 8), &[n as u8; 4096], 0, 4096).await);
    }
    for _ in writes {
        let pdu = me.recv().await.unwrap();
        assert_eq!(pdu.bhs[3], 0, "GOOD");
    }
    until_counted(&server, Kind::Write, [40; 5]).await;
    let [queue, send, replicate, answer, total] = stages(&server, Kind::Write);
    let parts = [&queue, &send, &replicate, &answer].map(|stage| stage.sum_ns);
    assert_eq!(parts.iter().sum::<u64>(), total.sum_ns);
    assert!(parts.iter().all(|part| *part <= total.sum_ns));
    for part in [&queue, &send, &replicate, &answer] {
        assert!(part.max_ns <= total.max_ns, "{part:?} {total:?}");
    }
    assert!(replicate.sum_ns > 0);
}

#[tokio::test]
async fn what_waits_for_the_leader_is_the_leaders_time_and_what_is_aborted_is_nobodys() {
    let (server, address, device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    device.hold();
    let itt = me.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    let held = Duration::from_millis(50);
    tokio::time::sleep(held).await;
    device.release();
    assert_eq!(me.finish(itt, &[]).await.status, 0);
    until_counted(&server, Kind::Write, [1; 5]).await;
    let [.., replicate, _, total] = stages(&server, Kind::Write);
    assert!(u128::from(replicate.sum_ns) >= held.as_nanos() && replicate.sum_ns <= total.sum_ns);

    device.hold();
    let itt = me.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(2).await;
    me.task_management(TaskFunction::AbortTask, itt).await;
    // When this is answered, the abort was read.
    me.read(8, 512).await;
    device.release();
    assert_eq!(me.task_response().await, 0);
    assert_eq!(counts(&server, Kind::Write), [1; 5]);
}

#[tokio::test]
async fn a_target_that_is_not_there_has_nothing_to_tell() {
    let (server, ..) = serve(|_| {}).await;
    assert!(server.latencies("iqn.2026-01.test:other").is_empty());
    server.remove_target(IQN);
    assert!(server.latencies(IQN).is_empty());
}
