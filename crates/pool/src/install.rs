//! Filling a replica anew from another one's map, when the log no longer reaches back far enough.
//!
//! The new map grows in a slot of its own. Its blocks are volatile (see `alloc`): a crash before the end leaves no
//! trace. The end is one checkpoint, in which the new slot takes the volume over and the old one becomes a deleted
//! replica, whose blocks are then reclaimed as usual.

use std::sync::{Arc, PoisonError};

use ballast_api::{BLOCK_SIZE, Lba, VolumeId};
use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{PoolError, Result};
use crate::format::leaf::{LEAF_BLOCKS, Leaf, MapEntry};
use crate::format::root::leaf_key;
use crate::format::{BLOCK, split_block};
use crate::io::Purpose;
use crate::map::{damaged, stored_leaves};
use crate::pool::{Pool, Shared};
use crate::state::Core;
use crate::state::replica::{Kind, ReplicaState};
use crate::types::{LogMark, MAX_RECORD_BLOCKS};

/// A replica being filled. Dropped before [`Installer::finish`], it leaves no trace.
#[derive(Debug)]
pub struct Installer {
    pool: Pool,
    volume: VolumeId,
    slot: u32,
    at: LogMark,
    state: Bytes,
    finished: bool,
}

impl Installer {
    pub(crate) fn begin(pool: Pool, volume: VolumeId, at: LogMark, state: Bytes) -> Result<Self> {
        let slot = {
            let mut core = pool.shared().core();
            core.check()?;
            let old = *core.by_volume.get(&volume).ok_or(PoolError::UnknownReplica { volume })?;
            let (capacity, log_capacity, user) = {
                let rs = core.replica(old)?;
                (rs.capacity, rs.log_capacity, rs.user.clone())
            };
            let slot = core.next_slot;
            core.next_slot += 1;
            let mut rs = ReplicaState::new(slot, Kind::Shadow { dropped: false }, volume, capacity, user);
            rs.owns_shadow = true;
            rs.log_capacity = log_capacity;
            core.replicas.insert(slot, rs);
            slot
        };
        Ok(Self { pool, volume, slot, at, state, finished: false })
    }

    /// Writes a run of blocks, as [`crate::Replica::export`] gave them.
    pub async fn write(&mut self, lba: Lba, births: &[u64], crcs: &[u32], payload: Bytes) -> Result<(), PoolError> {
        let count = crcs.len() as u64;
        if births.len() != crcs.len() || payload.len() != crcs.len() * BLOCK_SIZE {
            return Err(PoolError::invalid("births, checksums and payload differ in length"));
        }
        for (at, (block, crc)) in payload.chunks_exact(BLOCK_SIZE).zip(crcs).enumerate() {
            if crc32fast::hash(block) != *crc {
                return Err(PoolError::PayloadMismatch { lba: lba.0 + at as u64, volume: self.volume });
            }
        }
        let capacity = self.pool.shared().core().replicas.get(&self.slot).map_or(0, |rs| rs.capacity);
        if lba.0.checked_add(count).is_none_or(|end| end > capacity) {
            return Err(PoolError::OutOfRange { lba: lba.0, count, capacity });
        }
        let shared = Arc::clone(self.pool.shared());
        if count > 0 {
            let leaves = lba.0 / LEAF_BLOCKS..=(lba.0 + count - 1) / LEAF_BLOCKS;
            shared.load_leaves(self.slot, leaves.collect()).await?;
        }
        let (slot, births, crcs) = (self.slot, births.to_vec(), crcs.to_vec());
        shared
            .blocking(move |shared| {
                for start in (0..crcs.len()).step_by(MAX_RECORD_BLOCKS) {
                    let end = (start + MAX_RECORD_BLOCKS).min(crcs.len());
                    let bytes = &payload[start * BLOCK_SIZE..end * BLOCK_SIZE];
                    shared.install_run(slot, lba.0 + start as u64, &births[start..end], &crcs[start..end], bytes)?;
                }
                Ok(())
            })
            .await
    }

    /// Replaces the replica: new map, empty log, applied and purged at the mark. Durable on return.
    pub async fn finish(mut self) -> Result<(), PoolError> {
        let shared = Arc::clone(self.pool.shared());
        let (volume, slot, at, state) = (self.volume, self.slot, self.at, self.state.clone());
        loop {
            let old = shared.core().slot_of(volume)?;
            if shared.wait_unmapped(old).await {
                continue;
            }
            self.finished = true;
            let state = state.clone();
            let result = shared.blocking(move |shared| shared.finish_install(old, slot, at, state)).await;
            match result {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => {
                    self.finished = false;
                    return Err(e);
                }
            }
        }
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut core = self.pool.shared().core();
        if let Some(rs) = core.replicas.get_mut(&self.slot) {
            rs.kind = Kind::Shadow { dropped: true };
        }
        core.checkpoint.requested = true;
        core.touch();
        self.pool.shared().wake_checkpoint.notify_all();
    }
}

