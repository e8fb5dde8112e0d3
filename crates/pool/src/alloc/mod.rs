//! Which blocks of the extent areas are in use.
//!
//! Two bits per block, in memory:
//! * `used`: the block belongs to somebody, or its release is not yet justified by something durable;
//! * `volatile`: a checkpoint taken now must count it as free, because nothing that the checkpoint contains refers to
//!   it: it is new and its log record is not durable yet, or it was freed and waits for a durable cause.
//!
//! So a checkpoint's bitmap is `used & !volatile`, and is exactly the set of blocks that its maps and log entries name.
//! Allocation is next-fit inside the prepared part of a device, so that a batch lands sequentially.

use crate::format::{Extent, pool_block, split_block};

/// Blocks in a region: the unit in which bitmaps are stored (64 MiB of data, 2 KiB of bitmap).
pub(crate) const REGION_BLOCKS: u64 = 16384;
const REGION_WORDS: usize = (REGION_BLOCKS / 64) as usize;

/// One device's blocks. Addresses inside are counted from the start of its extent area.
#[derive(Debug)]
struct DeviceBlocks {
    /// The device block where the extent area starts.
    base: u64,
    blocks: u64,
    prepared: u64,
    cursor: u64,
    used_count: u64,
    used: Vec<u64>,
    volatile: Vec<u64>,
    region_used: Vec<u32>,
    dirty: Vec<bool>,
}

/// The blocks of all devices.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    devices: Vec<DeviceBlocks>,
}

impl DeviceBlocks {
    fn find(&self, addr: u64) -> Option<(usize, u64)> {
        let block = addr.checked_sub(self.base).filter(|block| *block < self.blocks)?;
        Some(((block / 64) as usize, 1 << (block % 64)))
    }

    fn touch(&mut self, word: usize) {
        self.dirty[word / REGION_WORDS] = true;
    }

    /// Takes up to `want` blocks in `from..to`; returns how many.
    fn take(&mut self, device: usize, from: u64, to: u64, want: u64, out: &mut Vec<Extent>) -> u64 {
        let (mut at, mut got) = (from, 0);
        while at < to && got < want {
            let region = (at / REGION_BLOCKS) as usize;
            if u64::from(self.region_used[region]) == REGION_BLOCKS {
                at = (region as u64 + 1) * REGION_BLOCKS;
                continue;
            }
            let word = (at / 64) as usize;
            let free = !self.used[word] & (u64::MAX << (at % 64));
            if free == 0 {
                at = (word as u64 + 1) * 64;
                continue;
            }
            let first = u64::from(free.trailing_zeros());
            let run = u64::from((!(free >> first)).trailing_zeros()).min(64 - first);
            let start = word as u64 * 64 + first;
            if start >= to {
                break;
            }
            let len = run.min(to - start).min(want - got);
            let mask = if len == 64 { u64::MAX } else { ((1 << len) - 1) << first };
            self.used[word] |= mask;
            self.volatile[word] |= mask;
            self.region_used[region] += len as u32;
            self.used_count += len;
            let addr = pool_block(device, self.base + start);
            match out.last_mut() {
                Some(last) if last.addr + u64::from(last.len) == addr => last.len += len as u32,
                _ => out.push(Extent { addr, len: len as u32 }),
            }
            got += len;
            at = start + len;
        }
        self.cursor = at;
        got
    }
}

impl Allocator {
    /// Adds a device; `base` is the device block where its extent area starts.
    pub(crate) fn add_device(&mut self, base: u64, blocks: u64, prepared: u64) {
        let words = (blocks.div_ceil(REGION_BLOCKS) as usize) * REGION_WORDS;
        let regions = words / REGION_WORDS;
        self.devices.push(DeviceBlocks {
            base,
            blocks,
            prepared: prepared.min(blocks),
            cursor: 0,
            used_count: 0,
            used: vec![0; words],
            volatile: vec![0; words],
            region_used: vec![0; regions],
            dirty: vec![false; regions],
        });
    }

