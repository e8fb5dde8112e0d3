//! An iSCSI target: RFC 7143 over TCP, SPC-4/SBC-3 above a [`BlockDevice`].
//!
//! ```text
//! server/   tokio shell: sockets, sessions of all targets, shutdown
//! iscsi/    PDU codec, login and session state machines, no I/O
//! scsi/     CDB -> command -> device call -> status and sense
//! BlockDevice   what is served: a trait
//! volume/   one implementation of it: the client of a volume's Raft group
//! ```
//! Arrows point down. Nothing in `iscsi`, `scsi` or `server` knows what stands behind the trait.

pub mod block_device;
pub mod iscsi;
pub mod latency;
pub mod memory;
pub mod metrics;
pub mod scsi;
pub mod server;
pub mod volume;

pub use block_device::{BlockDevice, DeviceError, Extent, Geometry};
pub use memory::MemoryDevice;
pub use server::{ServerConfig, ServerError, SessionInfo, TargetAccess, TargetServer};
