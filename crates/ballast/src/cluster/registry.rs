//! The registry: a sled database that remembers pools and volumes between runs.
//!
//! It is a cache of what the pools say, plus notes of unfinished work (a volume being made, a tombstone). Losing it
//! costs nothing but time: [`super::reconcile`] builds it again from the pools. A registry that cannot be opened is
//! moved aside, never a reason not to start. sled's flush alone is not a power-loss barrier, so its file is synced too.

use std::fs::File;
use std::path::{Path, PathBuf};

use ballast_api::VolumeId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::model::{PoolRecord, Table, Volume};

/// The registry cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// sled said no.
    #[error("cannot {action} the registry {}: {source}; check free space and permissions", path.display())]
    Sled {
        /// What was tried.
        action: &'static str,
        /// Which registry.
        path: PathBuf,
        /// Why it failed.
        source: sled::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}; check free space and permissions", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A record could not be encoded.
    #[error("cannot encode a registry record: {0}; please report this")]
    Encode(#[source] serde_json::Error),
}

impl RegistryError {
    /// Whether somebody else holds the registry. sled has no error of its own for that.
    fn is_lock(&self) -> bool {
        matches!(self, Self::Sled { source: sled::Error::Io(error), .. } if error.to_string().contains("acquire lock"))
    }
}

/// An open registry. Clones share it.
#[derive(Clone)]
pub(crate) struct Registry {
    path: PathBuf,
    db: sled::Db,
    pools: sled::Tree,
    volumes: sled::Tree,
}

/// sled keeps its pages here.
const DATA_FILE: &str = "db";

impl Registry {
    /// Opens the registry; one that is damaged is moved to `registry.damaged` and a new one made. The second value
    /// says so.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<String>), RegistryError> {
        let first = match Self::try_open(path) {
            Ok(registry) => return Ok((registry, None)),
            // Another process has it open: it is fine, and moving it away would not be.
            Err(error) if error.is_lock() => return Err(error),
            Err(error) => error,
        };
        let aside = path.with_extension("damaged");
        let io = |action| {
            let path = path.to_owned();
            move |source| RegistryError::Io { action, path, source }
        };
        match std::fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io("replace")(error)),
            _ => {}
        }
        std::fs::rename(path, &aside).map_err(io("move aside"))?;
        let note = format!("the registry was damaged ({first}); moved to {}, rebuilding it", aside.display());
        Ok((Self::try_open(path)?, Some(note)))
    }

    fn try_open(path: &Path) -> Result<Self, RegistryError> {
        let failed = |source| RegistryError::Sled { action: "open", path: path.to_owned(), source };
        // No timer: a flush is asked for after each change, and an idle supervisor must sleep.
        let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(4 << 20);
        let db = config.open().map_err(failed)?;
        let pools = db.open_tree("pools").map_err(failed)?;
        let volumes = db.open_tree("volumes").map_err(failed)?;
        Ok(Self { path: path.to_owned(), db, pools, volumes })
    }

    /// All that is remembered. Records of another form are dropped: the pools know better.
    pub(crate) fn load(&self) -> Table {
        let mut table = Table::default();
        for pool in records::<PoolRecord>(&self.pools) {
            table.pools.insert(pool.id, pool);
        }
        for volume in records::<Volume>(&self.volumes) {
            table.volumes.insert(volume.id, volume);
        }
        table
    }

    /// Remembers exactly these pools.
    pub(crate) async fn save_pools(&self, table: &Table) -> Result<(), RegistryError> {
        let records: Vec<PoolRecord> = table.pools.values().cloned().collect();
        self.change(move |registry| {
            registry.pools.clear().map_err(registry.failed("write"))?;
            for pool in &records {
                registry.put(&registry.pools, pool.id.as_bytes(), pool)?;
            }
            Ok(())
        })
        .await
    }

    /// Remembers a volume, durably before it returns.
    pub(crate) async fn save_volume(&self, volume: &Volume) -> Result<(), RegistryError> {
        let volume = volume.clone();
        self.change(move |registry| registry.put(&registry.volumes, volume.id.as_bytes(), &volume)).await
    }

    /// Forgets a volume.
    pub(crate) async fn forget_volume(&self, id: VolumeId) -> Result<(), RegistryError> {
        self.change(move |registry| {
            registry.volumes.remove(id.as_bytes()).map_err(registry.failed("write"))?;
            Ok(())
        })
        .await
    }

    /// Runs `work` and the flush where they may block: a busy disk must not delay the restart of a child.
    async fn change<F>(&self, work: F) -> Result<(), RegistryError>
    where
        F: FnOnce(&Self) -> Result<(), RegistryError> + Send + 'static,
    {
        let registry = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&registry)?;
            registry.flush()
        });
        match done.await {
            Ok(result) => result,
            // The runtime ends, or sled panicked: the change is not known to be there.
            Err(error) => Err(RegistryError::Io {
                action: "write",
                path: self.path.clone(),
                source: std::io::Error::other(error),
            }),
        }
    }

    fn put(&self, tree: &sled::Tree, key: &[u8], record: &impl Serialize) -> Result<(), RegistryError> {
        let value = serde_json::to_vec(record).map_err(RegistryError::Encode)?;
        tree.insert(key, value).map_err(self.failed("write"))?;
        Ok(())
    }

    fn flush(&self) -> Result<(), RegistryError> {
        self.db.flush().map_err(self.failed("flush"))?;
        let file = self.path.join(DATA_FILE);
        let synced = File::open(&file).and_then(|data| data.sync_data());
        synced.map_err(|source| RegistryError::Io { action: "sync", path: file, source })
    }

    fn failed(&self, action: &'static str) -> impl Fn(sled::Error) -> RegistryError + '_ {
        move |source| RegistryError::Sled { action, path: self.path.clone(), source }
    }
}

