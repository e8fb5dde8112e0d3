//! `ballast.control.v1.PoolControl`: what the supervisor or the operator asks of a pool process.

use std::sync::Arc;

use ballast_api::control::pool_control_server::PoolControl;
use ballast_api::control::{
    CreateReplicaRequest, DeviceStatus, Empty, FormGroupRequest, Member as WireMember, PeerTable, PoolStatus,
    ReplicaStatus, VolumeRef,
};
use ballast_api::{BlockCount, PoolId, ReplicaId, VolumeId};
use ballast_pool::PoolError;
use openraft::async_runtime::watch::WatchReceiver;
use tonic::{Request, Response, Status};

use crate::member::{Member, MemberConfig, MemberError, role};
use crate::members::Members;

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
}

fn volume_id(bytes: &[u8]) -> Result<VolumeId, Status> {
    VolumeId::from_slice(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn group(members: Vec<WireMember>) -> Result<Vec<(ReplicaId, PoolId)>, Status> {
    members
        .into_iter()
        .map(|member| {
            let pool = PoolId::from_slice(&member.pool).map_err(|e| Status::invalid_argument(e.to_string()))?;
            Ok((ReplicaId(member.replica), pool))
        })
        .collect()
}

fn status_of(error: MemberError) -> Status {
    match &error {
        MemberError::Pool(PoolError::NoSpace { .. }) => Status::resource_exhausted(error.to_string()),
        MemberError::Pool(PoolError::ReplicaExists { .. }) => Status::already_exists(error.to_string()),
        MemberError::Pool(PoolError::UnknownReplica { .. }) => Status::not_found(error.to_string()),
        MemberError::Pool(PoolError::Fenced { .. }) => Status::unavailable(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

#[tonic::async_trait]
impl PoolControl for ControlService {
    async fn set_peers(&self, request: Request<PeerTable>) -> Result<Response<Empty>, Status> {
        let mut peers = Vec::new();
        for peer in request.into_inner().peers {
            let pool = PoolId::from_slice(&peer.pool).map_err(|e| Status::invalid_argument(e.to_string()))?;
            let endpoint = peer.endpoint.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?;
            peers.push((pool, endpoint));
        }
        self.members.directory().set(peers);
        Ok(Response::new(Empty {}))
    }

    async fn create_replica(&self, request: Request<CreateReplicaRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let volume = volume_id(&request.volume)?;
        let config =
            MemberConfig { name: request.name, replica: ReplicaId(request.replica), members: group(request.members)? };
        self.members.create(volume, &config, BlockCount(request.blocks)).await.map_err(status_of)?;
        Ok(Response::new(Empty {}))
    }

    async fn form_group(&self, request: Request<FormGroupRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        let volume = volume_id(&request.volume)?;
        let member =
            self.members.get(volume).ok_or_else(|| Status::not_found("this pool holds no replica of the volume"))?;
        member.form(&group(request.members)?).await.map_err(status_of)?;
        Ok(Response::new(Empty {}))
    }

    async fn delete_replica(&self, request: Request<VolumeRef>) -> Result<Response<Empty>, Status> {
        let volume = volume_id(&request.into_inner().volume)?;
        self.members.delete(volume).await.map_err(status_of)?;
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
        }))
    }
}

fn replica_status(member: &Member) -> ReplicaStatus {
    let metrics = member.raft().metrics();
    let metrics = metrics.borrow_watched();
    let detail = metrics.running_state.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let members = metrics
        .membership_config
        .nodes()
        .map(|(id, node)| WireMember { replica: *id, pool: node.pool.to_bytes() })
        .collect::<Vec<_>>();
    // Before the group is formed only the creation request knows the members.
    let members = if members.is_empty() {
        let first = &member.config().members;
        first.iter().map(|(id, pool)| WireMember { replica: id.0, pool: pool.to_bytes() }).collect()
    } else {
        members
    };
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
    }
}
