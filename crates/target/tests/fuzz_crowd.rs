//! A thousand sessions at once, beside a good initiator.
//!
//! A program of its own: what a session costs can only be seen in a process that has not used and freed memory before.
#![allow(unreachable_pub)]

mod common;

// Each program uses its part.
#[allow(dead_code)]
#[path = "fuzz_sessions/beside.rs"]
mod beside;

use ballast_target::iscsi::pdu::NopOut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use beside::{CROWD, OTHER, World, beside, make_room, resident};
use common::*;

/// What a pair of an idle session and its initiator may take: the beginnings of their read buffers, tasks, tables.
const IDLE: u64 = 128 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_at_once_are_served_and_cost_little() {
    if let Err(why) = make_room() {
        println!("SKIPPED: {why}");
        return;
    }
    let limits = |c: &mut ballast_target::ServerConfig| {
        (c.max_connections, c.max_sessions) = (CROWD + 1, CROWD);
        // Nobody answers pings here, and a login may wait for a thousand others.
        (c.nop_interval, c.login_timeout) = (std::time::Duration::from_secs(600), std::time::Duration::from_secs(60));
    };
    beside(limits, async |world: &World| {
        let before = resident();
        let mut all = Vec::new();
        for hundred in 0..CROWD / 100 {
            let logins: Vec<_> = (0..100)
                .map(|i| {
                    let (name, address) = (format!("iqn.crowd{hundred}"), world.address);
                    tokio::spawn(async move { Initiator::login(address, &name, i, Some(OTHER), "").await })
                })
                .collect();
            for login in logins {
                all.push(login.await.unwrap().expect("a place"));
            }
        }
        assert_eq!(world.server.sessions(OTHER).len(), CROWD);
        world.good_goes_on().await;
        let each = resident().saturating_sub(before) / CROWD as u64;
        println!("an idle session and its initiator: {each} bytes");
        assert!(each < IDLE, "{each} bytes for an idle session and its initiator");
        // One more is one too many.
        let mut late = TcpStream::connect(world.address).await.unwrap();
        assert!(late.read(&mut [0; 8]).await.is_ok_and(|n| n == 0), "a connection beyond the limit");
        // All of them are alive.
        for (i, me) in all.iter_mut().enumerate() {
            let nop = NopOut { immediate: true, lun: 0, itt: 9, ttt: u32::MAX, cmd_sn: 1, exp_stat_sn: 0 };
            me.send(nop.encode(), &[i as u8]).await;
        }
        for (i, me) in all.iter_mut().enumerate() {
            assert_eq!(me.recv().await.expect("an answer").data[..], [i as u8]);
        }
        for me in all {
            me.logout().await;
        }
        world.others_gone().await;
    })
    .await;
}
