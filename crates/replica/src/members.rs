//! All members that run in this process.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use ballast_api::{BlockCount, ReplicaId, VolumeId};
use ballast_pool::Pool;
use tokio::sync::Mutex;

use crate::member::{Member, MemberConfig, MemberError};
use crate::peer::directory::Directory;

/// Which replica of a volume is to be deleted; what its orderer knows may be old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// The one of this Raft id.
    pub replica: Option<ReplicaId>,
    /// One that no target has ever opened, and so holds nothing.
    pub unused: bool,
}

/// The members of a pool process.
pub struct Members {
    pool: Pool,
    directory: Directory,
    running: RwLock<HashMap<VolumeId, Arc<Member>>>,
    /// Replicas that could not be started, and why. They stay in the pool and are shown in the status.
    failed: RwLock<HashMap<VolumeId, String>>,
    /// One change of the set at a time.
    changing: Mutex<()>,
}

impl Members {
    /// Starts a member for each replica of the pool.
    pub async fn start(pool: Pool, directory: Directory) -> Arc<Self> {
        let members = Arc::new(Self {
            pool: pool.clone(),
            directory,
            running: RwLock::default(),
            failed: RwLock::default(),
            changing: Mutex::new(()),
        });
        for volume in pool.replicas() {
            if let Err(error) = members.start_one(volume).await {
                // One damaged replica must not keep the others from serving.
                tracing::error!(%volume, %error, "replica not started");
                members.failed.write().unwrap_or_else(PoisonError::into_inner).insert(volume, error.to_string());
            }
        }
        members
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The other pools.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The member of a volume's group.
    pub fn get(&self, volume: VolumeId) -> Option<Arc<Member>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner).get(&volume).cloned()
    }

    /// All members.
    pub fn all(&self) -> Vec<Arc<Member>> {
        let mut all: Vec<_> = self.running.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by_key(|member| member.volume());
        all
    }

    /// Replicas that could not be started, with the reason.
    pub fn failed(&self) -> Vec<(VolumeId, String)> {
        let failed = self.failed.read().unwrap_or_else(PoisonError::into_inner);
        failed.iter().map(|(volume, why)| (*volume, why.clone())).collect()
    }

    /// Makes and starts a replica. The same again changes nothing.
    pub async fn create(
        &self,
        volume: VolumeId,
        config: &MemberConfig,
        blocks: BlockCount,
    ) -> Result<Arc<Member>, MemberError> {
        let _one_at_a_time = self.changing.lock().await;
        self.pool.create_replica(volume, config.to_replica_config(blocks)?).await?;
        match self.get(volume) {
            Some(member) => Ok(member),
            None => self.start_one(volume).await,
        }
    }

    /// Stops and deletes a replica. One that is not there is deleted already: also when another one of its volume is.
    pub async fn delete(&self, volume: VolumeId, only: Only) -> Result<(), MemberError> {
        let _one_at_a_time = self.changing.lock().await;
        if let Ok(store) = self.pool.replica(volume) {
            // One whose record is damaged has no id any more; it is worth nothing.
            let id = postcard::from_bytes::<MemberConfig>(&store.config().user).map(|config| config.replica);
            if let (Some(wanted), Ok(id)) = (only.replica, id)
                && wanted != id
            {
                return Ok(());
            }
            // Of one that could not be started nobody knows.
            let empty = |member: Arc<Member>| member.view().epoch().0 == 0 && store.allocated_blocks() == 0;
            if only.unused && !self.get(volume).is_some_and(empty) {
                return Err(MemberError::Used);
            }
        }
        let member = self.running.write().unwrap_or_else(PoisonError::into_inner).remove(&volume);
        if let Some(member) = member {
            member.stop().await;
        }
        self.failed.write().unwrap_or_else(PoisonError::into_inner).remove(&volume);
        if self.pool.replica(volume).is_ok() {
            self.pool.delete_replica(volume).await?;
        }
        Ok(())
    }

    /// Stops all members.
    pub async fn stop(&self) {
        let members: Vec<_> =
            self.running.write().unwrap_or_else(PoisonError::into_inner).drain().map(|(_, member)| member).collect();
        for member in members {
            member.stop().await;
        }
    }

    async fn start_one(&self, volume: VolumeId) -> Result<Arc<Member>, MemberError> {
        let member = Arc::new(Member::start(self.pool.clone(), volume, self.directory.clone()).await?);
        self.running.write().unwrap_or_else(PoisonError::into_inner).insert(volume, member.clone());
        Ok(member)
    }
}
