//! Addresses, connections and listening sockets of Ballast's gRPC services.
//!
//! Pools, targets and the supervisor speak to each other through these: unix sockets when all run on one machine,
//! TCP otherwise. The settings fit streams of block payloads.

pub mod busy_poll;
mod endpoint;
mod listen;

pub use endpoint::{Endpoint, EndpointError};
pub use listen::{Listener, server};

/// Largest message: 1 MiB of payload, one more entry that was already read, and headers.
pub const MAX_MESSAGE: usize = 16 << 20;
