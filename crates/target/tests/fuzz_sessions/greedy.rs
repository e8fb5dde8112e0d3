//! Initiators that want the target's memory: they ask and ask, and take no answer.

use std::time::Duration;

use ballast_target::iscsi::pdu::*;
use ballast_target::{ServerConfig, TargetAccess};
use std::sync::Arc;
use tokio::time::timeout;

use crate::beside::{OTHER, World, beside, resident};
use crate::common::*;
use crate::wire;

/// What a session may hold: 64 MiB of answers and 64 MiB of commands that run, what one read of the socket can ask for, and
/// what the allocator keeps.
const SESSION: u64 = 256 << 20;

fn soon(c: &mut ServerConfig) {
    c.nop_interval = Duration::from_secs(2);
}

/// Sends until the target takes no more, or so many times.
async fn push(me: &mut Initiator, bytes: &[u8], times: usize) {
    for _ in 0..times {
        if timeout(Duration::from_millis(500), me.raw(bytes)).await.is_err() {
            return;
        }
    }
}

fn assert_grew_less(before: u64, bound: u64, what: &str) {
    let grown = resident().saturating_sub(before);
    println!("{what}: {} MiB more", grown >> 20);
    assert!(grown < bound, "{what}: {grown} bytes more, at most {bound} are right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_that_nobody_takes_are_bounded_and_then_the_session_ends() {
    beside(soon, async |world: &World| {
        let before = resident();
        let mut open = Vec::new();
        for i in 0..3 {
            let mut me = Initiator::ready_at(world.address, "iqn.bad", i, OTHER, "").await;
            for _ in 0..120 {
                me.start(rw16(0x88, 0, 32_768), &[], 16 << 20, 0).await; // 2 GiB in all
            }
            open.push(me);
        }
        world.good_goes_on().await;
        assert_grew_less(before, 3 * SESSION, "reads that nobody takes");
        world.others_gone().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_that_nobody_takes_answers_of_keep_no_buffers() {
    beside(
        |_| {},
        async |world: &World| {
            let mut me = Initiator::ready_at(world.address, "iqn.bad", 1, OTHER, "").await;
            // More than the sockets take, and less than what makes the target stop reading: answers wait behind it.
            for _ in 0..3 {
                me.start(rw16(0x88, 0, 32_768), &[], 16 << 20, 0).await;
            }
            let nop =
                |itt| NopOut { immediate: true, lun: 0, itt, ttt: RESERVED_TAG, cmd_sn: 5, exp_stat_sn: 0 }.encode();
            // One byte to be sent back, then so much that needs no answer that a new read buffer is begun. All of it is
            // small: what does not fit into the rest of a buffer gets one of its own.
            let mut bytes = wire(nop(1), &[1]);
            bytes.extend(wire(nop(RESERVED_TAG), &[0; 4000]).repeat(60));
            push(&mut me, &bytes, 20).await;
            let before = resident();
            push(&mut me, &bytes, 1000).await; // 240 MB
            world.good_goes_on().await;
            assert_grew_less(before, 64 << 20, "pings that nobody takes answers of");
            drop(me);
            world.others_gone().await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_immediate_requests_are_bounded() {
    beside(soon, async |world: &World| {
        let before = resident();
        let mut open = Vec::new();
        for i in 0..3 {
            let mut me = Initiator::ready_at(world.address, "iqn.bad", i, OTHER, "").await;
            let mut bytes = Vec::new();
            for n in 0..1000u32 {
                let (immediate, lun, cmd_sn, exp_stat_sn) = (true, 0, 2, 0);
                bytes.extend(match n % 3 {
                    0 => wire(NopOut { immediate, lun, itt: n, ttt: RESERVED_TAG, cmd_sn, exp_stat_sn }.encode(), &[]),
                    1 => {
                        let (function, ref_cmd_sn) = (TaskFunction::AbortTask, 0);
                        let (itt, referenced) = (n, n ^ 1);
                        let abort =
                            TaskRequest { immediate, function, lun, itt, referenced, cmd_sn, exp_stat_sn, ref_cmd_sn };
                        wire(abort.encode(), &[])
                    }
                    _ => {
                        let (last, read, write, attribute, expected) = (true, true, false, 1, 36);
                        let cdb = cdb(&[0x12, 0, 0, 0, 36]);
                        let inquiry = ScsiRequest {
                            immediate,
                            last,
                            read,
                            write,
                            attribute,
                            lun,
                            itt: n,
                            expected,
                            cmd_sn,
                            exp_stat_sn,
                            cdb,
                        };
                        wire(inquiry.encode(), &[])
                    }
                });
            }
            push(&mut me, &bytes, 3000).await; // 144 MB of requests, more of answers
            open.push(me);
        }
        world.good_goes_on().await;
        assert_grew_less(before, 3 * SESSION, "floods of immediate requests");
        world.others_gone().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_without_an_end_are_bounded() {
    beside(soon, async |world: &World| {
        for i in 0..300 {
            let device = Arc::new(Held::new());
            world.server.add_target(format!("iqn.2026-01.test:more{i:03}"), device, TargetAccess::default()).unwrap();
        }
        let before = resident();
        let text = |last, more| {
            let (itt, ttt) = (5, RESERVED_TAG);
            TextRequest { immediate: true, last, more, lun: 0, itt, ttt, cmd_sn: 1, exp_stat_sn: 0 }.encode()
        };
        // A question that never ends: refused, and the session goes on.
        let mut me = Initiator::login(world.address, "iqn.bad", 1, None, "").await.unwrap();
        let mut ttt = RESERVED_TAG;
        loop {
            let mut request = text(false, true);
            request[20..24].copy_from_slice(&ttt.to_be_bytes());
            me.send(request, &[b'x'; 60_000]).await;
            let pdu = me.recv().await.expect("an answer");
            me.count(NopIn::decode(&pdu.bhs).numbers.stat);
            if opcode_of(&pdu.bhs) == opcode::REJECT {
                break;
            }
            ttt = TextResponse::decode(&pdu.bhs).ttt;
        }
        assert_eq!(me.targets("All").await.len(), 302);
        me.logout().await;
        // Questions with long answers, which nobody takes.
        let mut open = Vec::new();
        for i in 0..2 {
            let mut me = Initiator::login(world.address, "iqn.bad", i, None, "").await.unwrap();
            let bytes = wire(text(true, false), b"SendTargets=All\0").repeat(100);
            push(&mut me, &bytes, 1000).await;
            open.push(me);
        }
        world.good_goes_on().await;
        assert_grew_less(before, 2 * SESSION, "lists of targets that nobody takes");
    })
    .await;
}
