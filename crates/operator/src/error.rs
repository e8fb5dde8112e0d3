//! Why a look at an object ended early. It is looked at again.

use ballast_api::k8s::config::ConfigError;

use crate::pools::select::SelectError;
use crate::processes::CallError;
use crate::volumes::place::TooFewPools;
use crate::volumes::view::NoId;

/// A step that could not be taken now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error("the API server: {0}")]
    Api(#[source] Box<kube::Error>),
    /// A pool or target.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A claim that cannot be served.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Too few pools.
    #[error(transparent)]
    Place(#[from] TooFewPools),
    /// A volume without identity.
    #[error(transparent)]
    NoId(#[from] NoId),
    /// Something else that must be right first.
    #[error("{0}")]
    NotYet(String),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}
