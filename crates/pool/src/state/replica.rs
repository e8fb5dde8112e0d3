//! One replica in memory: its log index, its map, and the rules of when a block is free.
//!
//! A block that a log entry wrote has up to two holders: the entry (its payload must stay readable until the entry is
//! purged) and the map. It is free when both are gone:
//! * overwritten or unmapped while the entry is in the log: *dead*, freed by the purge;
//! * overwritten or unmapped after the purge: freed at once;
//! * truncated (never applied): freed at once.
//!
//! The functions here only say which blocks became free (`frees`); when they may be reused is decided in
//! [`super::Core::free`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ballast_api::VolumeId;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::error::{PoolError, Result};
use crate::format::batch::{StoredEntry, StoredOp};
use crate::format::leaf::{LEAF_BLOCKS, Leaf, MapEntry};
use crate::types::LogMark;

/// The batch number of an entry that is in no batch yet.
pub(crate) const PENDING: u64 = u64::MAX;

/// What a slot is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Live,
    /// Deleted or replaced; its mapped blocks are given back by checkpoints.
    Deleted,
    /// Being installed. `dropped`: the installer gave up.
    Shadow {
        dropped: bool,
    },
}

/// A log entry in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) stored: StoredEntry,
    pub(crate) seq: u64,
    pub(crate) payload: Option<Bytes>,
    /// One bit per block that is no longer in the map.
    dead: Option<Box<[u64; 4]>>,
}

impl Entry {
    pub(crate) fn new(stored: StoredEntry, seq: u64, payload: Option<Bytes>) -> Self {
        Self { stored, seq, payload, dead: None }
    }

    pub(crate) fn is_dead(&self, block: usize) -> bool {
        self.dead.as_ref().is_some_and(|bits| bits[block / 64] & (1 << (block % 64)) != 0)
    }

    pub(crate) fn set_dead(&mut self, block: usize) {
        self.dead.get_or_insert_with(Box::default)[block / 64] |= 1 << (block % 64);
    }

    pub(crate) fn has_dead(&self) -> bool {
        self.dead.is_some()
    }

    pub(crate) fn blocks(&self) -> u64 {
        match &self.stored.op {
            StoredOp::Write { crcs, .. } => crcs.len() as u64,
            _ => 0,
        }
    }
}

/// A map leaf in memory.
#[derive(Debug)]
pub(crate) struct CachedLeaf {
    pub(crate) leaf: Arc<Leaf>,
    /// Changed since the last freeze.
    pub(crate) dirty: bool,
    /// Being written by the checkpoint that runs.
    pub(crate) frozen: bool,
    /// Used since the cache last looked.
    pub(crate) hot: bool,
}

