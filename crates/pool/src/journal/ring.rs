//! Where the next batch goes, and which part of the rings is still needed. Pure bookkeeping.
//!
//! ```text
//! |  free  | S+1 | S+3 | S+5 |   free            |  (device 1 of 2)
//!          ^ tail (checkpoint at S)  ^ head
//! ```
//! A batch that does not fit before the end of the ring starts at block 0.

use std::collections::VecDeque;

use crate::format::BLOCK;
use crate::format::batch::{HEADER_BYTES, MAX_BATCH_BLOCKS};
use crate::types::{MAX_HARD_STATE_BYTES, MAX_HEADER_BYTES};

/// The smallest ring of a device: four times the largest record.
pub(crate) const MIN_RING_BYTES: u64 = 512 << 10;
const _: () = assert!(MIN_RING_BYTES as usize / 4 > MAX_HEADER_BYTES + 8192);
const _: () = assert!(MIN_RING_BYTES as usize / 4 > MAX_HARD_STATE_BYTES + 8192);

#[derive(Clone, Debug)]
struct Ring {
    blocks: u64,
    head: u64,
    used: u64,
}

/// Where a batch goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) device: usize,
    pub(crate) block: u64,
    /// Blocks of the ring it takes, with what is skipped at the end.
    cost: u64,
}

/// The state of the journal.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    rings: Vec<Ring>,
    live: VecDeque<(u64, usize, u64)>,
    /// The next batch's number.
    pub(crate) next_seq: u64,
    /// The last durable batch, its crc and incarnation, and the heads behind it.
    pub(crate) durable_seq: u64,
    pub(crate) durable_crc: u32,
    pub(crate) durable_incarnation: u64,
    pub(crate) durable_heads: Vec<u64>,
    pub(crate) incarnation: u64,
    pub(crate) pool_hash: u64,
}

impl Journal {
    pub(crate) fn new(ring_bytes: &[u64], heads: &[u64], seq: u64, crc: u32, incarnation: u64, pool_hash: u64) -> Self {
        let rings =
            ring_bytes.iter().zip(heads).map(|(bytes, head)| Ring { blocks: bytes / BLOCK, head: *head, used: 0 });
        Self {
            rings: rings.collect(),
            live: VecDeque::new(),
            next_seq: seq + 1,
            durable_seq: seq,
            durable_crc: crc,
            durable_incarnation: incarnation,
            durable_heads: heads.to_vec(),
            incarnation,
            pool_hash,
        }
    }

    /// Adds the rings of new devices, empty. The numbers of all later batches lead to other devices then, so nothing may be
    /// written before a checkpoint says that there are more rings, and covers every batch so far.
    pub(crate) fn add_rings(&mut self, ring_bytes: impl IntoIterator<Item = u64>) {
        for bytes in ring_bytes {
            self.rings.push(Ring { blocks: bytes / BLOCK, head: 0, used: 0 });
            self.durable_heads.push(0);
        }
    }

    pub(crate) fn next_device(&self) -> usize {
        (self.next_seq % self.rings.len() as u64) as usize
    }

    /// The most bytes of records a batch may have.
    pub(crate) fn max_header_bytes(&self) -> usize {
        let smallest = self.rings.iter().map(|ring| ring.blocks).min().unwrap_or(0);
        ((smallest / 4).min(MAX_BATCH_BLOCKS) * BLOCK) as usize - HEADER_BYTES
    }

    /// The place for the next batch of this many blocks; `None` when the ring is too full.
    pub(crate) fn place(&self, blocks: u64) -> Option<Place> {
        let device = self.next_device();
        let ring = &self.rings[device];
        let place = if ring.head + blocks <= ring.blocks {
            Place { device, block: ring.head, cost: blocks }
        } else {
            Place { device, block: 0, cost: ring.blocks - ring.head + blocks }
        };
        (ring.used + place.cost <= ring.blocks && blocks <= ring.blocks).then_some(place)
    }

