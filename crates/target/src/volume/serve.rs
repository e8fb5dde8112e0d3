//! A target process: the iSCSI server over its volumes, and the control service that says which.
//!
//! Health (`grpc.health.v1.Health`, on the control socket)
//! * `""`: SERVING while the process is up.
//! * `"ready"`: SERVING from the moment it knows its volumes, by a hint at start or by SetVolumes, until it stops. Before,
//!   initiators would be told that there is no such volume. A volume that waits for its group's leader does not change it: a
//!   Kubernetes Service without ready endpoints refuses initiators, and their I/O would fail instead of waiting. Only a
//!   target that has lost all its volumes to newer targets makes way for those.

mod observe;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ballast_api::control::target_control_server::{TargetControl, TargetControlServer};
use ballast_api::control::{Empty, LatencyReport, LatencyRequest, Peer, TargetStatus, TargetVolume, VolumeTable};
use ballast_api::{BlockCount, PoolId, TargetId, VolumeId};
use ballast_rpc::{Endpoint, EndpointError, Listener};
use futures_util::future::BoxFuture;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use super::{RaftVolume, VolumeOptions, VolumeState};
use crate::metrics;
use crate::server::secrets::{Accounts, SecretsError, read_accounts};
use crate::server::{ServerConfig, ServerError, TargetAccess, TargetServer};

/// I/O waits this long for a leader before it fails with a retryable error; Linux' initiator gives up after 120 s.
const IO_WAIT: Duration = Duration::from_secs(100);

/// Commands in flight are waited for this long when the process stops.
const DRAIN: Duration = Duration::from_secs(10);

/// How often the volumes are looked at for the readiness.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// How often the secrets are read again, so that a changed one counts without a restart.
const SECRETS_INTERVAL: Duration = Duration::from_secs(10);

/// The service name that a readiness probe asks for.
const READY: &str = "ready";

/// Open control streams are cut after this when the process stops.
const GRACE: Duration = Duration::from_secs(1);

/// What a target process needs.
pub struct TargetOptions {
    /// Where initiators connect.
    pub portal: SocketAddr,
    /// The address that discovery tells, when it is another one than initiators connect to: a Service's.
    pub advertise: Option<SocketAddr>,
    /// CHAP accounts that initiators have to know ([`crate::server::secrets`]); `None`: everybody is let in.
    pub chap: Option<PathBuf>,
    /// Where the control service listens.
    pub control: Endpoint,
    /// The volumes to serve until SetVolumes says more, so that a restarted target finds its volumes while nobody is there
    /// to tell it. `None`: it waits for SetVolumes.
    pub volumes: Option<Vec<TargetVolume>>,
    /// Where metrics are served ([`crate::metrics`]); `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Resolves when the process shall stop.
    pub shutdown: BoxFuture<'static, ()>,
}

/// Why the process ends other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeTargetError {
    /// The iSCSI server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The CHAP accounts.
    #[error("CHAP accounts: {0}")]
    Secrets(#[from] SecretsError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] EndpointError),
    /// The control server ended.
    #[error("the control server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Serves until `shutdown`; then sessions are asked to log out and what is in flight is finished.
///
/// A boxed future is compiled here, once, and not in the crate of each caller.
pub fn serve_target(options: TargetOptions) -> BoxFuture<'static, Result<(), ServeTargetError>> {
    Box::pin(run(options))
}

async fn run(options: TargetOptions) -> Result<(), ServeTargetError> {
    let TargetOptions { portal, advertise, chap, control, volumes, metrics, mut shutdown } = options;
    let accounts = chap.as_deref().map(read_accounts).transpose()?;
    let config = ServerConfig {
        // Below the time that the supervisor gives a process to stop.
        drain_timeout: DRAIN,
        advertised: advertise,
        discovery_chap: accounts.as_ref().and_then(|accounts| accounts.discovery.clone()),
        ..ServerConfig::new(vec![portal])
    };
    let (server, running) = TargetServer::bind(config).await?;
    let target = TargetId::random();
    tracing::info!(%portal, %control, %target, "target is serving");
    let served = Arc::new(Volumes {
        target,
        server: server.clone(),
        table: Mutex::default(),
        accounts: Mutex::new(accounts),
        told: AtomicBool::default(),
    });
    if let Some(volumes) = volumes {
        served.begin(volumes);
    }
    let told = served.clone();
    let mut metrics = pin!(async move {
        match metrics {
            Some(address) => metrics::serve(address, Arc::new(move || told.metrics())).await,
            None => std::future::pending().await,
        }
    });
    let service = ControlService { portal, volumes: served.clone(), changing: tokio::sync::Mutex::default() };
    let (health, health_service) = health_reporter();
    health.set_service_status(READY, served.readiness()).await;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let router = ballast_rpc::server().add_service(TargetControlServer::new(service)).add_service(health_service);
    let listener = Listener::bind(&control).await?;
    let mut grpc = tokio::spawn(listener.serve(router, async move { _ = stopped.wait_for(|stop| *stop).await }));
    let mut running = pin!(running);
    let mut look = tokio::time::interval(HEALTH_INTERVAL);
    let mut secrets = pin!(refresh(chap, &served));
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            result = &mut running => return Ok(result?),
            result = &mut grpc => return Ok(result.unwrap_or(Ok(()))?),
            () = &mut secrets => {}
            () = &mut metrics => {}
            _ = look.tick() => health.set_service_status(READY, served.readiness()).await,
        }
    }
    health.set_service_status(READY, ServingStatus::NotServing).await;
    server.shutdown().await;
    _ = stop.send(true);
    if tokio::time::timeout(GRACE, &mut grpc).await.is_err() {
        grpc.abort();
    }
    Ok(())
}

