//! One Raft member over a pool, and the gRPC services of a pool process.
//!
//! The way of a write: [`service`] takes it from the target and proposes it; openraft hands it to
//! [`raft::log_store`], which appends it to the pool's journal, and to [`raft::network`], which sends it through
//! [`peer`] to the followers, whose [`peer::server`] verifies it and gives it to their openraft. When a majority has
//! it on stable media, [`raft::state_machine`] points the volume's map at it and the answer goes back.
//!
//! `raft` knows openraft and the pool; `volume` and `membership` are pure; nothing here knows iSCSI or SCSI.

pub mod member;
pub mod members;
pub mod membership;
pub mod peer;
pub mod raft;
pub mod serve;
pub mod service;
pub mod snapshot;
pub mod volume;

pub use serve::{ServeError, ServeOptions, serve};
