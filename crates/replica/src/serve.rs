//! A pool process: its members and its gRPC server, until it is told to stop or its pool is fenced.
//!
//! Health (`grpc.health.v1.Health`, on the same socket): `""` and `"ready"` are SERVING from the first answer on, because the
//! process listens only when its pool has recovered and its replicas are started. They are NOT_SERVING once the pool is fenced
//! or the process stops. A volume without a majority is not this process's illness.

use std::time::Duration;

use ballast_api::PoolId;
use ballast_api::control::pool_control_server::PoolControlServer;
use ballast_api::replica::replica_server::ReplicaServer;
use ballast_pool::{Pool, PoolError};
use ballast_rpc::{Endpoint, EndpointError, Listener};
use futures_util::future::BoxFuture;

use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;

use crate::members::Members;
use crate::peer::directory::Directory;
use crate::service::control::ControlService;
use crate::service::data::DataService;

/// How often the pool's health is looked at. A fenced pool answers nothing any more, so this only bounds the time
/// until the process makes way for a restart.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// The service name that a readiness probe asks for.
const READY: &str = "ready";

/// Calls under way may finish in this time when the process stops.
const GRACE: Duration = Duration::from_millis(200);

/// What a pool process needs.
pub struct ServeOptions {
    /// The open pool.
    pub pool: Pool,
    /// Its name, for people.
    pub name: String,
    /// Where to listen.
    pub listen: Endpoint,
    /// The other pools, until SetPeers says more: a restarted pool finds its groups while nobody is there to tell it.
    pub peers: Vec<(PoolId, Endpoint)>,
    /// Resolves when the process shall stop.
    pub shutdown: BoxFuture<'static, ()>,
}

/// Why the process ends other than by request.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No socket.
    #[error(transparent)]
    Listen(#[from] EndpointError),
    /// The gRPC server ended.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// A device failed. After a restart the pool recovers what is on the media, and its replicas catch up.
    #[error("the pool is fenced and the process ends, so that it can recover from its media: {0}")]
    Fenced(PoolError),
    /// The pool could not be closed.
    #[error("closing the pool: {0}")]
    Close(PoolError),
}

/// Serves the pool until `shutdown`, then stops the members and closes the pool.
///
/// A boxed future is compiled here, once, and not in the crate of each caller.
pub fn serve(options: ServeOptions) -> BoxFuture<'static, Result<(), ServeError>> {
    Box::pin(run(options))
}

async fn run(options: ServeOptions) -> Result<(), ServeError> {
    let ServeOptions { pool, name, listen, peers, mut shutdown } = options;
    let directory = Directory::new(pool.id());
    directory.set(peers);
    let members = Members::start(pool.clone(), directory).await;
    tracing::info!(pool = %pool.id(), name, %listen, replicas = members.all().len(), "pool is serving");

    let (health, health_service) = health_reporter();
    health.set_service_status(READY, ServingStatus::Serving).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let router = ballast_rpc::server()
        .add_service(
            ReplicaServer::new(DataService::new(members.clone(), stopped.clone()))
                .max_decoding_message_size(ballast_rpc::MAX_MESSAGE)
                .max_encoding_message_size(ballast_rpc::MAX_MESSAGE),
        )
        .add_service(PoolControlServer::new(ControlService::new(name, members.clone())))
        .add_service(health_service);
    let mut signal = stopped.clone();
    let signal = async move { _ = signal.wait_for(|stop| *stop).await };
    let incoming = Listener::bind(&listen).await?;
    let mut server = tokio::spawn(incoming.serve(router, signal));

    let mut look = tokio::time::interval(HEALTH_INTERVAL);
    let mut server_ended = false;
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            result = &mut server, if !server_ended => {
                server_ended = true;
                break result.unwrap_or(Ok(())).map_err(ServeError::from);
            }
            _ = look.tick() => if let Err(error @ PoolError::Fenced { .. }) = pool.check_open() {
                break Err(ServeError::Fenced(error));
            },
        }
    };
    for service in ["", READY] {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    _ = stop.send(true);
    members.stop().await;
    if !server_ended && tokio::time::timeout(GRACE, &mut server).await.is_err() {
        server.abort();
    }
    drop(members);
    ended?;
    pool.close().map_err(ServeError::Close)
}
