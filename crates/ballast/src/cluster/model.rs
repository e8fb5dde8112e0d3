//! What the supervisor knows about pools and volumes. Plain data; nothing here is a status.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ballast_api::{PoolId, ReplicaId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::names::VolumeName;

/// A pool that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolRecord {
    /// Its identity, from the labels of its devices.
    pub(crate) id: PoolId,
    /// `pool-N`, the name of its directory.
    pub(crate) name: String,
    /// Its devices.
    pub(crate) devices: Vec<PathBuf>,
}

/// One replica of a volume and where it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Raft node id.
    pub(crate) replica: ReplicaId,
    /// Its pool.
    pub(crate) pool: PoolId,
}

/// Where a volume is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Its replicas are being made; nothing was written yet.
    Creating,
    /// It is served.
    Ready,
    /// A tombstone: kept until every replica is gone, so that none of them brings it back.
    Deleting,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// Its identity, also of its Raft group.
    pub(crate) id: VolumeId,
    /// Its name.
    pub(crate) name: VolumeName,
    /// Its size in blocks.
    pub(crate) blocks: u64,
    /// Its replicas.
    pub(crate) members: Vec<Member>,
    /// Where it is in its life.
    pub(crate) phase: Phase,
}

impl Volume {
    /// Replicas that make a majority.
    pub(crate) fn quorum(&self) -> usize {
        quorum(self.members.len())
    }
}

/// Members of `count` that make a majority.
pub(crate) fn quorum(count: usize) -> usize {
    count / 2 + 1
}

/// All pools and volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Pools by identity.
    pub(crate) pools: BTreeMap<PoolId, PoolRecord>,
    /// Volumes by identity, tombstones among them.
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
}

impl Table {
    /// The volume called `name`, unless it is being deleted.
    pub(crate) fn by_name(&self, name: &VolumeName) -> Option<&Volume> {
        self.live().find(|volume| volume.name == *name)
    }

    /// Volumes that are not being deleted.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|volume| volume.phase != Phase::Deleting)
    }

    /// Volumes that the target serves.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|volume| volume.phase == Phase::Ready)
    }

    /// The pool in the directory `name`.
    pub(crate) fn pool_named(&self, name: &str) -> Option<&PoolRecord> {
        self.pools.values().find(|pool| pool.name == name)
    }

    /// Remembers a pool that has answered. A pool of the same name and another identity was replaced by it.
    /// True when something changed.
    pub(crate) fn saw_pool(&mut self, record: PoolRecord) -> bool {
        if self.pools.get(&record.id) == Some(&record) {
            return false;
        }
        self.pools.retain(|id, known| *id == record.id || known.name != record.name);
        self.pools.insert(record.id, record);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pool_replaces_the_one_of_the_same_name() {
        let pool = |byte, name: &str| PoolRecord {
            id: PoolId::from_bytes([byte; 16]),
            name: name.to_owned(),
            devices: Vec::new(),
        };
        let mut table = Table::default();
        assert!(table.saw_pool(pool(1, "pool-0")));
        assert!(table.saw_pool(pool(2, "pool-1")));
        assert!(!table.saw_pool(pool(2, "pool-1")));
        assert!(table.saw_pool(pool(3, "pool-1")));
        assert_eq!(table.pools.len(), 2);
        assert_eq!(table.pool_named("pool-1").map(|p| p.id), Some(PoolId::from_bytes([3; 16])));
        // Renamed: found again by its identity.
        assert!(table.saw_pool(pool(1, "pool-7")));
        assert_eq!(table.pools.len(), 2);
        assert!(table.pool_named("pool-0").is_none());
    }

    #[test]
    fn majorities() {
        assert_eq!([1, 2, 3, 4, 5].map(quorum), [1, 2, 2, 3, 3]);
    }
}
