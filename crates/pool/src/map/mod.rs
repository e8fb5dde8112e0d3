//! The map: volume blocks to pool blocks, in leaves of 512 that are paged in on demand.
//!
//! Changed leaves stay in memory until a checkpoint has written them; the others are dropped when there are too many
//! (second chance). A leaf that is read while a checkpoint commits may be an old one: the reader notices by the
//! checkpoint generation and reads again.

use std::collections::BTreeSet;
use std::sync::Arc;

use ballast_api::VolumeId;
use tokio::sync::oneshot;

use crate::error::{PoolError, Result};
use crate::format::leaf::{LEAF_BLOCKS, Leaf};
use crate::format::root::{key_number, leaf_key};
use crate::meta::MetaStore;
use crate::pool::Shared;
use crate::state::replica::CachedLeaf;
use crate::state::{Applied, Core};
use crate::types::LogMark;

/// Leaves that one insertion looks at for something to drop: the lock is held.
const EVICT_LOOKS: usize = 64;
/// Entries applied in one go under the lock.
const APPLY_AT_ONCE: u64 = 256;

pub(crate) fn damaged(volume: VolumeId, leaf: u64) -> PoolError {
    PoolError::metadata(format!("volume {volume}"), format!("the map leaf of block {} is damaged", leaf * LEAF_BLOCKS))
}

/// Leaves that may hold something of a range: those in memory and those in the store.
pub(crate) fn existing_leaves(core: &Core, meta: &dyn MetaStore, slot: u32, lba: u64, count: u64) -> Result<Vec<u64>> {
    let (first, last) = (lba / LEAF_BLOCKS, (lba + count.max(1) - 1) / LEAF_BLOCKS);
    let mut leaves: BTreeSet<u64> = BTreeSet::new();
    if let Some(rs) = core.replicas.get(&slot) {
        leaves.extend(rs.leaves.keys().copied().filter(|leaf| (first..=last).contains(leaf)));
    }
    leaves.extend(stored_leaves(meta, slot, first, last + 1, usize::MAX)?);
    Ok(leaves.into_iter().collect())
}

/// The numbers of leaves in the store.
pub(crate) fn stored_leaves(meta: &dyn MetaStore, slot: u32, from: u64, to: u64, limit: usize) -> Result<Vec<u64>> {
    let pairs = meta.scan(&leaf_key(slot, from), &leaf_key(slot, to), limit)?;
    Ok(pairs.iter().filter_map(|(key, _)| key_number(key)).collect())
}

impl Core {
    /// Puts a leaf that was read into memory, unless it is there.
    pub(crate) fn insert_leaf(&mut self, slot: u32, number: u64, leaf: Arc<Leaf>) {
        let Some(rs) = self.replicas.get_mut(&slot) else { return };
        if rs.leaves.contains_key(&number) {
            return;
        }
        rs.leaves.insert(number, CachedLeaf { leaf, dirty: false, frozen: false, hot: true });
        self.leaves += 1;
        self.lru.push_back((slot, number));
        self.evict(EVICT_LOOKS);
    }

    /// Drops clean leaves while there are too many.
    pub(crate) fn evict(&mut self, looks: usize) {
        let limit = (self.options.map_memory / size_of::<Leaf>() as u64).max(16);
        let mut look = self.lru.len().min(looks);
        while self.leaves > limit && look > 0 {
            look -= 1;
            let Some((slot, number)) = self.lru.pop_front() else { break };
            let Some(rs) = self.replicas.get_mut(&slot) else { continue };
            let Some(cached) = rs.leaves.get_mut(&number) else { continue };
            if cached.dirty || cached.frozen || std::mem::take(&mut cached.hot) {
                self.lru.push_back((slot, number));
                continue;
            }
            rs.leaves.remove(&number);
            self.leaves -= 1;
        }
        // Mostly dirty: a checkpoint cleans them.
        if self.leaves > limit + limit / 2 {
            self.checkpoint.requested = true;
        }
    }
}

impl Shared {
    /// Reads a leaf from the store into memory. Blocks.
    pub(crate) fn load_leaf(&self, slot: u32, number: u64) -> Result<()> {
        loop {
            let (generation, volume) = {
                let core = self.core();
                core.check()?;
                let Some(rs) = core.replicas.get(&slot) else { return Err(PoolError::Closed) };
                if rs.leaves.contains_key(&number) {
                    return Ok(());
                }
                (core.checkpoint.generation, rs.volume)
            };
            let leaf = match self.meta.get(&leaf_key(slot, number))? {
                None => Leaf::default(),
                Some(bytes) => Leaf::decode(&bytes).ok_or_else(|| damaged(volume, number))?,
            };
            let mut core = self.core();
            if core.checkpoint.generation == generation {
                core.insert_leaf(slot, number, Arc::new(leaf));
                return Ok(());
            }
        }
    }

