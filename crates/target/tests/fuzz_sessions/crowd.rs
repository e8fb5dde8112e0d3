//! A thousand connections at once that do not go on. (A thousand sessions: `fuzz_crowd`.)

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::beside::{CROWD, OTHER, World, beside, make_room};
use crate::common::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_logins_that_do_not_go_on_leave_the_good_one_alone() {
    if let Err(why) = make_room() {
        println!("SKIPPED: {why}");
        return;
    }
    let limits = |c: &mut ballast_target::ServerConfig| {
        (c.max_connections, c.login_timeout) = (CROWD + 1, std::time::Duration::from_secs(3));
    };
    beside(limits, async |world: &World| {
        let mut all = Vec::new();
        for _ in 0..CROWD {
            all.push(TcpStream::connect(world.address).await.unwrap());
        }
        world.good_goes_on().await;
        for mut one in all {
            assert!(!one.read(&mut [0; 8]).await.is_ok_and(|n| n > 0));
        }
        // Their places are free again.
        Initiator::login(world.address, "iqn.late", 1, Some(OTHER), "").await.unwrap().logout().await;
    })
    .await;
}
