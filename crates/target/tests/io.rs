//! Reading and writing over loopback TCP.

mod common;

use ballast_target::DeviceError;
use ballast_target::iscsi::pdu::*;
use common::*;

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend(x.to_be_bytes());
    }
    out.truncate(len);
    out
}

#[tokio::test]
async fn what_is_written_is_read_with_all_digest_combinations() {
    let (_server, address, _) = serve(|_| {}).await;
    for (i, (header, data)) in
        [("None", "None"), ("CRC32C", "None"), ("None", "CRC32C"), ("CRC32C", "CRC32C")].into_iter().enumerate()
    {
        let keys = format!("HeaderDigest={header}\nDataDigest={data}\nInitialR2T=No\nImmediateData=Yes\n");
        let mut me = Initiator::ready(address, "iqn.i", i as u8, &keys).await;
        assert_eq!((me.digests.header, me.digests.data), (header == "CRC32C", data == "CRC32C"));
        for (n, len) in [512usize, 4096, 4608, 65536, 300_032, 3 << 20, 16 << 20].into_iter().enumerate() {
            let bytes = pattern(len, (i * 100 + n) as u32);
            me.write(n as u64, &bytes).await;
            assert!(me.read(n as u64, len).await == bytes, "{len} bytes with {keys}");
        }
        me.logout().await;
    }
}

#[tokio::test]
async fn transfer_limits_of_both_sides_are_kept() {
    let (_server, address, _) = serve(|c| c.offer.max_burst = 16384).await;
    let keys = "MaxBurstLength=262144\nFirstBurstLength=65536\nMaxOutstandingR2T=4\nInitialR2T=Yes\n";
    let mut me = Initiator::ready(address, "iqn.i", 1, keys).await;
    assert_eq!(me.key("MaxBurstLength"), Some("16384"));
    let bytes = pattern(200 * 512, 5);
    let itt = me.start(rw16(0x8a, 0, 200), &bytes, 0, 0).await;
    let mut asked = Vec::new();
    for _ in 0..4 {
        let pdu = me.recv().await.unwrap();
        asked.push(ReadyToTransfer::decode(&pdu.bhs));
    }
    assert!(asked.iter().all(|r| r.itt == itt && r.length == 16384));
    // All four bursts, then the rest as asked.
    for r in &asked {
        let part = &bytes[r.offset as usize..][..r.length as usize];
        let header = DataOut { last: true, lun: 0, itt, ttt: r.ttt, exp_stat_sn: 0, data_sn: 0, offset: r.offset };
        me.send(header.encode(), part).await;
    }
    assert_eq!(me.finish(itt, &bytes).await.status, 0);
    assert!(me.read(0, bytes.len()).await == bytes);
}

#[tokio::test]
async fn a_full_window_of_commands_completes_out_of_order() {
    let (_server, address, device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "InitialR2T=No\n").await;
    device.hold();
    let mut writes = Vec::new();
    for i in 0..64 {
        writes.push(me.start(rw16(0x8a, i * 8, 8), &pattern(4096, i as u32), 0, 4096).await);
    }
    device.begun(64).await;
    // Reads pass the writes that wait.
    for i in 64..128 {
        let itt = me.start(rw16(0x88, i * 8, 8), &[], 4096, 0).await;
        assert_eq!(me.finish(itt, &[]).await.status, 0);
    }
    device.release();
    let mut done = Vec::new();
    for _ in 0..64 {
        let pdu = me.recv().await.unwrap();
        let response = ScsiResponse::decode(&pdu.bhs);
        assert_eq!((opcode_of(&pdu.bhs), response.status), (opcode::SCSI_RESPONSE, 0));
        me.count(response.numbers.stat);
        done.push(response.itt);
    }
    done.sort_unstable();
    assert_eq!(done, writes);
    for i in 0..64 {
        assert!(me.read(i * 8, 4096).await == pattern(4096, i as u32));
    }
}

#[tokio::test]
async fn device_errors_reach_the_initiator_as_sense() {
    let (_server, address, device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    for (error, code) in [
        (DeviceError::NoSpace, 0x2707),
        (DeviceError::Corrupt { lba512: 3 }, 0x1100),
        (DeviceError::Internal("x".into()), 0x4400),
    ] {
        device.fail(error);
        assert_eq!(me.command(rw16(0x8a, 0, 1), &[1; 512], 0).await.code(), code);
    }
    device.fail(DeviceError::Unavailable("no quorum".into()));
    assert_eq!(me.command(rw16(0x88, 0, 1), &[], 512).await.status, 8);
    me.write(0, &[1; 512]).await;
}

#[tokio::test]
async fn a_fenced_device_ends_the_session_without_an_answer() {
    let (server, address, device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    device.fail(DeviceError::Fenced);
    me.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    let last = me.rest().await;
    assert_eq!(last.iter().map(|p| (opcode_of(&p.bhs), p.bhs[36])).collect::<Vec<_>>(), [(opcode::ASYNC_MESSAGE, 3)]);
    while !server.sessions(IQN).is_empty() {
        tokio::task::yield_now().await;
    }
    // What the initiator does next: it comes back and sends the command again.
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    me.write(0, &[1; 4096]).await;
}

#[tokio::test]
async fn wrong_digests_end_the_command_or_the_session() {
    let (_server, address, _) = serve(|_| {}).await;
    let keys = "HeaderDigest=CRC32C\nDataDigest=CRC32C\nInitialR2T=Yes\n";
    let mut me = Initiator::ready(address, "iqn.i", 1, keys).await;
    let itt = me.start(rw16(0x8a, 0, 1), &[1; 512], 0, 0).await;
    let r2t = ReadyToTransfer::decode(&me.recv().await.unwrap().bhs);
    let header = DataOut { last: true, lun: 0, itt, ttt: r2t.ttt, exp_stat_sn: 0, data_sn: 0, offset: 0 };
    let wire = ballast_target::iscsi::framing::WirePdu::new(
        OutPdu::new(header.encode(), bytes::Bytes::from(vec![1; 512])),
        me.digests,
    );
    let mut bytes = wire.pieces().concat();
    bytes[100] ^= 1;
    me.raw(&bytes).await;
    assert_eq!(me.finish(itt, &[]).await.code(), 0x4705); // PROTOCOL SERVICE CRC ERROR
    assert!(me.read(0, 512).await.iter().all(|b| *b == 0)); // and nothing was written
    bytes[20] ^= 1; // now the header
    me.raw(&bytes).await;
    assert!(me.rest().await.is_empty());
    Initiator::ready(address, "iqn.i", 2, "").await.logout().await;
}

#[tokio::test]
async fn zero_length_and_pieces_of_pdus() {
    let (_server, address, _) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    assert_eq!(me.command(rw16(0x88, 5, 0), &[], 0).await.status, 0);
    assert_eq!(me.command(rw16(0x8a, 5, 0), &[], 0).await.status, 0);
    // One byte at a time.
    let request = NopOut { immediate: true, lun: 0, itt: 77, ttt: RESERVED_TAG, cmd_sn: me.cmd_sn, exp_stat_sn: 0 };
    let wire = ballast_target::iscsi::framing::WirePdu::new(
        OutPdu::new(request.encode(), bytes::Bytes::from_static(b"pieces")),
        me.digests,
    );
    for byte in wire.pieces().concat() {
        me.raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    let pdu = me.recv().await.unwrap();
    assert_eq!((NopIn::decode(&pdu.bhs).itt, &pdu.data[..]), (77, &b"pieces"[..]));
}
