//! Pools and volumes of one `ballast up`: what exists, what is asked of the processes, what they say.
//!
//! [`Cluster`] is the shell around the pure parts: [`reconcile`] (what to correct), [`placement`] (which pools),
//! [`health`] (what state). One change runs at a time; a status never waits for a change.

mod health;
mod keeper;
mod model;
mod placement;
mod reconcile;
mod registry;
mod status;
mod volumes;

use std::net::SocketAddr;
use std::path::PathBuf;

use ballast_api::PoolId;
use ballast_api::control::{Peer, PeerTable, PoolStatus, TargetVolume, VolumeTable};
use tokio::sync::{Mutex, Notify, watch};

pub(crate) use keeper::keep;
pub(crate) use model::Table;
pub(crate) use registry::{Registry, RegistryError};
pub(crate) use volumes::{NewVolume, VolumeError};

use self::model::{Member, Phase, PoolRecord, Volume};
use self::reconcile::{Action, FoundReplica, PoolScan};
use crate::datadir::DataDir;
use crate::report::{ProcessKind, ProcessState};
use crate::rpc::{Rpc, RpcError};
use crate::supervisor::ProcessStatus;

/// A child as the cluster sees it.
pub(crate) struct Node {
    /// `pool-N` or `target`
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: ProcessKind,
    /// Devices of a pool.
    pub(crate) devices: Vec<PathBuf>,
    /// Its life.
    pub(crate) status: watch::Receiver<ProcessStatus>,
    /// The number of the start that answered and got its configuration.
    configured: watch::Sender<u32>,
    rpc: Rpc,
}

impl Node {
    /// The child `name`, which listens on its socket in `dir`.
    pub(crate) fn new(
        dir: &DataDir,
        name: &str,
        kind: ProcessKind,
        devices: Vec<PathBuf>,
        status: watch::Receiver<ProcessStatus>,
    ) -> Self {
        let rpc = Rpc::new(name, dir.socket(name));
        Self { name: name.to_owned(), kind, devices, status, configured: watch::Sender::new(0), rpc }
    }

    /// Changes when the process has answered and got its configuration.
    pub(crate) fn configured(&self) -> watch::Receiver<u32> {
        self.configured.subscribe()
    }

    fn runs(&self) -> bool {
        self.status.borrow().state == ProcessState::Running
    }
}

/// Where a pool is.
enum Location<'a> {
    /// This process serves it.
    Here(&'a Node),
    /// Its directory was removed, and its replicas with it.
    Gone,
    /// A process that has not answered since the start may serve it.
    Unknown,
}

/// A process could not be brought in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// It did not do what it was asked.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The registry cannot be written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It answered with something that makes no sense.
    #[error("{process} answered with {what}: it is not the version that this ballast started; restart `ballast up`")]
    Answer {
        /// Which process.
        process: String,
        /// What was wrong.
        what: &'static str,
    },
}

/// All of one `ballast up`.
pub(crate) struct Cluster {
    dir: DataDir,
    portal: SocketAddr,
    nodes: Vec<Node>,
    registry: Registry,
    table: watch::Sender<Table>,
    /// Held while something is changed.
    changes: Mutex<()>,
    /// Something could not be done now and is to be tried again.
    unfinished: Notify,
}

impl Cluster {
    /// The cluster of these processes, as the registry remembers it.
    pub(crate) fn new(dir: DataDir, portal: SocketAddr, nodes: Vec<Node>, registry: Registry) -> Self {
        let table = watch::Sender::new(registry.load());
        Self { dir, portal, nodes, registry, table, changes: Mutex::new(()), unfinished: Notify::new() }
    }

    /// The children.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What is known.
    pub(crate) fn table(&self) -> Table {
        self.table.borrow().clone()
    }

