//! Everything a pool has in memory, behind one mutex that is held for microseconds. No I/O happens here.

pub(crate) mod replica;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use ballast_api::VolumeId;
use bytes::Bytes;

use crate::alloc::Allocator;
use crate::error::{PoolError, Result};
use crate::format::batch::{Extents, Record, StoredEntry, StoredOp};
use crate::journal::ring::Journal;
use crate::types::{LogMark, LogOp, LogRecord, OpenOptions};
use replica::{Entry, Kind, PENDING, ReplicaState};

/// Called once, when durable or when that is known to fail.
pub(crate) type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// Entries that wait for a batch, with their payloads.
pub(crate) type PendingEntries = Vec<(StoredEntry, Option<Bytes>)>;

/// Something that waits for the next batch.
pub(crate) enum Pending {
    Append {
        slot: u32,
        entries: PendingEntries,
        done: Option<Done>,
    },
    /// `urgent` ones make a batch happen; the others ride along.
    /// `frees`: blocks that may be reused when the record is durable.
    Record {
        record: Record,
        urgent: bool,
        frees: Vec<u64>,
        done: Option<Done>,
    },
}

impl Pending {
    /// Bytes of batch header, rounded up.
    pub(crate) fn header_bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(|(entry, _)| entry_bytes(entry)).sum(),
            Self::Record { record, .. } => match record {
                Record::HardState { state, .. } => 16 + state.len(),
                Record::Create { user, .. } => 48 + user.len(),
                Record::Applied { skips, .. } => 32 + 10 * skips.len(),
                _ => 48,
            },
        }
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().filter_map(|(_, p)| p.as_ref()).map(Bytes::len).sum(),
            Self::Record { .. } => 0,
        }
    }
}

fn entry_bytes(entry: &StoredEntry) -> usize {
    64 + entry.header.len()
        + match &entry.op {
            StoredOp::Write { crcs, extents, .. } => 4 * crcs.len() + 13 * extents.as_slice().len(),
            _ => 0,
        }
}

/// Blocks that one append may put into a batch before it is split.
const SPLIT_PAYLOAD: usize = 2 << 20;

/// Whether there is room for new blocks.
pub(crate) enum Room {
    Yes,
    /// Soon, when blocks that are already free have a durable cause, or space is prepared.
    Wait {
        checkpoint: bool,
    },
}

/// Counters and state of checkpoints.
pub(crate) struct CheckpointState {
    pub(crate) requested: bool,
    pub(crate) count: u64,
    /// Metadata commits begun; a leaf read that straddles one is repeated.
    pub(crate) generation: u64,
    /// When something was first changed after the last one.
    pub(crate) dirty_since: Option<Instant>,
    pub(crate) waiters: Vec<tokio::sync::oneshot::Sender<Result<()>>>,
}

/// The state of a pool.
pub(crate) struct Core {
    pub(crate) fenced: Option<String>,
    pub(crate) closing: bool,
    /// Closing has begun: nothing new is taken, what is queued is written.
    pub(crate) draining: bool,
    pub(crate) options: OpenOptions,
    pub(crate) replicas: HashMap<u32, ReplicaState>,
    pub(crate) by_volume: HashMap<VolumeId, u32>,
    pub(crate) next_slot: u32,
    pub(crate) alloc: Allocator,
    pub(crate) queue: VecDeque<Pending>,
    /// Something in the queue must not wait.
    pub(crate) urgent: bool,
    /// Slots with a new committed mark.
    pub(crate) lazy_committed: BTreeSet<u32>,
    /// Slots that need an Applied record.
    pub(crate) lazy_applied: BTreeSet<u32>,
    /// Blocks freed by applying: they wait for the next batch, which begins with the Applied records.
    pub(crate) frees: Vec<u64>,
    /// All free blocks that wait for a batch.
    pub(crate) frees_soon: usize,
    /// Free blocks that wait for the next checkpoint (their cause is in no batch).
    pub(crate) frees_checkpoint: Vec<u64>,
    pub(crate) frees_frozen: usize,
    /// Records of slots that are gone from the metadata store after the next checkpoint.
    pub(crate) removed_slots: Vec<u32>,
    pub(crate) removed_keys: Vec<Vec<u8>>,
    pub(crate) journal: Journal,
    pub(crate) checkpoint: CheckpointState,
    /// Leaves in memory that may be dropped, oldest first.
    pub(crate) lru: VecDeque<(u32, u64)>,
    pub(crate) leaves: u64,
    pub(crate) reserve: u64,
    /// Blocks that are promised to admitted writes.
    pub(crate) admitted: u64,
    /// The most blocks that an append waits for at once: so many must be prepared.
    pub(crate) waited_for: u64,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    /// Devices that an installer wrote to since the last checkpoint.
    pub(crate) unflushed_install: bool,
    /// For tests of the tests: blocks are reused as soon as they are free.
    #[cfg(feature = "sim")]
    pub(crate) early_reuse: bool,
}

impl Core {
    pub(crate) fn check(&self) -> Result<()> {
        match &self.fenced {
            Some(reason) => Err(PoolError::Fenced { reason: reason.clone() }),
            None if self.closing || self.draining => Err(PoolError::Closed),
            None => Ok(()),
        }
    }

