//! Discovery, login, sessions and their ends over loopback TCP.

mod common;

use std::sync::Arc;
use std::time::Duration;

use ballast_target::iscsi::pdu::*;
use ballast_target::{ServerConfig, ServerError, TargetAccess, TargetServer};
use common::*;

#[tokio::test]
async fn discovery_tells_all_targets_at_the_address_used() {
    let (server, address, _) = serve(|_| {}).await;
    for i in 0..300 {
        server
            .add_target(format!("iqn.2026-01.test:more{i:03}"), Arc::new(Held::new()), TargetAccess::default())
            .unwrap();
    }
    let mut me = Initiator::login(address, "iqn.i", 1, None, "").await.unwrap();
    let all = me.targets("All").await;
    assert_eq!(all.len(), 301);
    assert!(all.iter().all(|(_, a)| *a == format!("{address},1")));
    assert_eq!(me.targets(IQN).await, [(IQN.to_owned(), format!("{address},1"))]);
    me.logout().await;
}

#[tokio::test]
async fn the_advertised_address_replaces_the_own_one() {
    let (_server, address, _) = serve(|c| c.advertised = Some("10.1.2.3:3260".parse().unwrap())).await;
    let mut me = Initiator::login(address, "iqn.i", 1, None, "").await.unwrap();
    assert_eq!(me.targets("All").await, [(IQN.to_owned(), "10.1.2.3:3260,1".to_owned())]);
}

#[tokio::test]
async fn names_and_limits() {
    let (server, address, device) = serve(|c| c.max_sessions = 2).await;
    assert!(matches!(
        server.add_target(IQN.into(), device.clone(), TargetAccess::default()),
        Err(ServerError::Duplicate(_))
    ));
    for bad in ["", "disk", "iqn.2026-01.test:A", "iqn.2026-01.test:a b"] {
        assert!(
            matches!(
                server.add_target(bad.into(), device.clone(), TargetAccess::default()),
                Err(ServerError::BadName(_))
            ),
            "{bad}"
        );
    }
    let other = Initiator::login(address, "iqn.i", 1, Some("iqn.2026-01.test:none"), "").await;
    assert_eq!(other.err(), Some(Refused(0x0203)));
    let (one, _two) =
        (Initiator::ready(address, "iqn.i", 1, "").await, Initiator::ready(address, "iqn.i", 2, "").await);
    assert_eq!(Initiator::login(address, "iqn.i", 3, Some(IQN), "").await.err(), Some(Refused(0x0302)));
    one.logout().await;
    while server.sessions(IQN).len() > 1 {
        tokio::task::yield_now().await;
    }
    Initiator::ready(address, "iqn.i", 3, "").await;
    assert!(matches!(TargetServer::<Held>::bind(ServerConfig::new(vec![])).await.err(), Some(ServerError::NoPortals)));
    let taken = TargetServer::<Held>::bind(ServerConfig::new(vec![address])).await;
    assert!(matches!(taken.err(), Some(ServerError::Bind { .. })));
}

#[tokio::test]
async fn sessions_are_listed() {
    let (server, address, _) = serve(|_| {}).await;
    assert!(server.sessions("iqn.none").is_empty());
    let _me = Initiator::ready(address, "iqn.i", 9, "HeaderDigest=CRC32C\n").await;
    let all = server.sessions(IQN);
    assert_eq!((all.len(), all[0].initiator.as_str(), all[0].isid), (1, "iqn.i", [0x80, 0, 0, 0, 0, 9]));
    assert!(
        all[0].tsih != 0 && all[0].digests.header && !all[0].digests.data && all[0].connected_from.ip().is_loopback()
    );
}

#[tokio::test]
async fn reinstatement_waits_until_no_old_write_can_land() {
    let (server, address, device) = serve(|_| {}).await;
    let mut old = Initiator::ready(address, "iqn.i", 1, "").await;
    device.hold();
    old.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    let login = tokio::spawn(async move { Initiator::login(address, "iqn.i", 1, Some(IQN), "").await });
    assert!(old.rest().await.is_empty()); // closed, the write not answered
    assert!(!login.is_finished());
    device.release();
    let mut new = login.await.unwrap().unwrap();
    assert_eq!(server.sessions(IQN).len(), 1);
    assert_eq!(new.command(cdb(&[0]), &[], 0).await.code(), 0x2907); // I_T NEXUS LOSS OCCURRED
    assert_eq!(new.read(0, 4096).await, [1; 4096]); // the old write is in, before anything new
    new.write(0, &[2; 4096]).await;
    assert_eq!(new.read(0, 4096).await, [2; 4096]);
}

