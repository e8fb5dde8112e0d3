//! Checkpoints: the state of the pool in one atomic step of the metadata store, so that the journal before it is free.
//!
//! 1. *Reclaim*: blocks of deleted replicas, some leaves at a time.
//! 2. *Freeze*, under the lock: what changed is cloned (leaves by reference count). The cut is the last durable batch S:
//!    entries of later batches are left out, their blocks count as free (see `alloc`).
//! 3. *Commit*: everything goes to the metadata store in one transaction, while I/O goes on.
//! 4. *Release*: journal space up to S, blocks whose only cause is this checkpoint; clean leaves may be dropped again.
//!
//! A checkpoint may contain the effect of a truncation, purge, creation, deletion or new hard state whose record comes in
//! a batch after S: replaying those is idempotent.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::alloc::encode_region;
use crate::error::{PoolError, Result};
use crate::format::leaf::Leaf;
use crate::format::log::{CHUNK, encode_chunk};
use crate::format::root::{ROOT_KEY, ReplicaRecord, Root, SlotKind, chunk_key, leaf_key, region_key, replica_key};
use crate::map::{damaged, stored_leaves};
use crate::meta::Change;
use crate::pool::Shared;
use crate::state::Core;
use crate::state::replica::{Kind, ReplicaState};
use crate::types::LogMark;

/// Leaves of deleted replicas that one checkpoint reclaims.
const RECLAIM_LEAVES: usize = 2048;

/// Slot, applied mark and blob of a replica.
type Saved = (u32, Option<LogMark>, Option<(LogMark, bytes::Bytes)>);

/// What was frozen.
struct Image {
    seq: u64,
    changes: Vec<Change>,
    leaves: Vec<(u32, u64, Arc<Leaf>)>,
    regions: Vec<(u8, u32, Vec<u64>)>,
    /// Applied mark and blob of each replica that was written.
    marks: Vec<Saved>,
    frees: Vec<u64>,
    removed: Vec<u32>,
    flush: bool,
}

impl ReplicaState {
    /// What the checkpoint stores of this replica; entries of batches after `seq` are left out.
    fn freeze(&mut self, seq: u64, changes: &mut Vec<Change>) {
        let slot = self.slot;
        let included = self.log.iter().rposition(|entry| entry.seq <= seq).map_or(0, |at| at as u64 + 1);
        let bounds = (included > 0).then(|| (self.first, self.first + included - 1));
        let mut chunks = None;
        if let Some((first, last)) = bounds {
            let dirty_from = self.unstored_from.max(first);
            let (low, high) = (first / CHUNK, last / CHUNK);
            for chunk in dirty_from / CHUNK..=high {
                let from = (chunk * CHUNK).max(first);
                let to = ((chunk + 1) * CHUNK).min(last + 1);
                if from.max(dirty_from) < to {
                    let entries = (from..to).filter_map(|index| self.entry(index)).map(|entry| &entry.stored);
                    changes.push(Change::Put(chunk_key(slot, chunk), encode_chunk(slot, entries)));
                }
            }
            self.unstored_from = last + 1;
            chunks = Some((low, high));
        }
        if let Some((low, high)) = self.stored_chunks {
            for chunk in low..=high {
                if chunks.is_none_or(|(new_low, new_high)| chunk < new_low || chunk > new_high) {
                    changes.push(Change::Delete(chunk_key(slot, chunk)));
                }
            }
        }
        self.stored_chunks = chunks;
        let mut dead = Vec::new();
        for entry in self.log.iter().take(included as usize).filter(|entry| entry.has_dead()) {
            let blocks = (0..entry.blocks() as usize).filter(|block| entry.is_dead(*block));
            dead.extend(blocks.map(|block| (entry.stored.mark.index, block as u8)));
        }
        let record = ReplicaRecord {
            kind: match self.kind {
                Kind::Live => SlotKind::Live,
                Kind::Deleted => SlotKind::Deleted,
                Kind::Shadow { .. } => SlotKind::Shadow,
            },
            volume: self.volume,
            blocks: self.capacity,
            user: self.user.clone(),
            purged: self.purged,
            applied: self.applied,
            committed: self.committed,
            hard_state: self.hard_state.clone(),
            blob: self.blob.clone(),
            mapped: self.mapped,
            log: bounds,
            dead,
        };
        changes.push(Change::Put(replica_key(slot), record.encode()));
        self.dirty = false;
        self.records_since_checkpoint = 0;
        self.blocks_since_checkpoint = 0;
    }
}

