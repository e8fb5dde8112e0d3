//! `ballast.control.v1.PoolControl`: what the supervisor or the operator asks of a pool process.

use std::collections::BTreeSet;
use std::sync::Arc;

use ballast_api::control::pool_control_server::PoolControl;
use ballast_api::control::{
    AddLearnerRequest, ChangeVotersRequest, CreateReplicaRequest, DeviceStatus, Empty, FormGroupRequest,
    GrowVolumeRequest, Member as WireMember, MemberStatus, Peer, PeerTable, PoolStatus, RemoveLearnerRequest,
    ReplicaStatus, SnapshotProgress, VolumeRef,
};
use ballast_api::{BlockCount, PoolId, ReplicaId, VolumeId};
use ballast_pool::PoolError;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{change, grow};
use crate::member::{CONTACT, Member, MemberConfig, MemberError, group_view, role};
use crate::members::{Members, Only};
use crate::raft::types::MemberNode;

/// The service over the members of this process.
pub struct ControlService {
    name: String,
    members: Arc<Members>,
}

impl ControlService {
    /// For these members.
    pub fn new(name: String, members: Arc<Members>) -> Self {
        Self { name, members }
    }

    /// Refuses a call that means another pool. A blank disk makes a new pool behind an old address, and a replica must not
    /// be made again there under an id that has voted.
    fn check_pool(&self, expected: &[u8]) -> Result<(), Status> {
        if expected.is_empty() {
            return Ok(());
        }
        let own = self.members.pool().id();
        match pool_id(expected)? {
            expected if expected == own => Ok(()),
            expected => Err(Status::failed_precondition(format!(
                "this is pool {own}, not pool {expected}: the device at this address was replaced; remove the replicas \
                 of the lost pool from their groups, and use this one as a new pool"
            ))),
        }
    }

    fn member(&self, volume: &[u8]) -> Result<Arc<Member>, Status> {
        let volume = volume_id(volume)?;
        self.members.get(volume).ok_or_else(|| Status::not_found("this pool holds no replica of the volume"))
    }
}

