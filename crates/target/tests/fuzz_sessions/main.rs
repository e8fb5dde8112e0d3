//! Initiators that are broken or mean, over loopback TCP, while a good one works beside them.
//!
//! The good one writes, reads back and compares all the while; its session must be the same at the end as at the start.
//! The others do what they like to a target of their own in the same server.
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

mod beside;
mod crowd;
mod greedy;

use ballast_target::BlockDevice;
use ballast_target::iscsi::pdu::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use beside::{OTHER, World, beside};
use common::*;

/// A small random generator with a seed, as the other tests over sockets have it.
pub(crate) struct Random(u32);

impl Random {
    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.word() as usize % n
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.word() as u8).collect()
    }
}

/// The bytes of a PDU without digests.
pub(crate) fn wire(bhs: Bhs, data: &[u8]) -> Vec<u8> {
    let mut out = bhs.to_vec();
    out[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(data);
    out.resize(out.len() + padding(data.len()), 0);
    out
}

/// A login request for the other target.
pub(crate) fn login_request(isid: u8, transit: bool, more: bool) -> LoginRequest {
    LoginRequest {
        transit,
        more,
        csg: 1,
        nsg: 3,
        version_max: 0,
        version_min: 0,
        isid: [0x80, 0, 0, 0, 0, isid],
        tsih: 0,
        itt: 0,
        cid: 0,
        cmd_sn: 1,
        exp_stat_sn: 0,
    }
}

pub(crate) fn names() -> Vec<u8> {
    format!("InitiatorName=iqn.bad\0TargetName={OTHER}\0").into_bytes()
}

/// Reads until the target has closed.
async fn to_the_end(stream: &mut TcpStream) {
    let mut buf = vec![0; 65536];
    while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_before_a_login_hurts_nobody() {
    beside(
        |_| {},
        async |world: &World| {
            let mut random = Random(1);
            for round in 0..400 {
                let mut stream = TcpStream::connect(world.address).await.unwrap();
                let len = random.below(if round % 10 == 0 { 20_000 } else { 400 });
                let mut bytes = random.bytes(len);
                if round % 2 == 0 && len > 48 {
                    // A login request by its code and lengths, the rest is noise.
                    bytes[0] = 0x43;
                    bytes[4..8].copy_from_slice(&[0, 0, 0, random.word() as u8]);
                }
                let _ = stream.write_all(&bytes).await;
                if round % 3 > 0 {
                    let _ = stream.shutdown().await;
                    to_the_end(&mut stream).await;
                }
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_without_an_end_are_cut() {
    let short = |c: &mut ballast_target::ServerConfig| c.login_timeout = std::time::Duration::from_millis(700);
    beside(short, async |world: &World| {
        let mut all = Vec::new();
        for i in 0..60u8 {
            let mut stream = TcpStream::connect(world.address).await.unwrap();
            let style = i % 5;
            all.push(tokio::spawn(async move {
                let hello = wire(login_request(i, false, false).encode(), &names());
                let start: &[u8] = match style {
                    0 => &[],
                    1 => &hello[..1],
                    2 => &hello[..47],
                    3 => &hello[..60],
                    _ => &hello,
                };
                stream.write_all(start).await.unwrap();
                if style == 4 {
                    // On and on: one more part of a text that never ends.
                    let part = wire(login_request(i, false, true).encode(), b"X-endless=");
                    let mut buf = [0; 4096];
                    while stream.write_all(&part).await.is_ok() && stream.read(&mut buf).await.is_ok_and(|n| n > 0) {}
                }
                to_the_end(&mut stream).await;
            }));
        }
        for one in all {
            one.await.unwrap();
        }
        assert!(world.server.sessions(OTHER).is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_may_be_cut_at_every_byte() {
    beside(
        |_| {},
        async |world: &World| {
            let whole = wire(login_request(1, true, false).encode(), &names());
            for cut in 0..=whole.len() {
                let mut stream = TcpStream::connect(world.address).await.unwrap();
                stream.write_all(&whole[..cut]).await.unwrap();
                if cut % 2 == 0 {
                    let _ = stream.shutdown().await;
                    to_the_end(&mut stream).await;
                }
            }
            // The initiator port is not left behind: it can log in again.
            Initiator::login(world.address, "iqn.bad", 1, Some(OTHER), "").await.unwrap().logout().await;
            world.others_gone().await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_may_be_cut_at_every_byte_and_is_then_not_done() {
    beside(
        |_| {},
        async |world: &World| {
            let bytes = [0xee; 1024];
            let mut cut = 0;
            loop {
                // The same initiator port every time: each login takes the place of the session before.
                let mut me =
                    Initiator::login(world.address, "iqn.bad", 1, Some(OTHER), "InitialR2T=Yes\nImmediateData=No\n")
                        .await
                        .unwrap();
                me.command(cdb(&[0]), &[], 0).await; // takes the unit attention
                let request = ScsiRequest {
                    immediate: false,
                    last: true,
                    read: false,
                    write: true,
                    attribute: 1,
                    lun: 0,
                    itt: 77,
                    expected: 1024,
                    cmd_sn: me.cmd_sn,
                    exp_stat_sn: 0,
                    cdb: rw16(0x8a, 0, 2),
                };
                let command = request.encode();
                me.raw(&command[..cut.min(48)]).await;
                if cut >= 48 {
                    let r2t = ReadyToTransfer::decode(&me.recv().await.expect("an R2T").bhs);
                    assert_eq!((r2t.itt, r2t.offset, r2t.length), (77, 0, 1024));
                    let mut data = Vec::new();
                    for (i, half) in bytes.chunks(512).enumerate() {
                        let (last, data_sn, offset) = (i == 1, i as u32, 512 * i as u32);
                        let d = DataOut { last, lun: 0, itt: 77, ttt: r2t.ttt, exp_stat_sn: 0, data_sn, offset };
                        data.extend(wire(d.encode(), half));
                    }
                    if cut - 48 == data.len() {
                        break;
                    }
                    me.raw(&data[..cut - 48]).await;
                }
                cut += 1;
            }
            world.others_gone().await;
            let found = world.other.memory.read(0, 1024).await.unwrap();
            assert!(found.iter().all(|b| *b == 0), "a part of a write was done");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_pdus_and_then_silence_end_the_session() {
    let short = |c: &mut ballast_target::ServerConfig| c.nop_interval = std::time::Duration::from_secs(2);
    beside(short, async |world: &World| {
        let mut open = Vec::new();
        for i in 0..32u8 {
            let mut me = Initiator::login(world.address, "iqn.bad", i, Some(OTHER), "").await.unwrap();
            let write = rw16(0x8a, 0, 8);
            let request = ScsiRequest { cdb: write, ..some_command(u32::from(i), 4096) };
            let whole = wire(request.encode(), &[i; 4096]);
            me.raw(&whole[..usize::from(i) * 130]).await;
            open.push(me);
        }
        world.others_gone().await;
    })
    .await;
}

/// A write that brings all of its data.
fn some_command(itt: u32, expected: u32) -> ScsiRequest {
    ScsiRequest {
        immediate: false,
        last: true,
        read: false,
        write: true,
        attribute: 1,
        lun: 0,
        itt,
        expected,
        cmd_sn: 1,
        exp_stat_sn: 0,
        cdb: [0; 16],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bent_requests_end_their_own_session_at_most() {
    beside(
        |_| {},
        async |world: &World| {
            let mut random = Random(7);
            for round in 0..150u8 {
                let keys = if round % 2 == 0 { "HeaderDigest=CRC32C\nDataDigest=CRC32C\n" } else { "" };
                let mut me = Initiator::login(world.address, "iqn.bad", round % 8, Some(OTHER), keys).await.unwrap();
                for _ in 0..60 {
                    let mut bhs = some_command(random.word(), random.word() % 70_000).encode();
                    bhs[0] = [0x01, 0x41, 0x05, 0x42, 0x44, 0x40, 0x02, 0x00][random.below(8)];
                    bhs[24..28].copy_from_slice(&me.cmd_sn.to_be_bytes());
                    me.cmd_sn += u32::from(bhs[0] & 0x40 == 0 && bhs[0] != 5);
                    bhs[32] = [0x28, 0x2a, 0x88, 0x8a, 0x93, 0x42, 0x9e, 0xa3][random.below(8)];
                    for _ in 0..random.below(4) {
                        bhs[1 + random.below(47)] = random.word() as u8;
                    }
                    bhs[4] = 0;
                    let len = [0, 0, 16, 512, 4096, 65536][random.below(6)];
                    me.send(bhs, &vec![round; len]).await;
                }
                if round % 3 == 0 {
                    // Also answers are looked at; logging out ends what is still there to be read.
                    let logout =
                        LogoutRequest { immediate: true, reason: 0, itt: 1, cid: 0, cmd_sn: 0, exp_stat_sn: 0 };
                    me.send(logout.encode(), &[]).await;
                    me.close_sending().await;
                    me.rest().await;
                }
            }
            world.others_gone().await;
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_may_die_with_commands_in_flight() {
    beside(
        |_| {},
        async |world: &World| {
            world.other.hold();
            for i in 0..16u8 {
                let mut me = Initiator::ready_at(world.address, "iqn.bad", i, OTHER, "ImmediateData=Yes\n").await;
                for n in 0..64 {
                    me.start(rw16(0x8a, n * 8, 8), &[i + 1; 4096], 0, 4096).await;
                }
                world.other.begun((u64::from(i) + 1) * 64).await;
            }
            world.other.release();
            world.others_gone().await;
            let mut me = Initiator::ready_at(world.address, "iqn.bad", 1, OTHER, "").await;
            for n in 0..64 {
                let found = me.read(n * 8, 4096).await;
                assert!(found[0] > 0 && found.iter().all(|b| *b == found[0]), "half of a write");
            }
            me.write(0, &[0xaa; 4096]).await;
            assert_eq!(me.read(0, 4096).await, [0xaa; 4096]);
        },
    )
    .await;
}
