//! The network between two hosts with targets and three pools, as relays that can be disturbed one by one.
//!
//! ```text
//! host A --r-A-0--> pool 0 --r-0-1--> pool 1     one relay for each who asks and each pool that is asked; a relay is a
//! host B --r-B-0-->        --r-0-2--> pool 2     unix socket that hands bytes on to the pool's own, both ways
//! ```
//!
//! A relay goes on reading while it holds bytes back, so who sent them cannot tell; and bytes that were taken are delivered
//! even when their sender has given the connection up meanwhile: that is how a write of an old target arrives after a new
//! one has taken over.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ballast_api::PoolId;
use ballast_api::control::{Peer, PeerTable};
use ballast_rpc::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::support::Group;

pub const POOLS: usize = 3;
pub const HOSTS: usize = 2;
/// Who asks, in the names of the relays: one letter each, so that all names are equally long.
const ASKERS: [&str; POOLS + HOSTS] = ["0", "1", "2", "A", "B"];

/// What can be done to a relay until it is healed.
#[derive(Clone, Copy, Debug)]
pub enum Strike {
    /// Connections end, new ones are refused.
    Cut,
    /// Bytes to the pool are held back, on connections that stand and on new ones.
    HoldUp,
    /// Bytes from the pool are held back.
    HoldDown,
    /// Both.
    Hold,
    /// Bytes to the pool are held back on the connections that stand; new ones work.
    FreezeUp,
    /// Connections that stand end for who asks, and what it has sent reaches the pool when the relay is healed. New ones
    /// work.
    Orphan,
}

pub const STRIKES: [Strike; 6] =
    [Strike::Cut, Strike::HoldUp, Strike::HoldDown, Strike::Hold, Strike::FreezeUp, Strike::Orphan];

/// The state of one connection; of a relay, that of its next connection.
#[derive(Clone, Copy, Default)]
struct Gate {
    hold_up: bool,
    hold_down: bool,
    /// Who asks has lost it.
    orphan: bool,
    cut: bool,
}

struct Relay {
    next: Mutex<Gate>,
    standing: Mutex<Vec<watch::Sender<Gate>>>,
    /// Bytes to the pool that were held back and have gone on since.
    late: AtomicU64,
}

/// All relays of one group.
pub struct Net {
    relays: Vec<Arc<Relay>>,
    dir: PathBuf,
    pools: Vec<PoolId>,
}

impl Net {
    /// Puts the relays between the pools of a group, which are restarted for that, and before them.
    pub async fn around(group: &mut Group) -> Self {
        for node in &mut group.nodes {
            node.stop().await;
        }
        let dir = group.dir.path().to_owned();
        let mut relays = Vec::new();
        for asker in 0..ASKERS.len() {
            for (pool, node) in group.nodes.iter().enumerate() {
                let Endpoint::Unix(to) = node.endpoint.clone() else { panic!("pools of tests are on unix sockets") };
                // A pool tells targets where it would reach the leader itself. A target has ways of its own.
                let rename = (asker >= POOLS).then(|| (socket(&dir, pool, 0), socket(&dir, asker, 0)));
                let rename = rename.map(|(from, to)| (without_pool(&from), without_pool(&to)));
                relays.push(Relay::start(&socket(&dir, asker, pool), to, rename));
            }
        }
        let pools = group.nodes.iter().map(|node| node.id).collect();
        let net = Self { relays, dir, pools };
        for node in &mut group.nodes {
            node.start().await;
        }
        for (asker, node) in group.nodes.iter().enumerate() {
            let peer = |(pool, at): (PoolId, Endpoint)| Peer { pool: pool.to_bytes(), endpoint: at.to_string() };
            let peers = net.ways(asker).into_iter().map(peer).collect();
            node.control().await.set_peers(PeerTable { peers }).await.unwrap();
        }
        net
    }

    /// Where who asks finds the pools.
    fn ways(&self, asker: usize) -> Vec<(PoolId, Endpoint)> {
        let way = |(n, pool): (usize, &PoolId)| (*pool, Endpoint::Unix(socket(&self.dir, asker, n)));
        self.pools.iter().enumerate().map(way).collect()
    }

    /// Where a target on this host finds the pools.
    pub fn ways_of_host(&self, host: usize) -> Vec<(PoolId, Endpoint)> {
        self.ways(POOLS + host)
    }

    pub fn number(&self, pool: PoolId) -> Option<usize> {
        self.pools.iter().position(|known| *known == pool)
    }

    pub fn strike_host(&self, host: usize, pool: usize, strike: Strike) {
        self.relays[(POOLS + host) * POOLS + pool].strike(strike);
    }

    pub fn strike_pools(&self, from: usize, to: usize, strike: Strike) {
        self.relays[from * POOLS + to].strike(strike);
    }

    pub fn heal_hosts(&self) {
        self.relays[POOLS * POOLS..].iter().for_each(|relay| relay.heal());
    }

    pub fn heal_pools(&self) {
        self.relays[..POOLS * POOLS].iter().for_each(|relay| relay.heal());
    }

    /// Bytes of targets that reached a pool late.
    pub fn late_bytes(&self) -> u64 {
        self.relays[POOLS * POOLS..].iter().map(|relay| relay.late.load(Ordering::Relaxed)).sum()
    }
}

