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

#[cfg(test)]
mod tests {
    use ballast_api::PoolId;

    use super::*;
    use crate::format::superblock::{Owner, Superblock};
    use crate::io::PoolDevice;
    use crate::sim::SimDisks;

    const REGION: u64 = 33 << 20;

    fn key(number: u32) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    /// redb gives space back commit by commit, and takes some of it again in the middle of a large one.
    #[test]
    fn a_store_that_shrank_grows_again() {
        let disks = SimDisks::new(&[64 << 20]);
        let device = Arc::new(PoolDevice::new(disks.devices().remove(0)));
        let superblock = Superblock {
            pool: PoolId::random(),
            generation: 0,
            incarnation: 0,
            clean: true,
            prepared: 0,
            meta_len: 0,
            owner: Owner::default(),
        };
        let supers = Arc::new(SuperStore::new(device, superblock));
        for round in 0..3_u8 {
            let region = Region { device: Arc::clone(&supers.device), offset: 1 << 20, bytes: REGION };
            let store = RedbStore::open(Arc::clone(&supers), vec![region]).unwrap();
            for number in [6000, 300, 3000] {
                let value = |number: u32| [round; 1000].map(|byte| byte ^ number.to_be_bytes()[3]).to_vec();
                store.commit((0..number).map(|n| Change::Put(key(n), value(n))).collect()).unwrap();
                let all = store.scan(&key(0), &key(u32::MAX), usize::MAX).unwrap();
                assert!(all.iter().zip(0..number).all(|(pair, n)| *pair == (key(n), value(n))));
                assert_eq!(all.len(), number as usize);
                store.commit((0..number).map(|n| Change::Delete(key(n))).collect()).unwrap();
                for _ in 0..20 {
                    store.commit(vec![Change::Put(key(u32::MAX), vec![round])]).unwrap();
                }
            }
            store.close();
        }
    }
}
