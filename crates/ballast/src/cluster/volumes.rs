//! Making and deleting volumes. Each step is noted before it is taken, so that a crash between any two is finished at
//! the next start (see [`super::reconcile`]).
//!
//! ```text
//! create: note Creating -> CreateReplica on each pool -> FormGroup on one -> note Ready -> tell the target
//! grow:   GrowVolume on the leader's pool -> note the size -> tell the target
//! delete: note Deleting -> tell the target -> DeleteReplica on each pool -> forget
//! ```
//! A creation that fails becomes a deletion.

use ballast_api::control::{CreateReplicaRequest, FormGroupRequest, GrowVolumeRequest, VolumeRef};
use ballast_api::{BLOCK_SIZE, PoolId, VolumeId};

use super::model::{Member, Phase, Volume};
use super::placement::{Candidate, PlacementError, place};
use super::{Cluster, ClusterError, Location};
use crate::names::VolumeName;
use crate::rpc::RpcError;
use crate::size::ByteSize;

/// Replicas of a volume when nothing is said and there are enough pools.
const DEFAULT_REPLICAS: usize = 3;
/// The largest volume: its 512-byte sectors must fit the signed 64-bit offsets of initiators, with room to spare.
const LARGEST: u64 = 1 << 50;

/// A volume could not be made or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// The name is taken.
    #[error("volume {name} exists already ({}): choose another name, or delete it with `ballast volume delete {name}`", ByteSize(*bytes))]
    Exists {
        /// The name.
        name: VolumeName,
        /// Its size.
        bytes: u64,
    },
    /// No such volume.
    #[error("there is no volume {0}: see `ballast volume list`")]
    NotFound(VolumeName),
    /// Not a size for a volume.
    #[error("a volume cannot have {}: give a size from 4Ki to 1Pi", ByteSize(*.0))]
    Size(u64),
    /// Smaller than it is.
    #[error("volume {name} has {} and cannot be made smaller: what lies beyond would be lost", ByteSize(*bytes))]
    Smaller {
        /// The volume.
        name: VolumeName,
        /// Its size.
        bytes: u64,
    },
    /// Nobody could take part in growing it.
    #[error("volume {name} has no leader right now, so it was not grown; see `ballast status`, then try again")]
    NoLeader {
        /// The volume.
        name: VolumeName,
    },
    /// No pools for it.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// Too few pools answer for a deletion that lasts.
    #[error(
        "only {answered} of the {total} pools that hold volume {name} answer; a majority must take part, or the volume \
         could come back: start the missing pools (`ballast status` says which), then delete it"
    )]
    TooFewToDelete {
        /// The volume.
        name: VolumeName,
        /// Pools that answer.
        answered: usize,
        /// Pools that hold it.
        total: usize,
    },
    /// A pool did not do its part; nothing is left of the volume, or will be soon.
    #[error("volume {name} was not made, it is removed again: {source}")]
    NotCreated {
        /// The volume.
        name: VolumeName,
        /// What went wrong.
        source: RpcError,
    },
    /// A process or the registry failed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A pool that is needed is not known.
    #[error("pool {0} has not answered since the start: see `ballast status`, and the logs of pools that do not run")]
    UnknownPool(PoolId),
    /// A process failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// A volume to make.
#[derive(Clone, Debug)]
pub(crate) struct NewVolume {
    /// Its name.
    pub(crate) name: VolumeName,
    /// Its size, rounded up to whole blocks.
    pub(crate) bytes: u64,
    /// Its replicas; none means 3, or as many as there are pools.
    pub(crate) replicas: Option<usize>,
}

