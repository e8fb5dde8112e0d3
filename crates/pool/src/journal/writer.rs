//! The writer: takes everything that is pending, of all replicas, writes it as one batch, flushes once, calls back.
//!
//! While a batch is being written and flushed the next one gathers. Order inside a batch: Applied records first (so that
//! a replay frees blocks before it meets records that reuse them), then what was queued, in order, then committed marks.

use crate::error::{PoolError, Result};
use crate::format::batch::{BatchHead, HEADER_BYTES, Record, StoredOp, TagState, finish_batch, put_entry, put_record};
use crate::format::{BLOCK, split_block};
use crate::io::Purpose;
use crate::journal::ring::Place;
use crate::pool::Shared;
use crate::state::replica::Kind;
use crate::state::{Core, Pending, PendingEntries};

/// A batch is closed at this many bytes of payload.
const MAX_PAYLOAD: usize = 8 << 20;

/// A batch on its way.
struct Batch {
    seq: u64,
    place: Place,
    blocks: u64,
    head: BatchHead,
    bytes: Vec<u8>,
    items: Vec<Pending>,
    frees: Vec<u64>,
}

/// Encodes as long as the lock is held only what needs it.
struct Gathered {
    items: Vec<Pending>,
    applied: Vec<Record>,
    committed: Vec<Record>,
    frees: Vec<u64>,
}

impl Core {
    fn has_batch(&self, force: bool) -> bool {
        let anything = !self.queue.is_empty() || !self.frees.is_empty();
        anything && (self.urgent || force)
    }

    fn gather(&mut self) -> Gathered {
        let frees = std::mem::take(&mut self.frees);
        let slots: Vec<u32> = self.lazy_applied.iter().copied().collect();
        let applied: Vec<Record> = slots.into_iter().filter_map(|slot| self.applied_record(slot)).collect();
        let mut committed = Vec::new();
        for slot in std::mem::take(&mut self.lazy_committed) {
            if let Some(rs) = self.replicas.get_mut(&slot).filter(|rs| rs.kind == Kind::Live && rs.committed_dirty) {
                rs.committed_dirty = false;
                committed.extend(rs.committed.map(|mark| Record::Committed { slot, mark }));
            }
        }
        let limit = self.journal.max_header_bytes() / 2;
        let (mut header, mut payload) = (40 * (applied.len() + committed.len()), 0);
        let mut items = Vec::new();
        while let Some(next) = self.queue.front() {
            header += next.header_bytes();
            payload += next.payload_bytes();
            if !items.is_empty() && (header > limit || payload > MAX_PAYLOAD) {
                break;
            }
            items.extend(self.queue.pop_front());
        }
        self.urgent = self.queue.iter().any(|item| match item {
            Pending::Append { .. } => true,
            Pending::Record { urgent, .. } => *urgent,
        });
        Gathered { items, applied, committed, frees }
    }
}

impl Shared {
    /// Writes one batch; `false` when there was nothing to do. With `force` also lazy records and waiting frees are
    /// reason enough. Only one thread calls this.
    pub(crate) fn write_batch(&self, force: bool) -> Result<bool> {
        let gathered = {
            let mut core = self.core();
            if core.fenced.is_some() || !core.has_batch(force) {
                core.urgent = false;
                return Ok(false);
            }
            core.gather()
        };
        match self.build(gathered) {
            Ok(batch) => match self.send(&batch) {
                Ok(()) => {
                    self.complete(batch);
                    Ok(true)
                }
                Err(e) => {
                    self.fence(&e.to_string());
                    refuse(batch.items, || PoolError::Fenced { reason: e.to_string() });
                    Err(e)
                }
            },
            Err((items, e)) => {
                refuse(items, || PoolError::Fenced { reason: e.to_string() });
                Err(e)
            }
        }
    }

    /// Encodes the batch and finds a place for it, after a checkpoint when the ring is too full.
    fn build(&self, gathered: Gathered) -> std::result::Result<Batch, (Vec<Pending>, PoolError)> {
        let Gathered { items, applied, committed, frees } = gathered;
        let mut bytes = Vec::with_capacity(2 * BLOCK as usize);
        bytes.resize(HEADER_BYTES, 0);
        let mut tags = TagState::default();
        let mut records = 0;
        for record in &applied {
            put_record(&mut bytes, record, &mut tags);
            records += 1;
        }
        for item in &items {
            match item {
                Pending::Append { slot, entries, .. } => {
                    for (entry, _) in entries {
                        put_entry(&mut bytes, *slot, entry, &mut tags);
                        records += 1;
                    }
                }
                Pending::Record { record, .. } => {
                    put_record(&mut bytes, record, &mut tags);
                    records += 1;
                }
            }
        }
        for record in &committed {
            put_record(&mut bytes, record, &mut tags);
            records += 1;
        }
        let blocks = (bytes.len() as u64).div_ceil(BLOCK);
        loop {
            let mut core = self.core();
            if let Some(reason) = &core.fenced {
                return Err((items, PoolError::Fenced { reason: reason.clone() }));
            }
            if core.closing {
                return Err((items, PoolError::Closed));
            }
            if let Some(place) = core.journal.place(blocks) {
                let journal = &mut core.journal;
                let head = BatchHead {
                    pool_hash: journal.pool_hash,
                    seq: journal.next_seq,
                    durable_upto: journal.durable_seq,
                    incarnation: journal.incarnation,
                    prev_crc: journal.durable_crc,
                    records,
                };
                journal.advance(place, blocks);
                return Ok(Batch { seq: head.seq, place, blocks, head, bytes, items, frees });
            }
            core.checkpoint.requested = true;
            if core.options.manual {
                drop(core);
                if let Err(e) = self.run_checkpoint() {
                    return Err((items, e));
                }
            } else {
                self.wake_checkpoint.notify_all();
                drop(self.wait(&self.space, core));
            }
        }
    }

