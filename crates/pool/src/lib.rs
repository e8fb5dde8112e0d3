//! The pool: block storage for replicated logs, where the log entry is the block's home.
//!
//! A pool owns one or more devices. It keeps, for every replica, a log of entries and a map of the volume's blocks, and
//! writes each payload exactly once: to freshly allocated blocks that first the log entry and then, after it is applied,
//! the map points at. See the module docs for the bytes (`format`), the journal, the checkpoints and the rules of reuse.
//!
//! It knows nothing of Raft and owns its threads; its futures run on any executor.
//!
//! Start with [`Pool::create`] and [`Pool::open`]; a [`Replica`] is a handle to one volume's copy.

mod alloc;
mod cache;
mod checkpoint;
mod create;
mod error;
mod format;
mod grow;
mod inspect;
mod install;
mod io;
mod jobs;
mod journal;
mod map;
mod members;
mod meta;
mod pool;
mod prepare;
mod read;
mod recover;
mod replica;
#[cfg(feature = "sim")]
pub mod sim;
mod state;
mod survey;
mod types;
mod wipe;

pub use error::PoolError;
pub use inspect::{DeviceReport, InspectReport, ReplicaReport, inspect, inspect_on};
pub use install::Installer;
pub use io::Device;
pub use pool::{Admission, Pool};
pub use replica::Replica;
pub use types::{
    BlockData, DeviceConfig, DeviceStats, ExportChunk, Extents, IoBackend, LogMark, LogOp, LogRecord, LogState,
    MAX_HARD_STATE_BYTES, MAX_HEADER_BYTES, MAX_RECORD_BLOCKS, OpenOptions, PoolConfig, PoolStats, ReplicaConfig,
};
pub use wipe::{DeviceLabel, Wiped, label_of, wipe};