impl Cluster {
    /// Makes a volume. True when the target serves it already.
    pub(crate) async fn create_volume(&self, new: NewVolume) -> Result<bool, VolumeError> {
        let _change = self.changes.lock().await;
        if let Some(known) = self.table.borrow().by_name(&new.name) {
            return Err(VolumeError::Exists { name: new.name, bytes: known.blocks.saturating_mul(BLOCK_SIZE as u64) });
        }
        if new.bytes == 0 || new.bytes > LARGEST {
            return Err(VolumeError::Size(new.bytes));
        }
        let replicas = new.replicas.unwrap_or_else(|| self.pools().count().clamp(1, DEFAULT_REPLICAS));
        let candidates = self.scan().await.into_iter().map(|(scan, status)| Candidate {
            pool: scan.pool,
            name: status.name,
            free_bytes: status.free_bytes,
            replicas: scan.replicas.len(),
        });
        let members = place(candidates.collect(), replicas)?;
        let volume = Volume {
            id: VolumeId::random(),
            name: new.name,
            blocks: new.bytes.div_ceil(BLOCK_SIZE as u64),
            members,
            phase: Phase::Creating,
        };
        self.save(volume.clone()).await?;
        let pools: Vec<PoolId> = volume.members.iter().map(|member| member.pool).collect();
        if let Err(error) = self.complete(&volume, &pools).await {
            self.begin_deletion(volume.clone()).await?;
            self.delete_replicas(&volume).await?;
            return Err(match error {
                VolumeError::Rpc(source) => VolumeError::NotCreated { name: volume.name, source },
                other => other,
            });
        }
        Ok(self.push_volumes_or_retry().await)
    }

    /// Makes a volume larger. True when the target knows it already.
    pub(crate) async fn grow_volume(&self, name: &VolumeName, bytes: u64) -> Result<bool, VolumeError> {
        let _change = self.changes.lock().await;
        let volume = self.table.borrow().by_name(name).cloned();
        let volume = volume.ok_or_else(|| VolumeError::NotFound(name.clone()))?;
        if bytes > LARGEST {
            return Err(VolumeError::Size(bytes));
        }
        let blocks = bytes.div_ceil(BLOCK_SIZE as u64);
        if blocks < volume.blocks {
            let bytes = volume.blocks.saturating_mul(BLOCK_SIZE as u64);
            return Err(VolumeError::Smaller { name: name.clone(), bytes });
        }
        let mut refused = None;
        for member in &volume.members {
            let Location::Here(node) = self.locate(member.pool) else { continue };
            let request = GrowVolumeRequest { volume: volume.id.to_bytes(), pool: member.pool.to_bytes(), blocks };
            match node.rpc.grow_volume(request).await {
                Ok(()) => {
                    self.save(Volume { blocks, ..volume }).await?;
                    return Ok(self.push_volumes_or_retry().await);
                }
                // It does not lead, or is not there: another one does.
                Err(RpcError::Refused { status, .. })
                    if matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::Unavailable) => {}
                Err(RpcError::Connect { .. }) => {}
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or_else(|| VolumeError::NoLeader { name: name.clone() }, VolumeError::Rpc))
    }

    /// Deletes a volume. True when every replica is gone already.
    pub(crate) async fn delete_volume(&self, name: &VolumeName) -> Result<bool, VolumeError> {
        let _change = self.changes.lock().await;
        let volume = self.table.borrow().by_name(name).cloned();
        let volume = volume.ok_or_else(|| VolumeError::NotFound(name.clone()))?;
        let scans = self.scan().await;
        let answers = |member: &&Member| {
            matches!(self.locate(member.pool), Location::Gone) || scans.iter().any(|(scan, _)| scan.pool == member.pool)
        };
        let answered = volume.members.iter().filter(answers).count();
        if answered < volume.quorum() {
            return Err(VolumeError::TooFewToDelete { name: name.clone(), answered, total: volume.members.len() });
        }
        self.begin_deletion(volume.clone()).await?;
        // First the target: its sessions end with an answer instead of errors from pools that know no such volume.
        self.push_volumes_or_retry().await;
        Ok(self.delete_replicas(&volume).await?)
    }