fn socket(dir: &Path, asker: usize, pool: usize) -> PathBuf {
    dir.join(format!("r-{}-{pool}", ASKERS[asker]))
}

fn without_pool(path: &Path) -> Vec<u8> {
    let mut bytes = path.as_os_str().as_encoded_bytes().to_vec();
    bytes.pop();
    bytes
}

/// Replaces equally long names. One that two reads have cut apart stays; that target then goes by the pool's relay.
fn rename(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from) {
        bytes[at + found..at + found + from.len()].copy_from_slice(to);
        at += found + from.len();
    }
}

impl Relay {
    fn start(at: &Path, to: PathBuf, rename: Option<(Vec<u8>, Vec<u8>)>) -> Arc<Self> {
        let listener = UnixListener::bind(at).unwrap();
        let relay = Arc::new(Self { next: Mutex::default(), standing: Mutex::default(), late: AtomicU64::new(0) });
        let this = relay.clone();
        // Ends with the runtime of the test, like everything it starts.
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let gate = *this.next.lock().unwrap();
                if gate.cut {
                    continue;
                }
                let Ok(far) = UnixStream::connect(&to).await else { continue };
                this.connect(gate, near, far, rename.clone());
            }
        });
        relay
    }

    fn connect(self: &Arc<Self>, gate: Gate, near: UnixStream, far: UnixStream, rename: Option<(Vec<u8>, Vec<u8>)>) {
        let (change, gate) = watch::channel(gate);
        self.standing.lock().unwrap().push(change);
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        let (up, taken_up) = mpsc::unbounded_channel();
        let (down, taken_down) = mpsc::unbounded_channel();
        tokio::spawn(take(near_read, up, None, gate.clone(), |gate| gate.cut || gate.orphan));
        tokio::spawn(take(far_read, down, rename, gate.clone(), |gate| gate.cut));
        let relay = self.clone();
        let late = move |bytes| _ = relay.late.fetch_add(bytes as u64, Ordering::Relaxed);
        tokio::spawn(give(taken_up, far_write, gate.clone(), |gate| gate.hold_up, |gate| gate.cut, late));
        tokio::spawn(give(taken_down, near_write, gate, |gate| gate.hold_down, |gate| gate.cut || gate.orphan, |_| ()));
    }

    fn strike(&self, strike: Strike) {
        let change = |gate: &mut Gate| match strike {
            Strike::Cut => gate.cut = true,
            Strike::HoldUp | Strike::FreezeUp => gate.hold_up = true,
            Strike::HoldDown => gate.hold_down = true,
            Strike::Hold => (gate.hold_up, gate.hold_down) = (true, true),
            Strike::Orphan => (gate.hold_up, gate.orphan) = (true, true),
        };
        if matches!(strike, Strike::FreezeUp | Strike::Orphan) {
            *self.next.lock().unwrap() = Gate::default();
        } else {
            change(&mut self.next.lock().unwrap());
        }
        let mut standing = self.standing.lock().unwrap();
        standing.retain(|connection| !connection.is_closed());
        standing.iter().for_each(|connection| connection.send_modify(change));
    }

    fn heal(&self) {
        *self.next.lock().unwrap() = Gate::default();
        let heal = |gate: &mut Gate| (gate.hold_up, gate.hold_down) = (false, false);
        self.standing.lock().unwrap().iter().for_each(|connection| connection.send_modify(heal));
    }
}

/// Reads as fast as bytes come, whatever becomes of them.
async fn take(
    mut from: OwnedReadHalf,
    to: mpsc::UnboundedSender<Vec<u8>>,
    names: Option<(Vec<u8>, Vec<u8>)>,
    mut gate: watch::Receiver<Gate>,
    ended: fn(&Gate) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = tokio::select! {
            // What has arrived before the end is taken first.
            biased;
            count = from.read(&mut buffer) => count.unwrap_or(0),
            _ = gate.wait_for(ended) => return,
        };
        if count == 0 {
            return;
        }
        let mut bytes = buffer[..count].to_vec();
        if let Some((old, new)) = &names {
            rename(&mut bytes, old, new);
        }
        if to.send(bytes).is_err() {
            return;
        }
    }
}

/// Delivers what was taken, when it may.
async fn give(
    mut from: mpsc::UnboundedReceiver<Vec<u8>>,
    mut to: OwnedWriteHalf,
    mut gate: watch::Receiver<Gate>,
    held: fn(&Gate) -> bool,
    ended: fn(&Gate) -> bool,
    late: impl Fn(usize),
) {
    loop {
        let bytes = tokio::select! {
            bytes = from.recv() => bytes,
            _ = gate.wait_for(ended) => return,
        };
        let Some(bytes) = bytes else { break };
        let was_held = held(&gate.borrow());
        if gate.wait_for(|gate| ended(gate) || !held(gate)).await.is_ok_and(|gate| ended(&gate)) {
            return;
        }
        let written = tokio::select! {
            written = to.write_all(&bytes) => written,
            _ = gate.wait_for(ended) => return,
        };
        if written.is_err() {
            return;
        }
        if was_held {
            late(bytes.len());
        }
    }
    _ = to.shutdown().await;
}