    /// Runs blocking work on a reader thread; on this one in a manual pool.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.manual {
            return work(self);
        }
        let (tx, rx) = oneshot::channel();
        let shared = Arc::clone(self);
        self.jobs.run(move || {
            let _ = tx.send(work(&shared));
        });
        rx.await.map_err(|_| PoolError::Closed)?
    }

    /// Reads leaves from the store into memory.
    pub(crate) async fn load_leaves(self: &Arc<Self>, slot: u32, leaves: Vec<u64>) -> Result<()> {
        self.blocking(move |shared| leaves.iter().try_for_each(|leaf| shared.load_leaf(slot, *leaf))).await
    }

    /// Unmaps a range of many leaves, leaf by leaf; the entry counts as applied at the end. What it frees so far is
    /// kept back until then: only the Applied record with this index justifies a reuse.
    fn large_unmap(&self, slot: u32, mark: LogMark, lba: u64, count: u64) -> Result<()> {
        {
            let mut core = self.core();
            let rs = core.replica_mut(slot)?;
            if rs.unmapping {
                return Err(PoolError::invalid("apply was called while another apply of this replica runs"));
            }
            rs.unmapping = true;
        }
        let mut frees = Vec::new();
        let result = self.unmap_leaves(slot, lba, count, &mut frees);
        let mut core = self.core();
        if let Some(rs) = core.replicas.get_mut(&slot) {
            rs.unmapping = false;
            rs.unmap_waiters.clear();
            if result.is_ok() {
                rs.applied = Some(mark);
                rs.dirty = true;
            }
        }
        result?;
        core.free_applied(slot, frees);
        let purge = core.replicas.get_mut(&slot).and_then(|rs| rs.purge_after_unmap.take());
        purge.map_or(Ok(()), |upto| core.purge(slot, upto))
    }

    fn unmap_leaves(&self, slot: u32, lba: u64, count: u64, frees: &mut Vec<u64>) -> Result<()> {
        let (first, last) = (lba / LEAF_BLOCKS, (lba + count - 1) / LEAF_BLOCKS);
        let mut todo: BTreeSet<u64> = {
            let core = self.core();
            let keys = core.replicas.get(&slot).into_iter().flat_map(|rs| rs.leaves.keys());
            keys.copied().filter(|leaf| (first..=last).contains(leaf)).collect()
        };
        todo.extend(stored_leaves(&*self.meta, slot, first, last + 1, usize::MAX)?);
        for leaf in todo {
            loop {
                self.load_leaf(slot, leaf)?;
                let mut core = self.core();
                core.check()?;
                let Some(rs) = core.replicas.get_mut(&slot) else { return Err(PoolError::Closed) };
                if rs.leaves.contains_key(&leaf) {
                    let before = frees.len();
                    rs.unmap_in_leaf(leaf, lba, count, frees);
                    // No checkpoint may take the block for used and the leaf without it.
                    frees[before..].iter().for_each(|addr| core.alloc.set_volatile(*addr));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits until no large unmap of this replica is half done; `true` when it had to.
    pub(crate) async fn wait_unmapped(&self, slot: u32) -> bool {
        let waiter = {
            let mut core = self.core();
            let Some(rs) = core.replicas.get_mut(&slot).filter(|rs| rs.unmapping) else { return false };
            let (tx, rx) = oneshot::channel();
            rs.unmap_waiters.push(tx);
            rx
        };
        let _ = waiter.await;
        true
    }

    /// Applies the log up to `upto`.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        slot: u32,
        upto: u64,
        skip: &[u64],
        blob: Option<bytes::Bytes>,
    ) -> Result<()> {
        self.wait_durable(slot, upto).await?;
        loop {
            let step = {
                let mut core = self.core();
                core.check()?;
                let rs = core.replica(slot)?;
                if rs.applied_index() >= Some(upto) && rs.applied_index() != Some(upto) {
                    return Err(PoolError::invalid(format!(
                        "apply up to {upto}, but {:?} is applied",
                        rs.applied_index()
                    )));
                }
                // Others want the lock too.
                let next = rs.applied_index().map_or(rs.first, |index| index + 1);
                let stop = upto.min(next.saturating_add(APPLY_AT_ONCE));
                let mut frees = Vec::new();
                let step = core.apply_resident(slot, stop, skip, &mut frees);
                core.free_applied(slot, frees);
                if stop < upto && matches!(step, Ok(Applied::All)) {
                    continue;
                }
                if let (Ok(Applied::All), Ok(rs)) = (&step, core.replica_mut(slot)) {
                    if let (Some(blob), Some(mark)) = (&blob, rs.applied) {
                        rs.blob = Some((mark, blob.clone()));
                        rs.dirty = true;
                    }
                    return Ok(());
                }
                step?
            };
            match step {
                Applied::All => return Ok(()),
                Applied::Missing(leaves) => self.load_leaves(slot, leaves).await?,
                Applied::LargeUnmap { mark, lba, count } => {
                    self.blocking(move |shared| shared.large_unmap(slot, mark, lba, count)).await?;
                }
            }
        }
    }

    /// Waits until an entry is durable.
    pub(crate) async fn wait_durable(&self, slot: u32, index: u64) -> Result<()> {
        let waiter = {
            let mut core = self.core();
            core.check()?;
            let rs = core.replica_mut(slot)?;
            if rs.durable >= Some(index) {
                return Ok(());
            }
            if rs.last().is_none_or(|last| last.index < index) {
                return Err(rs.gap(index, "Append the entry first"));
            }
            let (tx, rx) = oneshot::channel();
            rs.waiters.push((index, tx));
            rx
        };
        self.drive()?;
        if waiter.await.is_err() {
            self.core().check()?;
            return Err(PoolError::Closed);
        }
        Ok(())
    }
}