    /// Makes the replicas on `missing`, forms the group, and notes that the volume is ready.
    pub(super) async fn complete(&self, volume: &Volume, missing: &[PoolId]) -> Result<(), VolumeError> {
        let members: Vec<_> = volume.members.iter().map(wire_member).collect();
        let create = volume.members.iter().filter(|member| missing.contains(&member.pool)).map(async |member| {
            let Location::Here(node) = self.locate(member.pool) else {
                return Err(VolumeError::UnknownPool(member.pool));
            };
            let request = CreateReplicaRequest {
                volume: volume.id.to_bytes(),
                name: volume.name.to_string(),
                blocks: volume.blocks,
                replica: member.replica.0,
                members: members.clone(),
                ..CreateReplicaRequest::default()
            };
            Ok::<(), VolumeError>(node.rpc.create_replica(request).await?)
        });
        // All answers are waited for, so that none is still on its way when a failed creation is undone.
        futures_util::future::join_all(create).await.into_iter().collect::<Result<(), VolumeError>>()?;
        // The member that forms the group usually leads it: a different one for each volume.
        let first = usize::from(volume.id.as_bytes()[15]) % volume.members.len().max(1);
        if let Some(member) = volume.members.get(first) {
            let Location::Here(node) = self.locate(member.pool) else {
                return Err(VolumeError::UnknownPool(member.pool));
            };
            node.rpc
                .form_group(FormGroupRequest { volume: volume.id.to_bytes(), members, ..Default::default() })
                .await?;
        }
        Ok(self.save(Volume { phase: Phase::Ready, ..volume.clone() }).await?)
    }

    async fn begin_deletion(&self, volume: Volume) -> Result<(), ClusterError> {
        self.save(Volume { phase: Phase::Deleting, ..volume }).await
    }

    /// Deletes all replicas that can be reached. True when that was all of them.
    async fn delete_replicas(&self, volume: &Volume) -> Result<bool, ClusterError> {
        let delete = volume.members.iter().map(async |member| {
            let deleted = self.delete_replica(volume.id, member.pool).await;
            if let Err(error) = &deleted {
                tracing::warn!(volume = %volume.name, %error, "a replica of a deleted volume is deleted later");
            }
            deleted.is_ok()
        });
        let gone = futures_util::future::join_all(delete).await.into_iter().all(|gone| gone);
        if gone {
            self.forget(volume.id).await?;
        } else {
            self.unfinished.notify_one();
        }
        Ok(gone)
    }

    pub(super) async fn delete_replica(&self, volume: VolumeId, pool: PoolId) -> Result<(), VolumeError> {
        match self.locate(pool) {
            Location::Here(node) => {
                Ok(node.rpc.delete_replica(VolumeRef { volume: volume.to_bytes(), ..VolumeRef::default() }).await?)
            }
            Location::Gone => Ok(()),
            Location::Unknown => Err(VolumeError::UnknownPool(pool)),
        }
    }

    /// Forgets the tombstones whose replicas are all gone now.
    pub(super) async fn forget_deleted(&self) -> Result<(), ClusterError> {
        let deleting = |volume: &&Volume| volume.phase == Phase::Deleting;
        if !self.table.borrow().volumes.values().any(|volume| deleting(&volume)) {
            return Ok(());
        }
        let scans: Vec<_> = self.scan().await.into_iter().map(|(scan, _)| scan).collect();
        let plan = super::reconcile::reconcile(&self.table.borrow(), &scans);
        let gone = |id: &VolumeId| self.table.borrow().volumes.get(id).is_some_and(|volume| deleting(&volume));
        for id in plan.forgotten.into_iter().filter(gone) {
            self.forget(id).await?;
        }
        Ok(())
    }

    pub(super) async fn forget(&self, id: VolumeId) -> Result<(), ClusterError> {
        self.registry.forget_volume(id).await?;
        self.table.send_modify(|table| {
            table.volumes.remove(&id);
        });
        Ok(())
    }
}

fn wire_member(member: &Member) -> ballast_api::control::Member {
    ballast_api::control::Member { replica: member.replica.0, pool: member.pool.to_bytes() }
}
