//! A client that writes without pause, finds the leader wherever it is, and remembers what was answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ballast_api::replica::failure::Code;
use ballast_api::{TargetId, VolumeId};
use ballast_rpc::Endpoint;

use super::{Client, Group, block};

/// Blocks that are written, round and round.
const SPAN: u64 = 512;
/// A pause longer than this is a standstill.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<BTreeMap<u64, u64>>,
}

impl Load {
    pub fn start(group: &Group, target: TargetId) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let endpoints: Vec<Endpoint> = group.nodes.iter().map(|node| node.endpoint.clone()).collect();
        let task = tokio::spawn(write(endpoints, group.volume, target, stop.clone(), answered.clone()));
        Self { stop, answered, task }
    }

    /// Waits until `count` more writes were answered.
    pub async fn goes_on(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        let wait = async {
            while self.answered.load(Ordering::Relaxed) < goal {
                assert!(!self.task.is_finished(), "the load has ended");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("writes go on");
    }

    /// Ends it and reads everything back.
    pub async fn check(self, group: &Group, target: TargetId) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.task.await.unwrap();
        assert!(!answered.is_empty());
        let (_, mut client) = group.open(target, false).await;
        for (lba, version) in answered {
            // A busy machine may see the leader change.
            let data = loop {
                match client.read(lba, 1).await {
                    Ok(data) => break data,
                    Err(None | Some(Code::NotLeader | Code::Unavailable)) => {
                        (_, client) = group.open(target, false).await
                    }
                    Err(other) => panic!("block {lba}: {other:?}"),
                }
            };
            assert_eq!(data, block(lba, version), "block {lba}, version {version}");
        }
    }
}

async fn write(
    endpoints: Vec<Endpoint>,
    volume: VolumeId,
    target: TargetId,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> BTreeMap<u64, u64> {
    let mut versions = BTreeMap::new();
    let mut client: Option<Client> = None;
    let mut at = 0;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (lba, version) = (n % SPAN, 1 + n / SPAN);
        // A write without answer is repeated until it has one, under a new epoch.
        loop {
            if client.is_none() {
                at = (at + 1) % endpoints.len();
                client = Client::open(&endpoints[at], volume, target, false).await.ok();
            }
            let Some(writer) = &mut client else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            if writer.write(lba, block(lba, version)).await.is_ok() {
                break;
            }
            client = None;
        }
        versions.insert(lba, version);
        answered.fetch_add(1, Ordering::Relaxed);
    }
    versions
}