/// Takes over what has become of the secrets, for ever. What cannot be read changes nothing: nobody is let in by that.
async fn refresh(directory: Option<PathBuf>, volumes: &Volumes) {
    let Some(directory) = directory else { return std::future::pending().await };
    loop {
        tokio::time::sleep(SECRETS_INTERVAL).await;
        let directory = directory.clone();
        match tokio::task::spawn_blocking(move || read_accounts(&directory)).await {
            Ok(Ok(accounts)) => volumes.set_accounts(accounts),
            Ok(Err(error)) => tracing::warn!(%error, "the CHAP accounts stay as they were"),
            Err(error) => tracing::error!(%error, "reading the CHAP accounts failed"),
        }
    }
}

struct Served {
    iqn: String,
    name: String,
    replicas: Vec<Peer>,
    device: Arc<RaftVolume>,
}

/// What the process serves.
struct Volumes {
    target: TargetId,
    server: TargetServer<RaftVolume>,
    table: Mutex<HashMap<VolumeId, Served>>,
    accounts: Mutex<Option<Accounts>>,
    /// Somebody has said which volumes these are.
    told: AtomicBool,
}

struct ControlService {
    portal: SocketAddr,
    volumes: Arc<Volumes>,
    /// One table at a time.
    changing: tokio::sync::Mutex<()>,
}

fn invalid(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

fn replicas(volume: &TargetVolume) -> Result<Vec<(PoolId, Endpoint)>, Status> {
    let parse = |peer: &Peer| {
        let pool = PoolId::from_slice(&peer.pool).map_err(invalid)?;
        Ok((pool, peer.endpoint.parse().map_err(|error: EndpointError| invalid(error))?))
    };
    volume.replicas.iter().map(parse).collect()
}

impl Volumes {
    fn table(&self) -> MutexGuard<'_, HashMap<VolumeId, Served>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn access(&self) -> TargetAccess {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        TargetAccess { initiators: Vec::new(), chap: accounts.as_ref().map(|accounts| accounts.session.clone()) }
    }

    fn set_accounts(&self, new: Accounts) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.as_ref() == Some(&new) {
            return;
        }
        self.server.set_discovery_chap(new.discovery.clone());
        *accounts = Some(new);
        drop(accounts);
        for served in self.table().values() {
            self.server.set_access(&served.iqn, self.access());
        }
        tracing::info!("new CHAP accounts; they count from the next login on");
    }

    /// Serves what a hint says; a volume that cannot be served keeps none of the others away.
    fn begin(&self, volumes: Vec<TargetVolume>) {
        for volume in volumes {
            let name = volume.name.clone();
            let id = VolumeId::from_slice(&volume.volume).map_err(invalid);
            if let Err(status) = id.and_then(|id| self.serve_volume(id, volume)) {
                tracing::error!(volume = name, error = status.message(), "a volume of the hints is not served");
            }
        }
        self.told.store(true, Ordering::Release);
    }

    fn readiness(&self) -> ServingStatus {
        let table = self.table();
        let lost = |served: &Served| served.device.stats().state == VolumeState::Fenced;
        let made_way = !table.is_empty() && table.values().all(lost);
        if self.told.load(Ordering::Acquire) && !made_way { ServingStatus::Serving } else { ServingStatus::NotServing }
    }

    fn serve_volume(&self, id: VolumeId, volume: TargetVolume) -> Result<(), Status> {
        let replicas = replicas(&volume)?;
        let table =
            replicas.iter().map(|(pool, endpoint)| Peer { pool: pool.to_bytes(), endpoint: endpoint.to_string() });
        let table = table.collect();
        if let Some(served) = self.table().get_mut(&id) {
            if served.iqn != volume.iqn {
                let text = format!("volume {} is served with another name; remove it first", served.name);
                return Err(Status::failed_precondition(text));
            }
            // Fewer than it has says somebody who does not know yet that it has grown.
            served.device.grow(BlockCount(volume.blocks));
            served.replicas = table;
            served.device.set_replicas(replicas);
            return Ok(());
        }
        let device = Arc::new(RaftVolume::open(VolumeOptions {
            volume: id,
            name: volume.name.clone(),
            blocks: BlockCount(volume.blocks),
            target: self.target,
            replicas,
            io_wait: IO_WAIT,
        }));
        self.server.add_target(volume.iqn.clone(), device.clone(), self.access()).map_err(invalid)?;
        let TargetVolume { iqn, name, .. } = volume;
        self.table().insert(id, Served { iqn, name, replicas: table, device });
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
            let mut volumes = self.volumes.table();
            let ids: Vec<_> = volumes.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
            ids.into_iter().filter_map(|id| volumes.remove(&id)).collect()
        };
        for served in gone {
            tracing::info!(volume = %served.name, "volume is no longer served");
            self.volumes.server.remove_target(&served.iqn);
        }
        for (id, volume) in wanted {
            self.volumes.serve_volume(id, volume)?;
        }
        self.volumes.told.store(true, Ordering::Release);
        Ok(Response::new(Empty {}))
    }

    async fn status(&self, _request: Request<Empty>) -> Result<Response<TargetStatus>, Status> {
        let volumes = self.volumes.status();
        Ok(Response::new(TargetStatus { portal: self.portal.to_string(), volumes }))
    }

    async fn latencies(&self, request: Request<LatencyRequest>) -> Result<Response<LatencyReport>, Status> {
        let which = request.into_inner().volume;
        let which = (!which.is_empty()).then(|| VolumeId::from_slice(&which)).transpose().map_err(invalid)?;
        Ok(Response::new(self.volumes.latencies(which)))
    }
}
