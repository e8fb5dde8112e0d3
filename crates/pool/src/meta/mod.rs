//! The metadata store: an ordered map of keys to values that changes in atomic, durable steps.
//!
//! Keys and values are those of `format/root.rs`; every value carries its own crc32.

mod backend;
mod redb_store;

pub(crate) use backend::{SuperStore, region_len, regions};
pub(crate) use redb_store::RedbStore;

use crate::error::Result;

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

impl Change {
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// What a pool needs of its metadata store.
pub(crate) trait MetaStore: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;
    /// The first pairs with `from <= key < to`, at most `limit`.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>>;
    /// Makes all changes, or none; they are durable on return.
    fn commit(&self, changes: Vec<Change>) -> Result<()>;
    /// Lets go of the device, for good: the pool may be opened again while handles to this one still exist.
    fn close(&self);
}