impl Core {
    fn freeze(&mut self) -> Image {
        let seq = self.journal.durable_seq;
        let mut image = Image {
            seq,
            changes: std::mem::take(&mut self.removed_keys).into_iter().map(Change::Delete).collect(),
            leaves: Vec::new(),
            regions: self.alloc.take_dirty(),
            marks: Vec::new(),
            frees: std::mem::take(&mut self.frees_checkpoint),
            removed: std::mem::take(&mut self.removed_slots),
            flush: std::mem::take(&mut self.unflushed_install),
        };
        self.frees_frozen = image.frees.len();
        for slot in &image.removed {
            image.changes.push(Change::Delete(replica_key(*slot)));
        }
        for (slot, rs) in &mut self.replicas {
            if !rs.dirty || image.removed.contains(slot) {
                continue;
            }
            rs.freeze(seq, &mut image.changes);
            image.marks.push((*slot, rs.applied, rs.blob.clone()));
            for (number, cached) in rs.leaves.iter_mut().filter(|(_, cached)| cached.dirty) {
                cached.dirty = false;
                cached.frozen = true;
                image.leaves.push((*slot, *number, Arc::clone(&cached.leaf)));
            }
        }
        let root = Root {
            seq,
            crc: self.journal.durable_crc,
            incarnation: self.journal.durable_incarnation,
            heads: self.journal.durable_heads.clone(),
            next_slot: self.next_slot,
            checkpoint: self.checkpoint.count + 1,
        };
        image.changes.push(Change::Put(ROOT_KEY.to_vec(), root.encode()));
        self.checkpoint.dirty_since = None;
        self.checkpoint.requested = false;
        image
    }

    fn release(&mut self, image: Image) {
        self.journal.release(image.seq);
        self.checkpoint.count += 1;
        self.checkpoint.generation += 1;
        for addr in image.frees {
            self.alloc.release(addr);
        }
        self.frees_frozen = 0;
        for slot in image.removed {
            self.replicas.remove(&slot);
        }
        for (slot, number, leaf) in image.leaves {
            let Some(cached) = self.replicas.get_mut(&slot).and_then(|rs| rs.leaves.get_mut(&number)) else { continue };
            cached.frozen = false;
            drop(leaf);
        }
        for (slot, applied, blob) in image.marks {
            if let Some(rs) = self.replicas.get_mut(&slot) {
                rs.saved_blob = blob;
                // A replay begins behind them from now on.
                rs.skips.retain(|index| Some(*index) > applied.map(|mark| mark.index));
                rs.publish_at(applied);
            }
        }
        self.evict(usize::MAX);
    }
}

impl Shared {
    /// Makes a checkpoint. One at a time; blocks.
    pub(crate) fn run_checkpoint(&self) -> Result<()> {
        let _one = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let waiters = {
            let mut core = self.core();
            if let Some(reason) = &core.fenced {
                return Err(PoolError::Fenced { reason: reason.clone() });
            }
            std::mem::take(&mut core.checkpoint.waiters)
        };
        let result = self.reclaim().and_then(|more| self.checkpoint_once().map(|()| more));
        match &result {
            Ok(more) => {
                self.core().checkpoint.requested |= more;
                waiters.into_iter().for_each(|waiter| drop(waiter.send(Ok(()))));
            }
            Err(e) => {
                let reason = e.to_string();
                self.fence(&format!("checkpoint failed: {reason}"));
                waiters
                    .into_iter()
                    .for_each(|waiter| drop(waiter.send(Err(PoolError::Fenced { reason: reason.clone() }))));
            }
        }
        self.space.notify_all();
        result.map(|_| ())
    }

    pub(crate) fn checkpoint_once(&self) -> Result<()> {
        let mut image = self.core().freeze();
        if image.flush {
            self.devices.iter().try_for_each(|device| device.flush())?;
        }
        let mut changes = std::mem::take(&mut image.changes);
        for (slot, number, leaf) in &image.leaves {
            let key = leaf_key(*slot, *number);
            changes.push(if leaf.is_empty() { Change::Delete(key) } else { Change::Put(key, leaf.encode()) });
        }
        for (device, region, bits) in &image.regions {
            let key = region_key(*device, *region);
            let empty = bits.iter().all(|word| *word == 0);
            changes.push(if empty { Change::Delete(key) } else { Change::Put(key, encode_region(bits)) });
        }
        self.meta.commit(changes)?;
        self.core().release(image);
        Ok(())
    }

