//! Blocks that were written not long ago, in memory.
//!
//! Writes go past the page cache (`io/file.rs`), which therefore only knows what was read before. A block that is read
//! soon after it was written is served from here instead of the device. Only the replica that is read from fills its cache
//! ([`crate::Replica::remember`]), so three copies of a volume do not take three times the memory.
//!
//! Invariant: an entry names the birth of its block, and the contents of a block with that birth never change. A reader
//! takes what the map's birth asks for and nothing else, so nothing is ever invalidated; an overwritten block is simply
//! replaced. The reader checks the checksum as it does with blocks from the device.

use std::sync::Arc;

use ballast_api::BLOCK_SIZE;
use bytes::Bytes;
use quick_cache::sync::Cache;

use crate::format::leaf::MapEntry;

/// What a block takes beside its contents: the cache's own entry and the allocator's header, rounded up.
const OVERHEAD: usize = 160;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    slot: u32,
    lba: u64,
}

#[derive(Clone, Debug)]
struct Block {
    birth: u64,
    data: Arc<[u8]>,
}

/// Recently written blocks of all replicas of a pool.
#[derive(Debug)]
pub(crate) struct WriteCache {
    /// `None`: switched off.
    blocks: Option<Cache<Key, Block>>,
}

impl WriteCache {
    /// At most this much memory.
    pub(crate) fn new(bytes: u64) -> Self {
        let blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / (BLOCK_SIZE + OVERHEAD);
        Self { blocks: (blocks > 0).then(|| Cache::new(blocks)) }
    }

    /// The blocks of a write, which the map names by `birth` or has overwritten since.
    pub(crate) fn put(&self, slot: u32, lba: u64, birth: u64, payload: &Bytes) {
        let Some(blocks) = &self.blocks else { return };
        for (at, block) in payload.chunks_exact(BLOCK_SIZE).enumerate() {
            // A copy: a slice would keep the whole network buffer.
            blocks.insert(Key { slot, lba: lba + at as u64 }, Block { birth, data: block.into() });
        }
    }

    /// Copies what is here into `buf` and sets its address in `wanted` to zero, so that only the rest is read.
    pub(crate) fn fill(&self, slot: u32, lba: u64, entries: &[MapEntry], wanted: &mut [u64], buf: &mut [u8]) {
        let Some(blocks) = &self.blocks else { return };
        for (at, (entry, piece)) in entries.iter().zip(buf.chunks_exact_mut(BLOCK_SIZE)).enumerate() {
            if wanted[at] == 0 {
                continue;
            }
            let found = blocks.get(&Key { slot, lba: lba + at as u64 });
            if let Some(block) = found.filter(|block| block.birth == entry.birth()) {
                piece.copy_from_slice(&block.data);
                wanted[at] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cache: &WriteCache, slot: u32, lba: u64, births: &[u64]) -> Vec<Option<u8>> {
        let entries: Vec<MapEntry> = births.iter().map(|birth| MapEntry::new(77, *birth, 0)).collect();
        let mut wanted = vec![77; entries.len()];
        let mut buf = vec![0xee; entries.len() * BLOCK_SIZE];
        cache.fill(slot, lba, &entries, &mut wanted, &mut buf);
        let blocks = buf.chunks_exact(BLOCK_SIZE).zip(wanted);
        blocks
            .map(|(block, wanted)| {
                assert!(block.iter().all(|byte| *byte == block[0]));
                assert_eq!(wanted == 0, block[0] != 0xee);
                (wanted == 0).then_some(block[0])
            })
            .collect()
    }

    #[test]
    fn only_the_birth_that_the_map_names_is_served() {
        let cache = WriteCache::new(1 << 20);
        cache.put(1, 10, 5, &Bytes::from([[1; BLOCK_SIZE], [2; BLOCK_SIZE]].concat()));
        assert_eq!(read(&cache, 1, 9, &[5, 5, 5, 5]), [None, Some(1), Some(2), None]);
        assert_eq!(read(&cache, 1, 10, &[6, 5]), [None, Some(2)], "overwritten since");
        assert_eq!(read(&cache, 2, 10, &[5, 5]), [None, None], "another replica");
        cache.put(1, 10, 6, &Bytes::from(vec![3; BLOCK_SIZE]));
        assert_eq!(read(&cache, 1, 10, &[6, 5]), [Some(3), Some(2)]);
        assert_eq!(read(&cache, 1, 10, &[5, 5]), [None, Some(2)], "a late reader of the old map finds nothing");
    }

    #[test]
    fn it_stays_within_its_memory_and_may_be_switched_off() {
        let cache = WriteCache::new(100 * (BLOCK_SIZE + OVERHEAD) as u64);
        (0..10_000).for_each(|lba| cache.put(1, lba, 1, &Bytes::from(vec![1; BLOCK_SIZE])));
        let held = (0..10_000).filter(|lba| read(&cache, 1, *lba, &[1])[0].is_some()).count();
        assert!((50..=100).contains(&held), "{held}");
        let off = WriteCache::new(0);
        off.put(1, 1, 1, &Bytes::from(vec![1; BLOCK_SIZE]));
        assert_eq!(read(&off, 1, 1, &[1]), [None]);
    }
}
