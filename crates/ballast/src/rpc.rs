//! Calls to pool and target processes over their unix sockets.
//!
//! One connection per call: calls are rare, a unix socket costs microseconds, and a connection that is kept would have
//! to be watched while nothing happens.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ballast_api::control::pool_control_client::PoolControlClient;
use ballast_api::control::target_control_client::TargetControlClient;
use ballast_api::control::{
    CreateReplicaRequest, Empty, FormGroupRequest, GrowVolumeRequest, LatencyReport, LatencyRequest, PeerTable,
    PoolStatus, TargetStatus, VolumeRef, VolumeTable,
};
use tonic::transport::{Channel, Endpoint};

/// A status that takes longer is unknown.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Changes are durable when they are answered: a busy disk takes its time.
pub(crate) const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Nothing is written for this: a pool that takes longer is told again when it has recovered.
const PEERS_TIMEOUT: Duration = Duration::from_secs(5);

/// A process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RpcError {
    /// No connection.
    #[error("{process} cannot be reached: {}; look at its log and at `ballast status`", root_cause(source))]
    Connect {
        /// Which process.
        process: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// No answer.
    #[error("{process} has not answered within {} s; look at its log and at `ballast status`", after.as_secs())]
    Timeout {
        /// Which process.
        process: String,
        /// How long we waited.
        after: Duration,
    },
    /// It refused.
    #[error("{process}: {}", status.message())]
    Refused {
        /// Which process.
        process: String,
        /// What it said.
        status: Box<tonic::Status>,
    },
}

/// tonic's own text is "transport error"; what happened stands at the end of the chain.
fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// A way to one process.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    process: String,
    endpoint: String,
}

/// How a unix socket is written in peer tables and `--listen`.
pub(crate) fn unix_endpoint(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

impl Rpc {
    /// The process `process` listens on `socket`.
    pub(crate) fn new(process: &str, socket: PathBuf) -> Self {
        Self { process: process.to_owned(), endpoint: unix_endpoint(&socket) }
    }

    /// The process `process` listens there.
    pub(crate) fn at(process: &str, endpoint: &ballast_rpc::Endpoint) -> Self {
        let endpoint = match endpoint {
            ballast_rpc::Endpoint::Unix(socket) => unix_endpoint(socket),
            ballast_rpc::Endpoint::Tcp(address) => format!("http://{address}"),
        };
        Self { process: process.to_owned(), endpoint }
    }

    /// How other processes reach it.
    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// What the pool says about itself.
    pub(crate) async fn pool_status(&self) -> Result<PoolStatus, RpcError> {
        self.call(STATUS_TIMEOUT, async |channel| PoolControlClient::new(channel).status(Empty {}).await).await
    }

    /// Tells the pool who the others are.
    pub(crate) async fn set_peers(&self, peers: PeerTable) -> Result<(), RpcError> {
        self.call(PEERS_TIMEOUT, async |channel| PoolControlClient::new(channel).set_peers(peers).await).await?;
        Ok(())
    }

    /// Makes an empty replica in the pool.
    pub(crate) async fn create_replica(&self, request: CreateReplicaRequest) -> Result<(), RpcError> {
        self.call(CHANGE_TIMEOUT, async |channel| PoolControlClient::new(channel).create_replica(request).await)
            .await?;
        Ok(())
    }

    /// Forms a Raft group from members that were all created.
    pub(crate) async fn form_group(&self, request: FormGroupRequest) -> Result<(), RpcError> {
        self.call(CHANGE_TIMEOUT, async |channel| PoolControlClient::new(channel).form_group(request).await).await?;
        Ok(())
    }

    /// Makes a volume larger; answered by the leader of its group alone.
    pub(crate) async fn grow_volume(&self, request: GrowVolumeRequest) -> Result<(), RpcError> {
        self.call(CHANGE_TIMEOUT, async |channel| PoolControlClient::new(channel).grow_volume(request).await).await?;
        Ok(())
    }

    /// Deletes a replica. One that is not there counts as deleted.
    pub(crate) async fn delete_replica(&self, volume: VolumeRef) -> Result<(), RpcError> {
        let deleted =
            self.call(CHANGE_TIMEOUT, async |channel| PoolControlClient::new(channel).delete_replica(volume).await);
        match deleted.await {
            Err(RpcError::Refused { status, .. }) if status.code() == tonic::Code::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// What the target says about itself.
    pub(crate) async fn target_status(&self) -> Result<TargetStatus, RpcError> {
        self.call(STATUS_TIMEOUT, async |channel| TargetControlClient::new(channel).status(Empty {}).await).await
    }

    /// How long the target's commands took, of all volumes.
    pub(crate) async fn latencies(&self) -> Result<LatencyReport, RpcError> {
        let all = LatencyRequest::default();
        self.call(STATUS_TIMEOUT, async |channel| {
            // Larger than the default takes, with hundreds of volumes.
            let client = TargetControlClient::new(channel).max_decoding_message_size(ballast_rpc::MAX_MESSAGE);
            { client }.latencies(all).await
        })
        .await
    }

    /// Tells the target what to serve.
    pub(crate) async fn set_volumes(&self, volumes: VolumeTable) -> Result<(), RpcError> {
        self.call(CHANGE_TIMEOUT, async |channel| TargetControlClient::new(channel).set_volumes(volumes).await).await?;
        Ok(())
    }

    /// Connects and calls, all within `limit`.
    async fn call<T, F>(&self, limit: Duration, ask: F) -> Result<T, RpcError>
    where
        F: AsyncFnOnce(Channel) -> Result<tonic::Response<T>, tonic::Status>,
    {
        let connect = |source| RpcError::Connect { process: self.process.clone(), source };
        let conversation = async {
            let channel = Endpoint::from_shared(self.endpoint()).map_err(connect)?.connect().await.map_err(connect)?;
            let refused = |status| RpcError::Refused { process: self.process.clone(), status: Box::new(status) };
            ask(channel).await.map(tonic::Response::into_inner).map_err(refused)
        };
        match tokio::time::timeout(limit, conversation).await {
            Ok(result) => result,
            Err(_) => Err(RpcError::Timeout { process: self.process.clone(), after: limit }),
        }
    }
}