impl Shared {
    /// Writes blocks and maps them in a shadow.
    fn install_run(&self, slot: u32, lba: u64, births: &[u64], crcs: &[u32], payload: &[u8]) -> Result<()> {
        let extents = {
            let mut core = self.make_room(crcs.len() as u64, Core::room_beside_admitted)?;
            let prefer = core.journal.next_device();
            core.unflushed_install = true;
            let got = core.alloc.allocate(crcs.len() as u64, prefer);
            got.ok_or(PoolError::NoSpace { needed: crcs.len() as u64, free: core.alloc.free() })?
        };
        let mut rest = payload;
        for extent in &extents {
            let (device, block) = split_block(extent.addr);
            let (bytes, tail) = rest.split_at((u64::from(extent.len) * BLOCK) as usize);
            rest = tail;
            if let Err(e) = self.devices[device].write_at(block * BLOCK, bytes, Purpose::Payload) {
                self.fence(&e.to_string());
                return Err(e);
            }
        }
        let blocks = extents.iter().flat_map(|e| (0..u64::from(e.len)).map(move |i| e.addr + i));
        let mut mapped: Vec<(u64, MapEntry)> = Vec::with_capacity(crcs.len());
        for (at, addr) in blocks.enumerate() {
            mapped.push((lba + at as u64, MapEntry::new(addr, births[at], crcs[at])));
        }
        loop {
            let mut core = self.core();
            core.check()?;
            let Some(rs) = core.replicas.get_mut(&slot) else { return Err(PoolError::Closed) };
            let missing = mapped.iter().map(|(lba, _)| lba / LEAF_BLOCKS).find(|leaf| !rs.leaves.contains_key(leaf));
            if let Some(leaf) = missing {
                drop(core);
                self.load_leaf(slot, leaf)?;
                continue;
            }
            let mut frees = Vec::new();
            for (lba, entry) in mapped {
                rs.map_block(lba, entry, &mut frees);
            }
            rs.needs_applied = false;
            // Written twice by the sender: nothing durable ever named the first copy, but a checkpoint may have stored
            // the leaf that does, for a later one to read.
            frees.iter().for_each(|addr| core.alloc.set_volatile(*addr));
            core.frees_checkpoint.extend(frees);
            core.unflushed_install = true;
            core.touch();
            return Ok(());
        }
    }
}

impl Shared {
    /// Swaps and checkpoints, with no other checkpoint in between; `false`: not now, a large unmap has begun.
    fn finish_install(&self, old: u32, new: u32, at: LogMark, state: Bytes) -> Result<bool> {
        let _one = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        // From here on the new map's blocks count as used.
        let mut from = 0;
        loop {
            let stored = stored_leaves(&*self.meta, new, from, u64::MAX, 1024)?;
            for number in &stored {
                self.keep_stored(new, *number)?;
            }
            match stored.last() {
                Some(last) => from = last + 1,
                None => break,
            }
        }
        {
            let mut core = self.core();
            core.check()?;
            if core.replica(old)?.unmapping {
                return Ok(false);
            }
            core.keep_cached(new);
            core.swap(old, new, at, state)?;
        }
        let result = self.checkpoint_once();
        if let Err(e) = &result {
            self.fence(&format!("checkpoint failed: {e}"));
        }
        if let Some(rs) = self.core().replicas.get_mut(&new) {
            rs.installing = None;
        }
        self.space.notify_all();
        result.map(|()| true)
    }

    /// Counts the blocks of a stored leaf as used, unless a newer one is in memory.
    fn keep_stored(&self, slot: u32, number: u64) -> Result<()> {
        let volume = match self.core().replicas.get(&slot) {
            Some(rs) if rs.leaves.get(&number).is_none_or(|cached| !cached.dirty) => rs.volume,
            _ => return Ok(()),
        };
        let Some(bytes) = self.meta.get(&leaf_key(slot, number))? else { return Ok(()) };
        let leaf = Leaf::decode(&bytes).ok_or_else(|| damaged(volume, number))?;
        let mut core = self.core();
        leaf.present().for_each(|(_, entry)| core.alloc.clear_volatile(entry.addr()));
        Ok(())
    }
}

impl crate::state::Core {
    /// Counts the blocks of a slot's leaves in memory as used.
    fn keep_cached(&mut self, slot: u32) {
        let Some(rs) = self.replicas.get(&slot) else { return };
        for cached in rs.leaves.values() {
            cached.leaf.present().for_each(|(_, entry)| self.alloc.clear_volatile(entry.addr()));
        }
    }

    /// The new slot takes the volume over.
    fn swap(&mut self, old: u32, new: u32, at: LogMark, state: Bytes) -> Result<()> {
        let mut frees = Vec::new();
        let rs = self.replica_mut(old)?;
        rs.kind = Kind::Deleted;
        rs.waiters.clear();
        rs.drop_log(&mut frees);
        let (volume, hard_state) = (rs.volume, rs.hard_state.clone());
        // Those who watch the replica's checkpoints go on watching.
        let watchers = std::mem::replace(&mut rs.checkpointed, watch::Sender::new(None));
        // Their cause is the checkpoint that contains the swap.
        for addr in frees {
            self.alloc.set_volatile(addr);
            self.frees_checkpoint.push(addr);
        }
        let rs = self.replicas.get_mut(&new).ok_or(PoolError::Closed)?;
        rs.kind = Kind::Live;
        rs.installing = Some(old);
        rs.hard_state = hard_state;
        rs.checkpointed = watchers;
        rs.purged = Some(at);
        rs.applied = Some(at);
        rs.recorded = Some(at.index);
        rs.committed = Some(at);
        rs.durable = Some(at.index);
        rs.unstored_from = at.index + 1;
        rs.first = at.index + 1;
        rs.blob = Some((at, state));
        rs.dirty = true;
        self.by_volume.insert(volume, new);
        self.touch();
        Ok(())
    }
}
