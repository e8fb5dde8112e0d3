//! Reservations between sessions: what one initiator does to the tasks and sessions of another.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use ballast_target::iscsi::pdu::{TaskFunction, opcode, opcode_of};
use common::{Initiator, cdb, rw16, serve};

const CONFLICT: u8 = 0x18;
const REGISTER_IGNORE: u8 = 6;
const RESERVE: u8 = 1;
const PREEMPT_AND_ABORT: u8 = 5;

async fn out(who: &mut Initiator, action: u8, kind: u8, key: u64, second: u64) -> u8 {
    let list = [key.to_be_bytes(), second.to_be_bytes(), [0; 8]].concat();
    who.command(cdb(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24]), &list, 0).await.status
}

#[tokio::test]
async fn preempt_and_abort_is_answered_when_no_write_of_the_other_can_land_any_more() {
    // Also when the device takes longer than other things wait for it.
    let (_server, address, device) = serve(|config| config.drain_timeout = Duration::from_millis(20)).await;
    let mut old = Initiator::ready(address, "iqn.old", 1, "").await;
    let mut new = Initiator::ready(address, "iqn.new", 1, "").await;
    assert_eq!(out(&mut old, REGISTER_IGNORE, 0, 0, 1).await, 0);
    assert_eq!(out(&mut new, REGISTER_IGNORE, 0, 0, 2).await, 0);
    assert_eq!(out(&mut old, RESERVE, 1, 1, 0).await, 0);
    device.hold();
    old.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    let list = [2u64.to_be_bytes(), 1u64.to_be_bytes(), [0; 8]].concat();
    let itt = new.start(cdb(&[0x5f, PREEMPT_AND_ABORT, 1, 0, 0, 0, 0, 0, 24]), &list, 0, 24).await;
    let early = tokio::time::timeout(Duration::from_millis(300), new.recv()).await;
    assert!(early.is_err(), "answered while the write was under way");
    device.release();
    assert_eq!(new.finish(itt, &list).await.status, 0);
    // The aborted write is not answered; the next command is told why, and then kept out.
    let told = old.command(cdb(&[0]), &[], 0).await;
    assert_eq!(told.code(), 0x2a05);
    assert_eq!(old.command(rw16(0x8a, 0, 8), &[3; 4096], 0).await.status, CONFLICT);
    new.write(0, &[2; 4096]).await;
    assert_eq!(new.read(0, 512).await, [2; 512]);
}

#[tokio::test]
async fn persistent_reservations_outlive_the_session_and_reserve_does_not() {
    let (server, address, _) = serve(|_| {}).await;
    let mut other = Initiator::ready(address, "iqn.other", 1, "").await;
    let mut me = Initiator::ready(address, "iqn.me", 1, "").await;
    assert_eq!(me.command(cdb(&[0x16]), &[], 0).await.status, 0);
    assert_eq!(other.command(cdb(&[0]), &[], 0).await.status, CONFLICT);
    me.logout().await;
    assert_eq!(other.command(cdb(&[0]), &[], 0).await.status, 0);

    let mut me = Initiator::ready(address, "iqn.me", 1, "").await;
    assert_eq!(out(&mut me, REGISTER_IGNORE, 0, 0, 1).await, 0);
    assert_eq!(out(&mut me, RESERVE, 3, 1, 0).await, 0);
    drop(me);
    while server.sessions(common::IQN).len() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(other.command(rw16(0x88, 0, 1), &[], 512).await.status, CONFLICT);
    // Another ISID of the same name is another port.
    let mut path = Initiator::ready(address, "iqn.me", 2, "").await;
    assert_eq!(path.command(rw16(0x88, 0, 1), &[], 512).await.status, CONFLICT);
    let mut me = Initiator::ready(address, "iqn.me", 1, "").await;
    assert_eq!(me.read(0, 512).await, [0; 512]);
}

#[tokio::test]
async fn a_reset_ends_reserve_and_no_persistent_reservation() {
    let (_server, address, _) = serve(|_| {}).await;
    let mut holder = Initiator::ready(address, "iqn.holder", 1, "").await;
    let mut other = Initiator::ready(address, "iqn.other", 1, "").await;
    assert_eq!(holder.command(cdb(&[0x16]), &[], 0).await.status, 0);
    other.task_management(TaskFunction::LogicalUnitReset, 0).await;
    assert_eq!(other.task_response().await, 0);
    assert_eq!(other.command(cdb(&[0]), &[], 0).await.code(), 0x2903);
    assert_eq!(other.command(cdb(&[0]), &[], 0).await.status, 0);
    assert_eq!(holder.command(cdb(&[0]), &[], 0).await.code(), 0x2903);
    assert_eq!(out(&mut holder, REGISTER_IGNORE, 0, 0, 1).await, 0);
    assert_eq!(out(&mut holder, RESERVE, 1, 1, 0).await, 0);
    other.task_management(TaskFunction::LogicalUnitReset, 0).await;
    assert_eq!(other.task_response().await, 0);
    assert_eq!(other.command(cdb(&[0]), &[], 0).await.code(), 0x2903);
    assert_eq!(other.command(rw16(0x8a, 0, 1), &[1; 512], 0).await.status, CONFLICT);
    let answer = other.start(cdb(&[0]), &[], 0, 0).await;
    assert_eq!(opcode_of(&other.recv().await.unwrap().bhs), opcode::SCSI_RESPONSE, "{answer}");
}