    /// Payload and header in one submission per device, then one flush per device.
    fn send(&self, batch: &Batch) -> Result<()> {
        let mut header = crate::io::AlignedBuf::new((batch.blocks * BLOCK) as usize);
        let mut bytes = batch.bytes.clone();
        let crc = finish_batch(&mut bytes, &batch.head);
        header.as_mut_slice().copy_from_slice(&bytes);
        self.batch_crc.store(crc, std::sync::atomic::Ordering::Relaxed);
        let mut writes: Vec<Vec<(u64, &[u8])>> = vec![Vec::new(); self.devices.len()];
        for item in &batch.items {
            let Pending::Append { entries, .. } = item else { continue };
            payload_writes(entries, &mut writes)?;
        }
        for list in &mut writes {
            list.sort_by_key(|(offset, _)| *offset);
        }
        let device = batch.place.device;
        let offset = self.layouts[device].journal_offset + batch.place.block * BLOCK;
        writes[device].push((offset, header.as_slice()));
        let touched: Vec<usize> = (0..writes.len()).filter(|at| !writes[*at].is_empty()).collect();
        let write = |at: usize| {
            let last = writes[at].len() - 1;
            let purpose = |nth| if at == device && nth == last { Purpose::Journal } else { Purpose::Payload };
            self.devices[at].write_many(&writes[at], purpose)
        };
        if touched.len() == 1 || self.manual {
            touched.iter().try_for_each(|at| write(*at))?;
            return touched.iter().try_for_each(|at| self.devices[*at].flush());
        }
        // Several devices: side by side. The header may land before a payload elsewhere; recovery verifies the payload
        // of the last batch.
        let both = |at: usize| write(at).and_then(|()| self.devices[at].flush());
        std::thread::scope(|scope| {
            let others: Vec<_> = touched[1..].iter().map(|at| scope.spawn(|| both(*at))).collect();
            let mine = both(touched[0]);
            others.into_iter().fold(mine, |result, other| {
                let other = other.join().unwrap_or_else(|_| Err(PoolError::invalid("a device thread panicked")));
                result.and(other)
            })
        })
    }

    /// The batch is durable.
    fn complete(&self, batch: Batch) {
        let crc = self.batch_crc.load(std::sync::atomic::Ordering::Relaxed);
        {
            let mut guard = self.core();
            let core = &mut *guard;
            core.journal.set_durable(crc, batch.head.incarnation);
            core.batches += 1;
            core.records += u64::from(batch.head.records);
            core.release_soon(&batch.frees);
            for item in &batch.items {
                match item {
                    Pending::Append { slot, entries, .. } => core.entries_durable(*slot, entries, batch.seq),
                    Pending::Record { frees, .. } => core.release_soon(frees),
                }
            }
            core.checkpoint.requested |= core.journal.half_full();
            if core.checkpoint.requested {
                self.wake_checkpoint.notify_all();
            }
            core.touch();
        }
        self.space.notify_all();
        call_back(batch.items, || Ok(()));
    }
}

fn payload_writes<'a>(entries: &'a PendingEntries, writes: &mut [Vec<(u64, &'a [u8])>]) -> Result<()> {
    for (entry, payload) in entries {
        let (StoredOp::Write { extents, .. }, Some(payload)) = (&entry.op, payload) else { continue };
        let mut rest: &[u8] = payload;
        for extent in extents.as_slice() {
            let (device, block) = split_block(extent.addr);
            let Some((bytes, tail)) = rest.split_at_checked((u64::from(extent.len) * BLOCK) as usize) else {
                return Err(PoolError::invalid("a payload is shorter than its blocks"));
            };
            rest = tail;
            writes[device].push((block * BLOCK, bytes));
        }
    }
    Ok(())
}

impl Core {
    fn release_soon(&mut self, frees: &[u64]) {
        frees.iter().for_each(|addr| self.alloc.release(*addr));
        self.frees_soon -= frees.len();
    }

    fn entries_durable(&mut self, slot: u32, entries: &PendingEntries, seq: u64) {
        let tail_memory = self.options.tail_memory as usize;
        // With very many replicas the tails together stay within 256 MiB.
        let limit = tail_memory.min((256 << 20) / self.replicas.len().max(1));
        let Some(rs) = self.replicas.get_mut(&slot) else { return };
        // A checkpoint between append and now has left these entries out.
        rs.dirty = true;
        for (stored, _) in entries {
            let index = stored.mark.index;
            // Truncated meanwhile, and perhaps written again: the queue holds that one too.
            let Some(entry) = rs.entry_mut(index).filter(|entry| entry.stored == *stored) else { continue };
            entry.seq = seq;
            if let StoredOp::Write { extents, .. } = &stored.op {
                extents.blocks().for_each(|addr| self.alloc.clear_volatile(addr));
            }
            rs.durable = rs.durable.max(Some(index));
        }
        rs.trim_tail(limit);
        rs.wake();
        let blocks = self.options.checkpoint_blocks.min(self.alloc.capacity() / 16);
        if rs.records_since_checkpoint >= self.options.checkpoint_records || rs.blocks_since_checkpoint >= blocks {
            self.checkpoint.requested = true;
        }
    }
}

fn call_back(items: impl IntoIterator<Item = Pending>, result: impl Fn() -> Result<()>) {
    for item in items {
        let (Pending::Append { done, .. } | Pending::Record { done, .. }) = item;
        if let Some(done) = done {
            done(result());
        }
    }
}

/// Calls back everything that will never be written.
pub(crate) fn refuse(items: impl IntoIterator<Item = Pending>, error: impl Fn() -> PoolError) {
    call_back(items, || Err(error()));
}