/// A replica in memory.
#[derive(Debug)]
pub(crate) struct ReplicaState {
    pub(crate) slot: u32,
    pub(crate) kind: Kind,
    pub(crate) volume: VolumeId,
    pub(crate) capacity: u64,
    /// Blocks that an entry of the log may name: the capacity, or more while a growth in the log is not agreed on yet. Only in
    /// memory; whoever reads the log when it is opened says it again.
    pub(crate) log_capacity: u64,
    pub(crate) user: Bytes,
    /// Consecutive entries; the first one has index `first`.
    pub(crate) log: VecDeque<Entry>,
    pub(crate) first: u64,
    pub(crate) purged: Option<LogMark>,
    pub(crate) durable: Option<u64>,
    pub(crate) committed: Option<LogMark>,
    pub(crate) committed_dirty: bool,
    pub(crate) hard_state: Option<Bytes>,
    pub(crate) applied: Option<LogMark>,
    /// The last index for which an Applied record was written.
    pub(crate) recorded: Option<u64>,
    /// Entries without effect since then.
    pub(crate) skips: Vec<u64>,
    /// Blocks became free or dead since then: the next batch must carry an Applied record.
    pub(crate) needs_applied: bool,
    pub(crate) blob: Option<(LogMark, Bytes)>,
    /// Blob of the last checkpoint.
    pub(crate) saved_blob: Option<(LogMark, Bytes)>,
    /// Up to here the log may be purged.
    pub(crate) checkpointed: watch::Sender<Option<LogMark>>,
    pub(crate) mapped: u64,
    /// Blocks that only log entries hold (not applied yet, or dead).
    pub(crate) log_only: u64,
    pub(crate) leaves: HashMap<u64, CachedLeaf>,
    /// Log chunks in the metadata store.
    pub(crate) stored_chunks: Option<(u64, u64)>,
    /// Entries from here on are not in the metadata store.
    pub(crate) unstored_from: u64,
    /// Something changed that the next checkpoint must write.
    pub(crate) dirty: bool,
    pub(crate) records_since_checkpoint: u64,
    pub(crate) blocks_since_checkpoint: u64,
    pub(crate) tail_bytes: usize,
    /// Entries before this index keep no payload in memory.
    pub(crate) tail_from: u64,
    pub(crate) waiters: Vec<(u64, oneshot::Sender<()>)>,
    /// An install is being completed: nothing may be appended. The slot before it.
    pub(crate) installing: Option<u32>,
    /// A large unmap is half done: purges and deletion wait for its end, because a replay knows only whole entries.
    pub(crate) unmapping: bool,
    /// A shadow whose blocks this process allocated (not one found by recovery).
    pub(crate) owns_shadow: bool,
    pub(crate) purge_after_unmap: Option<LogMark>,
    pub(crate) unmap_waiters: Vec<oneshot::Sender<()>>,
}

impl ReplicaState {
    pub(crate) fn new(slot: u32, kind: Kind, volume: VolumeId, capacity: u64, user: Bytes) -> Self {
        Self {
            slot,
            kind,
            volume,
            capacity,
            log_capacity: capacity,
            user,
            log: VecDeque::new(),
            first: 0,
            purged: None,
            durable: None,
            committed: None,
            committed_dirty: false,
            hard_state: None,
            applied: None,
            recorded: None,
            skips: Vec::new(),
            needs_applied: false,
            blob: None,
            saved_blob: None,
            checkpointed: watch::Sender::new(None),
            mapped: 0,
            log_only: 0,
            leaves: HashMap::new(),
            stored_chunks: None,
            unstored_from: 0,
            dirty: true,
            records_since_checkpoint: 0,
            blocks_since_checkpoint: 0,
            tail_bytes: 0,
            tail_from: 0,
            waiters: Vec::new(),
            installing: None,
            unmapping: false,
            owns_shadow: false,
            purge_after_unmap: None,
            unmap_waiters: Vec::new(),
        }
    }

