//! A server with two targets, and a good initiator that works on the first one while something happens to the second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ballast_target::{ServerConfig, TargetAccess, TargetServer};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::common::{Held, IQN, Initiator, serve};

/// The target that bad initiators use.
pub const OTHER: &str = "iqn.2026-01.test:other";

/// Whatever happens is over by then.
const LIMIT: Duration = Duration::from_secs(180);

/// One test at a time: some look at the memory of the process.
static ALONE: Mutex<()> = Mutex::const_new(());

pub struct World {
    pub server: TargetServer<Held>,
    pub address: SocketAddr,
    pub other: Arc<Held>,
    rounds: watch::Receiver<u64>,
}

impl World {
    /// Returns when the good initiator has done some more.
    pub async fn good_goes_on(&self) {
        let mut rounds = self.rounds.clone();
        let now = *rounds.borrow();
        rounds.wait_for(|n| *n >= now + 3).await.expect("the good initiator is still there");
    }

    /// Waits until the other target has no session left.
    pub async fn others_gone(&self) {
        while !self.server.sessions(OTHER).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Connections that come at once.
pub const CROWD: usize = 1000;
/// Both ends of every connection are in this process.
const FILES: u64 = 2 * CROWD as u64 + 200;

/// Room for the files; what is in the way otherwise.
pub fn make_room() -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|n| n >= FILES) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|n| n < FILES) {
        return Err(format!("at most {:?} open files are allowed here, {FILES} are needed", limit.maximum));
    }
    limit.current = Some(FILES);
    setrlimit(Resource::Nofile, limit).map_err(|e| format!("the limit of open files cannot be raised: {e}"))
}

/// Resident memory of the process in bytes.
pub fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm of this process");
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("resident pages");
    pages * 4096
}

/// Writes, reads back and compares until it is told to stop, then logs out.
async fn work(mut me: Initiator, mut stop: watch::Receiver<bool>, rounds: watch::Sender<u64>) {
    let mut n = 0u64;
    while !*stop.borrow_and_update() {
        n += 1;
        let len = [512, 4096, 9216, 131_072, 300_032][n as usize % 5];
        let lba = n * 37 % 60_000;
        let bytes: Vec<u8> = (0..len as u64).map(|i| (i * 7 + i / 512 + n) as u8).collect();
        me.write(lba, &bytes).await;
        assert!(me.read(lba, len).await == bytes, "round {n}: not what was written");
        rounds.send_replace(n);
        tokio::task::yield_now().await;
    }
    me.logout().await;
}

/// Runs something beside a good initiator, which must not notice it.
pub async fn beside(config: impl FnOnce(&mut ServerConfig), happening: impl AsyncFnOnce(&World)) {
    let _alone = ALONE.lock().await;
    let (server, address, _) = serve(config).await;
    let other = Arc::new(Held::new());
    server.add_target(OTHER.into(), other.clone(), TargetAccess::default()).expect("a second target");
    let keys = "HeaderDigest=CRC32C\nDataDigest=CRC32C\nInitialR2T=No\nImmediateData=Yes\n";
    let mut good = Initiator::ready(address, "iqn.good", 1, keys).await;
    good.answers_pings = true;
    let before = server.sessions(IQN);
    let (stop, stopping) = watch::channel(false);
    let (done, rounds) = watch::channel(0);
    let mut working = tokio::spawn(work(good, stopping, done));
    let world = World { server, address, other, rounds };
    let all = async {
        world.good_goes_on().await;
        happening(&world).await;
        world.good_goes_on().await;
        assert_eq!(world.server.sessions(IQN), before, "the good initiator's session is another one");
        stop.send_replace(true);
    };
    tokio::select! {
        biased;
        ended = &mut working => panic!("the good initiator ended early: {ended:?}"),
        done = timeout(LIMIT, all) => done.expect("over in time"),
    }
    timeout(LIMIT, working).await.expect("over in time").expect("the good initiator's last round");
    world.server.shutdown().await;
}
