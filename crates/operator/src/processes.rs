//! Calls to pool and target processes: a trait, so that controllers run in tests without processes, and its gRPC form.

use std::time::Duration;

use ballast_api::control::pool_control_client::PoolControlClient;
use ballast_api::control::target_control_client::TargetControlClient;
use ballast_api::control::{
    AddLearnerRequest, ChangeVotersRequest, CreateReplicaRequest, Empty, FormGroupRequest, GrowVolumeRequest,
    PeerTable, PoolStatus, RemoveLearnerRequest, TargetStatus, VolumeRef, VolumeTable,
};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// A status that takes longer is unknown.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Changes are durable when they are answered: a busy disk takes its time.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// A process did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answers.
    #[error("{endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// It said no.
    #[error("{endpoint} refused: {message}")]
    Refused {
        /// Where.
        endpoint: String,
        /// The kind of refusal.
        code: Code,
        /// What it said.
        message: String,
    },
}

impl CallError {
    /// Whether the process answered with this code.
    pub fn is(&self, wanted: Code) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

/// Result of a call.
pub type CallResult<T> = Result<T, CallError>;

/// The calls. `endpoint` is `host:port`.
#[tonic::async_trait]
pub trait Processes: Send + Sync + 'static {
    /// What a pool says about itself.
    async fn pool_status(&self, endpoint: &str) -> CallResult<PoolStatus>;
    /// Tells a pool where the others are.
    async fn set_peers(&self, endpoint: &str, peers: PeerTable) -> CallResult<()>;
    /// Makes a replica.
    async fn create_replica(&self, endpoint: &str, request: CreateReplicaRequest) -> CallResult<()>;
    /// Forms a group.
    async fn form_group(&self, endpoint: &str, request: FormGroupRequest) -> CallResult<()>;
    /// Deletes a replica; one that is not there counts as deleted.
    async fn delete_replica(&self, endpoint: &str, volume: VolumeRef) -> CallResult<()>;
    /// Adds a member that does not vote yet.
    async fn add_learner(&self, endpoint: &str, request: AddLearnerRequest) -> CallResult<()>;
    /// Changes who votes.
    async fn change_voters(&self, endpoint: &str, request: ChangeVotersRequest) -> CallResult<()>;
    /// Takes a member that does not vote out.
    async fn remove_learner(&self, endpoint: &str, request: RemoveLearnerRequest) -> CallResult<()>;
    /// Makes a volume larger; its group's leader answers.
    async fn grow_volume(&self, endpoint: &str, request: GrowVolumeRequest) -> CallResult<()>;
    /// What a target says about itself.
    async fn target_status(&self, endpoint: &str) -> CallResult<TargetStatus>;
    /// Tells a target what to serve.
    async fn set_volumes(&self, endpoint: &str, volumes: VolumeTable) -> CallResult<()>;
}

/// Over gRPC, one connection a call: calls are rare, and a connection that is kept would have to be watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grpc;

/// tonic's own text is "transport error"; what happened stands at the end of the chain.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

async fn call<T, F>(endpoint: &str, limit: Duration, ask: F) -> CallResult<T>
where
    F: AsyncFnOnce(Channel) -> Result<tonic::Response<T>, tonic::Status>,
{
    let unreachable = |reason: String| CallError::Unreachable { endpoint: endpoint.to_owned(), reason };
    let conversation = async {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|error| unreachable(root_cause(&error)))?
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|error| unreachable(root_cause(&error)))?;
        ask(channel).await.map(tonic::Response::into_inner).map_err(|status| match status.code() {
            // The connection broke during the call.
            Code::Unavailable if status.metadata().is_empty() => unreachable(status.message().to_owned()),
            code => CallError::Refused { endpoint: endpoint.to_owned(), code, message: status.message().to_owned() },
        })
    };
    match tokio::time::timeout(limit, conversation).await {
        Ok(result) => result,
        Err(_) => Err(unreachable(format!("no answer within {} s", limit.as_secs()))),
    }
}

#[tonic::async_trait]
impl Processes for Grpc {
    async fn pool_status(&self, endpoint: &str) -> CallResult<PoolStatus> {
        call(endpoint, STATUS_TIMEOUT, async |channel| PoolControlClient::new(channel).status(Empty {}).await).await
    }

    async fn set_peers(&self, endpoint: &str, peers: PeerTable) -> CallResult<()> {
        call(endpoint, STATUS_TIMEOUT, async |channel| PoolControlClient::new(channel).set_peers(peers).await).await?;
        Ok(())
    }

    async fn create_replica(&self, endpoint: &str, request: CreateReplicaRequest) -> CallResult<()> {
        let ask = async |channel| PoolControlClient::new(channel).create_replica(request).await;
        call(endpoint, CHANGE_TIMEOUT, ask).await?;
        Ok(())
    }

    async fn form_group(&self, endpoint: &str, request: FormGroupRequest) -> CallResult<()> {
        call(endpoint, CHANGE_TIMEOUT, async |channel| PoolControlClient::new(channel).form_group(request).await)
            .await?;
        Ok(())
    }

    async fn delete_replica(&self, endpoint: &str, volume: VolumeRef) -> CallResult<()> {
        let ask = async |channel| PoolControlClient::new(channel).delete_replica(volume).await;
        match call(endpoint, CHANGE_TIMEOUT, ask).await {
            Err(error) if error.is(Code::NotFound) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn add_learner(&self, endpoint: &str, request: AddLearnerRequest) -> CallResult<()> {
        let ask = async |channel| PoolControlClient::new(channel).add_learner(request).await;
        call(endpoint, CHANGE_TIMEOUT, ask).await?;
        Ok(())
    }

    async fn change_voters(&self, endpoint: &str, request: ChangeVotersRequest) -> CallResult<()> {
        let ask = async |channel| PoolControlClient::new(channel).change_voters(request).await;
        call(endpoint, CHANGE_TIMEOUT, ask).await?;
        Ok(())
    }

    async fn remove_learner(&self, endpoint: &str, request: RemoveLearnerRequest) -> CallResult<()> {
        let ask = async |channel| PoolControlClient::new(channel).remove_learner(request).await;
        call(endpoint, CHANGE_TIMEOUT, ask).await?;
        Ok(())
    }

    async fn grow_volume(&self, endpoint: &str, request: GrowVolumeRequest) -> CallResult<()> {
        let ask = async |channel| PoolControlClient::new(channel).grow_volume(request).await;
        call(endpoint, CHANGE_TIMEOUT, ask).await?;
        Ok(())
    }

    async fn target_status(&self, endpoint: &str) -> CallResult<TargetStatus> {
        call(endpoint, STATUS_TIMEOUT, async |channel| TargetControlClient::new(channel).status(Empty {}).await).await
    }

    async fn set_volumes(&self, endpoint: &str, volumes: VolumeTable) -> CallResult<()> {
        let ask = async |channel| TargetControlClient::new(channel).set_volumes(volumes).await;
        call(endpoint, CHANGE_TIMEOUT, ask).await?;
        Ok(())
    }
}
