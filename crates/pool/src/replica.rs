//! The handle to one volume's replica.

use std::ops::Range;

use ballast_api::{BLOCK_SIZE, BlockCount, Lba, VolumeId};
use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::error::{PoolError, Result};
use crate::format::batch::{Record, StoredOp};
use crate::install::Installer;
use crate::pool::Pool;
use crate::state::replica::ReplicaState;
use crate::state::{Core, Room};
use crate::types::{
    BlockData, ExportChunk, Extents, LogMark, LogOp, LogRecord, LogState, MAX_HARD_STATE_BYTES, MAX_HEADER_BYTES,
    MAX_RECORD_BLOCKS, ReplicaConfig,
};

/// One volume's replica in a pool. Clones are the same replica.
#[derive(Clone, Debug)]
pub struct Replica {
    pool: Pool,
    volume: VolumeId,
}

impl Replica {
    pub(crate) fn new(pool: Pool, volume: VolumeId) -> Self {
        Self { pool, volume }
    }

    /// An install gives a replica a new slot: it is looked up every time.
    fn slot(&self) -> u32 {
        self.pool.shared().core().by_volume.get(&self.volume).copied().unwrap_or(u32::MAX)
    }

    /// Looks at the state; `None` when the replica is gone.
    fn look<T>(&self, look: impl FnOnce(&ReplicaState) -> T) -> Option<T> {
        let core = self.pool.shared().core();
        core.by_volume.get(&self.volume).and_then(|slot| core.replicas.get(slot)).map(look)
    }

    /// Changes the state; the next checkpoint holds it.
    fn change(&self, change: impl FnOnce(&mut ReplicaState)) {
        let mut core = self.pool.shared().core();
        let slot = core.by_volume.get(&self.volume).copied();
        if let Some(rs) = slot.and_then(|slot| core.replicas.get_mut(&slot)) {
            change(rs);
            rs.dirty = true;
        }
    }

    /// Whether an install has replaced this slot meanwhile.
    fn moved(&self, slot: u32) -> bool {
        let now = self.slot();
        now != slot && now != u32::MAX
    }

