//! Names, ids and wire types of Ballast. No I/O.
//!
//! The words are those of the field, one meaning each: see `docs/ARCHITECTURE.md`, "Words".

mod ids;
#[cfg(feature = "kubernetes")]
pub mod k8s;
mod units;

pub use ids::{Epoch, PoolId, ReplicaId, TargetId, VolumeId};
pub use units::{BLOCK_SIZE, BlockCount, Lba};

/// The data path: target to leader, replica to replica (`proto/replica.proto`).
#[allow(missing_docs, clippy::all)]
pub mod replica {
    tonic::include_proto!("ballast.replica.v1");
}

/// Control of pool and target processes (`proto/control.proto`).
#[allow(missing_docs, clippy::all)]
pub mod control {
    tonic::include_proto!("ballast.control.v1");
}
