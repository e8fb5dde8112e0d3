//! The gRPC services of a pool process.

pub mod change;
pub mod control;
pub mod data;
mod grow;
mod session;