#[tokio::test]
async fn reinstatement_is_refused_while_the_device_hangs() {
    let (_server, address, device) = serve(|c| c.drain_timeout = Duration::from_millis(50)).await;
    let mut old = Initiator::ready(address, "iqn.i", 1, "").await;
    device.hold();
    old.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    let refused = Initiator::login(address, "iqn.i", 1, Some(IQN), "").await;
    assert_eq!(refused.err(), Some(Refused(0x0301)));
    device.release();
    Initiator::login(address, "iqn.i", 1, Some(IQN), "").await.unwrap();
}

#[tokio::test]
async fn other_initiator_ports_have_their_own_sessions() {
    let (server, address, _) = serve(|_| {}).await;
    let mut a = Initiator::ready(address, "iqn.a", 1, "").await;
    let mut b = Initiator::ready(address, "iqn.b", 1, "").await;
    let mut c = Initiator::ready(address, "iqn.a", 2, "").await;
    a.write(1, &[3; 512]).await;
    assert_eq!((b.read(1, 512).await, c.read(1, 512).await), (vec![3; 512], vec![3; 512]));
    assert_eq!(server.sessions(IQN).len(), 3);
}

#[tokio::test]
async fn a_reset_covers_all_sessions_and_waits_for_their_writes() {
    let (_server, address, device) = serve(|_| {}).await;
    let mut a = Initiator::ready(address, "iqn.a", 1, "").await;
    let mut b = Initiator::ready(address, "iqn.b", 1, "").await;
    device.hold();
    b.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    a.task_management(TaskFunction::LogicalUnitReset, 0).await;
    // This answer shows that the reset has begun; its own answer waits.
    assert_eq!(a.command(cdb(&[0]), &[], 0).await.code(), 0x2903);
    device.release();
    assert_eq!(a.task_response().await, 0);
    assert_eq!(b.command(cdb(&[0]), &[], 0).await.code(), 0x2903); // and no answer to the write before it
    assert_eq!(a.read(0, 4096).await, [1; 4096]);
}

#[tokio::test]
async fn clear_task_set_tells_the_others_only() {
    let (_server, address, _) = serve(|_| {}).await;
    let mut a = Initiator::ready(address, "iqn.a", 1, "").await;
    let mut b = Initiator::ready(address, "iqn.b", 1, "").await;
    a.task_management(TaskFunction::ClearTaskSet, 0).await;
    assert_eq!(a.task_response().await, 0);
    assert_eq!(a.command(cdb(&[0]), &[], 0).await.status, 0);
    assert_eq!(b.command(cdb(&[0]), &[], 0).await.code(), 0x2f00);
}

#[tokio::test]
async fn a_cold_reset_ends_all_sessions() {
    let (server, address, _) = serve(|_| {}).await;
    let mut a = Initiator::ready(address, "iqn.a", 1, "").await;
    let mut b = Initiator::ready(address, "iqn.b", 1, "").await;
    a.task_management(TaskFunction::TargetColdReset, 0).await;
    assert_eq!(a.task_response().await, 0);
    assert!(a.rest().await.is_empty());
    let last = b.rest().await;
    assert_eq!(last.iter().map(|p| AsyncMessage::decode(&p.bhs).event).collect::<Vec<_>>(), [3]);
    while !server.sessions(IQN).is_empty() {
        tokio::task::yield_now().await;
    }
    Initiator::ready(address, "iqn.a", 1, "").await;
}

#[tokio::test]
async fn abort_answers_after_the_write() {
    let (_server, address, device) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    device.hold();
    let itt = me.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    me.task_management(TaskFunction::AbortTask, itt).await;
    // A read passes; the abort does not.
    assert_eq!(me.read(8, 512).await, [0; 512]);
    device.release();
    assert_eq!(me.task_response().await, 0);
    assert_eq!(me.read(0, 4096).await, [1; 4096]);
}

#[tokio::test]
async fn removing_a_target_ends_its_sessions() {
    let (server, address, _) = serve(|_| {}).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    server.remove_target(IQN);
    let last = me.rest().await;
    assert_eq!(last.iter().map(|p| (opcode_of(&p.bhs), p.bhs[36])).collect::<Vec<_>>(), [(opcode::ASYNC_MESSAGE, 3)]);
    assert_eq!(Initiator::login(address, "iqn.i", 1, Some(IQN), "").await.err(), Some(Refused(0x0203)));
    server.add_target(IQN.into(), Arc::new(Held::new()), TargetAccess::default()).unwrap();
    Initiator::ready(address, "iqn.i", 1, "").await;
}