    /// Blocks of all devices.
    pub(crate) fn capacity(&self) -> u64 {
        self.devices.iter().map(|d| d.blocks).sum()
    }

    pub(crate) fn used(&self) -> u64 {
        self.devices.iter().map(|d| d.used_count).sum()
    }

    /// Free blocks, prepared or not.
    pub(crate) fn free(&self) -> u64 {
        self.capacity() - self.used()
    }

    /// Free blocks that may be used at once.
    pub(crate) fn free_prepared(&self) -> u64 {
        self.devices.iter().map(|d| d.prepared - d.used_count.min(d.prepared)).sum()
    }

    /// The device that should be prepared next, when space is short: its number and prepared blocks.
    pub(crate) fn wants_preparation(&self, ahead: u64) -> Option<usize> {
        (0..self.devices.len())
            .filter(|d| {
                let d = &self.devices[*d];
                let free = d.prepared - d.used_count.min(d.prepared);
                d.prepared < d.blocks && free < ahead.max(d.used_count / 4)
            })
            .min_by_key(|d| self.devices[*d].prepared - self.devices[*d].used_count.min(self.devices[*d].prepared))
    }

    /// Blocks prepared and blocks in all, of a device.
    pub(crate) fn prepared(&self, device: usize) -> (u64, u64) {
        (self.devices[device].prepared, self.devices[device].blocks)
    }

    pub(crate) fn set_prepared(&mut self, device: usize, prepared: u64) {
        let d = &mut self.devices[device];
        d.prepared = prepared.min(d.blocks);
    }

    /// The device cannot be prepared any further: what it has is all there is.
    pub(crate) fn stop_growth(&mut self, device: usize) {
        let d = &mut self.devices[device];
        d.blocks = d.prepared;
    }

    /// `count` blocks, preferably on one device; `None`, and nothing taken, when there are not enough.
    pub(crate) fn allocate(&mut self, count: u64, prefer: usize) -> Option<Vec<Extent>> {
        if self.free_prepared() < count {
            return None;
        }
        let mut out = Vec::with_capacity(1);
        let mut left = count;
        for step in 0..self.devices.len() {
            let device = (prefer + step) % self.devices.len();
            let d = &mut self.devices[device];
            let cursor = if d.cursor >= d.prepared { 0 } else { d.cursor };
            let prepared = d.prepared;
            left -= d.take(device, cursor, prepared, left, &mut out);
            if left > 0 {
                left -= d.take(device, 0, cursor, left, &mut out);
            }
            if left == 0 {
                return Some(out);
            }
        }
        // Not reached while the counts are right; give back rather than lose blocks.
        for extent in out {
            (0..u64::from(extent.len)).for_each(|i| self.release(extent.addr + i));
        }
        None
    }

    fn device_of(&mut self, addr: u64) -> Option<(&mut DeviceBlocks, usize, u64)> {
        let (device, block) = split_block(addr);
        let d = self.devices.get_mut(device)?;
        let (word, bit) = d.find(block)?;
        Some((d, word, bit))
    }

    /// Marks a block as used by something durable (recovery); `false` when it already is, or does not exist.
    pub(crate) fn claim(&mut self, addr: u64) -> bool {
        let Some((d, word, bit)) = self.device_of(addr) else { return false };
        if d.used[word] & bit != 0 {
            return false;
        }
        d.used[word] |= bit;
        d.region_used[word / REGION_WORDS] += 1;
        d.used_count += 1;
        d.touch(word);
        true
    }

    /// A used block: checkpoints count it as free from now on.
    pub(crate) fn set_volatile(&mut self, addr: u64) {
        if let Some((d, word, bit)) = self.device_of(addr)
            && d.volatile[word] & bit == 0
        {
            d.volatile[word] |= bit;
            d.touch(word);
        }
    }

