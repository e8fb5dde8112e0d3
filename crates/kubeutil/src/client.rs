//! The client of a controller process.

use std::time::Duration;

use futures_util::future::BoxFuture;
use kube::{Client, Config};

/// There is no API server to talk to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither in a pod nor with a kubeconfig.
    #[error("no Kubernetes API server is configured: run in a pod with a service account, or set KUBECONFIG ({0})")]
    Config(Box<kube::config::InferConfigError>),
    /// The configuration cannot be used.
    #[error(
        "the configuration of the Kubernetes API server cannot be used: check KUBECONFIG or the service account's token ({0})"
    )]
    Client(Box<kube::Error>),
}

/// A client from the pod's service account or from a kubeconfig. Says nothing yet about whether the server answers.
///
/// A boxed future is compiled here, once, and not in the crate of each caller.
pub fn connect() -> BoxFuture<'static, Result<Client, ConnectError>> {
    Box::pin(async {
        let mut config = Config::infer().await.map_err(|error| ConnectError::Config(Box::new(error)))?;
        // A server whose address answers nothing is tried again soon.
        config.connect_timeout = Some(Duration::from_secs(10));
        Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
    })
}