fn pool_id(bytes: &[u8]) -> Result<PoolId, Status> {
    PoolId::from_slice(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn volume_id(bytes: &[u8]) -> Result<VolumeId, Status> {
    VolumeId::from_slice(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn group(members: Vec<WireMember>) -> Result<Vec<(ReplicaId, PoolId)>, Status> {
    members.into_iter().map(|member| Ok((ReplicaId(member.replica), pool_id(&member.pool)?))).collect()
}

fn status_of(error: MemberError) -> Status {
    match &error {
        MemberError::Pool(PoolError::NoSpace { .. }) => Status::resource_exhausted(error.to_string()),
        MemberError::Pool(PoolError::ReplicaExists { .. }) => Status::already_exists(error.to_string()),
        MemberError::Pool(PoolError::UnknownReplica { .. }) => Status::not_found(error.to_string()),
        MemberError::Pool(PoolError::Fenced { .. }) => Status::unavailable(error.to_string()),
        MemberError::Joins => Status::failed_precondition(error.to_string()),
        MemberError::Used => Status::permission_denied(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

#[tonic::async_trait]
impl PoolControl for ControlService {
    async fn set_peers(&self, request: Request<PeerTable>) -> Result<Response<Empty>, Status> {
        let mut peers = Vec::new();
        for peer in request.into_inner().peers {
            let endpoint = peer.endpoint.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?;
            peers.push((pool_id(&peer.pool)?, endpoint));
        }
        self.members.directory().set(peers);
        Ok(Response::new(Empty {}))
    }

    async fn create_replica(&self, request: Request<CreateReplicaRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let volume = volume_id(&request.volume)?;
        let config =
            MemberConfig { name: request.name, replica: ReplicaId(request.replica), members: group(request.members)? };
        self.members.create(volume, &config, BlockCount(request.blocks)).await.map_err(status_of)?;
        Ok(Response::new(Empty {}))
    }

    async fn form_group(&self, request: Request<FormGroupRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let member = self.member(&request.volume)?;
        member.form(&group(request.members)?).await.map_err(status_of)?;
        Ok(Response::new(Empty {}))
    }

    async fn delete_replica(&self, request: Request<VolumeRef>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let replica = (request.replica != 0).then_some(ReplicaId(request.replica));
        let only = Only { replica, unused: request.unused };
        self.members.delete(volume_id(&request.volume)?, only).await.map_err(status_of)?;
        Ok(Response::new(Empty {}))
    }

    async fn add_learner(&self, request: Request<AddLearnerRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let new = request.member.ok_or_else(|| Status::invalid_argument("the new member is missing"))?;
        let member = self.member(&request.volume)?;
        change::add_learner(&member, ReplicaId(new.replica), pool_id(&new.pool)?).await?;
        Ok(Response::new(Empty {}))
    }

    async fn change_voters(&self, request: Request<ChangeVotersRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let member = self.member(&request.volume)?;
        change::change_voters(&member, request.voters.into_iter().map(ReplicaId).collect()).await?;
        Ok(Response::new(Empty {}))
    }

    async fn remove_learner(&self, request: Request<RemoveLearnerRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let member = self.member(&request.volume)?;
        change::remove_learner(&member, ReplicaId(request.replica)).await?;
        Ok(Response::new(Empty {}))
    }

    async fn grow_volume(&self, request: Request<GrowVolumeRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        self.check_pool(&request.pool)?;
        let member = self.member(&request.volume)?;
        grow::grow(&member, BlockCount(request.blocks)).await?;
        Ok(Response::new(Empty {}))
    }

    async fn status(&self, _request: Request<Empty>) -> Result<Response<PoolStatus>, Status> {
        let mut replicas: Vec<_> = self.members.all().iter().map(|member| replica_status(member)).collect();
        replicas.extend(self.members.failed().into_iter().map(|(volume, why)| ReplicaStatus {
            volume: volume.to_bytes(),
            role: "failed".to_owned(),
            detail: why,
            ..ReplicaStatus::default()
        }));
        let pool = self.members.pool();
        let stats = pool.stats();
        let devices = stats.devices.iter().map(|device| DeviceStatus {
            path: device.name.clone(),
            bytes: device.capacity_bytes,
            healthy: device.fenced.is_none(),
            detail: device.fenced.clone().unwrap_or_default(),
        });
        let devices = devices.collect();
        Ok(Response::new(PoolStatus {
            pool: pool.id().to_bytes(),
            name: self.name.clone(),
            capacity_bytes: stats.capacity_bytes,
            allocated_bytes: stats.allocated_bytes,
            free_bytes: stats.free_bytes,
            journal_bytes: stats.journal_bytes,
            journal_used_bytes: stats.journal_used_bytes,
            layout: "striped".to_owned(),
            devices,
            replicas,
            device_bytes_written: stats.devices.iter().map(|device| device.written_bytes).sum(),
            device_flushes: stats.device_flushes,
            payload_bytes_written: stats.payload_bytes_written,
            prepare_bytes_written: stats.prepare_bytes_written,
            checkpoint_bytes_written: stats.checkpoint_bytes_written,
            peers: self.members.directory().table().into_iter().map(wire_peer).collect(),
        }))
    }
}

fn wire_peer((pool, endpoint): (PoolId, ballast_rpc::Endpoint)) -> Peer {
    Peer { pool: pool.to_bytes(), endpoint: endpoint.to_string() }
}

fn replica_status(member: &Member) -> ReplicaStatus {
    let metrics = member.raft().metrics();
    let metrics = metrics.borrow_watched();
    let detail = metrics.running_state.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let membership = &metrics.membership_config;
    let now = Instant::now();
    let view = group_view(&metrics, now.checked_sub(CONTACT).unwrap_or(now));
    let snapshots = member.snapshots();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member_status = |(id, node): (&u64, &MemberNode)| {
        let seen = view.as_ref().and_then(|view| view.members.get(&ReplicaId(*id)));
        let snapshot = snapshots.get(&ReplicaId(*id));
        MemberStatus {
            replica: *id,
            pool: node.pool.to_bytes(),
            voter: voters.contains(id),
            matched_index: seen.map(|seen| seen.matched),
            in_contact: seen.map(|seen| seen.in_contact),
            snapshot: snapshot.map(|(sent, total)| SnapshotProgress { blocks_sent: *sent, blocks_total: *total }),
        }
    };
    let mut members: Vec<_> = membership.nodes().map(member_status).collect();
    // Before the group is formed only the creation request knows the members.
    if members.is_empty() {
        let first = |(id, pool): &(ReplicaId, PoolId)| MemberStatus {
            replica: id.0,
            pool: pool.to_bytes(),
            voter: true,
            ..MemberStatus::default()
        };
        members = member.config().members.iter().map(first).collect();
    }
    ReplicaStatus {
        volume: member.volume().to_bytes(),
        name: member.config().name.clone(),
        blocks: member.blocks().0,
        replica: member.config().replica.0,
        role: role(&metrics).to_owned(),
        term: metrics.current_term,
        last_index: metrics.last_log_index.unwrap_or(0),
        applied_index: metrics.last_applied.map_or(0, |id| id.index),
        leader: metrics.current_leader.unwrap_or(0),
        allocated_bytes: BlockCount(member.store().allocated_blocks()).bytes(),
        epoch: member.view().epoch().0,
        members,
        detail,
        changing: membership.membership().get_joint_config().len() > 1
            || metrics.committed_membership_config != *membership,
    }
}
