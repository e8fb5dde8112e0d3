//! A target process: the iSCSI server over its volumes, and the control service that says which.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ballast_api::control::target_control_server::{TargetControl, TargetControlServer};
use ballast_api::control::{Empty, TargetStatus, TargetVolume, TargetVolumeStatus, VolumeTable};
use ballast_api::{BlockCount, PoolId, TargetId, VolumeId};
use ballast_rpc::{Endpoint, EndpointError, Listener};
use tonic::{Request, Response, Status};

use super::{RaftVolume, VolumeOptions, VolumeState};
use crate::server::{ServerConfig, ServerError, TargetServer};

/// I/O waits this long for a leader before it fails with a retryable error; Linux' initiator gives up after 120 s.
const IO_WAIT: Duration = Duration::from_secs(100);

/// Commands in flight are waited for this long when the process stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Open control streams are cut after this when the process stops.
const GRACE: Duration = Duration::from_secs(1);

/// What a target process needs.
pub struct TargetOptions<F> {
    /// Where initiators connect.
    pub portal: SocketAddr,
    /// Where the control service listens.
    pub control: Endpoint,
    /// Resolves when the process shall stop.
    pub shutdown: F,
}

/// Why the process ends other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeTargetError {
    /// The iSCSI server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] EndpointError),
    /// The control server ended.
    #[error("the control server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Serves until `shutdown`; then sessions are asked to log out and what is in flight is finished.
pub async fn serve_target<F: Future<Output = ()>>(options: TargetOptions<F>) -> Result<(), ServeTargetError> {
    let TargetOptions { portal, control, shutdown } = options;
    // Below the time that the supervisor gives a process to stop.
    let config = ServerConfig { drain_timeout: DRAIN, ..ServerConfig::new(vec![portal]) };
    let (server, running) = TargetServer::bind(config).await?;
    let target = TargetId::random();
    tracing::info!(%portal, %control, %target, "target is serving");
    let service =
        ControlService { portal, target, server: server.clone(), volumes: Arc::default(), changing: Arc::default() };
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let router = ballast_rpc::server().add_service(TargetControlServer::new(service));
    let listener = Listener::bind(&control).await?;
    let mut grpc = tokio::spawn(listener.serve(router, async move { _ = stopped.wait_for(|stop| *stop).await }));
    let mut running = std::pin::pin!(running);
    tokio::select! {
        () = shutdown => {}
        result = &mut running => return Ok(result?),
        result = &mut grpc => return Ok(result.unwrap_or(Ok(()))?),
    }
    server.shutdown().await;
    _ = stop.send(true);
    if tokio::time::timeout(GRACE, &mut grpc).await.is_err() {
        grpc.abort();
    }
    Ok(())
}

struct Served {
    iqn: String,
    name: String,
    blocks: u64,
    device: Arc<RaftVolume>,
}

struct ControlService {
    portal: SocketAddr,
    target: TargetId,
    server: TargetServer<RaftVolume>,
    volumes: Arc<Mutex<HashMap<VolumeId, Served>>>,
    /// One table at a time.
    changing: Arc<tokio::sync::Mutex<()>>,
}

fn invalid(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

fn replicas(volume: &TargetVolume) -> Result<Vec<(PoolId, Endpoint)>, Status> {
    let parse = |peer: &ballast_api::control::Peer| {
        let pool = PoolId::from_slice(&peer.pool).map_err(invalid)?;
        Ok((pool, peer.endpoint.parse().map_err(|error: EndpointError| invalid(error))?))
    };
    volume.replicas.iter().map(parse).collect()
}

impl ControlService {
    fn volumes(&self) -> MutexGuard<'_, HashMap<VolumeId, Served>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve_volume(&self, id: VolumeId, volume: TargetVolume) -> Result<(), Status> {
        let replicas = replicas(&volume)?;
        if let Some(served) = self.volumes().get(&id) {
            if served.iqn == volume.iqn && served.blocks == volume.blocks {
                served.device.set_replicas(replicas);
                return Ok(());
            }
            return Err(Status::failed_precondition(format!(
                "volume {} is served with another name or size; remove it first",
                served.name
            )));
        }
        let device = Arc::new(RaftVolume::open(VolumeOptions {
            volume: id,
            name: volume.name.clone(),
            blocks: BlockCount(volume.blocks),
            target: self.target,
            replicas,
            io_wait: IO_WAIT,
        }));
        self.server.add_target(volume.iqn.clone(), device.clone()).map_err(invalid)?;
        let served = Served { iqn: volume.iqn, name: volume.name, blocks: volume.blocks, device };
        self.volumes().insert(id, served);
        Ok(())
    }
}

#[tonic::async_trait]
impl TargetControl for ControlService {
    async fn set_volumes(&self, request: Request<VolumeTable>) -> Result<Response<Empty>, Status> {
        let _one_at_a_time = self.changing.lock().await;
        let mut wanted = HashMap::new();
        for volume in request.into_inner().volumes {
            wanted.insert(VolumeId::from_slice(&volume.volume).map_err(invalid)?, volume);
        }
        let gone: Vec<_> = {
            let mut volumes = self.volumes();
            let ids: Vec<_> = volumes.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
            ids.into_iter().filter_map(|id| volumes.remove(&id)).collect()
        };
        for served in gone {
            tracing::info!(volume = %served.name, "volume is no longer served");
            self.server.remove_target(&served.iqn);
        }
        for (id, volume) in wanted {
            self.serve_volume(id, volume)?;
        }
        Ok(Response::new(Empty {}))
    }

    async fn status(&self, _request: Request<Empty>) -> Result<Response<TargetStatus>, Status> {
        let mut volumes: Vec<_> = self
            .volumes()
            .iter()
            .map(|(id, served)| {
                let stats = served.device.stats();
                let state = match stats.state {
                    VolumeState::Opening => "opening",
                    VolumeState::Online => "online",
                    VolumeState::Waiting => "waiting",
                    VolumeState::Fenced => "fenced",
                };
                TargetVolumeStatus {
                    volume: id.to_bytes(),
                    name: served.name.clone(),
                    iqn: served.iqn.clone(),
                    sessions: u32::try_from(self.server.sessions(&served.iqn).len()).unwrap_or(u32::MAX),
                    state: state.to_owned(),
                    leader_pool: stats.leader.map(|pool| pool.to_bytes()).unwrap_or_default(),
                    epoch: stats.epoch.0,
                    reads: stats.reads,
                    writes: stats.writes,
                    retries: stats.retries,
                }
            })
            .collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(TargetStatus { portal: self.portal.to_string(), volumes }))
    }
}
