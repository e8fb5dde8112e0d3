//! A volume as a block device: the client of its Raft group. Knows gRPC, knows nothing of iSCSI.
//!
//! ```text
//! RaftVolume (device.rs)    bytes -> blocks, checksums, read-modify-write under a range lock (locks.rs)
//!      | one channel
//! Actor (actor.rs)          owns the connection; a thin shell around
//! Core (core.rs)            who leads, which epoch, what is unanswered: plain functions of events, no I/O
//!      | one gRPC stream
//! leader replica
//! ```
//!
//! An initiator sees a pause while the group elects a leader, never an error: what was not answered is sent again
//! to the new leader, under a new epoch, so that no late copy of it can ever take effect after a newer write.

mod actor;
mod core;
#[cfg(test)]
mod core_tests;
mod device;
mod locks;
pub mod serve;

pub use device::{RaftVolume, VolumeOptions, VolumeState, VolumeStats};
