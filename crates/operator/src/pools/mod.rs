//! From a StoragePoolClaim to pools.
pub(crate) mod claim;
pub mod objects;
pub(crate) mod pool;
pub mod select;
pub mod status;
