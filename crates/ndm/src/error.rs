//! What can go wrong in the node disk manager as a whole.

use crate::config::ConfigError;
use crate::sparse::SparseError;
use crate::tree::TreeError;

/// An error of the node disk manager.
#[derive(Debug, thiserror::Error)]
pub enum NdmError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node's trees.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The sparse files.
    #[error(transparent)]
    Sparse(#[from] SparseError),
    /// The API server refused, or did not answer.
    #[error(
        "{what}: {source}. Check that the API server is reachable and that the role of the node disk manager allows it"
    )]
    Api {
        /// What was tried.
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// The API server took too long.
    #[error("{what}: no answer within {seconds} s. Check that the API server is reachable")]
    Timeout {
        /// What was tried.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A thread of ours ended badly.
    #[error("a thread that reads the node ended: {0}. This is a fault in the node disk manager")]
    Thread(#[from] tokio::task::JoinError),
}