    /// Gives back blocks of replicas that are gone; `true` when there is more to do after this checkpoint.
    fn reclaim(&self) -> Result<bool> {
        let slots: Vec<(u32, Kind)> = {
            let core = self.core();
            let gone =
                core.replicas.values().filter(|rs| matches!(rs.kind, Kind::Deleted | Kind::Shadow { dropped: true }));
            gone.map(|rs| (rs.slot, rs.kind)).collect()
        };
        let mut budget = RECLAIM_LEAVES;
        for (slot, kind) in slots {
            let stored = stored_leaves(&*self.meta, slot, 0, u64::MAX, budget)?;
            let complete = stored.len() < budget;
            budget -= stored.len().min(budget);
            for number in stored {
                let cached =
                    self.core().replicas.get(&slot).and_then(|rs| rs.leaves.get(&number).map(|c| Arc::clone(&c.leaf)));
                let leaf = match cached {
                    Some(leaf) => leaf,
                    None => {
                        let volume = self.core().replicas.get(&slot).map(|rs| rs.volume);
                        let Some(volume) = volume else { continue };
                        match self.meta.get(&leaf_key(slot, number))? {
                            Some(bytes) => Arc::new(Leaf::decode(&bytes).ok_or_else(|| damaged(volume, number))?),
                            None => continue,
                        }
                    }
                };
                self.core().reclaim_leaf(slot, kind, number, &leaf, true);
            }
            if complete {
                let mut core = self.core();
                let rest: Vec<(u64, Arc<Leaf>)> = core
                    .replicas
                    .get(&slot)
                    .map(|rs| rs.leaves.iter().map(|(number, cached)| (*number, Arc::clone(&cached.leaf))).collect())
                    .unwrap_or_default();
                for (number, leaf) in rest {
                    core.reclaim_leaf(slot, kind, number, &leaf, false);
                }
                core.remove_slot(slot);
            }
            if budget == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Asks for a checkpoint and waits for it.
    pub(crate) async fn checkpoint_and_wait(&self) -> Result<()> {
        if self.manual {
            return self.run_checkpoint();
        }
        let rx = {
            let mut core = self.core();
            core.check()?;
            let (tx, rx) = oneshot::channel();
            core.checkpoint.waiters.push(tx);
            rx
        };
        self.wake_checkpoint.notify_all();
        rx.await.map_err(|_| PoolError::Closed)?
    }
}

impl Core {
    fn reclaim_leaf(&mut self, slot: u32, kind: Kind, number: u64, leaf: &Leaf, stored: bool) {
        // Blocks of an abandoned install were never in a durable bitmap: nobody misses them. After a recovery they are
        // not even in memory, and may belong to others.
        let owned = match kind {
            Kind::Deleted => true,
            _ => self.replicas.get(&slot).is_some_and(|rs| rs.owns_shadow),
        };
        for (_, entry) in leaf.present().filter(|_| owned) {
            self.alloc.set_volatile(entry.addr());
            self.frees_checkpoint.push(entry.addr());
        }
        if let Some(rs) = self.replicas.get_mut(&slot) {
            rs.dirty = true;
            rs.mapped = rs.mapped.saturating_sub(leaf.present().count() as u64);
            if rs.leaves.remove(&number).is_some() {
                self.leaves -= 1;
            }
        }
        if stored {
            self.removed_keys.push(leaf_key(slot, number));
        }
    }

    fn remove_slot(&mut self, slot: u32) {
        if let Some((low, high)) = self.replicas.get(&slot).and_then(|rs| rs.stored_chunks) {
            self.removed_keys.extend((low..=high).map(|chunk| chunk_key(slot, chunk)));
        }
        if !self.removed_slots.contains(&slot) {
            self.removed_slots.push(slot);
        }
    }
}

impl ReplicaState {
    /// A checkpoint with this applied mark is durable.
    fn publish_at(&mut self, applied: Option<LogMark>) {
        let now = std::mem::replace(&mut self.applied, applied);
        self.publish_checkpoint();
        self.applied = now;
    }
}

/// The checkpointer.
pub(crate) fn thread(shared: &Shared) {
    loop {
        let due = {
            let core = shared.core();
            if core.closing || core.fenced.is_some() {
                return;
            }
            let late = |since: Instant| since.elapsed() >= core.options.checkpoint_after;
            core.checkpoint.requested
                || !core.checkpoint.waiters.is_empty()
                || core.checkpoint.dirty_since.is_some_and(late)
        };
        if !due {
            let core = shared.core();
            if !core.checkpoint.requested && core.checkpoint.waiters.is_empty() && !core.closing {
                drop(shared.wait(&shared.wake_checkpoint, core));
            }
            continue;
        }
        if shared.run_checkpoint().is_err() {
            return;
        }
    }
}
