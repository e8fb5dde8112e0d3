//! The metadata store on redb: a copy-on-write B-tree with checksummed pages.
//!
//! Commits use two phases and quick repair: after a crash the last commit is valid without a look at its pages, and the
//! free-page state is part of it, so that opening takes the same time for every size.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, TableDefinition, TableError};

use super::backend::{Region, RegionBackend, SuperStore};
use super::{Change, MetaStore, Pair};
use crate::error::{PoolError, Result};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("ballast");
/// Leaves have a cache of their own; this one holds the inner pages.
const CACHE_BYTES: usize = 8 << 20;

/// The store.
pub(crate) struct RedbStore {
    /// None once it is closed.
    db: RwLock<Option<Database>>,
}

fn error(e: impl std::fmt::Display) -> PoolError {
    PoolError::Meta { why: e.to_string() }
}

/// redb promises results for damaged pages only where it checks them; a panic must not take the process down.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(_) => Err(PoolError::Meta { why: String::from("the store is damaged (it panicked)") }),
    }
}

impl RedbStore {
    /// Opens the store in these regions, or makes it when they are empty (its length, which `supers` remembers, is 0).
    pub(crate) fn open(supers: Arc<SuperStore>, regions: Vec<Region>) -> Result<Self> {
        guarded(|| {
            let backend = RegionBackend::new(supers, regions);
            let db = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(error)?;
            Ok(Self { db: RwLock::new(Some(db)) })
        })
    }
}

impl MetaStore for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        guarded(|| {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let txn = db.as_ref().ok_or(PoolError::Closed)?.begin_read().map_err(error)?;
            match txn.open_table(TABLE) {
                Ok(table) => Ok(table.get(key).map_err(error)?.map(|value| value.value().to_vec())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(e) => Err(error(e)),
            }
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>> {
        guarded(|| {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let txn = db.as_ref().ok_or(PoolError::Closed)?.begin_read().map_err(error)?;
            let table = match txn.open_table(TABLE) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                Err(e) => return Err(error(e)),
            };
            let mut out = Vec::new();
            for pair in table.range(from..to).map_err(error)?.take(limit) {
                let (key, value) = pair.map_err(error)?;
                out.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(out)
        })
    }

    fn commit(&self, mut changes: Vec<Change>) -> Result<()> {
        // In key order the tree's pages are touched once.
        changes.sort_by(|a, b| a.key().cmp(b.key()));
        guarded(|| {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let mut txn = db.as_ref().ok_or(PoolError::Closed)?.begin_write().map_err(error)?;
            txn.set_two_phase_commit(true);
            txn.set_quick_repair(true);
            {
                let mut table = txn.open_table(TABLE).map_err(error)?;
                for change in &changes {
                    match change {
                        Change::Put(key, value) => {
                            table.insert(key.as_slice(), value.as_slice()).map_err(error)?;
                        }
                        Change::Delete(key) => {
                            table.remove(key.as_slice()).map_err(error)?;
                        }
                    }
                }
            }
            txn.commit().map_err(error)
        })
    }

    fn close(&self) {
        // Dropping the database writes its shutdown mark.
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}