    fn pools(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.kind == ProcessKind::Pool)
    }

    /// The process of a pool.
    fn locate(&self, id: PoolId) -> Location<'_> {
        let name = self.table.borrow().pools.get(&id).map(|pool| pool.name.clone());
        match self.pools().find(|node| Some(&node.name) == name.as_ref()) {
            Some(node) => Location::Here(node),
            // Only when every process has said which pool it is, none of them can be this one.
            None if self.pools().all(|node| *node.configured.borrow() > 0) => Location::Gone,
            None => Location::Unknown,
        }
    }

    /// A process was started and may answer: learns who it is, tells it what it must know.
    async fn configure(&self, node: &Node) -> Result<(), ClusterError> {
        match node.kind {
            ProcessKind::Target => {
                let _change = self.changes.lock().await;
                self.push_volumes().await
            }
            ProcessKind::Pool => {
                // Without the lock: this is where a pool that is still recovering is waited for.
                let status = node.rpc.pool_status().await?;
                let id = PoolId::from_slice(&status.pool)
                    .map_err(|_| ClusterError::Answer { process: node.name.clone(), what: "an invalid pool id" })?;
                let _change = self.changes.lock().await;
                let record = PoolRecord { id, name: node.name.clone(), devices: node.devices.clone() };
                let new = self.table.send_if_modified(|table| table.saw_pool(record));
                if new {
                    self.registry.save_pools(&self.table()).await?;
                    self.introduce(node).await;
                }
                node.rpc.set_peers(self.peers()).await?;
                self.reconcile().await?;
                if new {
                    // Volumes that were known may have a replica in it.
                    self.push_volumes_or_retry().await;
                }
                Ok(())
            }
        }
    }

    /// Tells all other pools about a new one. Those that cannot be reached now are told when they have come back.
    async fn introduce(&self, new: &Node) {
        for other in self.pools().filter(|node| node.name != new.name && *node.configured.borrow() > 0 && node.runs()) {
            if let Err(error) = other.rpc.set_peers(self.peers()).await {
                tracing::warn!(pool = other.name, %error, "cannot tell a pool about its peers");
                self.unfinished.notify_one();
            }
        }
    }

    fn peers(&self) -> PeerTable {
        let table = self.table.borrow();
        let peer = |pool: &PoolRecord| Peer {
            pool: pool.id.to_bytes(),
            endpoint: crate::rpc::unix_endpoint(&self.dir.socket(&pool.name)),
        };
        PeerTable { peers: table.pools.values().map(peer).collect() }
    }

    /// Tells the target what to serve.
    async fn push_volumes(&self) -> Result<(), ClusterError> {
        let Some(target) = self.nodes.iter().find(|node| node.kind == ProcessKind::Target) else { return Ok(()) };
        let peers = self.peers().peers;
        let volumes = {
            let table = self.table.borrow();
            let volume = |volume: &Volume| TargetVolume {
                volume: volume.id.to_bytes(),
                name: volume.name.to_string(),
                iqn: volume.name.iqn(),
                blocks: volume.blocks,
                replicas: volume
                    .members
                    .iter()
                    .filter_map(|member| peers.iter().find(|peer| peer.pool[..] == member.pool.as_bytes()[..]).cloned())
                    .collect(),
            };
            VolumeTable { volumes: table.served().map(volume).collect() }
        };
        Ok(target.rpc.set_volumes(volumes).await?)
    }

    /// Tells the target what to serve, later when it cannot be reached. True when it knows now.
    async fn push_volumes_or_retry(&self) -> bool {
        let Err(error) = self.push_volumes().await else { return true };
        let target = self.nodes.iter().find(|node| node.kind == ProcessKind::Target);
        if target.is_some_and(|node| *node.configured.borrow() == node.status.borrow().starts) {
            tracing::warn!(%error, "the target does not know the newest volumes yet; trying again");
        }
        self.unfinished.notify_one();
        false
    }

    /// What each pool that answers holds.
    async fn scan(&self) -> Vec<(PoolScan, PoolStatus)> {
        let ask = self.pools().filter(|node| node.runs()).map(async |node| {
            let status = node.rpc.pool_status().await.ok()?;
            let pool = PoolId::from_slice(&status.pool).ok()?;
            // Another pool than the one we know under this name is brought in first.
            (self.table.borrow().pool_named(&node.name)?.id == pool).then_some(())?;
            let replicas = status.replicas.iter().filter_map(found_replica).collect();
            Some((PoolScan { pool, replicas }, status))
        });
        futures_util::future::join_all(ask).await.into_iter().flatten().collect()
    }

    /// Corrects the table by the pools and finishes what was begun. The caller holds the change lock.
    async fn reconcile(&self) -> Result<(), ClusterError> {
        let scans: Vec<PoolScan> = self.scan().await.into_iter().map(|(scan, _)| scan).collect();
        let plan = reconcile::reconcile(&self.table.borrow(), &scans);
        for note in &plan.notes {
            tracing::warn!("{note}");
        }
        let mut served = plan.changed.iter().any(|volume| volume.phase == Phase::Ready) || !plan.forgotten.is_empty();
        for volume in plan.changed {
            self.save(volume).await?;
        }
        for id in plan.forgotten {
            self.forget(id).await?;
        }
        for action in plan.actions {
            let (id, done) = match action {
                Action::Delete { volume, pool } => (volume, self.delete_replica(volume, pool).await),
                Action::Complete { volume, missing } => {
                    let Some(record) = self.table.borrow().volumes.get(&volume).cloned() else { continue };
                    let done = self.complete(&record, &missing).await;
                    served |= done.is_ok();
                    (volume, done)
                }
            };
            if let Err(error) = done {
                tracing::warn!(volume = %id, %error, "a volume's unfinished change is tried again");
                self.unfinished.notify_one();
            }
        }
        self.forget_deleted().await?;
        if served {
            self.push_volumes_or_retry().await;
        }
        Ok(())
    }

    async fn save(&self, volume: Volume) -> Result<(), ClusterError> {
        self.registry.save_volume(&volume).await?;
        self.table.send_modify(|table| {
            table.volumes.insert(volume.id, volume);
        });
        Ok(())
    }
}

fn found_replica(status: &ballast_api::control::ReplicaStatus) -> Option<FoundReplica> {
    let member = |member: &ballast_api::control::MemberStatus| {
        Some(Member { replica: ballast_api::ReplicaId(member.replica), pool: PoolId::from_slice(&member.pool).ok()? })
    };
    Some(FoundReplica {
        volume: ballast_api::VolumeId::from_slice(&status.volume).ok()?,
        name: status.name.clone(),
        blocks: status.blocks,
        members: status.members.iter().filter_map(member).collect(),
        // Any trace of an election or of an entry.
        formed: status.term > 0 || status.last_index > 0 || status.applied_index > 0 || status.leader > 0,
    })
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