    pub(crate) fn entry(&self, index: u64) -> Option<&Entry> {
        self.log.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn entry_mut(&mut self, index: u64) -> Option<&mut Entry> {
        self.log.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The last entry, or what was purged.
    pub(crate) fn last(&self) -> Option<LogMark> {
        self.log.back().map(|entry| entry.stored.mark).or(self.purged)
    }

    pub(crate) fn applied_index(&self) -> Option<u64> {
        self.applied.map(|mark| mark.index)
    }

    pub(crate) fn gap(&self, got: u64, hint: &'static str) -> PoolError {
        let log = match (self.log.front(), self.log.back()) {
            (Some(first), Some(last)) => format!("holds {}..={}", first.stored.mark.index, last.stored.mark.index),
            _ => format!("is empty, purged up to {:?}", self.purged.map(|mark| mark.index)),
        };
        PoolError::LogGap { volume: self.volume, got, log, hint }
    }

    /// Whether `index` continues the log.
    pub(crate) fn check_next(&self, index: u64) -> Result<()> {
        match self.last() {
            Some(last) if last.index.checked_add(1) != Some(index) => {
                Err(self.gap(index, "Append consecutive indices, or truncate first"))
            }
            _ if index >= 1 << 48 => Err(PoolError::invalid("log indices have 48 bits")),
            _ => Ok(()),
        }
    }

    /// Adds an entry whose blocks are allocated.
    pub(crate) fn push(&mut self, entry: Entry) {
        if self.log.is_empty() {
            self.first = entry.stored.mark.index;
            self.unstored_from = self.unstored_from.min(self.first);
            self.tail_from = self.first;
        }
        self.log_only += entry.blocks();
        self.tail_bytes += entry.payload.as_ref().map_or(0, Bytes::len);
        self.records_since_checkpoint += 1;
        self.blocks_since_checkpoint += entry.blocks();
        self.dirty = true;
        self.log.push_back(entry);
    }

    /// Drops entries behind `after`.
    pub(crate) fn truncate(&mut self, after: Option<u64>, frees: &mut Vec<u64>) {
        let keep_from = after.map_or(0, |index| index + 1);
        while self.log.back().is_some_and(|entry| entry.stored.mark.index >= keep_from) {
            let Some(entry) = self.log.pop_back() else { break };
            let index = entry.stored.mark.index;
            self.tail_bytes -= entry.payload.as_ref().map_or(0, Bytes::len);
            self.unstored_from = self.unstored_from.min(index);
            self.log_only -= entry.blocks();
            if let StoredOp::Write { extents, .. } = &entry.stored.op {
                frees.extend(extents.blocks());
            }
            self.dirty = true;
        }
        let last = self.last().map(|mark| mark.index);
        self.durable = self.durable.min(last);
        self.tail_from = self.tail_from.min(last.map_or(0, |index| index + 1));
    }

    /// Drops entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogMark, frees: &mut Vec<u64>) {
        if self.purged.is_some_and(|purged| purged.index >= upto.index) {
            return;
        }
        while self.log.front().is_some_and(|entry| entry.stored.mark.index <= upto.index) {
            let Some(entry) = self.log.pop_front() else { break };
            self.tail_bytes -= entry.payload.as_ref().map_or(0, Bytes::len);
            self.first = entry.stored.mark.index + 1;
            if let (true, StoredOp::Write { extents, .. }) = (entry.has_dead(), &entry.stored.op) {
                for (block, addr) in extents.blocks().enumerate() {
                    if entry.is_dead(block) {
                        self.log_only -= 1;
                        self.needs_applied = true;
                        frees.push(addr);
                    }
                }
            }
        }
        self.purged = Some(upto);
        self.unstored_from = self.unstored_from.max(upto.index + 1);
        self.dirty = true;
    }

    /// The leaves that applying an entry touches; `None` for an unmap of many leaves, which goes piece by piece.
    pub(crate) fn leaves_of(op: &StoredOp) -> Option<std::ops::RangeInclusive<u64>> {
        let (lba, count) = match op {
            StoredOp::None => return Some(std::ops::RangeInclusive::new(1, 0)),
            StoredOp::Write { lba, crcs, .. } => (*lba, crcs.len() as u64),
            StoredOp::Unmap { lba, count } => (*lba, *count),
        };
        let last = (lba + count.max(1) - 1) / LEAF_BLOCKS;
        let first = lba / LEAF_BLOCKS;
        (last - first < 4).then_some(first..=last)
    }

    /// Points the map at the blocks of a write. Its leaves are in memory.
    pub(crate) fn map_entry(&mut self, index: u64, frees: &mut Vec<u64>) {
        let Some(entry) = self.entry(index) else { return };
        let StoredOp::Write { lba, crcs, extents } = entry.stored.op.clone() else { return };
        for (at, addr) in extents.blocks().enumerate() {
            self.log_only -= 1;
            self.map_block(lba + at as u64, MapEntry::new(addr, index, crcs[at]), frees);
        }
    }

    /// Maps one block; what was there becomes dead or free.
    pub(crate) fn map_block(&mut self, lba: u64, new: MapEntry, frees: &mut Vec<u64>) {
        let Some(cached) = self.leaves.get_mut(&(lba / LEAF_BLOCKS)) else { return };
        cached.dirty = true;
        cached.hot = true;
        self.dirty = true;
        let slot = &mut Arc::make_mut(&mut cached.leaf).entries[(lba % LEAF_BLOCKS) as usize];
        let old = std::mem::replace(slot, new);
        self.mapped += u64::from(new.is_some());
        if old.is_some() {
            self.let_go(lba, old, frees);
        }
    }

    /// An entry without effect: its blocks are dead from the start.
    pub(crate) fn skip_entry(&mut self, index: u64) {
        let purged = self.purged.is_some_and(|mark| mark.index >= index);
        if let (false, Some(entry)) = (purged, self.entry_mut(index)) {
            let blocks = entry.blocks();
            (0..blocks as usize).for_each(|block| entry.set_dead(block));
            self.needs_applied |= blocks > 0;
        }
        self.skips.push(index);
        self.dirty = true;
    }

    /// Unmaps what of a range lies in one leaf, which is in memory.
    pub(crate) fn unmap_in_leaf(&mut self, leaf: u64, lba: u64, count: u64, frees: &mut Vec<u64>) {
        let start = lba.max(leaf * LEAF_BLOCKS);
        let end = (lba + count).min((leaf + 1) * LEAF_BLOCKS);
        for at in start..end {
            let there = self.leaves.get(&leaf).is_some_and(|c| c.leaf.entries[(at % LEAF_BLOCKS) as usize].is_some());
            if there {
                self.map_block(at, MapEntry::default(), frees);
            }
        }
    }

    /// A block left the map.
    fn let_go(&mut self, lba: u64, old: MapEntry, frees: &mut Vec<u64>) {
        self.mapped -= 1;
        self.needs_applied = true;
        let purged = self.purged.is_some_and(|mark| mark.index >= old.birth());
        if !purged
            && let Some(entry) = self.entry_mut(old.birth())
            && let StoredOp::Write { lba: start, extents, .. } = &entry.stored.op
            && let Some(block) = lba.checked_sub(*start)
            && extents.blocks().nth(block as usize) == Some(old.addr())
        {
            entry.set_dead(block as usize);
            self.log_only += 1;
        } else {
            frees.push(old.addr());
        }
    }

    /// All blocks that only the log holds (when the replica goes).
    pub(crate) fn drop_log(&mut self, frees: &mut Vec<u64>) {
        let applied = self.applied_index();
        for entry in self.log.drain(..) {
            let in_map = applied.is_some_and(|applied| entry.stored.mark.index <= applied);
            if let StoredOp::Write { extents, .. } = &entry.stored.op {
                frees.extend(
                    extents
                        .blocks()
                        .enumerate()
                        .filter(|(block, _)| !in_map || entry.is_dead(*block))
                        .map(|(_, addr)| addr),
                );
            }
        }
        self.log_only = 0;
        self.tail_bytes = 0;
        self.dirty = true;
    }

    /// Keeps the payload tail within its bounds: only durable entries lose theirs.
    pub(crate) fn trim_tail(&mut self, limit: usize) {
        self.tail_from = self.tail_from.max(self.first);
        while self.tail_bytes > limit && self.durable.is_some_and(|durable| self.tail_from <= durable) {
            let index = self.tail_from;
            let Some(entry) = self.entry_mut(index) else { break };
            let freed = entry.payload.take().map_or(0, |payload| payload.len());
            self.tail_bytes -= freed;
            self.tail_from = index + 1;
        }
    }

    /// Tells what a purge may drop: what the last checkpoint contains. The state blob stays valid until the caller gives
    /// a newer one, so the entries between it and the applied index are not needed for it.
    pub(crate) fn publish_checkpoint(&mut self) {
        let mark = self.applied;
        self.checkpointed.send_if_modified(|now| std::mem::replace(now, mark) != mark);
    }

    /// Wakes those who wait for durability.
    pub(crate) fn wake(&mut self) {
        let durable = self.durable;
        let (ready, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiters).into_iter().partition(|(index, _)| durable.is_some_and(|d| *index <= d));
        self.waiters = waiting;
        for (_, waiter) in ready {
            let _ = waiter.send(());
        }
    }
}