    pub(crate) fn replica(&self, slot: u32) -> Result<&ReplicaState> {
        let rs = self.replicas.get(&slot).filter(|rs| rs.kind == Kind::Live);
        rs.ok_or_else(|| PoolError::UnknownReplica { volume: self.volume_of(slot) })
    }

    pub(crate) fn replica_mut(&mut self, slot: u32) -> Result<&mut ReplicaState> {
        let volume = self.volume_of(slot);
        let rs = self.replicas.get_mut(&slot).filter(|rs| rs.kind == Kind::Live);
        rs.ok_or(PoolError::UnknownReplica { volume })
    }

    pub(crate) fn slot_of(&self, volume: VolumeId) -> Result<u32> {
        self.by_volume.get(&volume).copied().ok_or(PoolError::UnknownReplica { volume })
    }

    fn volume_of(&self, slot: u32) -> VolumeId {
        self.replicas.get(&slot).map_or(VolumeId::from_bytes([0; 16]), |rs| rs.volume)
    }

    /// Notes that there is something for the next checkpoint.
    pub(crate) fn touch(&mut self) {
        if self.checkpoint.dirty_since.is_none() {
            // A manual pool has no clock.
            self.checkpoint.dirty_since = (!self.options.manual).then(Instant::now);
        }
    }

    /// Applying made blocks free or dead: the next batch carries an Applied record, and may then be followed by
    /// reuse of the free ones.
    pub(crate) fn free_applied(&mut self, slot: u32, frees: Vec<u64>) {
        self.touch();
        self.note_free(slot, &frees);
        #[cfg(feature = "sim")]
        if self.early_reuse {
            frees.iter().for_each(|addr| self.alloc.release_and_offer(*addr));
            self.frees_soon -= frees.len();
            return;
        }
        self.frees.extend(frees);
    }

    /// A record that makes blocks free: they may be reused once it is durable. What was applied goes before it, so
    /// that a replay knows the same blocks as dead.
    pub(crate) fn push_freeing(
        &mut self,
        slot: u32,
        record: Record,
        frees: Vec<u64>,
        urgent: bool,
        done: Option<Done>,
    ) {
        self.note_free(slot, &frees);
        self.queue.push_back(Pending::Record { record, urgent, frees, done });
        self.urgent |= urgent;
        self.touch();
    }

    fn note_free(&mut self, slot: u32, frees: &[u64]) {
        if self.replicas.get(&slot).is_some_and(|rs| rs.needs_applied) {
            self.lazy_applied.insert(slot);
        }
        for addr in frees {
            self.alloc.set_volatile(*addr);
        }
        self.frees_soon += frees.len();
    }

    /// Whether `blocks` new blocks can be given out now.
    pub(crate) fn room(&self, blocks: u64) -> Result<Room> {
        if blocks == 0 {
            return Ok(Room::Yes);
        }
        let free = self.alloc.free();
        let soon = free + self.frees_soon as u64;
        let later = soon + (self.frees_checkpoint.len() + self.frees_frozen) as u64;
        let enough = |total: u64| total.saturating_sub(self.reserve) >= blocks;
        if enough(free) {
            return Ok(if self.alloc.free_prepared() >= blocks { Room::Yes } else { Room::Wait { checkpoint: false } });
        }
        if enough(soon) {
            return Ok(Room::Wait { checkpoint: false });
        }
        if enough(later) {
            return Ok(Room::Wait { checkpoint: true });
        }
        Err(PoolError::NoSpace { needed: blocks, free: later.saturating_sub(self.reserve) })
    }

    /// Whether `blocks` new blocks can be given out beside those that are promised already.
    pub(crate) fn room_beside_admitted(&self, blocks: u64) -> Result<Room> {
        if blocks == 0 {
            return Ok(Room::Yes);
        }
        match self.room(blocks + self.admitted) {
            Err(PoolError::NoSpace { free, .. }) => {
                Err(PoolError::NoSpace { needed: blocks, free: free.saturating_sub(self.admitted) })
            }
            Err(other) => Err(other),
            // How long to wait is a question of these blocks alone.
            Ok(_) => self.room(blocks),
        }
    }