    fn unknown(&self, error: PoolError) -> PoolError {
        match error {
            PoolError::UnknownReplica { .. } => PoolError::UnknownReplica { volume: self.volume },
            other => other,
        }
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What it was created with.
    pub fn config(&self) -> ReplicaConfig {
        self.look(|rs| ReplicaConfig { blocks: BlockCount(rs.capacity), user: rs.user.clone() })
            .unwrap_or(ReplicaConfig { blocks: BlockCount(0), user: Bytes::new() })
    }

    fn check_record(&self, record: &LogRecord, capacity: u64) -> Result<u64> {
        if record.header.len() > MAX_HEADER_BYTES {
            return Err(PoolError::invalid(format!("a header of {} bytes", record.header.len())));
        }
        let (lba, count) = match &record.op {
            LogOp::None => return Ok(0),
            LogOp::Unmap { lba, count } => (lba.0, count.0),
            LogOp::Write { lba, crcs, .. } => (lba.0, crcs.len() as u64),
        };
        if count == 0 || lba.checked_add(count).is_none_or(|end| end > capacity) {
            return Err(PoolError::OutOfRange { lba, count, capacity });
        }
        let LogOp::Write { lba, crcs, payload } = &record.op else { return Ok(0) };
        if crcs.len() > MAX_RECORD_BLOCKS || payload.len() != crcs.len() * BLOCK_SIZE {
            return Err(PoolError::invalid(format!("a write of {} blocks with {} bytes", crcs.len(), payload.len())));
        }
        for (at, (block, crc)) in payload.chunks_exact(BLOCK_SIZE).zip(crcs.iter()).enumerate() {
            if crc32fast::hash(block) != *crc {
                return Err(PoolError::PayloadMismatch { lba: lba.0 + at as u64, volume: self.volume });
            }
        }
        Ok(count)
    }

    /// Appends entries with consecutive indices. They are readable at once; `done` is called on a pool thread when they
    /// are durable, in the order of the appends, and with an error when that will never be. Payloads are checked
    /// against their checksums. `done` must not block. Waits while space is being prepared; a full pool is an error and changes nothing.
    pub fn append(
        &self,
        records: Vec<LogRecord>,
        done: Box<dyn FnOnce(Result<(), PoolError>) + Send>,
    ) -> Result<(), PoolError> {
        let capacity = self.look(|rs| rs.log_capacity).ok_or(PoolError::UnknownReplica { volume: self.volume })?;
        let mut blocks = 0;
        for pair in records.windows(2) {
            if pair[0].mark.index.checked_add(1) != Some(pair[1].mark.index) {
                return Err(PoolError::invalid("the indices of the records are not consecutive"));
            }
        }
        for record in &records {
            blocks += self.check_record(record, capacity)?;
        }
        let shared = self.pool.shared();
        let mut core = shared.make_room(blocks, Core::room)?;
        let slot = core.slot_of(self.volume)?;
        let rs = core.replica(slot).map_err(|e| self.unknown(e))?;
        if rs.installing.is_some() {
            return Err(PoolError::invalid("an install of this replica is being completed"));
        }
        if let Some(first) = records.first() {
            rs.check_next(first.mark.index)?;
        }
        core.append(slot, records, done)?;
        drop(core);
        if !shared.manual {
            shared.wake_writer.notify_one();
        }
        Ok(())
    }

    /// Whether [`Replica::append`] of that many blocks would return at once. Otherwise it waits, on the calling thread,
    /// until space is prepared or freed.
    pub fn has_room_now(&self, blocks: u64) -> bool {
        !matches!(self.pool.shared().core().room(blocks), Ok(Room::Wait { .. }))
    }

    /// The bounds of the log.
    pub fn log_state(&self) -> LogState {
        self.look(|rs| LogState {
            purged: rs.purged,
            last: rs.last(),
            durable: rs.durable.or(rs.purged.map(|mark| mark.index)),
        })
        .unwrap_or_default()
    }

    /// Entries of `range`, as far as they exist: at least one if there is one, until `max_bytes` are passed.
    pub async fn read_log(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogRecord>, PoolError> {
        loop {
            let slot = self.slot();
            match self.pool.shared().read_log(slot, range.clone(), max_bytes).await {
                Err(PoolError::UnknownReplica { .. }) if self.moved(slot) => {}
                result => return result.map_err(|e| self.unknown(e)),
            }
        }
    }

    /// The first index to keep so that what is kept up to `upto` has at most that many entries and blocks of payload.
    pub fn first_of_tail(&self, upto: u64, entries: u64, blocks: u64) -> u64 {
        self.look(|rs| {
            let (mut first, mut held) = (upto + 1, 0);
            while let Some(entry) = first.checked_sub(1).and_then(|index| rs.entry(index)) {
                held += entry.blocks();
                if held > blocks || upto + 1 - first >= entries {
                    break;
                }
                first -= 1;
            }
            first
        })
        .unwrap_or(upto + 1)
    }

    /// The entries of a range that do nothing to the map, without any I/O: what a state machine of the caller's own has
    /// to go through after a restart.
    pub fn records_without_data(&self, range: Range<u64>) -> Vec<LogRecord> {
        self.look(|rs| {
            let entries = (range.start.max(rs.first)..range.end).map_while(|index| rs.entry(index));
            entries
                .filter(|entry| matches!(entry.stored.op, StoredOp::None))
                .map(|entry| LogRecord {
                    mark: entry.stored.mark,
                    header: entry.stored.header.clone(),
                    op: LogOp::None,
                })
                .collect()
        })
        .unwrap_or_default()
    }

    /// The mark of an entry, or of the last purged one.
    pub fn log_mark(&self, index: u64) -> Option<LogMark> {
        self.look(|rs| rs.entry(index).map(|entry| entry.stored.mark).or(rs.purged.filter(|mark| mark.index == index)))?
    }

    /// Drops the entries behind `index` (all, when `None`); durable on return. Applied entries cannot be dropped.
    pub async fn truncate_after(&self, index: Option<u64>) -> Result<(), PoolError> {
        let shared = self.pool.shared();
        let (tx, rx) = oneshot::channel();
        {
            let mut core = shared.core();
            core.check()?;
            let slot = core.slot_of(self.volume)?;
            let rs = core.replica_mut(slot).map_err(|e| self.unknown(e))?;
            if rs.applied_index() > index && rs.last().map(|mark| mark.index) > index {
                return Err(rs.gap(index.unwrap_or(0), "Applied entries cannot be truncated"));
            }
            let mut frees = Vec::new();
            rs.truncate(index, &mut frees);
            let done = Box::new(move |result| drop(tx.send(result)));
            core.push_freeing(slot, Record::Truncate { slot, after: index }, frees, true, Some(done));
        }
        shared.drive()?;
        rx.await.map_err(|_| PoolError::Closed)?
    }

    /// Drops the entries up to `upto`, which a checkpoint must cover (see [`Replica::checkpointed`]). Durable lazily.
    pub fn purge(&self, upto: LogMark) -> Result<(), PoolError> {
        let mut core = self.pool.shared().core();
        core.check()?;
        let slot = core.slot_of(self.volume)?;
        core.purge(slot, upto)
    }

    /// Keeps a small opaque value; durable on return, ordered with appends.
    pub async fn save_hard_state(&self, state: Bytes) -> Result<(), PoolError> {
        if state.len() > MAX_HARD_STATE_BYTES {
            return Err(PoolError::invalid(format!("a hard state of {} bytes", state.len())));
        }
        let state = Bytes::copy_from_slice(&state);
        self.pool
            .shared()
            .record(|core| {
                let slot = core.slot_of(self.volume)?;
                let rs = core.replica_mut(slot)?;
                rs.hard_state = Some(state.clone());
                rs.dirty = true;
                // While an install is not durable yet, a replay may know only the slot before it.
                let slot = rs.installing.unwrap_or(slot);
                Ok(Some(Record::HardState { slot, state }))
            })
            .await
    }

    /// The value kept last.
    pub fn hard_state(&self) -> Option<Bytes> {
        self.look(|rs| rs.hard_state.clone())?
    }

    /// Remembers how far the log is committed; written along with the next batch.
    pub fn note_committed(&self, mark: LogMark) {
        let mut core = self.pool.shared().core();
        let Ok(slot) = core.slot_of(self.volume) else { return };
        if let Some(rs) = core.replicas.get_mut(&slot)
            && rs.committed.is_none_or(|now| now.index < mark.index)
        {
            rs.committed = Some(mark);
            rs.committed_dirty = true;
            rs.dirty = true;
            core.lazy_committed.insert(slot);
        }
    }

    /// The last committed mark that is known.
    pub fn committed(&self) -> Option<LogMark> {
        self.look(|rs| rs.committed)?
    }

    /// Applies the entries up to `upto` to the map, in order; those in `skip` without effect. Waits until they are
    /// durable here. `state` is an opaque value that is valid at `upto` and goes into the next checkpoint.
    pub async fn apply(&self, upto: u64, skip: &[u64], state: Option<Bytes>) -> Result<(), PoolError> {
        self.pool.shared().apply(self.slot(), upto, skip, state).await.map_err(|e| self.unknown(e))
    }

    /// How far the log is applied.
    pub fn applied(&self) -> Option<LogMark> {
        self.look(|rs| rs.applied)?
    }

    /// The state in the last checkpoint, and where it was valid.
    pub fn state_at_checkpoint(&self) -> (Option<LogMark>, Option<Bytes>) {
        self.look(|rs| rs.saved_blob.clone()).flatten().unzip()
    }

    /// Reads blocks; unmapped ones are zeroes.
    pub async fn read(&self, lba: Lba, count: BlockCount) -> Result<BlockData, PoolError> {
        loop {
            let slot = self.slot();
            match self.pool.shared().read(slot, lba, count).await {
                Err(PoolError::UnknownReplica { .. }) if self.moved(slot) => {}
                result => return result.map_err(|e| self.unknown(e)),
            }
        }
    }

    /// Which blocks of a range are mapped; the range is held in memory meanwhile, so it should not be long.
    pub async fn extents(&self, lba: Lba, count: BlockCount) -> Result<Extents, PoolError> {
        loop {
            let slot = self.slot();
            match self.pool.shared().extents(slot, lba, count).await {
                Err(PoolError::UnknownReplica { .. }) if self.moved(slot) => {}
                result => return result.map_err(|e| self.unknown(e)),
            }
        }
    }

    /// Keeps the payload of an applied entry in memory, for reads that come soon. For the replica that is read from.
    pub fn remember(&self, lba: Lba, index: u64, payload: &Bytes) {
        self.pool.shared().cache.put(self.slot(), lba.0, index, payload);
    }

    /// Waits until an entry is durable.
    pub async fn wait_durable(&self, index: u64) -> Result<(), PoolError> {
        self.pool.shared().wait_durable(self.slot(), index).await.map_err(|e| self.unknown(e))
    }

    /// What the last checkpoint covers: up to there the log may be purged.
    pub fn checkpointed(&self) -> watch::Receiver<Option<LogMark>> {
        self.look(|rs| rs.checkpointed.subscribe()).unwrap_or_else(|| watch::channel(None).1)
    }

    /// Asks for a checkpoint soon.
    pub fn request_checkpoint(&self) {
        let shared = self.pool.shared();
        shared.core().checkpoint.requested = true;
        shared.wake_checkpoint.notify_all();
    }

    /// Makes a checkpoint; returns what it covers of this replica.
    pub async fn checkpoint(&self) -> Result<Option<LogMark>, PoolError> {
        self.pool.shared().checkpoint_and_wait().await?;
        self.look(|rs| *rs.checkpointed.borrow()).ok_or(PoolError::UnknownReplica { volume: self.volume })
    }

    /// The next run of mapped blocks at or after `from`, at most `max_blocks`; `None` at the end.
    pub async fn export(&self, from: Lba, max_blocks: u32) -> Result<Option<ExportChunk>, PoolError> {
        self.pool.shared().export(self.slot(), from, max_blocks).await.map_err(|e| self.unknown(e))
    }

    /// Begins to fill this replica anew, with the state of another one at `at`.
    pub fn begin_install(&self, at: LogMark, state: Bytes) -> Result<Installer, PoolError> {
        Installer::begin(self.pool.clone(), self.volume, at, state)
    }

    /// From now on entries may name blocks up to here: the log holds a growth that may be agreed on. Never less than before.
    pub fn expect_capacity(&self, blocks: BlockCount) {
        self.change(|rs| rs.log_capacity = rs.log_capacity.max(blocks.0));
    }

    /// The volume has grown to this; less than it has changes nothing. Durable with the next checkpoint: until then the log has
    /// the growth, and whoever applies it calls this again after a crash.
    pub fn grow(&self, blocks: BlockCount) {
        self.change(|rs| {
            rs.capacity = rs.capacity.max(blocks.0);
            rs.log_capacity = rs.log_capacity.max(blocks.0);
        });
    }

    /// Blocks this replica holds: mapped, or kept for the log.
    pub fn allocated_blocks(&self) -> u64 {
        self.look(|rs| rs.mapped + rs.log_only).unwrap_or(0)
    }
}
