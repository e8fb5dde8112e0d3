//! Between pool processes: one gRPC stream for each pair and direction carries the Raft messages of all groups.

pub mod answer;
pub mod departure;
pub mod directory;
pub mod link;
pub mod server;