    /// Adds entries to a log and to the queue. There is room for them, and they were checked.
    pub(crate) fn append(&mut self, slot: u32, records: Vec<LogRecord>, done: Done) -> Result<()> {
        let prefer = self.journal.next_device();
        let mut pieces: Vec<PendingEntries> = vec![Vec::new()];
        let (mut header, mut bytes) = (0, 0);
        for record in records {
            let (op, payload) = match record.op {
                LogOp::None => (StoredOp::None, None),
                LogOp::Unmap { lba, count } => (StoredOp::Unmap { lba: lba.0, count: count.0 }, None),
                LogOp::Write { lba, crcs, payload } => {
                    let extents = self.alloc.allocate(crcs.len() as u64, prefer);
                    let Some(extents) = extents else {
                        return Err(PoolError::NoSpace { needed: crcs.len() as u64, free: self.alloc.free() });
                    };
                    (StoredOp::Write { lba: lba.0, crcs, extents: Extents::from_vec(extents) }, Some(payload))
                }
            };
            // The header may be a slice of a large network buffer, which must not be kept with it.
            let stored = StoredEntry { mark: record.mark, header: Bytes::copy_from_slice(&record.header), op };
            header += entry_bytes(&stored);
            bytes += payload.as_ref().map_or(0, Bytes::len);
            if header > self.journal.max_header_bytes() || bytes > SPLIT_PAYLOAD {
                pieces.push(Vec::new());
                header = entry_bytes(&stored);
                bytes = payload.as_ref().map_or(0, Bytes::len);
            }
            self.replica_mut(slot)?.push(Entry::new(stored.clone(), PENDING, payload.clone()));
            if let Some(piece) = pieces.last_mut() {
                piece.push((stored, payload));
            }
        }
        let last = pieces.len() - 1;
        let mut done = Some(done);
        for (at, entries) in pieces.into_iter().enumerate() {
            self.queue.push_back(Pending::Append { slot, entries, done: if at == last { done.take() } else { None } });
        }
        self.urgent = true;
        self.touch();
        Ok(())
    }

    pub(crate) fn push_record(&mut self, record: Record, urgent: bool, done: Option<Done>) {
        self.queue.push_back(Pending::Record { record, urgent, frees: Vec::new(), done });
        self.urgent |= urgent;
        self.touch();
    }

    /// Drops log entries that a checkpoint covers.
    pub(crate) fn purge(&mut self, slot: u32, upto: LogMark) -> Result<()> {
        let rs = self.replica_mut(slot)?;
        if rs.purged.is_some_and(|purged| purged.index >= upto.index) {
            return Ok(());
        }
        let allowed = *rs.checkpointed.borrow();
        if allowed.is_none_or(|mark| mark.index < upto.index) {
            return Err(rs.gap(upto.index, "Purge only what a checkpoint covers (see checkpointed)"));
        }
        if rs.unmapping {
            rs.purge_after_unmap = Some(upto);
            return Ok(());
        }
        let mut frees = Vec::new();
        rs.purge(upto, &mut frees);
        self.push_freeing(slot, Record::Purge { slot, upto }, frees, false, None);
        Ok(())
    }

    /// Calls back when everything before it is durable.
    pub(crate) fn push_barrier(&mut self, done: Done) {
        self.queue.push_back(Pending::Append { slot: u32::MAX, entries: Vec::new(), done: Some(done) });
        self.urgent = true;
    }

    /// The Applied record a replica owes, if it does.
    pub(crate) fn applied_record(&mut self, slot: u32) -> Option<Record> {
        self.lazy_applied.remove(&slot);
        let rs = self.replicas.get_mut(&slot)?;
        rs.needs_applied = false;
        let upto = rs.applied_index()?;
        let skips = std::mem::take(&mut rs.skips);
        rs.recorded = Some(upto);
        Some(Record::Applied { slot, upto, skips })
    }

    /// Applies entries `from..=upto` whose leaves are in memory, up to the first whose leaves are not; returns the
    /// next index to do.
    pub(crate) fn apply_resident(
        &mut self,
        slot: u32,
        upto: u64,
        skip: &[u64],
        frees: &mut Vec<u64>,
    ) -> Result<Applied> {
        let Some(rs) = self.replicas.get_mut(&slot) else {
            return Err(PoolError::invalid("no such slot"));
        };
        let mut next = match rs.applied {
            Some(mark) => mark.index + 1,
            None => rs.first,
        };
        while next <= upto {
            let Some(entry) = rs.entry(next) else {
                return Err(rs.gap(next, "Apply only what was appended and not purged"));
            };
            let mark = entry.stored.mark;
            if skip.contains(&next) {
                rs.skip_entry(next);
            } else {
                match ReplicaState::leaves_of(&entry.stored.op) {
                    Some(leaves) => {
                        let missing: Vec<u64> = leaves.clone().filter(|leaf| !rs.leaves.contains_key(leaf)).collect();
                        if !missing.is_empty() {
                            return Ok(Applied::Missing(missing));
                        }
                        match entry.stored.op.clone() {
                            StoredOp::None => {}
                            StoredOp::Write { .. } => rs.map_entry(next, frees),
                            StoredOp::Unmap { lba, count } => {
                                leaves.for_each(|leaf| rs.unmap_in_leaf(leaf, lba, count, frees));
                            }
                        }
                    }
                    None => {
                        if let StoredOp::Unmap { lba, count } = entry.stored.op {
                            return Ok(Applied::LargeUnmap { mark, lba, count });
                        }
                    }
                }
            }
            rs.applied = Some(mark);
            rs.dirty = true;
            next += 1;
        }
        Ok(Applied::All)
    }
}

/// How far an apply came.
pub(crate) enum Applied {
    All,
    /// These leaves are needed first.
    Missing(Vec<u64>),
    /// An unmap of many leaves comes next.
    LargeUnmap {
        mark: LogMark,
        lba: u64,
        count: u64,
    },
}