fn records<T: DeserializeOwned>(tree: &sled::Tree) -> Vec<T> {
    let values = tree.iter().values().filter_map(Result::ok);
    values.filter_map(|value| serde_json::from_slice(&value).ok()).collect()
}

#[cfg(test)]
mod tests {
    use ballast_api::{PoolId, ReplicaId};

    use super::super::model::{Member, Phase};
    use super::*;

    fn table() -> Table {
        let pool = PoolRecord { id: PoolId::random(), name: "pool-0".into(), devices: vec!["/d/disk-0.img".into()] };
        let volume = Volume {
            id: VolumeId::random(),
            name: "demo".parse().unwrap(),
            blocks: 5,
            members: vec![Member { replica: ReplicaId(1), pool: pool.id }],
            phase: Phase::Deleting,
        };
        let mut table = Table::default();
        table.pools.insert(pool.id, pool);
        table.volumes.insert(volume.id, volume);
        table
    }

    #[tokio::test]
    async fn remembers_between_runs() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("registry");
        let table = table();
        let volume = table.volumes.values().next().unwrap().clone();
        {
            let (registry, note) = Registry::open(&path).unwrap();
            assert_eq!(note, None);
            registry.save_pools(&table).await.unwrap();
            registry.save_volume(&volume).await.unwrap();
        }
        let (registry, _) = Registry::open(&path).unwrap();
        assert_eq!(registry.load(), table);
        registry.forget_volume(volume.id).await.unwrap();
        registry.save_pools(&Table::default()).await.unwrap();
        drop(registry);
        assert_eq!(Registry::open(&path).unwrap().0.load(), Table::default());
    }

    #[test]
    fn a_registry_in_use_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("registry");
        let (_held, _) = Registry::open(&path).unwrap();
        assert!(Registry::open(&path).is_err());
        assert!(!temp.path().join("registry.damaged").exists());
    }

    #[test]
    fn a_damaged_registry_is_moved_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("registry");
        std::fs::write(&path, "a file where a directory should be").unwrap();
        let (registry, note) = Registry::open(&path).unwrap();
        assert!(note.unwrap().contains("registry.damaged"));
        assert_eq!(registry.load(), Table::default());
        assert!(temp.path().join("registry.damaged").exists());
    }
}
