//! One running member of a volume's group: Raft, its store, and the housekeeping between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ballast_api::{BlockCount, PoolId, ReplicaId, VolumeId};
use ballast_pool::{Admission, Pool, PoolError, Replica, ReplicaConfig};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Instant, ServerState};
use serde::{Deserialize, Serialize};

use crate::membership::{GroupView, MemberView};
use crate::peer::directory::Directory;
use crate::raft::codec::log_id_of;
use crate::raft::log_store::LogStore;
use crate::raft::network::Network;
use crate::raft::settings;
use crate::raft::state_machine::{StateMachine, VolumeView};
use crate::raft::types::{Config, MemberNode, Raft};
use crate::snapshot::Sending;

/// A read is answered from the leader's own knowledge when a quorum has confirmed it within this time. Shorter than
/// the lease (no other leader can exist before that ends) by enough for a clock that runs a little fast.
const READ_LEASE: Duration = Duration::from_millis(settings::ELECTION_MAX_MS * 3 / 4);

/// In a status, a member is in contact when it answered a message sent within this time: three heartbeats, so that a busy machine may
/// be late with one.
pub const CONTACT: Duration = Duration::from_millis(3 * settings::HEARTBEAT_MS);

/// Taking note of a checkpoint is a message to the Raft core and back.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(5);

/// What the pool keeps about a replica for us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberConfig {
    /// The volume's name, for people.
    pub name: String,
    /// This member's id.
    pub replica: ReplicaId,
    /// The group's first members; later changes are in the log. Empty: the replica was made to be added to a group.
    pub members: Vec<(ReplicaId, PoolId)>,
}

/// Why a member could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The pool said no.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The replica's own record does not parse.
    #[error("the record of this replica is damaged: {0}; delete the replica, it will be rebuilt from the others")]
    Config(#[from] postcard::Error),
    /// openraft would not start.
    #[error("starting the Raft member: {0}")]
    Start(String),
    /// The group could not be formed.
    #[error("forming the group: {0}")]
    Form(String),
    /// It is not one of the first.
    #[error("this replica was made to be added to a group that exists; ask the group's leader with AddLearner")]
    Joins,
    /// It is to be deleted only if it holds nothing.
    #[error("a target has opened this volume, so the replica holds data; it is not deleted as one that was half made")]
    Used,
}

/// A running member.
pub struct Member {
    volume: VolumeId,
    config: MemberConfig,
    blocks: BlockCount,
    raft: Raft,
    view: Arc<VolumeView>,
    store: Replica,
    pool: Pool,
    directory: Directory,
    sending: Sending,
    housekeeping: tokio::task::JoinHandle<()>,
}

impl MemberConfig {
    /// As the pool keeps it.
    pub fn to_replica_config(&self, blocks: BlockCount) -> Result<ReplicaConfig, MemberError> {
        Ok(ReplicaConfig { blocks, user: Bytes::from(postcard::to_stdvec(self)?) })
    }
}

impl Member {
    /// Starts the member whose replica is in `pool`.
    pub async fn start(pool: Pool, volume: VolumeId, directory: Directory) -> Result<Self, MemberError> {
        let store = pool.replica(volume)?;
        let replica_config = store.config();
        let config: MemberConfig = postcard::from_bytes(&replica_config.user)?;
        let sending = Sending::default();
        let log = LogStore::new(store.clone());
        let network = Network::new(volume, directory.clone(), sending.clone(), log.appended());
        let machine = StateMachine::open(store.clone()).await.map_err(|e| MemberError::Start(e.to_string()))?;
        let view = machine.view();
        let settings = settings::config();
        let raft = Raft::new(config.replica.0, settings, network, log, machine)
            .await
            .map_err(|e| MemberError::Start(e.to_string()))?;
        let housekeeping = tokio::spawn(keep_house(volume, store.clone(), raft.clone(), sending.clone()));
        let blocks = replica_config.blocks;
        Ok(Self { volume, config, blocks, raft, view, store, pool, directory, sending, housekeeping })
    }

