//! Brings every new process in: waits until it answers, then tells it what it must know.
//!
//! One task per child, asleep while the child runs; one more that tries again what could not be done. Each child that
//! is not configured yet is asked again after 20 ms, then less and less often, at most every [`SLOWEST`].

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Cluster;
use crate::report::ProcessState;

const FIRST: Duration = Duration::from_millis(20);
const SLOWEST: Duration = Duration::from_millis(500);
/// The attempt whose failure is told to the user, after about four seconds.
const TELL: u32 = 12;
/// Between two attempts at unfinished work.
const RETRY: Duration = Duration::from_secs(3);

/// Runs until the returned set is dropped.
pub(crate) fn keep(cluster: &Arc<Cluster>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for index in 0..cluster.nodes().len() {
        tasks.spawn(keep_configured(Arc::clone(cluster), index));
    }
    tasks.spawn(keep_finishing(Arc::clone(cluster)));
    tasks
}

async fn keep_configured(cluster: Arc<Cluster>, index: usize) {
    let Some(node) = cluster.nodes().get(index) else { return };
    let mut status = node.status.clone();
    let mut configured = 0;
    loop {
        let new = status.wait_for(|status| status.state == ProcessState::Running && status.starts != configured).await;
        let Ok(new) = new.map(|status| status.starts) else { return };
        let mut pause = FIRST;
        for attempt in 1u32.. {
            match cluster.configure(node).await {
                // The process that answered may be another one by now; then its successor is configured again.
                Ok(()) if status.borrow().starts == new => {
                    configured = new;
                    node.configured.send_replace(new);
                    tracing::info!(process = node.name, start = new, "ready");
                    break;
                }
                Ok(()) => {}
                // Once: it is not listening for a moment after every start.
                Err(error) if attempt == TELL => {
                    tracing::warn!(process = node.name, %error, "not ready yet, still trying");
                }
                Err(_) => {}
            }
            let replaced = status.wait_for(|status| status.state != ProcessState::Running || status.starts != new);
            if tokio::time::timeout(pause, replaced).await.is_ok() {
                break;
            }
            pause = (pause * 2).min(SLOWEST);
        }
    }
}

async fn keep_finishing(cluster: Arc<Cluster>) {
    loop {
        cluster.unfinished.notified().await;
        tokio::time::sleep(RETRY).await;
        cluster.retry().await;
    }
}

impl Cluster {
    /// Tries again what could not be done before.
    async fn retry(&self) {
        let _change = self.changes.lock().await;
        for pool in self.pools().filter(|node| *node.configured.borrow() > 0 && node.runs()) {
            if let Err(error) = pool.rpc.set_peers(self.peers()).await {
                tracing::debug!(pool = pool.name, %error, "cannot tell a pool about its peers");
            }
        }
        if let Err(error) = self.reconcile().await {
            tracing::warn!(%error, "unfinished work cannot be done");
            self.unfinished.notify_one();
        }
        self.push_volumes_or_retry().await;
    }
}
