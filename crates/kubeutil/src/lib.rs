//! What all controllers of Ballast need of Kubernetes, each in one place:
//!
//! * [`connect`]: a client, and an error that says what to do when there is none;
//! * [`lease`]: one active controller among several processes;
//! * [`Stop`]: how work hears that it should end;
//! * [`Reporter`]: events that people see in `kubectl describe`;
//! * [`mod@write`]: server-side apply, finalizers;
//! * [`queue`]: keys to work on, each one at a time, again after a failure.

mod client;
mod events;
pub mod lease;
pub mod queue;
mod stop;
pub mod write;

pub use client::{ConnectError, connect};
pub use events::Reporter;
pub use stop::{Stop, Stopper};