    /// Forms the group. Done once; repeating it changes nothing.
    pub async fn form(&self, members: &[(ReplicaId, PoolId)]) -> Result<(), MemberError> {
        if self.config.members.is_empty() {
            return Err(MemberError::Joins);
        }
        let nodes: BTreeMap<u64, MemberNode> =
            members.iter().map(|(id, pool)| (id.0, MemberNode { pool: *pool })).collect();
        match self.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(other) => Err(MemberError::Form(other.to_string())),
        }
    }

    /// Stops the member; the replica stays in the pool.
    pub async fn stop(&self) {
        self.housekeeping.abort();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(volume = %self.volume, %error, "the Raft member did not stop cleanly");
        }
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The group's Raft handle.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The volume's blocks on this pool.
    pub fn store(&self) -> &Replica {
        &self.store
    }

    /// Epoch as applied here.
    pub fn view(&self) -> &VolumeView {
        &self.view
    }

    /// Name, id and first members.
    pub fn config(&self) -> &MemberConfig {
        &self.config
    }

    /// Capacity of the volume, as applied here.
    pub fn blocks(&self) -> BlockCount {
        self.blocks.max(self.view.blocks())
    }

    /// Room in the pool for a write of this many blocks, to be kept until the write is answered.
    pub fn admit(&self, blocks: u64) -> Result<Admission, PoolError> {
        self.pool.admit(blocks)
    }

    /// Whether this member leads, no other can, and everything that was answered under earlier leaders is applied here:
    /// call it *after* the data was read, then the data was current, for the owner of the epoch that is valid now.
    pub async fn confirm_leadership(&self) -> bool {
        {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.state != ServerState::Leader {
                return false;
            }
            // A leader's first entry comes after all that its predecessors have answered. An acknowledged probe alone
            // says nothing of those.
            let settled = metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term);
            if settled && metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < READ_LEASE) {
                return true;
            }
        }
        // Alone in its group, or just elected, or nothing heard for a while: ask the core.
        match self.raft.get_read_linearizer(openraft::ReadPolicy::ReadIndex).await {
            Ok(linearizer) => linearizer.await_ready(&self.raft).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Whether it was made to be added to a group, and knows nothing of any yet.
    pub fn is_waiting(&self) -> bool {
        self.config.members.is_empty() && self.raft.metrics().borrow_watched().membership_config.log_id().is_none()
    }

    /// Where a pool listens.
    pub fn endpoint(&self, pool: PoolId) -> Option<String> {
        self.directory.link(pool).ok().map(|link| link.endpoint().to_string())
    }

    /// Snapshots under way: blocks sent and blocks in all, by receiver.
    pub fn snapshots(&self) -> BTreeMap<ReplicaId, (u64, u64)> {
        self.sending.progress()
    }

    /// The pool that leads the group, as far as this member knows.
    pub fn leader_pool(&self) -> Option<PoolId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leader = metrics.current_leader?;
        metrics.membership_config.membership().get_node(&leader).map(|node| node.pool)
    }
}

/// After each checkpoint of the pool: tell openraft, then let it drop the log that the checkpoint covers, except for a
/// tail that serves replicas which were away for a moment.
async fn keep_house(volume: VolumeId, store: Replica, raft: Raft, sending: Sending) {
    let mut checkpoints = store.checkpointed();
    let mut snapshots = raft.watch_snapshot_progress();
    loop {
        let covered = match checkpoints.changed().await {
            Ok(()) => *checkpoints.borrow_and_update(),
            // The replica was deleted; this task is about to be ended.
            Err(_) => return,
        };
        // While a snapshot is on its way its receiver will need the log from there on.
        let Some(covered) = covered.filter(|_| !sending.is_sending()) else { continue };
        let stopped = |error: String| tracing::warn!(%volume, error, "the Raft member has stopped");
        if let Err(error) = raft.trigger().snapshot().await {
            return stopped(error.to_string());
        }
        let keep = store.first_of_tail(covered.index, settings::KEEP_ENTRIES, settings::KEEP_BLOCKS);
        let Some(purge) = keep.checked_sub(1) else { continue };
        // openraft only purges what its snapshot covers, so the snapshot must have been taken note of.
        _ = tokio::time::timeout(SNAPSHOT_WAIT, snapshots.wait_until_ge(&Some(log_id_of(&covered)))).await;
        if let Err(error) = raft.trigger().purge_log(purge).await {
            return stopped(error.to_string());
        }
    }
}

/// The group as its leader sees it; `None` for anybody else. In contact is who answered a message that was sent after
/// `since`.
pub fn group_view(metrics: &openraft::RaftMetrics<Config>, since: tokio::time::Instant) -> Option<GroupView> {
    let (Some(matched), Some(heard)) = (&metrics.replication, &metrics.heartbeat) else { return None };
    if metrics.state != ServerState::Leader {
        return None;
    }
    let stored = &metrics.membership_config;
    let voters: BTreeSet<u64> = stored.voter_ids().collect();
    let last = metrics.last_log_index.unwrap_or(0);
    let member = |id: &u64, node: &MemberNode| {
        let own = *id == metrics.id;
        let matched = matched.get(id).copied().flatten().map_or(0, |id| id.index);
        let heard = heard.get(id).copied().flatten().is_some_and(|at| at.elapsed() <= since.elapsed());
        MemberView {
            pool: node.pool,
            voter: voters.contains(id),
            matched: if own { last } else { matched },
            in_contact: own || heard,
        }
    };
    let sets = stored.membership().get_joint_config();
    Some(GroupView {
        members: stored.nodes().map(|(id, node)| (ReplicaId(*id), member(id, node))).collect(),
        voters: sets.last().into_iter().flatten().map(|id| ReplicaId(*id)).collect(),
        joint: sets.len() > 1,
        committed: metrics.committed_membership_config == metrics.membership_config,
        last,
    })
}

/// The group's view of a member, for status.
pub fn role(metrics: &openraft::RaftMetrics<Config>) -> &'static str {
    if metrics.running_state.is_err() {
        return "failed";
    }
    match metrics.state {
        ServerState::Leader => "leader",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Learner => "learner",
        ServerState::Shutdown => "stopped",
    }
}