#[tokio::test]
async fn shutdown_asks_for_logout_and_lets_writes_finish() {
    let (server, address, device) = serve(|c| c.logout_grace = Duration::from_secs(30)).await;
    let mut polite = Initiator::ready(address, "iqn.i", 1, "").await;
    device.hold();
    let itt = polite.start(rw16(0x8a, 0, 8), &[1; 4096], 0, 4096).await;
    device.begun(1).await;
    let down = tokio::spawn(async move { server.shutdown().await });
    let pdu = polite.recv().await.unwrap();
    let message = AsyncMessage::decode(&pdu.bhs);
    assert_eq!((opcode_of(&pdu.bhs), message.event, message.parameter3), (opcode::ASYNC_MESSAGE, 1, 30));
    polite.count(message.numbers.stat);
    device.release();
    assert_eq!(polite.finish(itt, &[]).await.status, 0);
    polite.logout().await;
    down.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_server_runs_and_stops_without_its_future_being_polled() {
    let config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
    let (server, run) = TargetServer::bind(config).await.unwrap();
    server.add_target(IQN.into(), Arc::new(Held::new()), TargetAccess::default()).unwrap();
    let address = server.local_addrs()[0];
    Initiator::ready(address, "iqn.i", 1, "").await.logout().await;
    let discovery = Initiator::login(address, "iqn.i", 1, None, "").await.unwrap();
    server.shutdown().await;
    assert!(run.await.is_ok());
    drop(discovery);
}

#[tokio::test]
async fn an_initiator_that_takes_nothing_does_not_hold_its_session() {
    let (server, address, _) = serve(|c| c.nop_interval = Duration::from_millis(300)).await;
    let mut stuck = Initiator::ready(address, "iqn.i", 1, "").await;
    for _ in 0..100 {
        stuck.start(rw16(0x88, 0, 4096), &[], 2 << 20, 0).await; // 200 MiB that nobody reads
    }
    while !server.sessions(IQN).is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn shutdown_does_not_wait_for_initiators_that_stay() {
    let (server, address, _) = serve(|c| c.logout_grace = Duration::from_millis(20)).await;
    let mut stubborn = Initiator::ready(address, "iqn.i", 1, "").await;
    server.shutdown().await;
    assert_eq!(stubborn.rest().await.len(), 1); // the message, then the end
}

#[tokio::test]
async fn silent_initiators_are_pinged_then_dropped() {
    let (_server, address, _) = serve(|c| c.nop_interval = Duration::from_millis(500)).await;
    let mut me = Initiator::ready(address, "iqn.i", 1, "").await;
    let pdu = me.recv().await.unwrap();
    let ping = NopIn::decode(&pdu.bhs);
    assert_eq!((opcode_of(&pdu.bhs), ping.itt), (opcode::NOP_IN, RESERVED_TAG));
    let answer =
        NopOut { immediate: true, lun: ping.lun, itt: RESERVED_TAG, ttt: ping.ttt, cmd_sn: me.cmd_sn, exp_stat_sn: 0 };
    me.send(answer.encode(), &[]).await;
    let again = NopIn::decode(&me.recv().await.unwrap().bhs); // answered, so there is another one
    assert_ne!(again.ttt, ping.ttt);
    assert!(me.rest().await.is_empty()); // not answered: the end
}

#[tokio::test]
async fn logins_that_never_end_are_cut() {
    let (_server, address, _) = serve(|c| c.login_timeout = Duration::from_millis(30)).await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut buf = [0; 8];
    assert_eq!(tokio::io::AsyncReadExt::read(&mut stream, &mut buf).await.unwrap(), 0);
}

#[tokio::test]
async fn garbage_hurts_nobody_else() {
    let (_server, address, _) = serve(|_| {}).await;
    let mut good = Initiator::ready(address, "iqn.good", 1, "").await;
    let mut x = 12345u32;
    let mut random = |n: usize| -> Vec<u8> {
        (0..n)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 24) as u8
            })
            .collect()
    };
    for round in 0..60u8 {
        let mut bytes = random(600);
        if round % 3 == 0 {
            bytes[0] = 0x43; // a login request with a random rest
            bytes[4..8].copy_from_slice(&[0, 0, 0, round]);
        }
        if round % 2 == 0 {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await;
        } else {
            let mut bad = Initiator::ready(address, "iqn.bad", round, "").await;
            bytes[0] &= 0x47;
            bytes[4..7].fill(0);
            bad.raw(&bytes).await;
        }
        good.write(u64::from(round), &[round; 512]).await;
        assert_eq!(good.read(u64::from(round), 512).await, [round; 512]);
    }
}