    /// The next batch was put there.
    pub(crate) fn advance(&mut self, place: Place, blocks: u64) {
        let ring = &mut self.rings[place.device];
        ring.head = place.block + blocks;
        ring.used += place.cost;
        self.live.push_back((self.next_seq, place.device, place.cost));
        self.next_seq += 1;
    }

    /// Everything that was placed is durable.
    pub(crate) fn set_durable(&mut self, crc: u32, incarnation: u64) {
        self.durable_seq = self.next_seq - 1;
        self.durable_crc = crc;
        self.durable_incarnation = incarnation;
        for (head, ring) in self.durable_heads.iter_mut().zip(&self.rings) {
            *head = ring.head;
        }
    }

    /// A checkpoint covers everything up to `seq`.
    pub(crate) fn release(&mut self, seq: u64) {
        while let Some((first, device, cost)) = self.live.front().copied() {
            if first > seq {
                break;
            }
            self.rings[device].used -= cost;
            self.live.pop_front();
        }
    }

    /// Whether a checkpoint should make room.
    pub(crate) fn half_full(&self) -> bool {
        self.rings.iter().any(|ring| ring.used * 2 >= ring.blocks)
    }

    /// Blocks in use and in all.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.rings.iter().map(|ring| ring.used).sum(), self.rings.iter().map(|ring| ring.blocks).sum())
    }

    /// Batches behind the checkpoint.
    pub(crate) fn live_batches(&self) -> u64 {
        self.live.len() as u64
    }

    pub(crate) fn ring_blocks(&self, device: usize) -> u64 {
        self.rings[device].blocks
    }

    pub(crate) fn head(&self, device: usize) -> u64 {
        self.rings[device].head
    }

    pub(crate) fn devices(&self) -> usize {
        self.rings.len()
    }

    /// Recovery found the next batch there.
    pub(crate) fn replay(&mut self, block: u64, blocks: u64, crc: u32, incarnation: u64) {
        let device = self.next_device();
        let ring = &self.rings[device];
        let cost = if block == ring.head { blocks } else { ring.blocks - ring.head + blocks };
        self.advance(Place { device, block, cost }, blocks);
        self.set_durable(crc, incarnation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_and_frees() {
        let mut journal = Journal::new(&[10 * BLOCK], &[0], 0, 0, 1, 7);
        for seq in 1..=3 {
            let place = journal.place(3).unwrap();
            assert_eq!((place.device, place.block), (0, (seq - 1) * 3));
            journal.advance(place, 3);
        }
        assert!(journal.place(3).is_none(), "one block left, and the tail is in use");
        journal.set_durable(1, 1);
        journal.release(1);
        assert_eq!(journal.place(3).unwrap().block, 0, "does not fit before the end");
        assert!(journal.place(4).is_none());
        assert_eq!(journal.durable_heads, [9]);
    }

    #[test]
    fn new_rings_take_part_behind_the_checkpoint() {
        let mut journal = Journal::new(&[10 * BLOCK], &[8], 4, 0, 1, 7);
        // A batch that a recovery found, at the start since it did not fit before the end.
        journal.replay(0, 3, 1, 1);
        journal.add_rings([20 * BLOCK, 10 * BLOCK]);
        assert_eq!((journal.devices(), journal.durable_heads.as_slice()), (3, [3, 0, 0].as_slice()));
        assert_eq!(journal.usage(), (5, 40));
        journal.release(5);
        assert_eq!(journal.usage(), (0, 40));
        let places: Vec<_> = (0..4)
            .map(|_| {
                let place = journal.place(2).unwrap();
                journal.advance(place, 2);
                (place.device, place.block)
            })
            .collect();
        assert_eq!(places, [(0, 3), (1, 0), (2, 0), (0, 5)]);
    }

    #[test]
    fn batches_take_turns() {
        let mut journal = Journal::new(&[10 * BLOCK, 10 * BLOCK], &[0, 0], 4, 0, 1, 7);
        let places: Vec<_> = (0..4)
            .map(|_| {
                let place = journal.place(1).unwrap();
                journal.advance(place, 1);
                (place.device, place.block)
            })
            .collect();
        assert_eq!(places, [(1, 0), (0, 0), (1, 1), (0, 1)]);
    }
}
