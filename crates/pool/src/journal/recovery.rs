//! Recovery: the checkpoint, then the journal behind it.
//!
//! Batches are looked for in order of their number, each where the one before it ends (or at block 0 when it would not
//! have fit there). The chain goes on while number, previous crc and incarnation fit. The last batch of the chain was
//! perhaps never flushed: its payload is verified, and when anything is wrong the batch is dropped, for it was never
//! acknowledged. Earlier ones are known to be durable by what their successors say. A good batch behind the end of the
//! chain means that a batch in the middle is damaged: then nothing is dropped, and the pool does not open.

use crate::error::{PoolError, Result};
use crate::format::batch::{Batch, Record, StoredOp, decode_batch, peek_blocks};
use crate::format::label::Layout;
use crate::format::{BLOCK, split_block};
use crate::io::PoolDevice;
use crate::journal::ring::Journal;

/// Reads batches from the devices.
pub(crate) struct BatchReader<'a, D: std::ops::Deref<Target = PoolDevice>> {
    pub(crate) devices: &'a [D],
    pub(crate) layouts: &'a [Layout],
}

/// A batch and the ring block where it begins.
pub(crate) type FoundBatch = (u64, Batch);

impl<D: std::ops::Deref<Target = PoolDevice>> BatchReader<'_, D> {
    fn read(&self, device: usize, block: u64, blocks: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (blocks * BLOCK) as usize];
        self.devices[device].read_at(self.layouts[device].journal_offset + block * BLOCK, &mut bytes)?;
        Ok(bytes)
    }

    fn batch_at(&self, journal: &Journal, device: usize, block: u64) -> Result<Option<Batch>> {
        let ring = journal.ring_blocks(device);
        if block >= ring {
            return Ok(None);
        }
        let first = self.read(device, block, (ring - block).min(4))?;
        let Some(blocks) = peek_blocks(&first, journal.pool_hash).filter(|blocks| block + blocks <= ring) else {
            return Ok(None);
        };
        if (blocks * BLOCK) as usize <= first.len() {
            return Ok(decode_batch(&first, journal.pool_hash));
        }
        Ok(decode_batch(&self.read(device, block, blocks)?, journal.pool_hash))
    }

    /// The batch that continues the chain, if there is one.
    pub(crate) fn next(&self, journal: &Journal) -> Result<Option<FoundBatch>> {
        let device = journal.next_device();
        let head = journal.head(device);
        let fits = |batch: &Batch| {
            batch.head.seq == journal.next_seq
                && batch.head.prev_crc == journal.durable_crc
                && batch.head.incarnation >= journal.durable_incarnation
        };
        let here = self.batch_at(journal, device, head)?.filter(fits);
        let start = if head == 0 { None } else { self.batch_at(journal, device, 0)?.filter(fits) };
        let start = start.filter(|batch| head + batch.blocks > journal.ring_blocks(device));
        // Both: one of them is what an earlier incarnation left and a recovery dropped.
        Ok(match (here, start) {
            (Some(here), Some(start)) if start.head.incarnation > here.head.incarnation => Some((0, start)),
            (Some(here), _) => Some((head, here)),
            (None, Some(start)) => Some((0, start)),
            (None, None) => None,
        })
    }

    /// Whether all payload of a batch is on the devices.
    pub(crate) fn payload_is_good(&self, batch: &Batch) -> Result<bool> {
        let mut block = vec![0; BLOCK as usize];
        for record in &batch.records {
            let Record::Append { entry, .. } = record else { continue };
            let StoredOp::Write { crcs, extents, .. } = &entry.op else { continue };
            for (addr, crc) in extents.blocks().zip(crcs.iter()) {
                let (device, at) = split_block(addr);
                if !self.layouts.get(device).is_some_and(|l| l.extent_range().contains(&at)) {
                    return Ok(false);
                }
                self.devices[device].read_at(at * BLOCK, &mut block)?;
                if crc32fast::hash(&block) != *crc {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Looks through all rings for a good batch later than `seq`.
    pub(crate) fn later_than(&self, journal: &Journal, seq: u64) -> Result<Option<u64>> {
        const WINDOW: u64 = 256;
        for device in 0..journal.devices() {
            let ring = journal.ring_blocks(device);
            let mut at = 0;
            while at < ring {
                let bytes = self.read(device, at, WINDOW.min(ring - at))?;
                for (nth, block) in bytes.chunks_exact(BLOCK as usize).enumerate() {
                    if peek_blocks(block, journal.pool_hash).is_none() {
                        continue;
                    }
                    let found = self.batch_at(journal, device, at + nth as u64)?;
                    if let Some(batch) = found.filter(|b| b.head.seq > seq && b.head.durable_upto >= seq) {
                        return Ok(Some(batch.head.seq));
                    }
                }
                at += WINDOW;
            }
        }
        Ok(None)
    }

    /// Goes through the chain; `replay` gets every batch that counts, in order.
    pub(crate) fn replay(
        &self,
        journal: &mut Journal,
        clean: bool,
        replay: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let mut held = self.next(journal)?;
        while let Some((block, batch)) = held.take() {
            let mut ahead = journal.clone();
            ahead.replay(block, batch.blocks, batch.crc, batch.head.incarnation);
            let next = self.next(&ahead)?;
            let durable = next.as_ref().is_some_and(|(_, next)| next.head.durable_upto >= batch.head.seq);
            if !durable && !self.payload_is_good(&batch)? {
                break;
            }
            *journal = ahead;
            replay(batch)?;
            held = next;
        }
        if clean {
            return Ok(());
        }
        match self.later_than(journal, journal.next_seq)? {
            Some(later) => Err(PoolError::JournalDamaged {
                device: self.devices[journal.next_device()].name.clone(),
                seq: journal.next_seq,
                later,
            }),
            None => Ok(()),
        }
    }
}