    /// A used block: checkpoints count it as used from now on.
    pub(crate) fn clear_volatile(&mut self, addr: u64) {
        if let Some((d, word, bit)) = self.device_of(addr)
            && d.volatile[word] & bit != 0
        {
            d.volatile[word] &= !bit;
            d.touch(word);
        }
    }

    /// Makes a block free for new writes.
    pub(crate) fn release(&mut self, addr: u64) {
        let Some((d, word, bit)) = self.device_of(addr) else { return };
        if d.used[word] & bit == 0 {
            return;
        }
        if d.volatile[word] & bit == 0 {
            d.touch(word);
        }
        d.used[word] &= !bit;
        d.volatile[word] &= !bit;
        d.region_used[word / REGION_WORDS] -= 1;
        d.used_count -= 1;
    }

    /// Makes a block free and the next one to be given out.
    #[cfg(feature = "sim")]
    pub(crate) fn release_and_offer(&mut self, addr: u64) {
        self.release(addr);
        if let Some((d, word, bit)) = self.device_of(addr) {
            d.cursor = word as u64 * 64 + u64::from(bit.trailing_zeros());
        }
    }

    /// The regions whose stored bitmap is out of date, with the bitmap to store; they count as stored then.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u8, u32, Vec<u64>)> {
        let mut out = Vec::new();
        for (device, d) in self.devices.iter_mut().enumerate() {
            for region in 0..d.dirty.len() {
                if std::mem::take(&mut d.dirty[region]) {
                    let words = region * REGION_WORDS..(region + 1) * REGION_WORDS;
                    let image = words.map(|word| d.used[word] & !d.volatile[word]).collect();
                    out.push((device as u8, region as u32, image));
                }
            }
        }
        out
    }

    #[cfg(test)]
    pub(crate) fn is_dirty(&self) -> bool {
        self.devices.iter().any(|d| d.dirty.contains(&true))
    }

    /// Takes a stored bitmap over; `false` when it does not fit the device.
    pub(crate) fn load_region(&mut self, device: u8, region: u32, image: &[u64]) -> bool {
        let Some(d) = self.devices.get_mut(usize::from(device)) else { return false };
        let start = region as usize * REGION_WORDS;
        if image.len() != REGION_WORDS || start + REGION_WORDS > d.used.len() {
            return false;
        }
        let ones: u32 = image.iter().map(|word| word.count_ones()).sum();
        d.used[start..start + REGION_WORDS].copy_from_slice(image);
        d.used_count += u64::from(ones);
        d.region_used[region as usize] = ones;
        true
    }

    /// The same devices, nothing used.
    pub(crate) fn empty_copy(&self) -> Self {
        let mut copy = Self::default();
        self.devices.iter().for_each(|d| copy.add_device(d.base, d.blocks, d.prepared));
        copy
    }

    /// Blocks that are durably used here but not there (`true`), or the other way round.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (u64, bool)> + 'a {
        self.devices.iter().zip(&other.devices).enumerate().flat_map(|(device, (here, there))| {
            (0..here.used.len()).flat_map(move |word| {
                let durable = here.used[word] & !here.volatile[word];
                let different = durable ^ there.used[word];
                (0..64)
                    .filter(move |bit| different & (1 << bit) != 0)
                    .map(move |bit| (pool_block(device, here.base + word as u64 * 64 + bit), durable & (1 << bit) != 0))
            })
        })
    }
}

/// A region's bitmap as it is stored.
pub(crate) fn encode_region(image: &[u64]) -> Vec<u8> {
    let mut out: Vec<u8> = image.iter().flat_map(|word| word.to_le_bytes()).collect();
    crate::format::codec::seal(&mut out);
    out
}

/// The bitmap of a stored region.
pub(crate) fn decode_region(bytes: &[u8]) -> Option<Vec<u64>> {
    let body = crate::format::codec::unseal(bytes)?;
    if body.len() != REGION_WORDS * 8 {
        return None;
    }
    Some(body.chunks_exact(8).filter_map(|word| word.try_into().ok().map(u64::from_le_bytes)).collect())
}

#[cfg(test)]
mod tests;
