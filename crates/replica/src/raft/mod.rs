//! openraft over a pool: types, bytes, log, state machine, network.

pub mod codec;
pub mod log_store;
pub mod network;
pub mod settings;
pub mod state_machine;
pub mod types;
