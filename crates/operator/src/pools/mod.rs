//! From a StoragePoolClaim to pools.
pub(crate) mod budget;
pub(crate) mod claim;
pub(crate) mod conditions;
pub(crate) mod device;
pub(crate) mod devices;
pub mod objects;
pub(crate) mod pending;
pub(crate) mod pool;
pub mod select;
pub mod status;
